"""The pictures of a report: rank x time, the life of each request, latency and attainment. No global state anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gfdit.core.work import Outcome, Stage
from gfdit.report.colours import FAINT, GOOD, GROUND, INK, MISSED, Colours, ink_on, paler
from gfdit.runtime.timeline import Life, Stint, Timeline, rank_runs
from gfdit.units import to_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_IN = 13.0  # width of the page's column
MAX_WIDTH_IN = 42.0
VECTOR_BARS = 3000  # above this the bars become pixels inside the picture; text stays text
MAX_LIVES = 60
POINTS_PER_IN = 72
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of requests and classes may hold dollar signs
    "figure.facecolor": GROUND,
}
Box = tuple[float, float, float, float]  # x, y, width, height in data units


def class_names(timeline: Timeline) -> list[str]:
    return sorted({life.request.class_name for life in timeline.lives.values()})


def time_range_s(timeline: Timeline) -> tuple[float, float]:
    """From the first tick to the latest one; never empty."""
    began = to_s(timeline.began or 0)
    return began, max(to_s(timeline.now), began + 1e-3)


def seconds_end(timeline: Timeline, stint: Stint) -> float:
    return to_s(timeline.now if stint.end is None else stint.end)


# ---- rank x time ------------------------------------------------------------------------------------------------


def gantt_figure(timeline: Timeline, colours: Colours, width_in: float | None = None) -> Figure:
    """Bars of every request on its ranks; neighbouring ranks of a group are one bar, so that its height is the degree.

    Above them the queue and the arrivals. `width_in`: None lets long runs be wider than the page.
    """
    ranks = max(1, len(timeline.ranks))
    width = gantt_width_in(timeline) if width_in is None else width_in
    height = min(9.0, max(1.6, 0.34 * ranks)) if ranks <= 16 else min(13.0, 0.16 * ranks)
    figure = _figure(width, height + 1.5)
    grid = figure.add_gridspec(2, 1, height_ratios=(0.75, height), hspace=0.06)
    bars = figure.add_subplot(grid[1])
    queue = figure.add_subplot(grid[0], sharex=bars)
    _draw_bars(bars, timeline, colours, width)
    _draw_outages(bars, timeline)
    _draw_queue(queue, timeline, colours)
    bars.set_xlim(*time_range_s(timeline))
    bars.set_ylim(ranks - 0.5, -0.5)
    bars.set_yticks(range(0, ranks, max(1, ranks // 16)))
    bars.set_ylabel("rank")
    bars.set_xlabel("time, s")
    bars.tick_params(axis="y", length=0)
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 0.15 / width, top=1 - 0.32 / (height + 1.5), bottom=0.48 / (height + 1.5)
    )
    _legend(queue, timeline, colours)
    return figure


def gantt_width_in(timeline: Timeline) -> float:
    """As wide as the page, and wider the more often the ranks change hands."""
    busiest = max((len(lane) for lane in timeline.lanes.values()), default=0)
    return min(MAX_WIDTH_IN, max(PAGE_IN, PAGE_IN * busiest / 180))


def _draw_bars(axes: Axes, timeline: Timeline, colours: Colours, width_in: float) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    began, until = time_range_s(timeline)
    boxes: list[Rectangle] = []
    faces: list[tuple[float, float, float]] = []
    moves: list[tuple[float, float, float]] = []
    for life in timeline.lives.values():
        colour = colours.of(life)
        for stint in life.stints:
            start, end = to_s(stint.start), seconds_end(timeline, stint)
            face = colour if stint.stage is Stage.DENOISE else paler(colour, 0.5)
            runs = rank_runs(stint.ranks)
            for first, last in runs:
                boxes.append(Rectangle((start, first - 0.46), end - start, last - first + 0.92))
                faces.append(face)
                if stint.handover_ns:
                    moves.append((start, first - 0.46, last + 0.46))
            if stint.stage is Stage.DENOISE:
                first, last = max(runs, key=lambda run: run[1] - run[0])
                _label(
                    axes, stint, (start, first, end - start, last - first + 1), until - began, width_in, ink_on(colour)
                )
        _mark_end(axes, life)
    crowded = len(boxes) > VECTOR_BARS
    edge = 0.15 if crowded else 0.6
    axes.add_collection(
        PatchCollection(boxes, facecolors=faces, edgecolors="white", linewidths=edge, rasterized=crowded)
    )
    if moves:
        x, low, high = zip(*moves, strict=True)
        axes.vlines(x, low, high, colors=INK, linewidths=0.4 if crowded else 0.9, alpha=0.8, rasterized=crowded)


def _label(axes: Axes, stint: Stint, box: Box, span_s: float, width_in: float, ink: str) -> None:
    """The request and its degree inside a bar, when there is room for it."""
    x, first, width, ranks = box
    room = width / span_s * (width_in - 0.7) * POINTS_PER_IN
    name = stint.life.request.id
    for text in (
        f"{name}  ×{stint.degree}",
        f"{short_id(name)} ×{stint.degree}",
        f"×{stint.degree}" if stint.degree > 1 else "",
    ):
        if text and room > 4.4 * len(text) + 4:
            axes.text(
                x + width / 2,
                first + (ranks - 1) / 2,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color=ink,
                clip_on=True,
            )
            return


def _mark_end(axes: Axes, life: Life) -> None:
    """A cross where a request ended that was not on time."""
    if life.end is not None and not life.end.on_time and life.stints:
        ranks = life.stints[-1].ranks
        axes.plot(
            to_s(life.end.at), sum(ranks) / len(ranks), "x", color=MISSED, markersize=6, markeredgewidth=2, zorder=5
        )


def _draw_outages(axes: Axes, timeline: Timeline) -> None:
    for rank, outages in timeline.outages.items():
        for start, end in outages:
            low = max(start, timeline.began or 0)
            high = timeline.now if end is None else end
            if high > low:
                axes.barh(
                    rank,
                    to_s(high - low),
                    left=to_s(low),
                    height=0.92,
                    color="#eceff3",
                    edgecolor=FAINT,
                    hatch="////",
                    linewidth=0,
                )


def _draw_queue(axes: Axes, timeline: Timeline, colours: Colours) -> None:
    samples = [*timeline.samples]
    times = [to_s(sample.at) for sample in samples] + [to_s(timeline.now)]
    waiting = [sample.waiting for sample in samples] + [samples[-1].waiting if samples else 0]
    queue = [sample.queue for sample in samples] + [samples[-1].queue if samples else 0]
    axes.fill_between(times, queue, step="post", color="#f1b6a8", linewidth=0)
    axes.fill_between(times, waiting, step="post", color="#c9d2dc", linewidth=0)
    top = max(1, *queue)
    axes.set_ylim(0, top * 1.45)
    axes.set_yticks([0, top])
    axes.set_ylabel("queue")
    for name in class_names(timeline):
        at = [to_s(life.request.arrival_ns) for life in timeline.lives.values() if life.request.class_name == name]
        axes.plot(
            at,
            [top * 1.28] * len(at),
            "v",
            color=colours.of_class(name),
            markersize=4,
            markeredgewidth=0,
            clip_on=False,
        )
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.spines["bottom"].set_visible(False)


def _legend(axes: Axes, timeline: Timeline, colours: Colours) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[object] = [Patch(color=colours.of_class(name), label=f"class {name}") for name in colours.classes]
    handles.append(Patch(color="#c8c8c8", label="pale: encode, decode, ..."))
    handles.append(Line2D([], [], marker="v", linestyle="", color=FAINT, markersize=5, label="arrival"))
    if any(stint.handover_ns for life in timeline.lives.values() for stint in life.stints):
        handles.append(Line2D([], [], marker="|", linestyle="", color=INK, markersize=9, label="hand-over of state"))
    if any(life.end is not None and not life.end.on_time for life in timeline.lives.values()):
        handles.append(
            Line2D([], [], marker="x", linestyle="", color=MISSED, markersize=6, markeredgewidth=2, label="missed")
        )
    handles += [Patch(color="#c9d2dc", label="waiting"), Patch(color="#f1b6a8", label="paused")]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(handles), frameon=False, fontsize=8,
        handlelength=1.0, columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip


# ---- the life of each request -----------------------------------------------------------------------------------


def told_lives(timeline: Timeline) -> list[Life]:
    """Whose life is drawn, by arrival: all, or those with the most to tell."""
    lives = list(timeline.lives.values())
    if len(lives) > MAX_LIVES:
        lives.sort(
            key=lambda life: (
                -(life.resizes + 2 * life.preemptions + 3 * (not _on_time(life))),
                life.request.arrival_ns,
            )
        )
        lives = lives[:MAX_LIVES]
    return sorted(lives, key=lambda life: (life.request.arrival_ns, life.request.id))


def lives_figure(timeline: Timeline, colours: Colours) -> Figure:
    """A row for each request: how many ranks it had over time (height), when it waited (line), its deadline (tick)."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    lives = told_lives(timeline)
    pitch = 0.32 if len(lives) <= 30 else 0.22
    figure = _figure(PAGE_IN, 0.75 + pitch * max(1, len(lives)))
    axes = figure.add_subplot()
    widest = max((stint.degree for life in lives for stint in life.stints), default=1)
    boxes: list[Rectangle] = []
    faces: list[tuple[float, float, float]] = []
    for row, life in enumerate(lives):
        until = life.end.at if life.end is not None else timeline.now
        axes.hlines(row + 0.42, to_s(life.request.arrival_ns), to_s(until), colors=FAINT, linewidths=0.7, zorder=1)
        for stint in life.stints:
            height = 0.88 * stint.degree / widest
            start = to_s(stint.start)
            boxes.append(Rectangle((start, row + 0.44 - height), seconds_end(timeline, stint) - start, height))
            faces.append(colours.of(life) if stint.stage is Stage.DENOISE else paler(colours.of(life), 0.5))
        if life.deadline_ns is not None and life.deadline_ns <= timeline.now:
            colour = INK if _on_time(life) else MISSED
            axes.vlines(to_s(life.deadline_ns), row - 0.3, row + 0.44, colors=colour, linewidths=1.3, zorder=3)
    axes.add_collection(
        PatchCollection(boxes, facecolors=faces, linewidths=0, rasterized=len(boxes) > VECTOR_BARS, zorder=2)
    )
    axes.set_xlim(*time_range_s(timeline))
    axes.set_ylim(len(lives) - 0.4, -0.6)
    axes.set_yticks(range(len(lives)), [short_id(life.request.id, 14) for life in lives], fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time, s")
    _inches(figure, left=1.15, right=0.15, top=0.1, bottom=0.5)
    return figure


# ---- latency and attainment -------------------------------------------------------------------------------------


def outcome_figure(timeline: Timeline, colours: Colours) -> Figure:
    """Latency and the used share of the budget as cumulative distributions by class, and attainment by class."""
    figure = _figure(PAGE_IN, 3.3)
    latency, budget, attainment = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    by_class = {
        name: [life for life in timeline.lives.values() if life.request.class_name == name] for name in colours.classes
    }
    completed = {name: [life for life in lives if _completed(life)] for name, lives in by_class.items()}
    for name, lives in completed.items():
        _cdf(latency, [to_s(life.latency_ns or 0) for life in lives], colours.of_class(name), name)
        _cdf(
            budget, [share for life in lives if (share := _budget_used(life)) is not None], colours.of_class(name), name
        )
    seconds = [to_s(life.latency_ns or 0) for lives in completed.values() for life in lives]
    if seconds and min(seconds) > 0 and max(seconds) / min(seconds) > 15:
        latency.set_xscale("log")
        latency.xaxis.set_major_formatter("{x:g}")
    latency.set(title="Latency of completed requests", xlabel="s", ylabel="share", ylim=(0, 1.02))
    budget.axvline(1.0, color=MISSED, linewidth=1, linestyle=(0, (4, 3)))
    budget.set(title="Latency / budget (late beyond 1)", xlabel="share of the budget", ylim=(0, 1.02))
    budget.set_xlim(0, max(1.1, budget.get_xlim()[1]))
    if latency.lines:
        latency.legend(frameon=False, loc="best")
    _attainment_bars(attainment, by_class, colours)
    _inches(figure, left=0.6, right=0.2, top=0.4, bottom=0.55)
    figure.subplots_adjust(wspace=0.22)
    return figure


def _cdf(axes: Axes, values: Sequence[float], colour: str, name: str) -> None:
    if values:
        ordered = np.sort(np.asarray(values))
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        axes.step([ordered[0], *ordered], [0, *shares], where="post", color=colour, linewidth=1.8, label=name)


def _attainment_bars(axes: Axes, by_class: dict[str, list[Life]], colours: Colours) -> None:
    names = [*by_class, "all"]
    groups = [*by_class.values(), [life for lives in by_class.values() for life in lives]]
    for row, (name, lives) in enumerate(zip(names, groups, strict=True)):
        on_time = sum(_on_time(life) for life in lives)
        share = on_time / len(lives) if lives else 1.0
        colour = INK if name == "all" and row == len(by_class) else colours.of_class(name)
        axes.barh(row, 1.0, color="#eef1f5", height=0.62)
        axes.barh(row, share, color=colour, height=0.62)
        inside = share > 0.5
        axes.text(
            share - 0.02 if inside else share + 0.02, row, f"{share:.1%}   {on_time}/{len(lives)}", va="center",
            ha="right" if inside else "left", color=GROUND if inside else INK, fontsize=8.5, fontweight="bold",
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set(title="Attainment: on time, of all that arrived", xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes.set_xticks([0, 0.5, 1.0], ["0", "50 %", "100 %"])
    axes.tick_params(axis="y", length=0)


def _budget_used(life: Life) -> float | None:
    if life.deadline_ns is None or life.latency_ns is None:
        return None
    budget = life.deadline_ns - life.request.arrival_ns
    return life.latency_ns / budget if budget > 0 else None


def _completed(life: Life) -> bool:
    return life.end is not None and life.end.outcome is Outcome.COMPLETED


def _on_time(life: Life) -> bool:
    return life.end is not None and life.end.on_time


# ---- plumbing ---------------------------------------------------------------------------------------------------


def short_id(request_id: str, width: int = 8) -> str:
    """The end of a long id tells more than its beginning."""
    return request_id if len(request_id) <= width else "…" + request_id[-(width - 1) :]


def _figure(width_in: float, height_in: float) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(width_in, height_in))


def _inches(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> None:
    """Margins in inches, whatever the size of the figure."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height)


def svg(figure: Figure, salt: str) -> str:
    """The figure as an `<svg>` element to stand in a page; `salt` keeps the ids of several pictures apart."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(out, format="svg", dpi=130, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def gantt_png(timeline: Timeline, path: Path, *, width_in: float = PAGE_IN, dpi: int = 110) -> None:
    """The rank x time picture alone, as a PNG file."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = gantt_figure(timeline, Colours(class_names(timeline)), width_in)
        figure.savefig(path, format="png", dpi=dpi)


__all__ = ["GOOD", "class_names", "gantt_figure", "gantt_png", "lives_figure", "outcome_figure", "svg"]
