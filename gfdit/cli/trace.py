"""`gfdit trace`: a journal as a Chrome trace, for the Perfetto UI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def trace(
    journal: Annotated[Path, typer.Argument(help="The journal of a run or a simulation.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the trace.")] = Path("run.perfetto.json"),
) -> None:
    """Write a journal as a Chrome trace: open it in the Perfetto UI or chrome://tracing."""
    from gfdit.errors import UsageError
    from gfdit.report.perfetto import trace_of_journal

    if not out.parent.is_dir():
        raise UsageError(f"no folder `{out.parent}` for `{out.name}`")
    timeline, counts = trace_of_journal(journal, out)
    print(f"{out}: {len(timeline.ranks)} ranks, {len(timeline.lives)} requests, "
          f"{counts.slices} slices, {counts.arrows} arrows")  # fmt: skip
