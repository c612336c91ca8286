"""Short policies for tests: a head and tail that every policy needs, and what is tested between them."""

from __future__ import annotations

from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text

SINGLE = "stage encode, decode { sp fixed 1 gpu }"
CHEAPEST = "stage denoise { sp in {1, 2, 4} gpu smallest }"


def policy(*clauses: str, order: str = "order by arrival", denoise: str = CHEAPEST) -> CompiledPolicy:
    return compile_text("\n".join(["policy tested version 1", *clauses, order, SINGLE, denoise]), "tested.pol")
