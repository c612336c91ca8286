"""One self-contained HTML page about a run of requests against a server, as its clients saw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from gfdit.report.colours import FAINT, GOOD, MISSED, Colours
from gfdit.report.figures import PAGE_IN, STYLE, svg
from gfdit.units import human_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 60
KINDS = ("on time", "late", "turned away", "timed out", "failed")
_COLOURS = dict(zip(KINDS, (GOOD, "#e69f00", FAINT, "#7b5aa6", MISSED), strict=True))
_LABELS = {"turned_away": "turned away", "timed_out": "timed out", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class Point:
    """One request: due `at_s` seconds after the start, over `latency_s` later. `fate`: `completed`, or why not."""

    at_s: float
    latency_s: float
    class_name: str
    fate: str
    on_time: bool

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return ("on time" if self.on_time else "late") if self.fate == "completed" else _LABELS[self.fate]


def write_load_report(points: Sequence[Point], figures: Mapping[str, Any], path: Path, title: str) -> None:
    """`figures`: as `gfdit bench serve --json` prints them."""
    colours = Colours(sorted({point.class_name for point in points}))
    with matplotlib.rc_context(STYLE):
        course = svg(_course_figure(points), "course")
        latencies = svg(_latency_figure(points, colours), "latencies")
    body = [
        _section("Requests by when they were due", f"<figure>{course}</figure>"),
        _section("Latency", f"<figure>{latencies}</figure>"),
        _section("Classes", _class_table(figures["classes"])),
        _section("All figures", _all_figures(figures)),
    ]
    page = files("gfdit.report").joinpath("page.html").read_text(encoding="utf-8")
    parts = {"title": escape(title), "subtitle": _subtitle(figures), "tiles": _tiles(figures), "body": "\n".join(body)}
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


# ---- pictures ---------------------------------------------------------------------------------------------------


def _course_figure(points: Sequence[Point]) -> Figure:
    """Bars of a slice of time each: how many were due in it, by how they ended."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE_IN, 2.6), layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(0.0, max(point.at_s for point in points) + 1e-9, BINS + 1)
    below = np.zeros(BINS)
    for kind in KINDS:
        counts, _ = np.histogram([point.at_s for point in points if point.kind == kind], edges)
        if counts.any():
            axes.bar(edges[:-1], counts, np.diff(edges), below, align="edge", color=_COLOURS[kind], label=kind)
        below += counts
    axes.set(xlabel="due, s", ylabel="requests", xlim=(0, edges[-1]))
    axes.legend(frameon=False, ncols=len(KINDS), loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _latency_figure(points: Sequence[Point], colours: Colours) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE_IN, 3.2), layout="constrained")
    shares, dots = figure.subplots(1, 2)
    for name in colours.classes:
        mine = [point for point in points if point.class_name == name and point.fate == "completed"]
        _draw_class(shares, dots, mine, name, colours.of_class(name))
    shares.set(title="Latency of completed requests", xlabel="s", ylabel="share", ylim=(0, 1.02))
    dots.set(title="Latency by when they were due", xlabel="due, s", ylabel="s")
    dots.set_ylim(0)
    if shares.lines:
        shares.legend(frameon=False, loc="lower right")
    return figure


def _draw_class(shares: Axes, dots: Axes, points: Sequence[Point], name: str, colour: str) -> None:
    if points:
        ordered = np.sort([point.latency_s for point in points])
        rises = np.arange(1, len(ordered) + 1) / len(ordered)
        shares.step([ordered[0], *ordered], [0, *rises], where="post", color=colour, linewidth=1.8, label=name)
        dots.scatter([p.at_s for p in points], [p.latency_s for p in points], s=6, color=colour, rasterized=True)


# ---- text -------------------------------------------------------------------------------------------------------


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


def _subtitle(figures: Mapping[str, Any]) -> str:
    shown = {
        "server": figures.get("url"),
        "workload": figures.get("workload"),
        "rate": f"{figures['asked_per_s']:.3g} a second",
    }
    return " · ".join(f"{name} <b>{escape(str(value))}</b>" for name, value in shown.items() if value)


def _tiles(figures: Mapping[str, Any]) -> str:
    latency, server = figures["latency_s"] or {}, figures["server"] or {}
    missed = (
        ", ".join(f"{figures[name]} {label}" for name, label in _LABELS.items() if figures[name]) or "all completed"
    )
    tiles = [
        ("attainment", f"{figures['attainment']:.1%}", f"{figures['on_time']} of {figures['requests']} on time"),
        ("median latency", _time(latency.get("p50")), f"95th {_time(latency.get('p95'))}"),
        ("99th percentile", _time(latency.get("p99")), f"longest {_time(latency.get('max'))}"),
        ("completed a second", f"{figures['completed_per_s']:.3g}", f"{figures['on_time_per_s']:.3g} on time"),
        ("completed", str(figures["completed"]), missed or "all that were asked"),
        ("server CPU a request", _time(server.get("cpu_s_a_request")), f"a step {_time(server.get('cpu_s_a_step'))}"),
    ]
    return "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(small)}</small></div>'
        for name, value, small in tiles
    )


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else human_s(seconds)


_COLUMNS = ("requests", "completed", "turned_away", "timed_out", "failed", "on_time")


def _class_table(classes: Mapping[str, Mapping[str, Any]]) -> str:
    headings = ["class", *(name.replace("_", " ") for name in _COLUMNS), "attainment", "p50", "p95", "p99"]
    rows = []
    for name, found in classes.items():
        latency = found["latency_s"] or {}
        cells = [name, *(str(found[column]) for column in _COLUMNS), f"{found['attainment']:.1%}"]
        cells += [_time(latency.get(percent)) for percent in ("p50", "p95", "p99")]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _all_figures(figures: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_shown(value))}</td></tr>" for name, value in _flat(figures, "")
    )
    return f'<div class="figures"><table>{rows}</table></div>'


def _flat(figures: Mapping[str, Any], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "–" if value is None else str(value)
