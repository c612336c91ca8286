"""`gfdit top`: the console of a system that runs elsewhere, or of one that has run, from its journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gfdit.cli.watch import Source

ONCE_SIZE = (120, 40)  # when the output is no terminal


def top(
    journal: Annotated[
        Path | None, typer.Argument(help="Replay this journal; without it: attach to a running server.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The server; default: GFDIT_URL, or http://127.0.0.1:8000.")] = None,
    speed: Annotated[float, typer.Option(min=0.01, help="Seconds of the journal in one of ours.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and stop; of a journal: how it ended.")] = False,
    ascii_: Annotated[bool, typer.Option("--ascii", help="Draw with ASCII characters only.")] = False,
) -> None:
    """Watch a running `gfdit run`, or replay a journal: ranks over time, requests, recent events."""
    import sys

    from gfdit.cli.watch import watch
    from gfdit.errors import UsageError

    if journal is not None and url is not None:
        raise UsageError("give a journal or `--url`, not both")
    once = once or not sys.stdout.isatty()
    watch(_source(journal, url, speed, once), sys.stdout, once=once, ascii_only=ascii_, size=ONCE_SIZE)


def _source(journal: Path | None, url: str | None, speed: float, once: bool) -> Source:
    from gfdit.cli.watch import JournalSource, ServerSource
    from gfdit.config import Environment

    if journal is None:
        return ServerSource(url or Environment.read().url)
    return JournalSource(journal, speed, at_end=once)
