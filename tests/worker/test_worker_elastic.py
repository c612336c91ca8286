"""Real processes, a real data plane: groups that change from step to step draw what one rank draws."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from gfdit.core.parallel import Parallel
from gfdit.core.work import Stage
from gfdit.worker.codec import unpack
from gfdit.worker.tasks import TaskResult, join_state
from tests.worker.fleet import Fleet
from tests.worker.tiny import PROMPT

# 6 heads, 40 + 16 tokens: shares of 4 ranks are even, of 3 are not, and Ulysses over 4 has uneven heads.
GUIDED = {"prompt": PROMPT, "height": 32, "width": 20, "num_inference_steps": 6, "seed": 11, "true_cfg_scale": 3.0}
PLAIN = {**GUIDED, "true_cfg_scale": 1.0}
# Every change there is: start on one, grow, migrate with overlap, full grid, shrink, migrate without overlap.
JOURNEY = [
    ((1,), Parallel()),
    ((1, 2), Parallel(ulysses=2)),
    ((2, 3, 0), Parallel(ring=3)),
    ((3, 1, 0, 2), Parallel(cfg=2, ulysses=2)),
    ((2, 0), Parallel(cfg=2)),
    ((3,), Parallel()),
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(4, "flux") as fleet:
        yield fleet


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).astype(int)


def latents(hot: bytes | None) -> np.ndarray:
    assert hot is not None
    state = unpack(hot)["state"]
    return state["latents"].numpy()


def start(fleet: Fleet, name: str, inputs: dict[str, object], rank: int = 0) -> bytes:
    fleet.run(name, "encode", (rank,), inputs=inputs)
    cold = fleet.run(name, "prepare", (rank,))[rank].cold
    assert cold is not None
    return cold


def test_a_journey_over_all_kinds_of_groups_draws_the_serial_picture(fleet: Fleet) -> None:
    _, expected, png = fleet.serial("serial", GUIDED)
    fleet.run("journey", "encode", (3,), inputs=GUIDED)
    fleet.run("journey", "prepare", (1,), sources=(3,))
    for step, (ranks, parallel) in enumerate(JOURNEY):
        sources = JOURNEY[step - 1][0] if step else ()
        results = fleet.run("journey", "denoise", ranks, first_step=step, sources=sources, parallel=parallel)
        assert all(results[rank].done == step + 1 for rank in ranks)
        leaders = [rank for rank, result in results.items() if result.hot is not None]
        assert leaders == [ranks[0]]
    assert np.abs(latents(results[3].hot) - latents(expected)).max() < 1e-4
    fleet.run("journey", "decode", (0,), sources=(3,))
    drawn = fleet.run("journey", "finalize", (2,), sources=(0,))[2].output
    assert np.abs(pixels(drawn) - pixels(png)).max() <= 1


@pytest.mark.parametrize(
    ("parallel", "inputs"),
    [
        (Parallel(), GUIDED),
        (Parallel(cfg=2), GUIDED),
        (Parallel(ulysses=2), PLAIN),
        (Parallel(ulysses=4), PLAIN),
        (Parallel(ring=4), PLAIN),
        (Parallel(ulysses=2, ring=2), PLAIN),
        (Parallel(cfg=2, ring=2), GUIDED),
    ],
    ids=str,
)
def test_every_split_draws_the_serial_picture(fleet: Fleet, parallel: Parallel, inputs: dict[str, object]) -> None:
    cold, expected, _ = fleet.serial("serial", inputs)
    ranks = (2, 0, 3, 1)[: parallel.degree]
    results = fleet.run("split", "denoise", ranks, steps=6, parallel=parallel, restore=join_state(cold))
    hot = results[2].hot
    if parallel.ulysses == parallel.ring == 1:
        assert hot == expected  # one rank, or one rank a guidance branch: bit for bit
    assert np.abs(latents(hot) - latents(expected)).max() < 1e-4
    for rank in ranks:
        fleet.call(rank, "drop", "split")


def test_collectives_and_bytes_of_a_step_are_those_of_the_algorithm(fleet: Fleet) -> None:
    tokens, heads, size, width, layers, item = 40 + 16, 6, 8, 16, 2, 4
    cold = start(fleet, "count", PLAIN, 1)
    ulysses = fleet.run("count", "denoise", (0, 1), parallel=Parallel(ulysses=2), restore=join_state(cold))
    ring = fleet.run("count", "denoise", (0, 1), first_step=1, parallel=Parallel(ring=2))
    gathered = 20 * width * item  # the other half of the 40 predicted tokens
    exchanged = layers * 4 * (tokens // 2) * (heads // 2) * size * item  # q, k, v there and the result back
    published = layers * 2 * (tokens // 2) * heads * size * item  # k and v of the other rank
    for rank in (0, 1):
        assert ulysses[rank].collectives == 2 * layers + 1
        assert ulysses[rank].bytes_moved == exchanged + gathered
        assert ring[rank].collectives == layers + 1
        assert ring[rank].bytes_moved == published + gathered


def test_guidance_on_two_ranks_exchanges_predictions_only(fleet: Fleet) -> None:
    cold = start(fleet, "cfg", GUIDED)
    results = fleet.run("cfg", "denoise", (0, 1), steps=2, parallel=Parallel(cfg=2), restore=join_state(cold))
    assert [results[rank].collectives for rank in (0, 1)] == [2, 2]
    assert [results[rank].bytes_moved for rank in (0, 1)] == [2 * 40 * 16 * 4] * 2
    plain = start(fleet, "no-cfg", PLAIN)
    results = fleet.run("no-cfg", "denoise", (0, 1), parallel=Parallel(cfg=2), restore=join_state(plain))
    assert [results[rank].collectives for rank in (0, 1)] == [0, 0]


def test_a_handover_moves_the_cold_state_once_and_then_only_the_hot_one(fleet: Fleet) -> None:
    start(fleet, "moves", GUIDED)
    first = fleet.run("moves", "denoise", (1,), sources=(0,))
    back = fleet.run("moves", "denoise", (0,), first_step=1, sources=(1,))
    again = fleet.run("moves", "denoise", (1,), first_step=2, sources=(0,))
    whole, hot = first[1].bytes_moved, again[1].bytes_moved
    assert back[0].bytes_moved == hot < whole / 3
    assert first[0] == TaskResult(first[0].epoch, "moves", **_measured(first[0]))  # a source works no steps
    assert all(results[rank].collectives == 2 for results, rank in ((first, 1), (back, 0), (again, 1)))
    stay = fleet.run("moves", "denoise", (1,), first_step=3, sources=(1,))
    assert (stay[1].collectives, stay[1].bytes_moved) == (0, 0)


def _measured(result: TaskResult) -> dict[str, float]:
    names = ("handover_s", "compute_s", "collectives", "bytes_moved")
    return {name: getattr(result, name) for name in names}


def test_sources_are_left_alone_when_a_member_can_serve(fleet: Fleet) -> None:
    cold = start(fleet, "overlap", GUIDED)
    fleet.run("overlap", "denoise", (0, 1), parallel=Parallel(cfg=2), restore=join_state(cold))
    results = fleet.run("overlap", "denoise", (1, 2), first_step=1, sources=(0, 1), parallel=Parallel(cfg=2))
    assert results[0].collectives == 0
    assert results[2].done == 2


def test_two_trajectories_take_turns_on_the_same_ranks(fleet: Fleet) -> None:
    others = [{**GUIDED, "seed": seed, "prompt": f"{count} green stars"} for seed, count in ((1, "two"), (2, "four"))]
    expected = [fleet.serial(f"alone-{i}", inputs)[1] for i, inputs in enumerate(others)]
    colds = [start(fleet, f"turn-{i}", inputs) for i, inputs in enumerate(others)]
    ranks, parallel = (1, 0), Parallel(cfg=2)
    hots: list[bytes | None] = [None, None]
    for step in range(6):
        for i, cold in enumerate(colds):
            restore = {} if step else {"restore": join_state(cold)}
            results = fleet.run(f"turn-{i}", "denoise", ranks, first_step=step, parallel=parallel, **restore)
            hots[i] = results[1].hot
    assert hots == expected


def test_a_task_whose_result_was_lost_runs_again(fleet: Fleet) -> None:
    _, expected, _ = fleet.serial("serial", GUIDED)
    start(fleet, "lost", GUIDED)
    for step, following in pairwise(range(7)):
        for _ in range(1 + step % 2):  # every other step's result is lost
            result = fleet.run("lost", "denoise", (0,), first_step=step)[0]
        assert result.done == following
    assert result.hot == expected
    fleet.run("lost", "decode", (0,))
    fleet.run("lost", "decode", (0,))
    assert fleet.call(0, "held")["lost"] == (Stage.DECODE, 6)


def test_a_member_that_fails_in_the_middle_costs_one_step(fleet: Fleet) -> None:
    _, expected, _ = fleet.serial("serial", PLAIN)
    cold = start(fleet, "fails", PLAIN, 1)
    group = {"steps": 3, "parallel": Parallel(ulysses=2)}
    fleet.run("fails", "denoise", (0, 1), restore=join_state(cold), **group)
    fleet.break_after(1, 2)  # rank 1 raises in the second step of the next task, between two collectives
    outcomes = fleet.outcomes("fails", "denoise", (0, 1), first_step=3, **group)
    assert outcomes[1] == "RuntimeError: broken on purpose"
    assert str(outcomes[0]).startswith("PeerAborted: rank 1 aborted the lease: RuntimeError: broken on purpose")
    results = fleet.run("fails", "denoise", (2, 0), first_step=3, sources=(0, 1), **group)
    assert np.abs(latents(results[2].hot) - latents(expected)).max() < 1e-4


def test_a_killed_member_costs_its_step_and_no_more() -> None:
    with Fleet(3, "flux") as fleet:
        _, expected, _ = fleet.serial("serial", PLAIN)
        cold = start(fleet, "dies", PLAIN, 1)
        group = {"steps": 2, "parallel": Parallel(ulysses=2)}
        hot = fleet.run("dies", "denoise", (0, 1), restore=join_state(cold), **group)[0].hot
        fleet.kill(1)
        outcomes = fleet.outcomes("dies", "denoise", (0, 1), first_step=2, **group)
        assert str(outcomes[0]).startswith("PeerDead: rank 1 is gone")
        results = fleet.run("dies", "denoise", (0, 2), first_step=2, sources=(0,), **group)
        assert results[0].done == 4
        last = fleet.run("dies", "denoise", (2,), first_step=2, steps=4, restore=join_state(cold, hot))
        assert np.abs(latents(last[2].hot) - latents(expected)).max() < 1e-4


def test_an_abort_stops_all_members_and_keeps_their_state(fleet: Fleet) -> None:
    cold = start(fleet, "abort", PLAIN)
    group = {"steps": 6, "parallel": Parallel(ring=2), "restore": join_state(cold)}
    fleet.abort_after(0, 3, "the client went away")
    outcomes = fleet.outcomes("abort", "denoise", (0, 1), **group)
    assert str(outcomes[0]).endswith("was stopped: the client went away")
    assert str(outcomes[1]).startswith("PeerAborted: rank 0 aborted the lease: the client went away")
    assert fleet.run("abort", "denoise", (0, 1), **group)[0].done == 6


def test_a_state_that_nobody_holds_is_reported_by_all(fleet: Fleet) -> None:
    outcomes = fleet.outcomes("nowhere", "denoise", (0, 1), sources=(2, 3), parallel=Parallel(ulysses=2))
    assert sorted(outcomes) == [0, 1, 2, 3]
    assert all(
        "StateError: no participant holds" in str(outcome) or "PeerAborted" in str(outcome)
        for outcome in outcomes.values()
    )
    assert any("StateError: no participant holds" in str(outcome) for outcome in outcomes.values())


def test_too_few_tokens_for_the_group_are_reported(fleet: Fleet) -> None:
    tiny = {**PLAIN, "height": 4, "width": 8}
    cold = start(fleet, "few", tiny)
    outcomes = fleet.outcomes("few", "denoise", (0, 1, 2), parallel=Parallel(ulysses=3), restore=join_state(cold))
    assert any("2 tokens cannot be split over 3 ranks" in str(outcome) for outcome in outcomes.values())
