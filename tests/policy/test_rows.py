"""A clause that is asked about one row in plain floats says what it says in columns: on random worlds, for every
shipped policy and for every attribute and function that a condition may read."""

from __future__ import annotations

import numpy as np
import pytest

from gfdit.core.view import View
from gfdit.policy import library
from gfdit.policy.chooser import Choices, RowChoices
from gfdit.policy.columns import Frame
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.rows import Row
from gfdit.policy.store import checked_program, load_policy
from tests.policy.worlds import random_world

CONDITIONS = (
    "finish(sp) <= deadline and priority >= 50",
    "remaining(sp) < 3s or slack(sp) > 1s",
    "slack(sp_best) < 2s",
    "gain(sp) >= 1.5 or step_time(sp) < 300ms",
    "remaining(2 gpu) > remaining(sp)",
    "mem(sp) <= 0.5 * gpu_mem",
    "steps_left * step_time(sp) < 4s * max(steps_left, 2 step) / 1 step * 1 step",
    "age > 2s or waited > 1s",
    "late or lateness > 1s",
    "not (stage == denoise) or last_gpus == sp",
    "tier < 1 and preemptions == 0",
    "weight > 1 or rank == 2 or class == batch",
    "tokens > 4000 tok and (if steps_done > 0 step then sp <= 2 gpu else sp >= 2 gpu)",
    "abs(slack(sp)) < clamp(remaining(sp), 1s, 5s)",
    "free >= sp and gpus > 1 gpu and load < 2",
    'tag in {"ui", "batch"} or model != "small"',
    "now + floor < deadline",
)
TEMPLATE = """policy t version 1 "t"
param floor: dur = 2s within 1s .. 5s
let quick = 1 / step_time(sp_best)
class batch when tag == "batch" {{ slo 10min rank 2 weight 1 }}
class interactive otherwise {{ slo 5s rank 0 weight 4 }}
order by deadline, arrival
aging every 2s raise 1 until tier 0
stage encode, decode {{ sp fixed 1 gpu }}
stage denoise {{ sp in {{1, 2, 4}} gpu {pick} where {condition} else minimizing step_time(sp) * sp * quick }}
fallback fcfs_static after 3 errors or tick > 50ms
"""


def assert_alike(policy: CompiledPolicy, view: View, seed: int) -> int:
    """Every row by itself against all rows of its clause together; how many were compared."""
    tick = policy._tick(view)
    count = 0
    for rule in policy._rules.distinct:
        rows = np.flatnonzero([policy._rules.of(stage) is rule for stage in view.stage.tolist()])
        if rule.by_row is None or not len(rows):
            continue
        together = Choices(rule, Frame(tick, rows), view.gpus)
        for k, row in enumerate(rows.tolist()):
            alone = RowChoices(rule, Row(tick, row), view.gpus)
            note = f"seed {seed}, {policy.name}, {view.ids[row]}"
            assert alone.any_offered(0) == together.any_offered(k), note
            assert alone.admitted()[0].tolist() == together.admitted()[k].tolist(), note
            for degree in (*view.degrees, 3):
                assert alone.allows(0, degree) == together.allows(k, degree), f"{note}, {degree}"
            for limit in range(view.gpus + 1):
                mine, theirs = alone.pick(0, limit), together.pick(k, limit)
                assert mine == theirs, f"{note}, limit {limit}"
                if mine is not None and theirs is not None:
                    assert alone.because(0, mine) == together.because(k, theirs), f"{note}, limit {limit}"
            count += 1
    return count


@pytest.mark.parametrize("name", library.names())
def test_one_row_is_asked_as_many_are(name: str) -> None:
    policy = load_policy(name)
    with np.errstate(all="ignore"):
        compared = sum(assert_alike(policy, random_world(seed).view(), seed) for seed in range(12))
    assert compared > 20 or not any(rule.by_row for rule in policy._rules.distinct)


@pytest.mark.parametrize("pick", ["smallest", "largest", "maximizing sp / (remaining(sp) + 1s)"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_hold_for_one_row_as_for_many(condition: str, pick: str) -> None:
    text = TEMPLATE.format(condition=condition, pick=pick)
    policy = CompiledPolicy(checked_program(text, "t"))
    assert all(rule.by_row is not None for rule in policy._rules.distinct), "not compiled for one row"
    with np.errstate(all="ignore"):
        assert sum(assert_alike(policy, random_world(seed).view(), seed) for seed in range(6)) > 10


def test_what_is_about_others_too_is_asked_together() -> None:
    text = TEMPLATE.format(condition="count(where waiting) < 3", pick="smallest")
    rules = CompiledPolicy(checked_program(text, "t"))._rules.distinct
    assert [rule.by_row is None for rule in rules if not rule.single] == [True]
