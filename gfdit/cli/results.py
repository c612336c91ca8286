"""What a run leaves behind: pictures as they are finished, `summary.json`, and the table at the end."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from gfdit.live.results import Ticket
from gfdit.units import human_s

PNG = b"\x89PNG\r\n\x1a\n"
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Figures = Mapping[str, object]


class Pictures:
    """Writes `<folder>/<id>.png` when a request has completed; `problems`: those that could not be written. Ids
    become safe file names, so that no request can write outside the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self.problems: list[str] = []
        self.written = 0

    def take(self, ticket: Ticket) -> None:
        """For `Ticket.on_end`. Output that is no picture (of an emulated device) is not written."""
        if ticket.output is None or not ticket.output.startswith(PNG):
            return
        with self._lock:
            path = self._folder / f"{self._name(ticket.request.id)}.png"
            try:
                path.write_bytes(ticket.output)
                self.written += 1
            except OSError as error:  # a full disk must not stop the service
                self.problems.append(f"cannot write `{path}`: {error.strerror}")

    def _name(self, request_id: str) -> str:
        base = UNSAFE.sub("_", request_id).lstrip(".") or "picture"
        name, number = base, 1
        while name.lower() in self._names:
            number += 1
            name = f"{base}-{number}"
        self._names.add(name.lower())
        return name


def write_summary(path: Path, figures: Figures) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def print_figures(figures: Figures, console: Console, *, moves: Mapping[str, int] | None = None) -> None:
    """The figures of a run or a simulation, as people read them."""
    console.print(_classes(figures))
    console.print(_totals(figures, moves))


def _classes(figures: Figures) -> Table:
    by_class = cast("Mapping[str, float]", figures["attainment_by_class"])
    latency = cast("Mapping[str, float | None]", figures["mean_latency_by_class_s"])
    table = Table(title=f"policy {figures['policy']} on {figures['gpus']} ranks", title_justify="left")
    table.add_column("class")
    table.add_column("attainment", justify="right")
    table.add_column("mean latency", justify="right")
    for name, attained in by_class.items():
        table.add_row(name, _percent(attained), _seconds(latency[name]))
    table.add_section()
    table.add_row("all", _percent(figures["attainment"]), _seconds(figures["mean_latency_s"]), style="bold")
    return table


def _totals(figures: Figures, moves: Mapping[str, int] | None) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    ended = ", ".join(f"{figures[name]} {name}" for name in ("completed", "rejected", "failed"))
    grid.add_row("requests", f"{figures['requests']}: {ended}")
    percentiles = " / ".join(_seconds(figures[f"p{percent}_latency_s"]) for percent in (50, 95, 99))
    grid.add_row("latency p50/p95/p99", percentiles)
    grid.add_row("makespan", f"{_seconds(figures['makespan_s'])}, ranks busy {_percent(figures['gpu_busy'])}")
    detail = ""
    if moves:
        detail = " (" + ", ".join(f"{count} {kind}" for kind, count in moves.items() if count) + ")"
    grid.add_row("resizes", f"{figures['resizes']}, preemptions {figures['preemptions']}{detail}")
    ticks = f"{figures['ticks']}, p50 {_micro(figures['tick_p50_us'])}, p99 {_micro(figures['tick_p99_us'])}"
    grid.add_row("policy ticks", ticks)
    return grid


def _percent(value: object) -> str:
    return f"{100 * cast('float', value):.1f} %"


def _seconds(value: object) -> str:
    return "-" if value is None else human_s(cast("float", value))


def _micro(value: object) -> str:
    return "-" if value is None else human_s(cast("float", value) / 1e6)
