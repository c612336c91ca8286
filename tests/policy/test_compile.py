"""Expressions over columns: infinities, degrees that are not offered, classes, aggregates, the present degree."""

from __future__ import annotations

import numpy as np
import pytest

from gfdit.core.lifecycle import State
from gfdit.core.work import Stage
from gfdit.lang.schema import Level
from gfdit.policy.columns import ClassTable, Frame, Tick
from gfdit.policy.compile import Compiler
from gfdit.policy.store import checked_program
from gfdit.policy.world import Actor, World
from tests.policy.texts import CHEAPEST, SINGLE

INF = float("inf")


def world() -> World:
    return World(gpus=4, now_s=50.0).add(
        [
            Actor("a", arrival_s=40.0, deadline_s=60.0, stage=Stage.DENOISE, sp=2, steps_done=5, priority=7, tag="ui"),
            Actor("b", arrival_s=45.0, stage=Stage.ENCODE, class_name="batch"),
            Actor("c", arrival_s=46.0, deadline_s=48.0, stage=Stage.DENOISE, sp=1, state=State.RUNNING, tenant="x"),
        ]
    )


def values(expression: str, *clauses: str) -> list[object]:
    text = "\n".join(["policy p version 1", *clauses, f"let x = {expression}", "order by arrival", SINGLE, CHEAPEST])
    program = checked_program(text)
    compiler = Compiler(program.lets)
    classes = ClassTable(program.classes)
    classes.when = tuple(
        None if rule.when is None else compiler.expr(rule.when, Level.REQUEST) for rule in program.classes
    )
    tick = Tick(world().view(), classes, program.aging)
    with np.errstate(all="ignore"):
        found = compiler.expr(program.let("x").value, Level.REQUEST)(Frame(tick, np.arange(3)))
    return np.broadcast_to(found, (3,)).tolist()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("deadline - now", [10.0, INF, -2.0]),
        ("deadline > now + 9s", [True, True, False]),
        ("now <= deadline", [True, True, False]),
        ("slo", [20.0, INF, 2.0]),
        ("age", [10.0, 5.0, 4.0]),
        ("late", [False, False, True]),
        ("lateness", [-10.0, -INF, 2.0]),
        ("steps_left", [15.0, 20.0, 20.0]),
        ("waiting", [False, True, False]),
        ("running and not late", [True, False, False]),
        ("priority * 2 - 1", [13.0, -1.0, -1.0]),
        ("if late then 1 else if waiting then 2 else 3", [3, 2, 1]),
        ('tag == "ui"', [True, False, False]),
        ('tag != "ui"', [False, True, True]),
        ('tag in {"ui", "batch"}', [True, True, False]),  # an untagged client names its class instead
        ('"x" == tenant', [False, False, True]),
        ("stage == denoise", [True, False, True]),
        ("stage not in {encode, decode}", [True, False, True]),
        ("sp_best", [4.0, 4.0, 4.0]),
        ("max(priority, 1, 3)", [7.0, 3.0, 3.0]),
        ("clamp(priority, 1, 5) + abs(0 - 1)", [6.0, 2.0, 2.0]),
        ("count(where waiting)", [1.0] * 3),
        ("sum(steps_left)", [55.0] * 3),
        ("mean(priority where running)", [3.5] * 3),
        ("max(age where late)", [4.0] * 3),
        ("min(age where steps_left > 50 step)", [INF] * 3),
        ("queued(any)", [1.0] * 3),
        ("longest_wait(any)", [5.0] * 3),
        ("gpus + free", [7.0] * 3),
        ("finish(8 gpu) <= deadline", [False, True, False]),  # not offered: never ends, as no deadline never comes
        ("step_time(2 gpu) < step_time(1 gpu)", [True] * 3),
        ("1 / (priority * 0)", [INF] * 3),
    ],
)
def test_values(expression: str, expected: list[object]) -> None:
    assert values(expression) == pytest.approx(expected)


def test_per_degree_functions_agree_with_the_view() -> None:
    view = world().view()
    remaining = view.remaining_s
    assert values("remaining(2 gpu)") == remaining[:, 1].tolist()
    assert values("remaining(sp_best)") == remaining[:, 2].tolist()
    assert values("finish(4 gpu) - now") == remaining[:, 2].tolist()
    slack = view.deadline_s - view.now_s - remaining[:, 2]
    assert values("slack(sp_best)") == slack.tolist()
    assert values("gain(2 gpu)") == (remaining[:, 0] / remaining[:, 1]).tolist()
    assert values("gain(1 gpu)") == [INF] * 3


def test_classes_give_rank_weight_and_tier() -> None:
    classes = (
        'class ui when tag == "ui" { rank 1 weight 5 miss 2% }',
        "class rest when priority == 0 and tokens > 1 tok { rank 3 weight 2 }",
        "aging every 2s raise 1 until tier 1",
    )
    assert values("rank", *classes) == [1.0, 3.0, 3.0]
    assert values("weight", *classes) == [5.0, 2.0, 2.0]
    assert values("miss", *classes) == [0.02, 0.0, 0.0]
    # b has waited 5 s: two tiers up; a and c have GPUs and have never waited here
    assert values("tier", *classes) == [1.0, 1.0, 3.0]
    assert values("class == rest", *classes) == [False, True, True]
    assert values("queued(rest)", *classes) == [1.0] * 3


def test_a_request_of_no_class_ranks_last() -> None:
    only = 'class ui when tag == "ui" { rank 0 weight 5 }'
    assert values("rank", only) == [0.0, 1.0, 1.0]
    assert values("weight", only) == [5.0, 1.0, 1.0]
    assert values("class == ui", only) == [True, False, False]
