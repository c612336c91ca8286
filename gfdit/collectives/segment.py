"""The shared memory of one rank incarnation: its layout, the owner's side and the read-only side of a peer.

Only the owner writes its segment; peers map it read-only, so a crashed or stale rank can corrupt nobody. The memory is
an anonymous file that peers reopen through the owner's descriptor table: it has no name, and vanishes with the last
mapping.

Layout, in 8-byte words unless said otherwise:

    identity    magic, abi, rank, incarnation, pid, start time, state, total bytes
    slot s      close line: closed epoch
                abort lines: epoch, code, culprit rank, text length, text
                lane l, parity p: one cache line, see `H_*`
    stage       per slot, lane and parity STAGE_BYTES: part table, and the payload when it is small
    heap        larger payloads and arena-backed tensors
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import weakref
from enum import IntEnum
from pathlib import Path

from gfdit.collectives.errors import Mismatch, PeerDead
from gfdit.collectives.keys import LANES, MAX_SEQ, SLOTS, Endpoint, token
from gfdit.collectives.wait import wake

MAGIC, ABI = 0x67666469_74736567, 1
I_MAGIC, I_ABI, I_RANK, I_INCARNATION, I_PID, I_START, I_STATE, I_TOTAL = range(8)

_CLOSE_WORDS, _ABORT_WORDS, HEADER_WORDS = 8, 16, 8
_SLOT_WORDS = _CLOSE_WORDS + _ABORT_WORDS + LANES * 2 * HEADER_WORDS
_SLOTS_AT = 64
ABORT_TEXT = (_ABORT_WORDS - 4) * 8
"""Bytes of the reason that travel with an abort."""

H_TOKEN, H_OP, H_TABLE, H_CHUNK, H_CHUNK_BYTES, H_ROUND, H_GROUP, H_LAYOUT = range(8)
"""Words of a header: token (stored last), op and dtype and number of parts, offset of the part table, offset and size
of this chunk of the stream, round number and rounds, hash of group and lane, hash of what the caller says of sizes."""

PAGE = mmap.PAGESIZE
STAGE_BYTES = 16 << 10
STAGE_AT = -(-(_SLOTS_AT + SLOTS * _SLOT_WORDS) * 8 // PAGE) * PAGE
HEAP_AT = STAGE_AT + SLOTS * LANES * 2 * STAGE_BYTES


class State(IntEnum):
    """Life of an incarnation."""

    UP = 1
    LEFT = 2


def close_word(slot: int) -> int:
    """Index of the word that holds the last closed epoch of a slot."""
    return _SLOTS_AT + slot * _SLOT_WORDS


def abort_word(slot: int) -> int:
    """Index of the first word of a slot's abort lines."""
    return close_word(slot) + _CLOSE_WORDS


def header_word(slot: int, lane: int, parity: int) -> int:
    """Index of the token of one header."""
    return abort_word(slot) + _ABORT_WORDS + (lane * 2 + parity) * HEADER_WORDS


HEADERS = tuple(
    tuple(header_word(slot, lane, parity) for lane in range(LANES) for parity in (0, 1)) for slot in range(SLOTS)
)
"""The tokens of every slot."""


def stage_offset(slot: int, lane: int, parity: int) -> int:
    """Byte offset of the stage that belongs to one header."""
    return STAGE_AT + ((slot * LANES + lane) * 2 + parity) * STAGE_BYTES


def process_start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process; raises `OSError` when there is no such process."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])


