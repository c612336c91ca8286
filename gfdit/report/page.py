"""One self-contained HTML file about a run: figures, pictures, requests, the policy with what each clause decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path

import matplotlib

from gfdit.report import figures
from gfdit.report.colours import Colours
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.timeline import Life, Timeline
from gfdit.units import human_s, to_s

Summary = Mapping[str, object]


def write_report(source: Timeline | Path, summary: Summary, path: Path, title: str, policy_text: str = "") -> None:
    """Write the page to `path`. `source`: an unbounded timeline, or a journal; `summary`: the fields of a simulation
    result, as far as known. Raises JournalError for a bad journal."""
    timeline = source if isinstance(source, Timeline) else _read(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(timeline, summary, title, policy_text), encoding="utf-8")


def _read(journal: Path) -> Timeline:
    reader = JournalReader(journal)
    try:
        return Timeline.from_journal(reader)
    finally:
        reader.close()


def render(timeline: Timeline, summary: Summary, title: str, policy_text: str) -> str:
    """The page as a string."""
    colours = Colours(figures.class_names(timeline))
    with matplotlib.rc_context(figures.STYLE):
        gantt = figures.svg(figures.gantt_figure(timeline, colours), "gantt")
        lives = figures.svg(figures.lives_figure(timeline, colours), "lives")
        outcomes = figures.svg(figures.outcome_figure(timeline, colours), "outcomes")
    wide = figures.gantt_width_in(timeline) > figures.PAGE_IN
    told, count = len(figures.told_lives(timeline)), len(timeline.lives)
    some = "" if told == count else f" Of {count} requests, the {told} with most resizes, pauses and misses."
    sections = [
        _section("Ranks over time", _GANTT_HELP, _scroller(gantt) if wide else f"<figure>{gantt}</figure>"),
        _section("Latency and attainment", "", f"<figure>{outcomes}</figure>"),
        _section("Degree over time, request by request", _LIVES_HELP + some, f"<figure>{lives}</figure>"),
        _section("Requests", "Click a heading to sort.", _request_table(timeline)),
        _section("Policy", "", _policy(timeline, policy_text)) if policy_text else "",
        _section("All figures", "", _figure_table(summary)),
    ]
    page = files("gfdit.report").joinpath("page.html").read_text(encoding="utf-8")
    parts = {
        "title": escape(title),
        "subtitle": _subtitle(summary),
        "tiles": _tiles(timeline, summary),
        "body": "\n".join(sections),
    }
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


_GANTT_HELP = (
    "One colour is one request, its hue the class. The height of a bar is the degree: a bar that gets taller is a "
    "group that grew. Pale bars are the stages around the denoising steps."
)
_LIVES_HELP = (
    "Height is the number of ranks; a bare line is waiting, from the arrival on; a tick is the deadline, red when it "
    "was missed."
)


def _section(heading: str, help_text: str, body: str) -> str:
    note = f"<p>{escape(help_text)}</p>" if help_text else ""
    return f"<section><h2>{escape(heading)}</h2>{note}{body}</section>"


def _scroller(picture: str) -> str:
    control = '<label class="fit"><input type="checkbox"> fit to the page</label>'
    return f'{control}<figure class="scroll">{picture}</figure>'


def _subtitle(summary: Summary) -> str:
    known = {
        "policy": summary.get("policy"),
        "version": str(summary.get("policy_sha", ""))[:12],
        "workload": summary.get("workload"),
        "cost model": summary.get("cost_model"),
        "ranks": summary.get("gpus"),
        "seed": summary.get("seed"),
    }
    return " · ".join(f"{name} <b>{escape(str(value))}</b>" for name, value in known.items() if value not in (None, ""))


def _tiles(timeline: Timeline, summary: Summary) -> str:
    totals = timeline.totals
    attainment = summary.get("attainment", totals.attainment)
    setbacks = sum(life.setbacks for life in timeline.lives.values())
    ticks = f"99th {_micro(summary.get('tick_p99_us'))}, {summary.get('ticks', timeline.ticks)} ticks"
    tiles = [
        ("attainment", _percent(attainment), f"{totals.on_time} of {totals.arrived} on time"),
        ("mean latency", _seconds(summary.get("mean_latency_s")), f"median {_seconds(summary.get('p50_latency_s'))}"),
        ("95th percentile", _seconds(summary.get("p95_latency_s")), f"99th {_seconds(summary.get('p99_latency_s'))}"),
        ("resizes", str(summary.get("resizes", "–")), _kinds(timeline)),
        ("preemptions", str(summary.get("preemptions", "–")), f"{setbacks} set back by faults"),
        ("ranks busy", _percent(summary.get("gpu_busy")), f"makespan {_seconds(summary.get('makespan_s'))}"),
        ("policy tick", _micro(summary.get("tick_p50_us")), ticks),
    ]  # fmt: skip
    return "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(small)}</small></div>'
        for name, value, small in tiles
    )


def _kinds(timeline: Timeline) -> str:
    moves = timeline.totals.moves
    return (
        ", ".join(f"{count} {kind}" for kind, count in moves.items() if kind in ("grow", "shrink", "migrate")) or "none"
    )


def _percent(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else "–"


def _seconds(value: object) -> str:
    return human_s(float(value)) if isinstance(value, int | float) else "–"


def _micro(value: object) -> str:
    return human_s(value / 1e6) if isinstance(value, int | float) else "–"


# ---- tables -----------------------------------------------------------------------------------------------------

_HEADINGS = (
    "request", "class", "size", "steps", "arrival, s", "waited, s", "latency, s", "budget, s", "end", "resizes",
    "pauses", "attempts", "degrees",
)  # fmt: skip


def _request_table(timeline: Timeline) -> str:
    lives = sorted(timeline.lives.values(), key=lambda life: (life.request.arrival_ns, life.request.id))
    head = "".join(f"<th>{escape(heading)}</th>" for heading in _HEADINGS)
    rows = "\n".join(_request_row(life) for life in lives)
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="table">{table}</div>'


def _request_row(life: Life) -> str:
    request = life.request
    frames = "" if request.frames == 1 else f"×{request.frames}"
    budget = "" if life.deadline_ns is None else f"{to_s(life.deadline_ns - request.arrival_ns):.2f}"
    latency = "" if life.latency_ns is None else f"{to_s(life.latency_ns):.2f}"
    mark, ending = _ending(life)
    cells = (
        escape(request.id), escape(request.class_name), f"{request.width}×{request.height}{frames}",
        f"{life.steps_done}/{request.steps}", f"{to_s(request.arrival_ns):.2f}", f"{to_s(life.wait_ns):.2f}",
        latency, budget, escape(ending), str(life.resizes), str(life.preemptions), str(life.attempts), _degrees(life),
    )  # fmt: skip
    return f'<tr class="{mark}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _ending(life: Life) -> tuple[str, str]:
    """A CSS class, and a word."""
    if life.end is None:
        return "open", str(life.state)
    if life.end.on_time:
        return "ok", "on time"
    return "bad", "late" if life.state == "completed" else str(life.state)


def _degrees(life: Life) -> str:
    """`2 → 4 → 1`; long histories keep their beginning and their end."""
    degrees = [str(degree) for degree in life.degrees]
    if len(degrees) > 9:
        degrees = [*degrees[:5], "…", *degrees[-3:]]
    return " → ".join(degrees)


def _policy(timeline: Timeline, text: str) -> str:
    """The text with line numbers, and beside each line how many group changes it decided."""
    decided: Counter[int] = Counter()
    for (_, line), count in timeline.totals.clauses.items():
        decided[line] += count
    rows = "".join(
        f"<tr><td>{number}</td><td>{decided[number] or ''}</td><td><code>{escape(line)}</code></td></tr>"
        for number, line in enumerate(text.splitlines(), 1)
    )
    note = "<p>The second column counts the group changes that a line decided.</p>" if decided else ""
    return f'{note}<div class="policy"><table>{rows}</table></div>'


def _figure_table(summary: Summary) -> str:
    rows: list[str] = []
    for name, value in summary.items():
        if isinstance(value, Mapping):
            rows.extend(_figure_row(f"{name}.{key}", inner) for key, inner in value.items())
        else:
            rows.append(_figure_row(name, value))
    return f'<div class="figures"><table>{"".join(rows)}</table></div>'


def _figure_row(name: str, value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "–" if value is None else str(value)
    return f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>"
