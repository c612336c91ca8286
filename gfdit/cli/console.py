"""The live console of a run: header, rank x time strip, requests, recent events; plain lines when no terminal looks on.

`make_console` picks. Both are observers, fed by the driver's thread, and context managers. The screen is drawn by a
thread of its own, four times a second; it lays the frame out under a lock and writes it to the terminal outside of it,
so the driver never waits for a terminal.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from rich.console import Console as Terminal
from rich.live import Live

from gfdit.cli.frame import Frame, draw
from gfdit.cli.keys import Controls, reading
from gfdit.cli.notes import describe
from gfdit.core.events import Event
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.runtime.standing import standing
from gfdit.runtime.status import WINDOWS_S, Ends
from gfdit.runtime.timeline import Timeline

if TYPE_CHECKING:
    from types import TracebackType

FRAMES_PER_S = 4
WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class ConsoleHeader:
    """What does not change during a run. `ranks`: how many workers there will be; `hint`: the last line, e.g. how to
    send a request; `window_s`: how far back the strip reaches, in the clock's seconds. `attainment`: shares on time
    within the last 1, 5 and 15 minutes, where they are known."""

    model: str
    policy: str
    policy_sha: str
    ranks: int
    device: str = ""
    hint: str = ""
    window_s: float = WINDOW_S
    attainment: tuple[float | None, ...] = ()


class RunConsole(Protocol):
    """What a command uses: enter, hand to the driver as an observer, leave."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None: ...

    def say(self, text: str) -> None:
        """A message of the command itself (draining, a worker's log line)."""
        ...


class Console:
    """The full screen. `now`: the driver's clock, so that running steps grow between ticks (else the latest tick's
    time); `scheduler`: for slack and reasons to wait, read only; `cancel`: ends a request, when a key asks for it.
    Leaving prints the last frame as ordinary output."""

    def __init__(
        self,
        header: ConsoleHeader,
        *,
        scheduler: Scheduler | None = None,
        now: Callable[[], int] | None = None,
        ascii: bool = False,
        stream: TextIO | None = None,
        cancel: Callable[[str], None] | None = None,
    ) -> None:
        self.header = header
        self.controls = Controls(may_cancel=cancel is not None)
        self._cancel, self._ends = cancel, Ends()
        self.timeline = Timeline(
            header.ranks,
            keep_s=1.25 * header.window_s,
            policy_of=None if scheduler is None else lambda: scheduler.policy.name,
        )
        self.message = ""
        self._scheduler = scheduler
        self._clock = now
        # COLUMNS and LINES may be exported, and then stay what they were when the terminal is resized
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._terminal = Terminal(file=stream or sys.stdout, highlight=False, _environ=environ)
        # without colours the blocks of the strip say nothing, and without UTF-8 they cannot be written
        self._ascii = ascii or self._terminal.color_system is None or not self._terminal.encoding.startswith("utf")
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="console", daemon=True)
        self._live: Live | None = None
        self._keys = False  # whether somebody can press any

    def __enter__(self) -> Self:
        self._live = Live(
            console=self._terminal, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
        width = self._terminal.width
        self._terminal.print(self.frame(width, min(self._terminal.height, 24), closing=True))

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        with self._lock:
            self.timeline.record(now, events, decision, tick_seconds)
            self._ends.record(now, decision)

    def say(self, text: str) -> None:
        self.message = text

    def frame(self, width: int, height: int, *, closing: bool = False) -> Frame:
        """The screen at this moment, for a terminal of that size; `closing`: without hint or trailing blank lines."""
        with self._lock:
            now = self.timeline.now
            if self._clock is not None and self.timeline.began is not None and not closing:
                now = max(now, self._clock())
            scheduler = self._scheduler
            header = self.header
            if self._keys and not closing:
                shares = tuple(self._ends.within(seconds, now).share for seconds in WINDOWS_S)
                header = replace(header, attainment=shares, hint=f"{header.hint}; ? for keys".lstrip("; "))
            return draw(
                self.timeline, header, now, width, height,
                look=lambda request_id: None if scheduler is None else standing(scheduler, request_id, now),
                ascii_only=self._ascii, message=self.message, closing=closing,
                controls=None if closing else self.controls,
            )  # fmt: skip

    def redraw(self) -> None:
        """One frame, now. The terminal's size is asked for each time, so resizing just works."""
        if self._live is not None:
            size = self._terminal.size
            self._live.update(self.frame(size.width, size.height), refresh=True)

    def _refresh(self) -> None:
        with reading() as keys:
            self._keys = keys.here
            while not self._stopping.is_set():
                if keys.here:
                    for key in keys.wait(1 / FRAMES_PER_S):
                        self._pressed(key)
                elif self._stopping.wait(1 / FRAMES_PER_S):
                    break
                self.redraw()

    def _pressed(self, key: str) -> None:
        self.message = ""
        action = self.controls.press(key)
        if action is None:
            return
        if action.cancel is None:
            self.message = "Ctrl-C ends the run"  # which a key that is hit by mistake must not
        elif self._cancel is not None:
            self._cancel(action.cancel)
            self.message = f"{action.cancel} is cancelled"


class PlainLog:
    """One line for each thing that happened, for files, pipes and CI."""

    def __init__(
        self,
        header: ConsoleHeader,
        *,
        scheduler: Scheduler | None = None,
        ascii: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.header = header
        self.timeline = Timeline(
            header.ranks, keep_s=header.window_s, policy_of=None if scheduler is None else lambda: scheduler.policy.name
        )
        self._stream = stream or sys.stdout
        self._seen = 0

    def __enter__(self) -> Self:
        h = self.header
        self._print(
            f"gfdit: model {h.model}, policy {h.policy} ({h.policy_sha[:8]}), {h.ranks} workers {h.device}".rstrip()
        )
        if h.hint:
            self._print(h.hint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        totals = self.timeline.totals
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(totals.outcomes.items()))
        self._print(f"gfdit: {totals.arrived} requests: {outcomes or 'none ended'}; {totals.on_time} on time")

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        for note in self.timeline.record_notes(now, events, decision):
            self._print(f"{note.at / 1e9:10.3f}  {describe(note)}")

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def make_console(
    header: ConsoleHeader,
    *,
    scheduler: Scheduler | None = None,
    now: Callable[[], int] | None = None,
    ascii: bool = False,
    plain: bool | None = None,
    stream: TextIO | None = None,
    cancel: Callable[[str], None] | None = None,
) -> RunConsole:
    """The full screen on a terminal, plain lines elsewhere (or as `plain` says)."""
    out = stream or sys.stdout
    if plain if plain is not None else not out.isatty():
        return PlainLog(header, scheduler=scheduler, ascii=ascii, stream=out)
    return Console(header, scheduler=scheduler, now=now, ascii=ascii, stream=out, cancel=cancel)


__all__ = ["Console", "ConsoleHeader", "PlainLog", "RunConsole", "make_console"]
