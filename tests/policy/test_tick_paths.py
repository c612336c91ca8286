"""What makes a tick fast changes no decision: selecting instead of sorting, guesses from the tick before, reasons that
are written out late. Each against the plain way, on random worlds; and the work of a tick does not grow with what
cannot matter."""

from __future__ import annotations

import heapq
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

import gfdit.policy.allocate
import gfdit.policy.columns
import gfdit.policy.ranking
import gfdit.policy.regrouped
import gfdit.policy.triaging
from gfdit.core.proposal import WAIT_CODE, Because, Proposal, WaitReason, Waits
from gfdit.core.view import View
from gfdit.policy import library
from gfdit.policy.columns import ClassTable, Tick
from gfdit.policy.explain import Quoting
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.ranking import Hint, Presorted, Ranking, sort
from gfdit.policy.store import load_policy
from gfdit.policy.triaging import Likely, moore_hodgson
from gfdit.policy.yardstick import edf_best_fit, jobs_of
from gfdit.sim.tickbench import POLICIES, WARMUP_S, Measured, SteadyWorld, shipped_cost
from tests.policy.worlds import random_actor, random_cost, random_world

NEVER = 1 << 40  # a threshold that no world reaches


def by_id(view: View, proposal: Proposal) -> tuple[object, ...]:
    return (
        [(view.ids[place.row], place.degree, place.because, place.within) for place in proposal.places],
        [(view.ids[cap.row], cap.degree, view.ids[cap.winner], cap.because) for cap in proposal.caps],
        [(view.ids[turn.row], turn.message, turn.because) for turn in proposal.turns],
        sorted((view.ids[row], reason) for row, reason in proposal.waits.items()),
        proposal.reservations,
        proposal.wake_at_s,
    )


class Paired(Measured):
    """A policy whose every plan is compared with that of a twin that sorts and walks everything."""

    def __init__(self, policy: CompiledPolicy, plainly: Callable[[], None], quickly: Callable[[], None]) -> None:
        super().__init__(policy.program)
        self._twin = CompiledPolicy(policy.program)
        self._plainly, self._quickly = plainly, quickly
        self.compared = 0

    def plan(self, view: View) -> Proposal:
        proposal = super().plan(view)
        self._plainly()
        plain = self._twin.plan(view)
        self._quickly()
        assert by_id(view, proposal) == by_id(view, plain)
        self.compared += 1
        return proposal


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], None], Callable[[], None]]:
    """Turn the quick ways off, and on again for worlds of a few hundred requests."""
    known = (
        (gfdit.policy.ranking, "SMALL", NEVER, 4),
        (gfdit.policy.ranking, "LONG", NEVER, 64),
        (gfdit.policy.triaging, "FEW", NEVER, 2),
        (gfdit.policy.allocate, "FEW", 0, 8),
        (gfdit.policy.regrouped, "FEW", NEVER, 8),
        (gfdit.policy.columns, "SMALL_VIEW", NEVER, 8),
    )

    def plainly() -> None:
        for module, name, value, _ in known:
            monkeypatch.setattr(module, name, value)

    def quickly() -> None:
        for module, name, _, value in known:
            monkeypatch.setattr(module, name, value)

    return plainly, quickly


@pytest.mark.parametrize("name", library.names())
def test_quick_plans_are_the_plain_ones(name: str, switch: tuple[Callable[[], None], Callable[[], None]]) -> None:
    plainly, quickly = switch
    quickly()
    policy = Paired(load_policy(name), plainly, quickly)
    world = SteadyWorld(policy, 240, 16, shipped_cost(), seed=len(name))
    for tick in range(24):
        world.move_on(WARMUP_S if tick < 8 else 0.05)
    assert policy.compared > 10, f"{name}: only {policy.compared} plans"


