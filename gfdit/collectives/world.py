"""The data plane of one worker process: its segment, the peers it knows, and the leases it holds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from gfdit.collectives.errors import CollectiveError, LeaseFenced, NotMember, PeerDead, SlotBusy, UnknownPeer
from gfdit.collectives.fence import Fence
from gfdit.collectives.heap import Block, Heap
from gfdit.collectives.keys import SLOTS, Endpoint, Key
from gfdit.collectives.lease import Lease
from gfdit.collectives.payload import arena_tensor
from gfdit.collectives.segment import HEAP_AT, Peer, Segment, close_word
from gfdit.collectives.wait import Backoff, require_platform

if TYPE_CHECKING:
    import torch

ARENA_BYTES = 64 << 20
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Retired:
    """A closed lease whose readers may not be done: the memory they read stays untouched until `holders` is empty."""

    slot: int
    epoch: int
    peers: tuple[Peer, ...]
    blocks: Sequence[Block]
    owners: Sequence[object]

    def holders(self) -> list[Peer]:
        return [peer for peer in self.peers if not peer.closed(self.slot, self.epoch)]


@dataclass(slots=True)
class _Slot:
    """What this rank did with a slot: the largest epoch, the live lease, the one that drains."""

    epoch: int = 0
    lease: Lease | None = None
    opening: bool = False
    retired: _Retired | None = None


class World:
    """One per worker process. Thread-safe; every lane of a lease belongs to one thread at a time.

    Nothing is collective: worlds come and go at any time, and memory is mapped when a lease first names a rank.
    """

    def __init__(self, rank: int, incarnation: int, arena_bytes: int) -> None:
        self._segment = Segment(rank, incarnation, arena_bytes)
        self._heap = Heap(HEAP_AT, self._segment.total - HEAP_AT)
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._endpoints: dict[int, Endpoint] = {}
        self._peers: dict[int, Peer] = {}
        self._lock = threading.RLock()
        self._open = True

    @classmethod
    def create(cls, rank: int, incarnation: int = 1, arena_bytes: int = ARENA_BYTES) -> World:
        """Make the segment of this process.

        `incarnation` (>= 1) numbers the lives of a rank. `arena_bytes` bounds what can be staged and allocated at a
        time; memory is taken when first touched. Raises `UnsupportedPlatform` elsewhere than on x86-64 Linux.
        """
        require_platform()
        if not 0 <= rank < 1 << 32 or incarnation < 1 or arena_bytes < 1:
            raise ValueError(
                f"rank must be >= 0, incarnation and arena_bytes >= 1, not {rank}, {incarnation}, {arena_bytes}"
            )
        return cls(rank, incarnation, arena_bytes)

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return self._segment.endpoint.rank

    @property
    def endpoint(self) -> Endpoint:
        """Plain data that lets other processes of this user reach the segment; hand it to them in any message."""
        return self._segment.endpoint

    def update_peers(self, endpoints: Iterable[Endpoint]) -> None:
        """Learn endpoints; a larger incarnation replaces a rank, older ones and the own rank are ignored.

        Leases that run with a replaced incarnation raise `PeerDead`. Nothing is mapped yet.
        """
        with self._lock:
            for endpoint in endpoints:
                known = self._endpoints.get(endpoint.rank)
                if endpoint.rank == self.rank or (known is not None and known.incarnation >= endpoint.incarnation):
                    continue
                self._endpoints[endpoint.rank] = endpoint
                self._drop(endpoint.rank)
        self._reclaim()

    def forget(self, rank: int) -> None:
        """Let go of a rank that left or died; a later `update_peers` may bring it back with a larger incarnation."""
        with self._lock:
            self._drop(rank)
        self._reclaim()

    def _drop(self, rank: int) -> None:
        peer = self._peers.pop(rank, None)
        if peer is not None:
            peer.replaced = True

    def open(self, key: Key, *, timeout: float = TIMEOUT_S, first_timeout: float | None = None) -> Lease:
        """Open a lease: local, no message, a few microseconds.

        `timeout` (seconds) holds for every operation that is not given its own, `first_timeout` (default: `timeout`)
        for the first one of each lane, in which the members arrive. Raises `NotMember`, `UnknownPeer`, `SlotBusy`
        (this rank has a live lease in the slot, or members of its last lease there did not close it in time),
        `LeaseFenced` (the epoch is not larger than the last one of the slot) and `PeerDead`.
        """
        first = timeout if first_timeout is None else first_timeout
        retired = self._claim(key)
        slot = self._slots[key.slot]
        try:
            if retired is not None:
                self._drain(retired, time.monotonic() + first)
            fence = Fence(self._segment, self._heap, key, self._others(key), self._reclaim)
            slot.lease = Lease(fence, timeout, first, self._retire)
            return slot.lease
        except CollectiveError as error:
            self._refuse(key, error)
            raise
        finally:
            slot.opening = False

    def _claim(self, key: Key) -> _Retired | None:
        """Reserve the slot, changing nothing that peers see; returns the lease that drains there."""
        if key.slot >= SLOTS or self.rank not in key.ranks:
            raise NotMember(f"rank {self.rank} is not in the group {key.ranks}")
        with self._lock:
            self._check_open()
            slot = self._slots[key.slot]
            if slot.lease is not None or slot.opening:
                raise SlotBusy(key.slot, slot.epoch, [self.rank])
            if key.epoch <= slot.epoch:
                raise LeaseFenced(f"epoch {key.epoch} is not larger than {slot.epoch}, the last one of slot {key.slot}")
            for rank in key.ranks:
                if rank != self.rank and rank not in self._endpoints:
                    raise UnknownPeer(f"rank {rank} has no endpoint here", hint="call update_peers first")
            slot.epoch, slot.opening = key.epoch, True
            return slot.retired

    def _others(self, key: Key) -> tuple[Peer, ...]:
        with self._lock:
            return tuple(self._peer(rank) for rank in key.ranks if rank != self.rank)

    def _peer(self, rank: int) -> Peer:
        peer = self._peers.get(rank)
        if peer is None:
            peer = self._peers[rank] = Peer(self._endpoints[rank])
        return peer

    def _refuse(self, key: Key, error: CollectiveError) -> None:
        """Abort and close a lease that could not be opened: the other members must not wait for this rank."""
        reachable = []
        for rank in key.ranks:
            try:
                if rank != self.rank:
                    with self._lock:
                        reachable.append(self._peer(rank))
            except PeerDead:
                continue
        fence = Fence(self._segment, self._heap, key, tuple(reachable), self._reclaim)
        fence.abort(error)
        fence.close()

    def skip(self, key: Key, reason: str) -> None:
        """Publish that this rank takes no part in a lease that names it: the members raise `PeerAborted`."""
        self._claim(key)
        self._refuse(key, LeaseFenced(reason))
        self._slots[key.slot].opening = False

    def _retire(self, lease: Lease) -> None:
        with self._lock:
            slot = self._slots[lease.key.slot]
            blocks, owners, peers = lease.remains()
            slot.lease, slot.retired = None, _Retired(lease.key.slot, lease.key.epoch, peers, blocks, owners)

    def _drain(self, retired: _Retired, deadline: float) -> None:
        """Wait until every member of a closed lease closed it or is gone, then take its memory back."""
        at, backoff = close_word(retired.slot), Backoff()
        while holders := retired.holders():
            if time.monotonic() >= deadline:
                raise SlotBusy(retired.slot, retired.epoch, [peer.rank for peer in holders])
            backoff.pause(holders[0].base + at * 8, holders[0].words[at], deadline)
        self._release(retired)

    def _release(self, retired: _Retired) -> None:
        with self._lock:
            slot = self._slots[retired.slot]
            if slot.retired is retired:
                slot.retired = None
                self._segment.invalidate(retired.slot, retired.epoch)
                for block in retired.blocks:
                    self._heap.release(block)

    def _reclaim(self) -> None:
        """Take back what closed leases still hold, where their members are done with it."""
        for slot in self._slots:
            retired = slot.retired
            if retired is not None and not retired.holders():
                self._release(retired)

    def drain(self, timeout: float) -> None:
        """Before leaving in good order: wait until the members of all closed leases are done, else `SlotBusy`."""
        deadline = time.monotonic() + timeout
        for slot in self._slots:
            if slot.retired is not None:
                self._drain(slot.retired, deadline)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor in the arena: published in place, without a staging copy. Raises `ArenaFull`.

        Its memory returns to the arena when the tensor and all views of it are gone and its readers are done.
        """
        self._check_open()
        self._reclaim()
        return arena_tensor(self._segment, self._heap, tuple(shape), dtype)

    def _check_open(self) -> None:
        if not self._open:
            raise LeaseFenced(f"the world of rank {self.rank} is closed")
        if os.getpid() != self._segment.endpoint.pid:
            raise LeaseFenced(
                f"the world of rank {self.rank} was made by process {self._segment.endpoint.pid}, not by this fork"
            )

    def close(self) -> None:
        """Abort and close what is live, leave, free the memory; peers see this rank as gone. Twice is fine."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            if os.getpid() != self._segment.endpoint.pid:
                return  # the memory belongs to the process that made it
            for slot in self._slots:
                if slot.lease is not None:
                    slot.lease.abort(f"rank {self.rank} closed its world")
                    slot.lease.close()
                slot.retired = None
            self._peers.clear()
            self._segment.leave()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
