"""Modes, states and moving averages: carried by name from tick to tick, moved once an instant."""

from __future__ import annotations

import numpy as np
import pytest

from gfdit.core.lifecycle import State
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text
from gfdit.policy.testing import run_tests
from gfdit.policy.world import Actor, World
from tests.policy.texts import SINGLE, policy

BUSY = "mode busy when count(where waiting) > 2 for 2s until count(where waiting) < 2 for 1s"
BY_MODE = "stage denoise { sp fixed if busy then 1 gpu else 4 gpu }"


def world(now_s: float, count: int, **fields: object) -> World:
    actors = [Actor(f"r{n}", arrival_s=float(n), stage=Stage.DENOISE, **fields) for n in range(count)]  # type: ignore[arg-type]
    return World(gpus=4, now_s=now_s).add(actors)


def widest(tested: CompiledPolicy, now_s: float, count: int) -> int:
    return max(place.degree for place in tested.plan(world(now_s, count).view()).places)


def test_a_mode_goes_on_and_off_only_after_its_times() -> None:
    tested = policy(BUSY, denoise=BY_MODE)
    assert widest(tested, 100.0, 3) == 4  # begins to be busy
    assert widest(tested, 101.9, 3) == 4
    assert widest(tested, 102.0, 3) == 1  # two seconds without a break
    assert widest(tested, 103.0, 2) == 1  # between the thresholds nothing changes
    assert widest(tested, 104.0, 1) == 1
    assert widest(tested, 105.0, 1) == 4
    assert widest(tested, 106.0, 3) == 4
    assert widest(tested, 107.0, 1) == 4  # a break
    assert widest(tested, 108.5, 3) == 4
    assert widest(tested, 110.0, 3) == 4


def test_a_mode_asks_to_be_looked_at_when_it_would_flip() -> None:
    tested = policy(BUSY, denoise=BY_MODE)
    assert tested.plan(world(100.0, 3).view()).wake_at_s == 102.0
    assert tested.plan(world(101.0, 3).view()).wake_at_s == 102.0
    assert tested.plan(world(102.0, 3).view()).wake_at_s is None


def test_a_mode_moves_once_an_instant() -> None:
    tested = policy("mode odd when count() >= 0 until count() >= 0", denoise=BY_MODE.replace("busy", "odd"))
    view = world(100.0, 1).view()
    first = tested.plan(view)
    assert tested.plan(view) == first and tested.carried("odd") is True
    tested.attribute(world(101.0, 1).view(), 0, "age")  # a look changes nothing
    assert tested.carried("odd") is True
    tested.plan(world(101.0, 1).view())
    assert tested.carried("odd") is False


def test_modes_and_states_are_inherited_by_name() -> None:
    count = "state seen: num = 0 within 0 .. 100 next seen + 1 every 1s"
    old, new = (policy(BUSY, count, denoise=BY_MODE) for _ in range(2))
    for now in (100.0, 101.0, 102.0):
        old.plan(world(now, 3).view())
    new.inherit(old)
    assert new.carried("busy") is True and new.carried("seen") == 2.0
    assert widest(new, 102.5, 3) == 1


def test_a_state_moves_by_its_period_and_stays_in_its_range() -> None:
    tested = policy("state seen: num = 1 within 0 .. 3 next seen * 2 every 500ms", order="order by arrival + seen * 1s")
    found = []
    for now in (10.0, 10.2, 10.5, 10.7, 11.0, 12.0):
        wake = tested.plan(world(now, 1).view()).wake_at_s
        assert wake is not None and now < wake <= now + 0.5
        found.append(tested.carried("seen"))
    assert found == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert tested.plan(World(gpus=4, now_s=13.0).view()).wake_at_s is None  # nobody is there to wake for


def test_a_state_has_a_value_for_each_class_and_sees_its_requests_only() -> None:
    tested = compile_text(
        "\n".join(
            [
                "policy priced version 1",
                'class ui when tag == "ui" { miss 25% }',
                "class rest otherwise { miss 50% }",
                "state price[class]: num = 0 within 0 .. 80 next price + count(where late) - miss every 1s",
                "order by price desc, arrival",
                SINGLE,
                "stage denoise { sp fixed 1 gpu }",
            ]
        )
    )
    late = Actor("late", arrival_s=50.0, deadline_s=60.0, stage=Stage.DENOISE, tag="ui", class_name="ui")
    early = Actor("early", arrival_s=40.0, stage=Stage.DENOISE, class_name="rest")
    for now, first in ((100.0, "early"), (101.0, "late"), (102.0, "late")):
        view = World(gpus=1, now_s=now).add([late, early]).view()
        assert [view.ids[place.row] for place in tested.plan(view).places] == [first]
    assert tested._memory is not None
    assert tested._memory._states["price"].values.tolist() == [1.5, 0.0, 0.0]


def test_a_moving_average_moves_once_a_tick_towards_the_value() -> None:
    tested = policy("state x: num = 0 next ewma(count(), 25%)", order="order by arrival + x * 1s")
    seen = []
    for now, count in ((1.0, 4), (2.0, 0), (2.0, 4), (3.0, 4)):
        tested.plan(world(now, count).view())
        seen.append(tested.carried("x"))
    assert seen == [4.0, 3.0, 3.0, 3.25]


def test_an_inline_test_reads_modes_and_moves_its_clock() -> None:
    tested = policy(
        BUSY,
        'test "busy" { cluster 1 gpu request a {} request b {} request c {} request d {} expect not busy '
        "at 2s expect busy }",
        'test "wrong" { cluster 1 gpu request a {} at 9s expect busy }',
        denoise=BY_MODE,
    )
    passed, failed = run_tests(tested)
    assert passed.passed and len(failed.failures) == 1


@pytest.mark.parametrize("name", ["busy", "seen"])
def test_two_runs_over_the_same_ticks_agree(name: str) -> None:
    text = (BUSY, "state seen: num = 0 next ewma(mean(age) / 1s, 30%) + seen / 2")
    runs = []
    for _ in range(2):
        tested = policy(*text, denoise=BY_MODE, order="order by arrival + seen * 1s")
        values = []
        for tick in range(20):
            tested.plan(world(100.0 + tick * 0.7, tick // 4 % 5).view())
            values.append(tested.carried(name))
        runs.append(values)
    assert runs[0] == runs[1] and len(set(runs[0])) > 1


def test_arrivals_are_counted_once_and_silence_counts() -> None:
    rare = "mode rare when arrival_gap > 5s until arrival_rate > 1 / 3s"
    tested = policy(rare, denoise=BY_MODE.replace("busy", "rare"))
    first, second = (Actor(f"r{at}", arrival_s=at, state=State.ARRIVED) for at in (100.0, 102.0))

    def at(now_s: float, *actors: Actor) -> bool:
        view = World(gpus=4, now_s=now_s).add(actors).view()
        tested.admit(view, np.flatnonzero(view.new))
        tested.plan(view)
        return bool(tested.carried("rare"))

    assert at(100.0, first) is True  # one arrival says nothing yet: as rare as can be
    assert at(102.0, first, second) is False  # two seconds apart; the first, judged again, is not counted again
    assert at(106.0, first, second) is False
    assert at(107.5, first, second) is True  # nobody came for more than five seconds
