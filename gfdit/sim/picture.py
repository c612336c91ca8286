"""Pictures: a comparison's attainment and mean latency with the bounds; live against simulated; what tuning found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gfdit.sim.compare import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gfdit.sim.fidelity import Fidelity
    from gfdit.sim.tuning import Tuned

MARKERS = "osD^vPX*"
SPREAD = 0.7  # of the distance between two workloads, over which the policies' dots lie
PANELS = (("attainment", "attainment_ub", "attainment"), ("mean_latency_s", "mean_latency_lb_s", "mean latency (s)"))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture; the suffix of `path` says which format (png, svg, pdf)."""
    from matplotlib.figure import Figure

    places = {place: x for x, place in enumerate(dict.fromkeys((row.workload, row.gpus) for row in rows))}
    policies = sorted({row.policy for row in rows})
    figure = Figure(figsize=(max(6.0, 2.0 + 1.4 * len(places)), 7.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for axes, (name, bound, label) in zip((top, bottom), PANELS, strict=True):
        _panel(axes, rows, places, policies, name, bound)
        axes.set_ylabel(label)
    top.set_ylim(-0.02, 1.04)
    bottom.set_yscale("log")
    bottom.set_xticks(list(places.values()), [f"{w}\n{g} GPUs" for w, g in places], rotation=30, ha="right")
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(policies) + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panel(
    axes: Axes,
    rows: Sequence[Row],
    places: Mapping[tuple[str, int], int],
    policies: Sequence[str],
    name: str,
    bound: str,
) -> None:
    for index, policy in enumerate(policies):
        shift = SPREAD * ((index + 0.5) / len(policies) - 0.5)
        mine = [(row, estimate) for row in rows if row.policy == policy and (estimate := row.figures[name])]
        axes.errorbar(
            [places[row.workload, row.gpus] + shift for row, _ in mine],
            [estimate.mean for _, estimate in mine],
            yerr=[estimate.half_width or 0.0 for _, estimate in mine],
            fmt=MARKERS[index % len(MARKERS)],
            capsize=2,
            markersize=5,
            label=policy,
        )
    known = {(row.workload, row.gpus): row.bound[bound] for row in rows if row.bound}
    if known:
        at = [places[place] for place in known]
        low, high = [x - SPREAD / 2 for x in at], [x + SPREAD / 2 for x in at]
        axes.hlines(list(known.values()), low, high, colors="black", linestyles="dashed", label="bound")
    axes.grid(axis="y", alpha=0.3)


def draw_fidelity(found: Fidelity, path: Path) -> None:
    """Every request's latency, live and simulated, with the band of 5 % around equality."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    axes = figure.subplots()
    classes = sorted({pair.class_name for pair in found.pairs})
    for index, name in enumerate(classes):
        mine = [pair for pair in found.pairs if pair.class_name == name]
        live, simulated = [pair.live_s for pair in mine], [pair.simulated_s for pair in mine]
        axes.plot(live, simulated, MARKERS[index % len(MARKERS)], label=name, alpha=0.8, markersize=5)
    values = [value for pair in found.pairs for value in (pair.live_s, pair.simulated_s)]
    ends = np.array([min(values) / 1.2, max(values) * 1.2])
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.fill_between(ends, ends * 0.95, ends * 1.05, color="black", alpha=0.12, label="5 %")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="live (s)", ylabel="simulated (s)")
    axes.set_title(
        f"latencies, {found.cost.name}: error {found.median:.1%} median, {found.p95:.1%} at 95 %", fontsize=10
    )
    axes.legend()
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_tuning(found: Tuned, path: Path) -> None:
    """The search on the left: every setting's gain over the default in training. Held-out cells on the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(11.0, 4.5), layout="constrained")
    search, confirm = figure.subplots(1, 2)
    gains = np.array([found.gain_in_training(trial) for trial in found.trials])
    search.plot(gains, "o", markersize=4, alpha=0.6, label="setting")
    search.plot(np.maximum.accumulate(gains), drawstyle="steps-post", color="black", label="best so far")
    search.axhline(0.0, color="grey", linestyle="dashed", label="default")
    search.set(xlabel="trial", ylabel="gain in training", title=f"{found.policy}, {found.objective}")
    search.yaxis.set_major_formatter(PercentFormatter(1.0))
    search.legend()
    at = np.arange(len(found.held_out))
    confirm.plot(at, [cell.default for cell in found.held_out], "o", color="grey", label="default")
    confirm.plot(at, [cell.tuned for cell in found.held_out], "D", label="tuned")
    names = [f"{cell.workload}\n{cell.cost_model}, {cell.gpus} GPUs" for cell in found.held_out]
    confirm.set_xticks(at, names, rotation=30, ha="right", fontsize=7)
    confirm.set(ylabel=f"{found.objective}{' (s)' if found.objective.of_time else ''}, held out", title=_verdict(found))
    if found.objective.of_time and found.held_out:
        confirm.set_yscale("log")
    for axes in (search, confirm):
        axes.grid(alpha=0.3)
    if found.held_out:
        confirm.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _verdict(found: Tuned) -> str:
    if found.gain is None:
        return "the default is the best"
    verdict = "recommended" if found.recommended else "not sure: keep the default"
    return f"gain {found.gain.mean:+.1%} [{found.gain.low:+.1%}, {found.gain.high:+.1%}]: {verdict}"
