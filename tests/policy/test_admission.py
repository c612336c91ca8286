"""Classify and admit: the first rule wins, degrade goes on, a class brings its budget."""

from __future__ import annotations

import numpy as np

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Fate, Verdict
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy

CLASSES = (
    'class ui when tag == "ui" { slo 8s rank 0 weight 10 }',
    "class batch otherwise { slo 30min rank 2 weight 1 preemptible }",
)


def new(name: str, **fields: object) -> Actor:
    return Actor(name, arrival_s=100.0, state=State.ARRIVED, **fields)  # type: ignore[arg-type]


def judge(tested: CompiledPolicy, *actors: Actor) -> dict[str, Verdict]:
    view = World(gpus=4, now_s=100.0).add(actors).view()
    rows = np.flatnonzero(view.new)
    verdicts = tested.admit(view, rows)
    assert [verdict.row for verdict in verdicts] == rows.tolist()
    return {view.ids[verdict.row]: verdict for verdict in verdicts}


def test_without_clauses_everybody_keeps_the_class_and_is_admitted() -> None:
    (verdict,) = judge(policy(), new("a", class_name="L")).values()
    assert verdict == Verdict(0, Fate.ADMIT, "L")


def test_the_first_class_that_matches_wins_and_brings_its_budget() -> None:
    verdicts = judge(policy(*CLASSES), new("a", tag="ui"), new("b"), new("c", class_name="ui"))
    assert [(v.class_name, v.slo_s, v.preemptible) for v in verdicts.values()] == [
        ("ui", 8.0, False),
        ("batch", 1800.0, True),
        ("ui", 8.0, False),  # the workload's class stands for a tag that was not given
    ]


def test_the_budget_of_the_class_counts_in_admission_unless_the_request_has_one() -> None:
    rule = 'admit { reject when now + remaining(1 gpu) > deadline because "cannot finish" accept }'
    tested = policy(*CLASSES, rule)
    verdicts = judge(
        tested, new("late", tag="ui"), new("own", tag="ui", deadline_s=160.0), new("short", tag="ui", steps_total=4)
    )
    assert {name: verdict.fate for name, verdict in verdicts.items()} == {
        "late": Fate.REJECT,
        "own": Fate.ADMIT,
        "short": Fate.ADMIT,
    }
    assert verdicts["late"].message == "cannot finish"
    because = verdicts["late"].because
    assert because is not None and because.line > 0 and because.values[1] == ("deadline", "+8.00 s")


def test_degrade_goes_on_and_later_rules_see_fewer_steps() -> None:
    rules = (
        "admit { degrade when steps_total > 10 step to steps = max(steps * 50%, 12 step)"
        ' reject when now + remaining(1 gpu) > deadline because "late" accept }'
    )
    tested = policy(rules)
    # 40 steps become 20, which take 12.4 s; 20 become 12, never fewer; 8 stay
    verdicts = judge(
        tested,
        new("a", steps_total=40, deadline_s=113.0),
        new("b", steps_total=40, deadline_s=112.0),
        new("c", steps_total=20),
        new("d", steps_total=8),
    )
    assert [(v.fate, v.steps) for v in verdicts.values()] == [
        (Fate.ADMIT, 20),
        (Fate.REJECT, 20),
        (Fate.ADMIT, 12),
        (Fate.ADMIT, None),
    ]


def test_degrade_never_raises() -> None:
    (verdict,) = judge(policy("admit { degrade to steps = steps * 3 }"), new("a", steps_total=10)).values()
    assert verdict.steps == 10


def test_defer_and_queues() -> None:
    waiting = [Actor(f"w{n}", arrival_s=90.0, class_name="batch") for n in range(2)]
    tested = policy(*CLASSES, "admit { defer when queued(batch) >= 2 and class == batch }")
    assert {n: v.fate for n, v in judge(tested, *waiting, new("a"), new("b", tag="ui")).items()} == {
        "a": Fate.DEFER,
        "b": Fate.ADMIT,
    }
    assert judge(tested, waiting[0], new("a"))["a"].fate is Fate.ADMIT


def test_a_policy_that_took_over_classifies_by_its_own_rules() -> None:
    view = (
        World(gpus=1, now_s=100.0)
        .add([Actor("a", arrival_s=90.0, class_name="gold"), Actor("b", arrival_s=95.0, class_name="silver", tag="ui")])
        .view()
    )
    proposal = policy(*CLASSES, order="order by tier, arrival").plan(view)
    assert [view.ids[place.row] for place in proposal.places] == ["b"]
