"""Tasks are plain data: who takes part, how a stored state is put together, and that no torch comes with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gfdit.core.parallel import Parallel
from gfdit.errors import StateError
from gfdit.worker.tasks import ModelFacts, Task, join_state, split_state


def task(stage: str, ranks: tuple[int, ...], sources: tuple[int, ...] = ()) -> Task:
    return Task(1, "r", stage, ranks, sources=sources)


@pytest.mark.parametrize(
    ("stage", "ranks", "sources", "participants"),
    [
        ("denoise", (0, 1), (), (0, 1)),  # self-held
        ("denoise", (0, 1), (1, 0), (0, 1)),  # the same group in another order
        ("denoise", (2, 0), (0, 1), (2, 0)),  # a member can serve the newcomer: rank 1 is left alone
        ("denoise", (2, 3), (0, 1), (2, 3, 0, 1)),  # a migration: both old ranks serve
        ("decode", (2, 3), (3, 2), (2,)),  # one rank works
        ("decode", (2,), (0, 1), (2, 0, 1)),
        ("encode", (4,), (), (4,)),
    ],
)
def test_participants(
    stage: str, ranks: tuple[int, ...], sources: tuple[int, ...], participants: tuple[int, ...]
) -> None:
    named = task(stage, ranks, sources)
    assert named.participants == participants
    assert named.has_handover == (not set(named.members) <= set(sources) and sources != ())


def test_stored_state_comes_apart_as_it_was_put_together() -> None:
    assert split_state(join_state(b"cold", b"hot")) == (b"cold", b"hot")
    assert split_state(join_state(b"cold")) == (b"cold", None)


@pytest.mark.parametrize("damaged", [b"", b"1234567", join_state(b"cold")[:-1], b"\xff" * 8 + b"x"])
def test_damaged_stored_state_is_refused(damaged: bytes) -> None:
    with pytest.raises(StateError):
        split_state(damaged)


def test_facts_count_tokens_and_choose_the_split() -> None:
    facts = ModelFacts("m", "wan", 6, (1, 2, 4), 2, 16, 16, 4, {})
    assert [facts.tokens(64, 96), facts.tokens(64, 96, frames=1), facts.tokens(64, 96, frames=9)] == [24, 24, 72]
    assert facts.parallel(4, guided=True) == Parallel(2, 2, 1)
    assert facts.parallel(4, guided=False) == Parallel(1, 4, 1)
    assert facts.parallel(8, guided=False) == Parallel(1, 4, 2)  # 8 > 6 heads: ring takes the rest
    assert facts.for_scheduler().degrees == (1, 2, 4)


def test_tasks_import_no_torch() -> None:
    code = "import sys, gfdit.worker.tasks; print('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
