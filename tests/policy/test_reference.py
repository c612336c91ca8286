"""`edf_best_fit` against a literal restatement of its rules on random worlds, ties included; and mutants."""

from __future__ import annotations

import pytest

from gfdit.core.view import STAGE_CODE, View
from gfdit.core.work import Stage
from gfdit.policy.library import shipped_policy
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text, load_policy
from tests.policy.worlds import random_world

WORLDS = 300
ONE_RANK = {STAGE_CODE[stage] for stage in (Stage.ENCODE, Stage.DECODE, Stage.FINALIZE)}


def reference(view: View) -> list[tuple[int, int]]:
    """The rules, one after the other, with nothing clever: (row, degree) in order of importance."""
    rows = [row for row in range(view.size) if view.plannable[row]]
    rows.sort(key=lambda row: (view.deadline_s[row], -view.priority[row], view.arrival_s[row], view.ids[row]))
    free = view.free
    got: dict[int, int] = {}

    def finish(row: int, degree: int) -> float:
        # seconds from now, as the policy computes them: adding a large clock first would round ties away
        return float(view.remaining_s[row, view.degrees.index(degree)])

    def offered(row: int) -> list[int]:
        known = [d for d in view.degrees if d in (1, 2, 4, 8) and d <= view.gpus]
        return [d for d in known if finish(row, d) < float("inf")]

    for row in rows:
        if view.stage[row] in ONE_RANK:
            if free >= 1:
                got[row], free = 1, free - 1
            continue
        fits = [degree for degree in offered(row) if degree <= free]
        if not fits:
            continue
        on_time = [degree for degree in fits if finish(row, degree) <= view.deadline_s[row] - view.now_s]
        degree = min(on_time) if on_time else min(fits, key=lambda d: (finish(row, d), d))
        got[row], free = degree, free - degree

    for row in list(got):
        if view.stage[row] in ONE_RANK:
            continue
        for wider in offered(row):
            if wider > got[row] and wider - got[row] <= free and finish(row, wider) < finish(row, got[row]):
                free -= wider - got[row]
                got[row] = wider
    return list(got.items())


def planned(policy: CompiledPolicy, view: View) -> list[tuple[int, int]]:
    return [(place.row, place.degree) for place in policy.plan(view).places]


def test_the_plan_is_that_of_the_restatement() -> None:
    policy = load_policy("edf_best_fit")
    placed = grown = 0
    for seed in range(WORLDS):
        view = random_world(seed).view()
        expected = reference(view)
        assert planned(policy, view) == expected, f"world {seed}"
        placed += len(expected)
        grown += sum(1 for place in policy.plan(view).places if place.because and place.because.clause == "grow")
    assert placed > WORLDS and grown > WORLDS / 20  # the worlds exercise the clauses


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("finish(sp) <= deadline", "finish(sp) < deadline - 1s"),
        ("smallest where", "largest where"),
        ("minimizing finish(sp)", "smallest"),
        ("finish(next) < finish(sp)", "finish(next) <= finish(sp)"),
        ("grow by order where finish(next) < finish(sp)", ""),
        ("priority desc", "priority"),
        ("order by deadline, priority desc, arrival", "order by priority desc, deadline, arrival"),
        ("order by deadline, priority desc, arrival", "order by deadline, arrival"),
        ("{1, 2, 4, 8}", "{1, 2, 4}"),
    ],
)
def test_a_mutant_is_caught(old: str, new: str) -> None:
    text = shipped_policy("edf_best_fit").read_text(encoding="utf-8")
    rules = text[: text.index("test ")]
    assert old in rules
    mutant = compile_text(rules.replace(old, new), "mutant.pol")
    views = [random_world(seed).view() for seed in range(150)]
    assert any(planned(mutant, view) != reference(view) for view in views)
