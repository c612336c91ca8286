"""How a group of ranks is used: the split of its degree into CFG x Ulysses x ring."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Parallel:
    """Degrees of each kind of parallelism; their product is the group's size."""

    cfg: int = 1
    ulysses: int = 1
    ring: int = 1

    @property
    def degree(self) -> int:
        return self.cfg * self.ulysses * self.ring


@cache
def split_degree(degree: int, *, heads: int, cfg_branches: int) -> Parallel:
    """Split a group of `degree` ranks: guidance branches first (no attention traffic), then Ulysses, then ring.

    Ulysses cannot use more ranks than there are heads; what is left goes to ring.
    """
    cfg = 2 if cfg_branches == 2 and degree % 2 == 0 else 1
    rest = degree // cfg
    ulysses = max(u for u in range(1, rest + 1) if rest % u == 0 and u <= heads)
    return Parallel(cfg=cfg, ulysses=ulysses, ring=rest // ulysses)
