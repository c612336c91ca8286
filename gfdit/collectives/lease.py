"""A lease: the right of an ordered group to run operations under one epoch, from `World.open` to `close`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from gfdit.collectives.errors import CollectiveError, LeaseFenced, NotMember
from gfdit.collectives.fence import Fence
from gfdit.collectives.heap import Block
from gfdit.collectives.keys import LANES, Key
from gfdit.collectives.operations import Lane
from gfdit.collectives.segment import Peer


class Lease(Lane):
    """The whole group as lane 0 (see `Lane` for the operations), plus its sub-groups, abort and close.

    A context manager: leaving it by an exception aborts the lease, so that the other members raise instead of waiting.
    """

    def __init__(
        self,
        fence: Fence,
        timeout: float,
        first_timeout: float,
        retire: Callable[[Lease], None],
    ) -> None:
        super().__init__(fence, fence.key.ranks, 0, timeout, first_timeout)
        self._lanes: dict[int, Lane] = {}
        self._times = timeout, first_timeout
        self._retire_to = retire

    @property
    def key(self) -> Key:
        """The key that this lease was opened with."""
        return self._fence.key

    @property
    def live(self) -> bool:
        """Whether the lease is neither closed nor aborted on this rank."""
        return self._fence.live and self._fence.failure is None

    def lane(self, members: Sequence[int], number: int) -> Lane:
        """The ordered sub-group `members` (ranks of this lease) as lane `number` in 1..LANES-1. Local, no message.

        Disjoint sub-groups may use one number (all rows of a grid, say); a rank uses one number for one sub-group only.
        Raises `NotMember` when this rank is not among the members.
        """
        ranks = tuple(members)
        if not 1 <= number < LANES:
            raise ValueError(f"lane number must be in 1..{LANES - 1}, not {number}")
        if len(set(ranks)) != len(ranks) or not set(ranks) <= set(self.ranks):
            raise ValueError(f"lane members must be distinct ranks of {self.ranks}, not {ranks}")
        if self._fence.rank not in ranks:
            raise NotMember(f"rank {self._fence.rank} is not in the lane {ranks}")
        self._fence.guard()
        held = self._lanes.get(number)
        if held is None:
            held = self._lanes[number] = Lane(self._fence, ranks, number, *self._times)
        elif held.ranks != ranks:
            raise ValueError(f"lane {number} of this lease is {held.ranks} already, not {ranks}; take another number")
        return held

    def abort(self, reason: str) -> None:
        """Give the lease up: every member that waits in it, or will, raises `PeerAborted(rank, reason)`.

        May be called from another thread while an operation runs here; that operation raises `LeaseFenced`. Still
        `close`.
        """
        self._fence.abort(LeaseFenced(reason))

    def close(self) -> None:
        """Say that this rank is done; nothing is waited for. For the thread that uses the lease; twice is fine."""
        if self._fence.close():
            self._retire_to(self)

    def remains(self) -> tuple[list[Block], list[object], tuple[Peer, ...]]:
        """What readers may still use of all lanes, blocks and owners of data in the arena, and those readers."""
        lanes: list[Lane] = [self, *self._lanes.values()]
        remains = [lane.surrender() for lane in lanes]
        blocks = [block for some, _ in remains for block in some]
        return blocks, [owner for _, some in remains for owner in some], self._fence.others

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fence.abort(
                error if isinstance(error, CollectiveError) else LeaseFenced(f"{type(error).__name__}: {error}")
            )
        self.close()
