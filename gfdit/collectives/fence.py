"""What all lanes of one lease share on one rank: the key, the members' memory, and whether the lease still stands."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn

from gfdit.collectives.errors import CollectiveError, CollectiveTimeout, LeaseFenced, Mismatch, PeerAborted, PeerDead
from gfdit.collectives.heap import Block, Heap
from gfdit.collectives.keys import Key
from gfdit.collectives.segment import HEADERS, Peer, Segment, abort_word
from gfdit.collectives.wait import wake


class AbortCode(IntEnum):
    """Why a rank gave a lease up, as its peers read it."""

    GIVEN_UP = 1
    MISMATCH = 2
    DEAD = 3


class Fence:
    """One lease as its own rank sees it; `others` are the members but this rank."""

    def __init__(
        self, segment: Segment, heap: Heap, key: Key, others: tuple[Peer, ...], reclaim: Callable[[], None]
    ) -> None:
        self.segment, self.heap, self.key, self.others = segment, heap, key, others
        self.rank = segment.endpoint.rank
        self.live = True
        self.failure: CollectiveError | None = None
        self._reclaim = reclaim
        self._lock = threading.Lock()
        self._abort_at = abort_word(key.slot)

    def guard(self) -> None:
        """Raise `LeaseFenced` when this rank closed or aborted the lease."""
        if not self.live:
            raise LeaseFenced(f"epoch {self.key.epoch} is closed on rank {self.rank}; open a lease with a larger epoch")
        if self.failure is not None:
            raise LeaseFenced(f"epoch {self.key.epoch} is aborted on rank {self.rank}: {self.failure}")

    def allocate(self, nbytes: int) -> Block | None:
        """A block of the arena, after taking back what drained leases left."""
        self._reclaim()
        return self.heap.allocate(nbytes)

    def look_for_aborts(self) -> None:
        """Raise what ended the lease elsewhere, or in another thread of this rank."""
        if self.failure is not None:
            raise self.failure
        epoch, at = self.key.epoch, self._abort_at
        for peer in self.others:
            if peer.words[at] == epoch:
                self._raise_abort_of(peer)

    def _raise_abort_of(self, peer: Peer) -> None:
        found = peer.abort_of(self.key.slot, self.key.epoch)
        if found is None:
            return
        code, culprit, reason = found
        if code == AbortCode.MISMATCH:
            raise Mismatch(culprit, reason, "see that rank", f"reported by rank {peer.rank}")
        if code == AbortCode.DEAD and culprit != self.rank:
            raise PeerDead(culprit, f"seen by rank {peer.rank}")
        raise PeerAborted(peer.rank, reason)

    def abort(self, error: CollectiveError) -> None:
        """Publish that this rank gives the lease up, and wake whoever waits in it. The first reason stays."""
        with self._lock:
            if self.failure is not None or not self.live:
                return
            self.failure = error
            self._publish_abort(error)
        for base in (self.segment.base, *(peer.base for peer in self.others)):
            for at in HEADERS[self.key.slot]:
                wake(base + at * 8)

    def _publish_abort(self, error: CollectiveError) -> None:
        code, culprit, reason = AbortCode.GIVEN_UP, self.rank, str(error)
        match error:
            case Mismatch():
                code, culprit, reason = AbortCode.MISMATCH, error.rank, error.field
            case PeerDead():
                code, culprit = AbortCode.DEAD, error.rank
            case PeerAborted():
                reason = error.reason
            case CollectiveTimeout():
                reason = f"timed out waiting on ranks {list(error.waiting_on)}"
        self.segment.publish_abort(self.key.slot, self.key.epoch, code, culprit, reason)

    def close(self) -> bool:
        """Publish that this rank is done; False when it was already."""
        with self._lock:
            if not self.live:
                return False
            self.live = False
            self.segment.publish_close(self.key.slot, self.key.epoch)
        return True

    def fail(self, error: CollectiveError) -> NoReturn:
        """Abort the lease because of `error`, then raise it."""
        self.abort(error)
        raise error
