"""The table at the end of a run."""

from __future__ import annotations

import io

import pytest
from literal_policies import EdfBestFit
from rich.console import Console
from small_worlds import make_cost, make_workload

from gfdit.cli.summary_table import summary_table
from gfdit.sim.run import SimConfig, simulate


def shown(summary: dict[str, object], *, ascii: bool = False, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(summary_table(summary, title="policy edf", ascii=ascii))
    return out.getvalue()


@pytest.mark.parametrize("ascii", [True, False])
def test_it_names_every_class_and_figure_within_80_columns(ascii: bool) -> None:
    outcome = simulate(SimConfig(EdfBestFit(), make_workload(2), "made", make_cost(), 4))
    result = dict(outcome.result)
    text = shown({**result, "resizes_by_kind": outcome.summary.resizes_by_kind()}, ascii=ascii)
    assert max(map(len, text.splitlines())) <= 80
    assert f"{result['attainment']:.1%}" in text and f"{result['requests']} requests" in text
    assert f"{result['resizes']} (" in text and f"{result['preemptions']}" in text and f"{result['ticks']}, p50" in text
    assert not ascii or text.isascii()


def test_missing_figures_are_left_out() -> None:
    text = shown({"requests": 2, "completed": 0, "attainment": None, "rejected": 2})
    assert "0 completed, 2 rejected" in text
    assert "latency  " not in text.replace("mean latency", "") and "makespan" not in text


def test_the_bar_is_as_long_as_the_share() -> None:
    text = shown({"attainment_by_class": {"a": 0.5}, "attainment": 0.25}, ascii=True)
    lines = {line.split()[1]: line for line in text.splitlines() if "%" in line}
    assert lines["a"].count("#") == 10 and lines["all"].count("#") == 5
