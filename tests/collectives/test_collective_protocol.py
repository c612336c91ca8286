"""The protocol holds over all interleavings, crashes and aborts; broken variants are found."""

from __future__ import annotations

import pytest

from tests.collectives.protocol_model import CONFIGS, Broken, Flaw, Model

CASES = [
    pytest.param(name, *faults, marks=[pytest.mark.slow] if n == 3 and faults == (1, 1) else [])
    for name, (n, _, _) in CONFIGS.items()
    for faults in ((0, 0), (1, 0), (0, 1), (1, 1))
]


@pytest.mark.parametrize(("name", "crashes", "aborts"), CASES)
def test_every_interleaving_is_safe_and_ends(name: str, crashes: int, aborts: int) -> None:
    n, slots, leases = CONFIGS[name]
    states = Model(n, slots, leases, crashes, aborts, None).search()
    assert states > 40 * (1 + crashes + aborts)


@pytest.mark.parametrize(
    ("flaw", "name", "crashes", "aborts", "symptom"),
    [
        (Flaw.NO_LAZY_CLOSE, "one slot, three operations", 0, 0, "read"),
        (Flaw.NO_SETTLE, "parities wrap, one source", 0, 0, "read"),
        (Flaw.ONE_BUFFER, "parities wrap, one source", 0, 0, "read"),
        (Flaw.TOKEN_FIRST, "one slot, three operations", 0, 0, "read"),
        (Flaw.NO_LIVENESS, "one slot, three operations", 1, 0, "stuck"),
        (Flaw.SKIPS_SILENTLY, "three members, two operations", 0, 1, "stuck"),
    ],
)
def test_broken_variants_are_found(flaw: Flaw, name: str, crashes: int, aborts: int, symptom: str) -> None:
    n, slots, leases = CONFIGS[name]
    with pytest.raises(Broken, match=symptom):
        Model(n, slots, leases, crashes, aborts, flaw).search()
