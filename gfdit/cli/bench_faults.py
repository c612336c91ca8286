"""`gfdit bench faults`: breaks a real system on purpose and counts what was lost. `gfdit.live.faultbench` breaks it."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gfdit.live.faultbench.row import Row
    from gfdit.live.system import LiveSystem

COST = "qwen-h20"


def faults(
    quick: Annotated[bool, typer.Option("--quick", help="A few of each: under 50 s.")] = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", help="Some of kills, restarts, stops, poison, frames, clients, overload, swaps; with commas."
        ),
    ] = None,
    kills: Annotated[int | None, typer.Option(min=1, help="Workers to kill; default: 1000.")] = None,
    restarts: Annotated[int | None, typer.Option(min=1, help="Controllers to kill; default: 200.")] = None,
    stops: Annotated[int | None, typer.Option(min=1, help="Workers to stop; default: 50.")] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Malformed frames to send; default: 1,000,000.")] = None,
    swaps: Annotated[int | None, typer.Option(min=1, help="Policies to push; default: 200.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the table as one JSON object.")] = False,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE.md", help="Write the table there, with machine and date.")
    ] = None,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="A bar on stderr, on a terminal.")] = True,
) -> None:
    """Kill, stop, deceive and overload a real system of emulated workers; nothing may be lost, doubled or changed."""
    import json
    from dataclasses import replace

    from gfdit.live.faultbench.bench import QUICK, TESTS, Sizes, as_json

    given = {"kills": kills, "restarts": restarts, "stops": stops, "frames": frames, "swaps": swaps}
    sizes = replace(QUICK if quick else Sizes(), **{name: size for name, size in given.items() if size is not None})
    names = list(TESTS) if only is None else list(dict.fromkeys(filter(None, only.split(","))))
    if unknown := [name for name in names if name not in TESTS]:
        raise UsageError(f"`--only {unknown[0]}` is no test of faults", hint=f"known: {', '.join(TESTS)}")
    with tempfile.TemporaryDirectory(prefix="gfdit-faults-") as folder:
        rows = _perform(names, sizes, seed, Path(folder), progress)
    if page is not None:
        page.write_text(page_of(rows), encoding="utf-8")
    if json_:
        print(json.dumps(as_json(rows)))
    else:
        _print(rows)
    if not all(row.good for row in rows):
        raise typer.Exit(1)


def _perform(names: Sequence[str], sizes: object, seed: int, folder: Path, progress: bool) -> list[Row]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from gfdit.cli.shipped import find_cost
    from gfdit.live.faultbench.bench import TESTS, Sizes
    from gfdit.live.faultbench.stage import Setting
    from gfdit.runtime.costfile import load_cost_model

    assert isinstance(sizes, Sizes)
    setting = Setting(load_cost_model(find_cost(COST)), seed, HttpDoor, folder)
    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    rows = []
    with Progress(*columns, console=terminal, transient=True, disable=not (progress and terminal.is_terminal)) as bar:
        task = bar.add_task("", total=len(names))
        for name in names:
            bar.update(task, description=name)
            rows.append(TESTS[name](setting, sizes))
            bar.advance(task)
    return rows


class HttpDoor:
    """HTTP in front of a system as `gfdit run` has it, on a free port. `queue`: how many requests may wait."""

    def __init__(self, system: LiveSystem, queue: int) -> None:
        from gfdit.cli.service import LiveService

        self._service = LiveService(system, None, queue)
        self.observers = self._service.observers

    @contextmanager
    def open(self) -> Iterator[str]:
        """Serve; the address."""
        import logging

        from gfdit.api.server import HttpServer

        with HttpServer(self._service, "127.0.0.1", 0) as server:
            logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # that clients send noise is no news here
            yield server.url


# ---- the table --------------------------------------------------------------------------------------------------

_HEADINGS = ("test", "faults", "requests", "lost", "doubled", "changed", "noticed after", "running again after", "seed")


def _cells(row: Row) -> tuple[str, ...]:
    counts = (row.faults, row.requests, row.lost, row.duplicates, row.hash_mismatches)
    times = ((row.detect_p50_ms, row.detect_p99_ms), (row.recover_p50_ms, row.recover_p99_ms))
    shown = ("-" if p50 is None or p99 is None else f"{p50:.0f} / {p99:.0f} ms" for p50, p99 in times)
    return (row.test, *(f"{count:,}" for count in counts), *shown, str(row.seed))


def _print(rows: Sequence[Row]) -> None:
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="Faults under load; times: median / 99th percentile", title_justify="left", box=SIMPLE_HEAD)
    shown.collapse_padding, shown.pad_edge = True, False
    for number, heading in enumerate(_HEADINGS):
        shown.add_column(heading, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*_cells(row), style=None if row.good else "red")
    Console(file=sys.stdout, highlight=False).print(shown)


def page_of(rows: Sequence[Row]) -> str:
    """The reference page `docs/reference/faults.md`."""
    import datetime
    import os
    import platform

    from gfdit import __version__

    table = ["| " + " | ".join(_HEADINGS) + " |", "|---" + "|--:" * (len(_HEADINGS) - 1) + "|"]
    table += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    load = f"load average {os.getloadavg()[2]:.1f} with this"
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return _PAGE.format(table="\n".join(table), about=f"gfdit {__version__}, {machine}, {load}, {day}")


_PAGE = """# Faults

Made by `make faults`, that is `gfdit bench faults --page docs/reference/faults.md`: a real system of emulated workers,
each a process of its own, under load without a pause, is broken on purpose. Afterwards every request that was accepted
must have ended, once, with the bytes that a run without faults gives.

{table}

{about}.

- **lost**: requests without the end that they were promised. **doubled**: ends beyond the first. **changed**: results
  other than without the fault. All three are 0 in every row, or the command exits with 1.
- **noticed after**: from the fault until the controller knows. A stopped worker is found by its silence, which it is
  given one second for here.
- **running again after**: from the fault until the request that lost its task runs again, elsewhere or on the worker's
  successor; of a controller, until the next one serves, which begins with starting Python.
- The sizes of a row are options; each row may be run by itself (`--only`), and `make faults` does 1,000 workers, 200
  controllers and 1,000,000 frames.
- Times are median / 99th percentile of the wall clock, of one run on one machine; equal seeds give equal faults, not
  equal times.
"""
