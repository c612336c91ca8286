"""The picture of a comparison: attainment and mean latency of every policy, with the bounds, as dots with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gfdit.sim.compare import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
