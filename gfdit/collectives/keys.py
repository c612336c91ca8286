"""Names of the data plane: keys of leases, endpoints of ranks, tokens, hashes. Pure values only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

SLOTS = 16
"""Leases that one rank can hold, or have draining, at a time."""
LANES = 4
"""Independent sub-groups of one lease, lane 0 being the whole group."""
MAX_RANKS = 128
"""Members of one group; bounds the part table of a publication."""
EPOCH_BITS, SEQ_BITS = 40, 24
MAX_SEQ = (1 << SEQ_BITS) - 1
"""Never published: the sequence number of a publication that was taken back."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a rank can be reached: plain integers that the controller hands around in its messages.

    `fd` is the descriptor of the segment inside process `pid`; `start_time` (clock ticks since boot) guards against
    pid reuse.
    """

    rank: int
    incarnation: int
    pid: int
    fd: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Key:
    """One lease: the ordered `ranks` (order is semantic), the `epoch` that fences it, and the `slot` that carries it.

    `slot` defaults to `epoch % SLOTS`. All members must use equal keys; a rank opens leases in increasing epoch order,
    and two leases that are live on one rank need different slots.
    """

    ranks: tuple[int, ...]
    epoch: int
    slot: int = -1

    def __post_init__(self) -> None:
        ranks = self.ranks
        if type(ranks) is not tuple:
            ranks = tuple(ranks)
            object.__setattr__(self, "ranks", ranks)
        if self.slot == -1:
            object.__setattr__(self, "slot", self.epoch % SLOTS)
        if not ranks or len(ranks) > MAX_RANKS or len(set(ranks)) != len(ranks) or min(ranks) < 0 or max(ranks) >> 32:
            raise ValueError(f"ranks must be 1..{MAX_RANKS} distinct numbers below 2**32, not {ranks}")
        if not 0 < self.epoch < 1 << EPOCH_BITS:
            raise ValueError(f"epoch must be in 1..2**{EPOCH_BITS}-1, not {self.epoch}")
        if not 0 <= self.slot < SLOTS:
            raise ValueError(f"slot must be in 0..{SLOTS - 1}, not {self.slot}")


def token(epoch: int, seq: int) -> int:
    """The word that makes operation `seq` of `epoch` visible; strictly increasing in (epoch, seq)."""
    return epoch << SEQ_BITS | seq


@lru_cache(maxsize=4096)
def group_hash(ranks: tuple[int, ...], members: tuple[int, ...], lane: int) -> int:
    """64-bit digest of an ordered group and one lane of it."""
    return hash64(lane, len(ranks), *ranks, *members)


def hash64(*values: int) -> int:
    """64-bit digest of a sequence of integers, equal on every rank."""
    data = ",".join(map(str, values)).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def layout_hash(layout: Sequence[int] | int | None) -> int:
    """Digest of what the caller says the sizes are (0: nothing said)."""
    if layout is None:
        return 0
    return hash64(layout) if isinstance(layout, int) else hash64(len(layout), *layout)
