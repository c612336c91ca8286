"""A sweep of the fuzzer that takes a few seconds; `python -m tests.support.fuzz` runs any number of cases."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support import fuzz

SECONDS = 2.0  # of CPU, for each kind of case
SEED = int.from_bytes(os.urandom(4), "little")  # other cases every time; a failure prints the seed of its case


@pytest.mark.parametrize("kind", ["program", "string", "mutant"])
def test_every_text_gets_diagnostics_or_runs(kind: str) -> None:
    tally, seed, end = fuzz.Tally(), SEED, time.process_time() + SECONDS
    while time.process_time() < end and not tally.failed:
        getattr(tally, kind)(seed)
        seed += 1
    assert not tally.failed, f"python -m tests.support.fuzz --case {tally.failed[0]}"
    assert seed - SEED > 20


def test_the_generator_covers_every_production() -> None:
    """Each program is built around one of them, and parses."""
    productions = fuzz.grammar().productions
    assert len(productions) > 200
    for seed, goal in enumerate(productions):
        maker = fuzz.Maker(random.Random(seed))
        maker.program(goal)
        assert str(goal) in maker.used


def test_generated_programs_parse() -> None:
    tally = fuzz.Tally()
    for seed in range(60):
        tally.program(seed)
    assert not tally.failed
    assert tally.outcomes["unread"] <= 3  # a name that is a keyword where it came to stand
