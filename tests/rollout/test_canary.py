"""The books of a switchback, and when two policies are called different."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import permutation_test

from gfdit.core.commands import EndRequest
from gfdit.core.events import RequestArrived
from gfdit.core.work import Outcome
from gfdit.runtime.rollout.canary import Arm, Canary, Verdict, chance_of
from gfdit.units import to_ns

from .desk import request

WINDOW_S = 10.0


def ended(number: int, at_s: float, on_time: bool = True, outcome: Outcome = Outcome.COMPLETED) -> EndRequest:
    return EndRequest(f"r{number:03}", outcome, to_ns(at_s), None if on_time else 0)


def come(canary: Canary, number: int, at_s: float) -> None:
    canary.record([RequestArrived(to_ns(at_s), request(number, at_s))], [])


def played(latency_s: dict[Arm, float], on_time: dict[Arm, float], turns: int, seed: int = 0) -> Canary:
    """A canary of windows with ten requests each."""
    pick = random.Random(seed)
    canary, number = Canary(to_ns(WINDOW_S), turns), 0
    for turn in range(turns):
        arm, begin = (Arm.CANARY, Arm.LIVE)[turn % 2], turn * WINDOW_S
        canary.begin(arm, to_ns(begin))
        for n in range(10):
            number += 1
            come(canary, number, begin + n * 0.1)
            end = begin + n * 0.1 + latency_s[arm] + pick.uniform(0, 0.2)
            canary.record([], [ended(number, end, pick.random() < on_time[arm])])
    canary.finish(to_ns(turns * WINDOW_S))
    return canary


def test_a_request_counts_for_the_window_it_came_in() -> None:
    canary = Canary(to_ns(WINDOW_S), 2)
    come(canary, 0, 0.0)  # before the canary: of no account
    canary.begin(Arm.CANARY, to_ns(1))
    come(canary, 1, 2.0)
    come(canary, 2, 3.0)
    canary.record([], [ended(1, 4.0), ended(0, 4.0)])
    canary.begin(Arm.LIVE, to_ns(11))
    come(canary, 3, 12.0)
    canary.record([], [ended(2, 13.0, on_time=False)])
    canary.finish(to_ns(21))
    canary.record([], [ended(3, 22.0)])
    report = canary.report()
    assert report.done and report.verdict is Verdict.TOO_EARLY
    assert (report.canary.requests, report.canary.attainment, report.canary.crossed) == (2, 0.5, 1)
    assert (report.live.requests, report.live.attainment, report.live.crossed) == (1, 1.0, 1)
    assert report.canary.mean_latency_s == pytest.approx((2.0 + 10.0) / 2)
    assert [window.arrived for window in report.windows] == [2, 1]


def test_clients_that_gave_up_say_nothing_of_a_policy_and_rejected_ones_do() -> None:
    canary = Canary(to_ns(WINDOW_S), 2)
    canary.begin(Arm.CANARY, 0)
    for number in range(3):
        come(canary, number, 1.0)
    canary.record(
        [], [ended(0, 2.0, outcome=Outcome.CANCELLED), ended(1, 2.0), ended(2, 2.0, outcome=Outcome.REJECTED)]
    )
    canary.begin(Arm.LIVE, to_ns(10))
    (window, _) = canary.report().windows
    assert (window.arrived, window.ended, window.attainment) == (2, 2, 0.5)
    assert canary.report().canary.windows == 1


def test_an_open_or_unsettled_window_is_left_out() -> None:
    canary = Canary(to_ns(WINDOW_S), 4)
    canary.begin(Arm.CANARY, 0)
    come(canary, 1, 1.0)
    assert canary.report().canary.windows == 0
    canary.begin(Arm.LIVE, to_ns(10))
    assert canary.report().canary.windows == 0  # its request is under way
    canary.record([], [ended(1, 11.0)])
    assert canary.report().canary.windows == 1


@pytest.mark.parametrize(
    ("live", "canary", "verdict"),
    [
        ((1.0, 0.5), (1.0, 1.0), Verdict.BETTER),
        ((1.0, 1.0), (1.0, 0.4), Verdict.WORSE),
        ((2.0, 1.0), (1.0, 1.0), Verdict.BETTER),
        ((1.0, 1.0), (2.0, 1.0), Verdict.WORSE),
        ((1.0, 1.0), (1.0, 1.0), Verdict.NO_DIFFERENCE),
    ],
)
def test_the_verdict_is_by_attainment_and_then_by_latency(
    live: tuple[float, float], canary: tuple[float, float], verdict: Verdict
) -> None:
    arms = {Arm.LIVE: live, Arm.CANARY: canary}
    latency, on_time = ({arm: pair[n] for arm, pair in arms.items()} for n in (0, 1))
    assert played(latency, on_time, 12).report().verdict is verdict
    assert played(latency, on_time, 4).report().verdict is Verdict.TOO_EARLY


def test_equal_policies_are_seldom_called_different() -> None:
    same = dict.fromkeys(Arm, 1.0)
    verdicts = [played(same, dict.fromkeys(Arm, 0.8), 12, seed).report().verdict for seed in range(60)]
    wrong = sum(verdict is not Verdict.NO_DIFFERENCE for verdict in verdicts)
    assert wrong <= 20  # two tests at 10 %: 12 expected


def test_the_chance_is_that_of_a_permutation_test() -> None:
    pick = np.random.default_rng(3)
    for size in (3, 4, 5):
        before, now = pick.normal(0, 1, size), pick.normal(0.7, 1, size)
        exact = permutation_test(
            (before, now), lambda a, b, axis: abs(a.mean(axis=axis) - b.mean(axis=axis)), vectorized=True,
            alternative="greater", n_resamples=np.inf,
        ).pvalue  # fmt: skip
        assert chance_of(before.tolist(), now.tolist()) == pytest.approx(exact)
    many = pick.normal(0, 1, 20).tolist()
    assert chance_of(many, [value + 3 for value in many]) < 0.01
    assert chance_of(many, many) == 1.0