class Segment:
    """The owner's side."""

    def __init__(self, rank: int, incarnation: int, arena_bytes: int) -> None:
        self.total = HEAP_AT + -(-arena_bytes // PAGE) * PAGE
        self.fd = os.memfd_create(f"gfdit-rank-{rank}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, self.total)
            # A peer that reads behind a shrunk file would get SIGBUS: forbid it for good.
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._map = mmap.mmap(self.fd, self.total)
        except BaseException:
            os.close(self.fd)
            raise
        self.view = memoryview(self._map)
        self.words = self.view.cast("Q")
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.endpoint = Endpoint(rank, incarnation, os.getpid(), self.fd, process_start_time(os.getpid()))
        self.words[I_ABI], self.words[I_RANK], self.words[I_INCARNATION] = ABI, rank, incarnation
        self.words[I_PID], self.words[I_START] = self.endpoint.pid, self.endpoint.start_time
        self.words[I_TOTAL], self.words[I_STATE] = self.total, State.UP
        self.words[I_MAGIC] = MAGIC

    def contains(self, address: int, nbytes: int) -> bool:
        """Whether a buffer of this process lies in the heap of this segment."""
        return self.base + HEAP_AT <= address and address + nbytes <= self.base + self.total

    def publish_abort(self, slot: int, epoch: int, code: int, culprit: int, reason: str) -> None:
        """Make an abort visible: the epoch last, so that whoever sees it sees the rest."""
        at = abort_word(slot)
        text = reason.encode()[:ABORT_TEXT]
        self.words[at] = 0
        self.view[(at + 4) * 8 : (at + 4) * 8 + len(text)] = text
        self.words[at + 1], self.words[at + 2], self.words[at + 3] = code, culprit, len(text)
        self.words[at] = epoch

    def publish_close(self, slot: int, epoch: int) -> None:
        """Say that this rank reads and writes nothing of `epoch` any more."""
        at = close_word(slot)
        self.words[at] = epoch
        wake(self.base + at * 8)

    def invalidate(self, slot: int, epoch: int) -> None:
        """Take back whatever was published in a closed epoch, before its memory is used again.

        Nobody reads it then but a member that was given up for dead, sleeps in the middle of a copy, and looks at the
        token again when it is done.
        """
        words, low, end = self.words, token(epoch, 0), token(epoch, MAX_SEQ)
        for at in HEADERS[slot]:
            if words[at] >= low:
                words[at] = end

    def leave(self) -> None:
        """Mark this incarnation as gone and let go of the memory; peers that mapped it may still read it."""
        self.words[I_STATE] = State.LEFT
        self.words.release()
        self.view.release()
        os.close(self.fd)
        try:
            self._map.close()
        except BufferError:  # arena-backed tensors are still in use: the mapping lives as long as they do
            pass


class Peer:
    """One incarnation of another rank, mapped read-only. Descriptor and mapping go with the last reference."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises `PeerDead` when that process, or that life of it, is gone."""
        self.endpoint, self.rank = endpoint, endpoint.rank
        self.replaced = False
        try:
            self._pidfd = os.pidfd_open(endpoint.pid)
            weakref.finalize(self, os.close, self._pidfd)
            if process_start_time(endpoint.pid) != endpoint.start_time:
                raise PeerDead(endpoint.rank, f"pid {endpoint.pid} is another process now")
            fd = os.open(f"/proc/{endpoint.pid}/fd/{endpoint.fd}", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise PeerDead(endpoint.rank, f"cannot open its segment, {error}") from error
        try:
            self.total = os.fstat(fd).st_size
            if self.total < HEAP_AT:
                raise PeerDead(endpoint.rank, f"descriptor {endpoint.fd} of pid {endpoint.pid} is no segment")
            self._map = mmap.mmap(fd, self.total, access=mmap.ACCESS_READ)
        except OSError as error:
            raise PeerDead(endpoint.rank, f"cannot map its segment, {error}") from error
        finally:
            os.close(fd)
        self.view = memoryview(self._map)
        self.words = self.view.cast("Q")
        self.base = _address_of_readonly(self._map)
        self._identify()

    def _identify(self) -> None:
        mine = self.endpoint
        found = tuple(self.words[: I_START + 1])
        if found != (MAGIC, ABI, mine.rank, mine.incarnation, mine.pid, mine.start_time):
            raise PeerDead(mine.rank, f"its segment belongs to {found[2:]}, not to {mine}")

    def gone(self) -> str | None:
        """Why this incarnation will never write again, or None while it lives (about two microseconds)."""
        if self.replaced:
            return "it was replaced by a newer incarnation"
        if self.words[I_STATE] == State.LEFT:
            return "it left"
        ended = select.poll()  # one a call: a poll object serves one thread at a time
        ended.register(self._pidfd, select.POLLIN)
        return "its process ended" if ended.poll(0) else None

    def closed(self, slot: int, epoch: int) -> bool:
        """Whether it closed `epoch` (or a later one) in that slot, or is gone."""
        return self.words[close_word(slot)] >= epoch or self.gone() is not None

    def abort_of(self, slot: int, epoch: int) -> tuple[int, int, str] | None:
        """(code, culprit rank, reason) when it aborted `epoch`, else None."""
        at = abort_word(slot)
        if self.words[at] != epoch:
            return None
        code, culprit, length = self.words[at + 1], self.words[at + 2], self.words[at + 3]
        text = bytes(self.view[(at + 4) * 8 : (at + 4) * 8 + min(length, ABORT_TEXT)]).decode(errors="replace")
        return (code, culprit, text) if self.words[at] == epoch else None

    def address(self, offset: int, nbytes: int) -> int:
        """Address in this process of a stretch of its segment; `Mismatch` when it lies outside."""
        if offset + nbytes > self.total:
            raise Mismatch(self.rank, "header", f"a segment of {self.total} bytes", f"{nbytes} bytes at {offset}")
        return self.base + offset


def _address_of_readonly(mapped: mmap.mmap) -> int:
    import numpy

    return int(numpy.frombuffer(mapped, dtype=numpy.uint8, count=1).ctypes.data)
