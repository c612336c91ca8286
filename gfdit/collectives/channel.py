"""The protocol of one lane on one rank: stage, publish, wait for the members, copy from them.

An operation takes one or more rounds; round after round, every member of the lane publishes one header with the next
sequence number, in one of two parities. Two rules make that safe without a second synchronisation:

* a header and its stage are rewritten (sequence s) only when every member has published s - 1: it has read s - 2 then;
* every member runs the same number of rounds, which each derives from the headers of those that send.

The memory of a closed lease is used again only when all its members have closed it (see `World.open`).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from gfdit.collectives.errors import ArenaFull, CollectiveError, CollectiveTimeout, LeaseFenced, Mismatch, PeerDead
from gfdit.collectives.fence import Fence
from gfdit.collectives.heap import Block
from gfdit.collectives.keys import MAX_RANKS, MAX_SEQ, SEQ_BITS, group_hash, token
from gfdit.collectives.payload import DTYPES, ENTRY_WORDS, Entry, Payload, allocate, copy
from gfdit.collectives.segment import (
    H_CHUNK,
    H_CHUNK_BYTES,
    H_GROUP,
    H_LAYOUT,
    H_OP,
    H_ROUND,
    H_TABLE,
    H_TOKEN,
    HEADER_WORDS,
    STAGE_BYTES,
    Peer,
    close_word,
    header_word,
    stage_offset,
)
from gfdit.collectives.wait import Backoff, wake

CHUNK_BYTES = 1 << 20
"""Most that one round of a collective stages: it stays in the cache until the peers have read it."""
_GRAIN = 1 << 16


class Op(IntEnum):
    """What a header belongs to; members that disagree get `Mismatch`."""

    BARRIER = 1
    ALL_GATHER = 2
    ALL_TO_ALL = 3
    BROADCAST = 4
    EXCHANGE = 5
    HANDOVER = 6
    PUBLISH = 7


_OP_NAMES = {op.value: op.name for op in Op}


@dataclass(frozen=True, slots=True)
class Plan:
    """One operation as this member sees it.

    `sources` are the members that send (the same on every member; None: all); `takes` maps a member to the part of its
    table that is wanted here, `into` to where it goes (fresh memory otherwise). `single` forbids further rounds.
    """

    op: Op
    sources: Sequence[int] | None
    parts: Sequence[Payload] = ()
    dtype: int = 0
    layout: int = 0
    takes: Mapping[int, int] = field(default_factory=dict)
    into: Mapping[int, Payload] = field(default_factory=dict)
    single: bool = False


@dataclass(slots=True)
class _Stream:
    """The staged parts of this member, one behind the other, and how far they are sent."""

    entries: list[Entry]
    pieces: list[tuple[int, Payload]]
    total: int
    chunk: int = 0

    @property
    def rounds(self) -> int:
        return max(1, -(-self.total // self.chunk)) if self.chunk else 1

    def copy_chunk(self, start: int, target: int) -> int:
        """Copy the chunk that begins at `start` of the stream to address `target`; its size."""
        end = min(self.total, start + self.chunk)
        for position, payload in self.pieces:
            lo, hi = max(start, position), min(end, position + payload.nbytes)
            if lo < hi:
                copy(target + lo - start, payload.address + lo - position, hi - lo)
        return max(0, end - start)


@dataclass(slots=True)
class Take:
    """A part on its way from a member."""

    entry: Entry
    target: Payload
    rounds: int
    seen: int = 0

    def copy_chunk(self, peer: Peer, offset: int, nbytes: int) -> None:
        """Copy what the stream's next `nbytes`, at `offset` of the peer's segment, hold of the part."""
        first, last = self.entry.position, self.entry.position + self.entry.nbytes
        lo, hi = max(self.seen, first), min(self.seen + nbytes, last)
        if lo < hi:
            source = peer.address(offset + lo - self.seen, hi - lo)
            copy(self.target.address + lo - first, source, hi - lo)
        self.seen += nbytes


class Channel:
    """One lane: `ranks` in order, `index` of this rank in them. Used by one thread at a time."""

    def __init__(self, fence: Fence, ranks: tuple[int, ...], number: int, timeout: float, first_timeout: float) -> None:
        self.ranks, self.number = ranks, number
        self.index, self.size = ranks.index(fence.rank), len(ranks)
        self.timeout = timeout
        self._fence, self._segment = fence, fence.segment
        self._first_timeout: float | None = first_timeout
        by_rank = {peer.rank: peer for peer in fence.others}
        self._peers = {i: by_rank[rank] for i, rank in enumerate(ranks) if i != self.index}
        self._others = tuple(self._peers)
        self._hash = group_hash(fence.key.ranks, ranks, number)
        slot = fence.key.slot
        self._heads = (header_word(slot, number, 0), header_word(slot, number, 1))
        self._stages = (stage_offset(slot, number, 0), stage_offset(slot, number, 1))
        self._seq = 0
        self._buffers: list[Block | None] = [None, None]
        self._outgrown: tuple[list[Block], list[Block]] = ([], [])
        self._kept: list[Sequence[Payload]] = [(), ()]
        self._published: Plan | None = None

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> float:
        """The first operation of a lane may be given more time: members arrive at different moments."""
        if timeout is None:
            timeout = self.timeout if self._first_timeout is None else self._first_timeout
        return time.monotonic() + timeout

    def _arrivals(self, indices: Iterable[int], seq: int, deadline: float) -> Iterator[int]:
        """Yield each member as soon as it has published `seq`, in order of arrival.

        Raises `PeerAborted`, `PeerDead`, `Mismatch`, `LeaseFenced` or `CollectiveTimeout`, whichever is seen first.
        """
        epoch, want, head = self._fence.key.epoch, token(self._fence.key.epoch, seq), self._heads[seq & 1]
        pending = list(indices)
        backoff: Backoff | None = None
        while pending:
            missing: list[int] = []
            first_seen = 0
            for i in pending:
                peer = self._peers[i]
                seen = peer.words[head]
                if seen >= want:
                    if seen >> SEQ_BITS != epoch or seen & MAX_SEQ == MAX_SEQ:
                        raise LeaseFenced(f"rank {peer.rank} went on from epoch {epoch} without this rank")
                    yield i
                    backoff = None
                else:
                    first_seen = first_seen if missing else seen
                    missing.append(i)
            pending = missing
            if pending:
                backoff = backoff or Backoff()
                peer = self._peers[pending[0]]
                if backoff.pause(peer.base + head * 8, first_seen, deadline):
                    self._check(pending, want, head, deadline)

    def _check(self, pending: Sequence[int], want: int, head: int, deadline: float) -> None:
        """Raise when waiting for `pending` has become pointless."""
        self._fence.look_for_aborts()
        key = self._fence.key
        for i in pending:
            peer = self._peers[i]
            closed, why = peer.words[close_word(key.slot)] >= key.epoch, peer.gone()
            if (closed or why) and peer.words[head] < want:  # the word is read again: it may have come just before
                self._fence.look_for_aborts()
                if closed:
                    raise Mismatch(peer.rank, "operations", f"operation {want & MAX_SEQ}", "closed before it")
                raise PeerDead(peer.rank, why or "")
        if time.monotonic() >= deadline:
            raise CollectiveTimeout([self.ranks[i] for i in pending], key.epoch, f"lane {self.number}")

    # -- sending -----------------------------------------------------------------------------------------------------

    def _arrange(self, parts: Sequence[Payload]) -> _Stream:
        """Lay the parts out: those in the arena stay where they are, the others follow each other in the stream."""
        entries, pieces, total = [], [], 0
        for part in parts:
            direct = part.nbytes > 0 and self._segment.contains(part.address, part.nbytes)
            position = part.address - self._segment.base if direct else total
            entries.append(Entry(part.nbytes, position, direct, part.dtype, part.shape))
            if not direct:
                pieces.append((total, part))
                total += part.nbytes
        return _Stream(entries, pieces, total)

    def _buffer(self, parity: int, nbytes: int) -> bool:
        """Make the staging buffer of a parity at least that large, if the arena has room."""
        held = self._buffers[parity]
        if held is None or held.nbytes < nbytes:
            block = self._fence.allocate(-(-nbytes // _GRAIN) * _GRAIN)
            if block is None:
                return False
            if held is not None:
                self._outgrown[parity].append(held)
            self._buffers[parity] = block
        return True

    def _choose_chunk(self, stream: _Stream, seq: int, single: bool) -> bool:
        """Settle the size of a chunk; True when chunks go to the buffers, False when the small stages do."""
        if not stream.entries:
            return False
        room = STAGE_BYTES - len(stream.entries) * ENTRY_WORDS * 8
        stream.chunk = room
        if stream.total <= room:
            return False
        chunk = stream.total if single else min(stream.total, CHUNK_BYTES)
        if self._buffer(seq & 1, chunk) and (chunk == stream.total or self._buffer(1 - (seq & 1), chunk)):
            stream.chunk = chunk
            return True
        if single:
            raise ArenaFull(
                f"{stream.total} bytes do not fit into the arena, {self._fence.heap.free_bytes} bytes free",
                hint="create the world with a larger arena_bytes",
            )
        return False

    def _settle(self, seq: int, deadline: float) -> None:
        """Wait until the parity of `seq` may be written again."""
        if seq >= 2:
            for _ in self._arrivals(self._others, seq - 1, deadline):
                pass
        outgrown = self._outgrown[seq & 1]
        while outgrown:
            self._fence.heap.release(outgrown.pop())
        self._kept[seq & 1] = ()

    def _publish(self, plan: Plan, stream: _Stream, buffered: bool, number: int, rounds: int, deadline: float) -> int:
        """Stage chunk `number` and publish its header; returns its sequence number."""
        seq = self._seq
        if seq >= MAX_SEQ:
            raise LeaseFenced(f"lane {self.number} used up its {MAX_SEQ} sequence numbers; open a new lease")
        parity = seq & 1
        self._settle(seq, deadline)
        table = self._stages[parity]
        if number == 0 and stream.entries:
            packed = array("Q", [word for entry in stream.entries for word in entry.words()])
            self._segment.words[table // 8 : table // 8 + len(packed)] = packed
            self._kept[parity] = [part for part, entry in zip(plan.parts, stream.entries, strict=True) if entry.direct]
        block = self._buffers[parity]
        place = block.offset if buffered and block else table + len(stream.entries) * ENTRY_WORDS * 8
        nbytes = stream.copy_chunk(number * stream.chunk, self._segment.base + place)
        op = plan.op | plan.dtype << 8 | len(stream.entries) << 16
        header = array("Q", (op, table, place, nbytes, number << 32 | rounds, self._hash, plan.layout))
        head, words = self._heads[parity], self._segment.words
        words[head + 1 : head + HEADER_WORDS] = header
        words[head] = token(self._fence.key.epoch, seq)
        wake(self._segment.base + head * 8)
        self._seq = seq + 1
        return seq

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _header(self, i: int, seq: int, plan: Plan, number: int) -> list[int]:
        """The header of member `i`, checked against what this member runs."""
        peer, head = self._peers[i], self._heads[seq & 1]
        found = peer.words[head : head + HEADER_WORDS].tolist()
        if found[H_TOKEN] != token(self._fence.key.epoch, seq):
            raise Mismatch(peer.rank, "sequence", seq, found[H_TOKEN] & MAX_SEQ)
        if found[H_GROUP] != self._hash:
            raise Mismatch(peer.rank, "group", f"{self._hash:#x} {self.ranks}", f"{found[H_GROUP]:#x}")
        op, dtype = found[H_OP] & 0xFF, found[H_OP] >> 8 & 0xFF
        if op != plan.op:
            raise Mismatch(peer.rank, "op", plan.op.name, _OP_NAMES.get(op, op))
        if dtype and plan.dtype and dtype != plan.dtype:
            raise Mismatch(peer.rank, "dtype", DTYPES[plan.dtype], DTYPES[dtype])
        if found[H_LAYOUT] != plan.layout:
            raise Mismatch(peer.rank, "layout", f"{plan.layout:#x}", f"{found[H_LAYOUT]:#x}")
        if found[H_ROUND] >> 32 != number:
            raise Mismatch(peer.rank, "sequence", f"round {number}", f"round {found[H_ROUND] >> 32}")
        return found

    def _begin_take(self, i: int, found: list[int], part: int, into: Payload | None) -> Take:
        """Read the part table of member `i` and find the memory for the wanted part."""
        peer = self._peers[i]
        parts = found[H_OP] >> 16
        if part >= parts or parts > MAX_RANKS:
            raise Mismatch(peer.rank, "operations", f"part {part}", f"{parts} parts")
        peer.address(found[H_TABLE], parts * ENTRY_WORDS * 8)
        at = found[H_TABLE] // 8 + part * ENTRY_WORDS
        entry = Entry.of(peer.words[at : at + ENTRY_WORDS].tolist())
        if into is None:
            into = allocate(entry.dtype, entry.shape)
        if entry.nbytes != into.nbytes:
            raise Mismatch(peer.rank, "nbytes", into.nbytes, entry.nbytes)
        if entry.dtype != into.dtype:
            raise Mismatch(peer.rank, "dtype", DTYPES[into.dtype], DTYPES[entry.dtype])
        if entry.direct:
            copy(into.address, peer.address(entry.position, entry.nbytes), entry.nbytes)
            return Take(entry, into, 1)
        return Take(entry, into, found[H_ROUND] & 0xFFFFFFFF)

    def _take(self, i: int, seq: int, number: int, plan: Plan, takes: dict[int, Take]) -> int:
        """Copy what the header of member `i` offers of the part wanted from it; returns its number of rounds."""
        peer = self._peers[i]
        found = self._header(i, seq, plan, number)
        if number == 0 and i in plan.takes:
            takes[i] = self._begin_take(i, found, plan.takes[i], plan.into.get(i))
        take = takes.get(i)
        if take is not None and not take.entry.direct:
            take.copy_chunk(peer, found[H_CHUNK], found[H_CHUNK_BYTES])
        if take is not None and peer.words[self._heads[seq & 1]] != found[H_TOKEN]:
            # This rank slept through its fencing: what it copied may be torn.
            raise LeaseFenced(f"rank {peer.rank} went past epoch {self._fence.key.epoch} while its data was read")
        return found[H_ROUND] & 0xFFFFFFFF

    # -- running -----------------------------------------------------------------------------------------------------

    def _run(self, plan: Plan, timeout: float | None) -> dict[int, Payload]:
        """Run one operation; what was taken, by member. Any failure aborts the lease on this rank."""
        self._fence.guard()
        self._published = None
        deadline = self._deadline(timeout)
        stream = self._arrange(plan.parts)
        try:
            self._fence.look_for_aborts()
            takes = self._rounds(plan, stream, deadline)
        except CollectiveError as error:
            self._fence.fail(error)
        self._first_timeout = None
        return {i: take.target for i, take in takes.items()}

    def _rounds(self, plan: Plan, stream: _Stream, deadline: float) -> dict[int, Take]:
        buffered = self._choose_chunk(stream, self._seq, plan.single)
        mine = rounds = stream.rounds
        takes: dict[int, Take] = {}
        seq = self._publish(plan, stream, buffered, 0, mine, deadline)
        sources = self._others if plan.sources is None else [i for i in plan.sources if i != self.index]
        for i in self._arrivals(sources, seq, deadline):
            rounds = max(rounds, self._take(i, seq, 0, plan, takes))
        for number in range(1, rounds):
            seq = self._publish(plan, stream, buffered, number, mine, deadline)
            for i in self._arrivals([i for i, take in takes.items() if take.rounds > number], seq, deadline):
                self._take(i, seq, number, plan, takes)
        return takes

    def surrender(self) -> tuple[list[Block], list[object]]:
        """Part with the blocks, and the owners of data in the arena, that must outlive the readers of this lane."""
        blocks = [block for block in (*self._buffers, *self._outgrown[0], *self._outgrown[1]) if block is not None]
        owners = [part.owner for parts in self._kept for part in parts]
        self._buffers, self._outgrown, self._kept, self._published = [None, None], ([], []), [(), ()], None
        return blocks, owners
