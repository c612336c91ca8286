"""`python -m gfdit`: the command line."""

import sys

from gfdit.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