@pytest.mark.parametrize("name", POLICIES)
def test_plans_of_a_small_world_are_the_plain_ones(
    name: str, switch: tuple[Callable[[], None], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly, _ = switch
    policy = Paired(load_policy(name), plainly, monkeypatch.undo)  # against what is really set
    world = SteadyWorld(policy, 60, 8, shipped_cost(), seed=len(name))
    for tick in range(30):
        world.move_on(WARMUP_S if tick < 15 else 0.01)
    assert policy.compared > 10, f"{name}: only {policy.compared} plans"


@pytest.mark.parametrize("seed", range(60))
def test_the_compiled_policy_and_the_yardstick_agree(seed: int) -> None:
    view = random_world(seed).view()
    places = load_policy("edf_best_fit").plan(view).places
    assert {view.ids[place.row]: place.degree for place in places} == edf_best_fit(jobs_of(view), view.now_s, view.free)


# ---- order ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tick() -> Tick:
    """Three hundred requests; what their keys are, the tests say."""
    rng = random.Random(7)
    world = random_world(7)
    world.gpus, world.cost = 16, random_cost(rng)
    world.actors = [random_actor(rng, number, 16, 0) for number in range(300)]
    return Tick(world.view(), ClassTable(()), None)


def random_column(rng: np.random.Generator, size: int) -> np.ndarray:
    """Distinct values, or few; some of them infinite or not numbers."""
    values = rng.random(size) if rng.random() < 0.5 else rng.integers(0, rng.integers(1, 9), size).astype(float)
    values[rng.random(size) < rng.choice([0.0, 0.1, 0.9])] = rng.choice([np.inf, -np.inf, np.nan])
    return values


@pytest.mark.parametrize("seed", range(40))
def test_a_head_of_the_order_is_a_prefix_of_the_sorted_whole(tick: Tick, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, hint = tick.view.size, Hint()
    columns = [random_column(rng, size) for _ in range(rng.integers(1, 4))]
    keys = tuple((lambda frame, column=column: column.take(frame.rows)) for column in columns)
    for _ in range(4):  # the hint of one tick serves the next, in which some keys are others
        columns[0][rng.integers(0, size, 5)] = rng.random()
        rows = np.flatnonzero(rng.random(size) < 0.9)
        late = rng.random(size) < 0.1 if rng.random() < 0.5 else None
        late_of = np.zeros(size, dtype=bool) if late is None else late
        whole = np.concatenate([sort(tick, rows[~late_of[rows]], keys), rows[late_of[rows]][::-1]])
        ranking = Ranking(tick, rows, keys, hint, late, lambda some: some[::-1])
        for count in rng.integers(1, len(rows) + 1, 3).tolist():
            assert ranking.first(count)[:count].tolist() == whole[:count].tolist(), f"seed {seed}"
            assert np.flatnonzero(ranking.after(count)).tolist() == sorted(whole[count:].tolist())
        some = np.flatnonzero(rng.random(size) < 0.2)
        some = some[np.isin(some, rows)]
        assert ranking.sorted(some).tolist() == [row for row in whole.tolist() if row in set(some.tolist())]
        assert ranking.part(late_of).all().tolist() == [row for row in whole.tolist() if late_of[row]]
        assert ranking.all().tolist() == whole.tolist()


@pytest.mark.parametrize("seed", range(25))
def test_an_order_repaired_from_the_last_one_is_the_sorted_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gfdit.policy.ranking, "LONG", 8)
    rng = np.random.default_rng(seed)
    presorted, slots = Presorted(), rng.permutation(400)[:200]
    key_of_slot = random_column(rng, 400)
    repaired = 0
    for _ in range(8):
        change = rng.integers(0, 3, 1)[0]
        gone = rng.random(len(slots)) < 0.02 * change
        new = np.setdiff1d(np.arange(400), slots)[: int(gone.sum()) + rng.integers(0, 3)]
        key_of_slot[new] = random_column(rng, 400)[new]
        key_of_slot[slots[rng.integers(0, len(slots), change)]] = rng.random()
        slots = np.concatenate([slots[~gone], new])
        rows = np.flatnonzero(rng.random(len(slots)) < 0.97)
        key = key_of_slot[slots[rows]]
        before = presorted._slots
        found = presorted.argsort(key, slots, rows)
        assert found.tolist() == key.argsort(kind="stable").tolist(), f"seed {seed}"
        repaired += len(before) > 8
    assert repaired == 7


# ---- triage ---------------------------------------------------------------------------------------------------------


def literal_moore_hodgson(need: list[float], room: list[float], shed: list[float]) -> dict[int, float]:
    """Moore and Hodgson's algorithm as they tell it: one request after the other."""
    kept: list[tuple[float, int]] = []
    aside: dict[int, float] = {}
    used = 0.0
    for position, limit in enumerate(room):
        used += need[position]
        heapq.heappush(kept, (-shed[position], -position))
        while used > limit and kept:
            gone = -heapq.heappop(kept)[1]
            aside[gone] = used - limit
            used -= need[gone]
    return aside


@pytest.mark.parametrize("seed", range(60))
def test_triage_from_stop_to_stop_is_the_walk_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gfdit.policy.triaging, "FEW", 2)
    rng = np.random.default_rng(seed)
    likely = Likely()
    for _ in range(6):  # whole numbers: sums are exact in any order
        size = int(rng.integers(1, 300))
        need = rng.integers(1, 20, size).astype(float)
        room = np.sort(rng.integers(0, max(2, int(10 * size * rng.choice([0.1, 0.6, 0.95, 1.3]))), size)).astype(float)
        shed = need / rng.choice([1.0, 3.0, 8.0], size) if seed % 2 else rng.integers(0, 4, size).astype(float)
        expected = literal_moore_hodgson(need.tolist(), room.tolist(), shed.tolist())
        assert moore_hodgson(need, room, shed, likely) == expected, f"seed {seed}"
        assert moore_hodgson(need, room, shed) == expected, f"seed {seed}"


# ---- reasons --------------------------------------------------------------------------------------------------------


def test_a_reason_is_written_out_when_it_is_read_and_equals_one_that_was_written_at_once() -> None:
    written: list[int] = []

    def write() -> tuple[tuple[str, str], ...]:
        written.append(1)
        return (("slack(2)", "3.00 s"),)

    late, early = Quoting("order", 7, write), Because("order", 7, (("slack(2)", "3.00 s"),))
    assert not written and (late.clause, late.line) == ("order", 7)
    assert late == early and early == late and hash(late) == hash(early) and late != Because("order", 8)
    assert late.values == early.values and asdict(late) == asdict(early) and len(written) == 1
    assert pickle.loads(pickle.dumps(late)) == early


def test_waits_read_like_a_mapping() -> None:
    codes = np.full(5, -1, dtype=np.int8)
    codes[1], codes[3] = WAIT_CODE[WaitReason.NO_FREE_GPU], WAIT_CODE[WaitReason.SET_ASIDE]
    waits = Waits(codes)
    assert waits == {1: WaitReason.NO_FREE_GPU, 3: WaitReason.SET_ASIDE} and len(waits) == 2
    assert waits.get(0) is None and 9 not in waits and -1 not in waits
    assert waits.reasons() == {WaitReason.NO_FREE_GPU, WaitReason.SET_ASIDE}


@pytest.mark.parametrize("seed", range(10))
def test_a_view_finds_its_rows(seed: int) -> None:
    view = random_world(seed).view()
    for row, request_id in enumerate(view.ids):
        assert view.row_of(request_id, float(view.arrival_s[row])) == row
        assert view.row_of(f"{request_id}x", float(view.arrival_s[row])) is None
    assert view.row_of("r", -1.0) is None


# ---- work -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Rows of all frames that are looked at closely: sorted, or evaluated by a chooser."""
    seen: list[int] = []
    plain_sort, evaluate = gfdit.policy.ranking.sort, gfdit.policy.allocate.Draft.evaluate

    def counting_sort(tick: Tick, rows: np.ndarray, *how: Any) -> np.ndarray:
        seen.append(len(rows))
        return plain_sort(tick, rows, *how)

    def counting_evaluate(draft: gfdit.policy.allocate.Draft, rows: np.ndarray) -> None:
        seen.append(len(rows))
        evaluate(draft, rows)

    monkeypatch.setattr(gfdit.policy.ranking, "sort", counting_sort)
    monkeypatch.setattr(gfdit.policy.allocate.Draft, "evaluate", counting_evaluate)
    yield seen


@pytest.mark.parametrize("name", POLICIES)
def test_who_waits_far_behind_costs_no_closer_look(name: str, touched: list[int]) -> None:
    counts = []
    for requests in (200, 1600):
        world = SteadyWorld(Measured(load_policy(name).program), requests, 16, shipped_cost())
        for _ in range(6):
            world.move_on(WARMUP_S)
        touched.clear()
        for _ in range(10):
            world.move_on(0.02)
        counts.append(sum(touched))
    assert counts[1] < 2 * counts[0] + 300, f"{name}: rows looked at with 200 and 1600 requests: {counts}"
