"""Errors of the group-free collectives.

Every error of an operation leaves the lease aborted on this rank and the world usable. Of the rest of gfdit only the
root of all its errors is known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from gfdit.errors import GfditError


class CollectiveError(GfditError):
    """Base of everything that this package raises on purpose, `ValueError` for bad arguments aside."""


class UnsupportedPlatform(CollectiveError):
    """Plain stores release and plain loads acquire on x86-64 only; elsewhere the world refuses to start."""


class NotMember(CollectiveError):
    """The rank that opens a lease or lane is not in its tuple of ranks."""


class UnknownPeer(CollectiveError):
    """A key names a rank for which no endpoint was ever given to `World.update_peers`."""


class ArenaFull(CollectiveError):
    """A single-round publication does not fit into the arena of this rank."""


class SlotBusy(CollectiveError):
    """The slot still carries another lease: a live one of this rank, or one that `holders` have not closed yet."""

    def __init__(self, slot: int, epoch: int, holders: Sequence[int]) -> None:
        self.slot, self.epoch, self.holders = slot, epoch, tuple(holders)
        super().__init__(
            f"slot {slot} still carries epoch {epoch}, held by ranks {list(holders)}",
            hint="close that lease first, or let the key name another slot",
        )


class LeaseFenced(CollectiveError):
    """The lease is closed, aborted or older than what its slot already saw."""


class CollectiveTimeout(CollectiveError):
    """`waiting_on` did not arrive within the time given."""

    def __init__(self, waiting_on: Sequence[int], epoch: int, what: str) -> None:
        self.waiting_on, self.epoch = tuple(waiting_on), epoch
        super().__init__(f"epoch {epoch}: {what} timed out waiting on ranks {list(waiting_on)}")


class PeerAborted(CollectiveError):
    """Rank `rank` gave this lease up."""

    def __init__(self, rank: int, reason: str) -> None:
        self.rank, self.reason = rank, reason
        super().__init__(f"rank {rank} aborted the lease: {reason}")


class PeerDead(CollectiveError):
    """The process of rank `rank` ended, left, or was replaced by a newer incarnation."""

    def __init__(self, rank: int, detail: str = "its process ended") -> None:
        self.rank = rank
        super().__init__(f"rank {rank} is gone: {detail}")


class Mismatch(CollectiveError):
    """Members do not agree on what they run.

    `field` is one of group, op, dtype, layout, nbytes, sequence, operations, header.
    """

    def __init__(self, rank: int, field: str, mine: object, theirs: object) -> None:
        self.rank, self.field, self.mine, self.theirs = rank, field, mine, theirs
        super().__init__(f"rank {rank} disagrees on {field}: here {mine}, there {theirs}")
