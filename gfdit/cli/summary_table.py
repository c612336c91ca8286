"""The table at the end of a run or a simulation, from the fields of its result; a missing field is left out."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import ASCII2, ROUNDED
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gfdit.units import human_s

BAR_CELLS = 20
Summary = Mapping[str, object]


def summary_table(summary: Summary, *, title: str = "", ascii: bool = False) -> RenderableType:
    """Classes with attainment and latency on top, the figures of the whole run below. Fits 80 columns."""
    return Group(_class_table(summary, title, ascii), Padding(_figures(summary), (0, 0, 1, 1)))


def _class_table(summary: Summary, title: str, ascii: bool) -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=ASCII2 if ascii else ROUNDED,
    )
    table.add_column("class")
    table.add_column("attainment", no_wrap=True)
    table.add_column("mean latency", justify="right")
    latencies = _mapping(summary, "mean_latency_by_class_s")
    for name, share in _mapping(summary, "attainment_by_class").items():
        table.add_row(name, _attainment(share, ascii), _seconds(latencies.get(name)))
    table.add_section()
    table.add_row(
        Text("all", "bold"), _attainment(summary.get("attainment"), ascii), _seconds(summary.get("mean_latency_s"))
    )
    return table


def _attainment(share: object, ascii: bool) -> Text:
    if not isinstance(share, int | float):
        return Text("-")
    full = round(share * BAR_CELLS)
    style = "green" if share >= 0.95 else "yellow" if share >= 0.7 else "red"
    bar = ("#" if ascii else "━") * full
    rest = ("." if ascii else "━") * (BAR_CELLS - full)
    return Text.assemble((bar, style), (rest, "bright_black"), (f" {share:7.1%}", f"bold {style}"))


def _figures(summary: Summary) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    for name, text in _lines(summary):
        grid.add_row(name, text)
    return grid


def _lines(summary: Summary) -> list[tuple[str, str]]:
    get = summary.get
    counts = [f"{get('requests', 0)} requests"]
    counts += [
        f"{get(kind)} {kind}" for kind in ("completed", "rejected", "failed") if get(kind) or kind == "completed"
    ]
    lines = [("requests", ", ".join(counts))]
    latency = [f"{name} {_seconds(get(key))}" for name, key in _LATENCIES if get(key) is not None]
    if latency:
        lines.append(("latency", ", ".join(latency)))
    kinds = _mapping(summary, "resizes_by_kind")
    detail = ", ".join(
        f"{count} {kind}" for kind, count in kinds.items() if count and kind in ("grow", "shrink", "migrate")
    )
    lines.append(("resizes", f"{get('resizes', 0)}" + (f" ({detail})" if detail else "")))
    lines.append(("preemptions", f"{get('preemptions', 0)}"))
    lines.append(
        ("policy ticks", f"{get('ticks', 0)}, p50 {_micro(get('tick_p50_us'))}, p99 {_micro(get('tick_p99_us'))}")
    )
    if get("makespan_s") is not None:
        busy, rate = get("gpu_busy"), get("throughput_rps")
        text = _seconds(get("makespan_s"))
        text += f", {rate:.3g} requests/s" if isinstance(rate, int | float) else ""
        text += f", ranks busy {busy:.0%}" if isinstance(busy, int | float) else ""
        lines.append(("makespan", text))
    faults = _mapping(summary, "faults")
    if faults:
        lines.append(
            ("faults", ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in faults.items() if name != "asked"))
        )
    bound = _mapping(summary, "bound")
    if bound:
        lines.append(
            ("bound", ", ".join(f"{name} {value:.4g}" for name, value in bound.items() if isinstance(value, float)))
        )
    return lines


_LATENCIES = (("mean", "mean_latency_s"), ("p50", "p50_latency_s"), ("p95", "p95_latency_s"), ("p99", "p99_latency_s"))


def _mapping(summary: Summary, key: str) -> Mapping[str, object]:
    value = summary.get(key)
    return value if isinstance(value, Mapping) else {}


def _seconds(value: object) -> str:
    return human_s(float(value)) if isinstance(value, int | float) else "-"


def _micro(value: object) -> str:
    return human_s(value / 1e6) if isinstance(value, int | float) else "-"
