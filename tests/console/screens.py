"""Shows the told run on this terminal, for the tests that look at a real one. Ends with Ctrl-C."""

from __future__ import annotations

import signal
import sys

from stories import tell

from gfdit.cli.console import ConsoleHeader, make_console

HEADER = ConsoleHeader("shapes", "slo", "3f2a9c1d77", 4, "cpu", 'gfdit submit "a red circle" -o a.png', window_s=24)

if __name__ == "__main__":
    with make_console(HEADER, ascii="--ascii" in sys.argv) as console:
        tell(console.record)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
