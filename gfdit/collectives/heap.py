"""First-fit allocator over the arena of one segment, for staging buffers and arena-backed tensors. Knows offsets
only."""

from __future__ import annotations

import threading
from bisect import insort
from dataclasses import dataclass

ALIGN = 64


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """A stretch of the arena, as an offset in the segment and a size in bytes."""

    offset: int
    nbytes: int


class Heap:
    """Thread-safe; the lowest address that fits is taken, so that warm pages are used again."""

    def __init__(self, offset: int, nbytes: int) -> None:
        self._free = [Block(offset, nbytes)]
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> Block | None:
        """A block of at least `nbytes`, aligned to 64 bytes, or None when nothing fits."""
        need = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
        with self._lock:
            for i, hole in enumerate(self._free):
                if hole.nbytes >= need:
                    rest = Block(hole.offset + need, hole.nbytes - need)
                    self._free[i : i + 1] = [rest] if rest.nbytes else []
                    return Block(hole.offset, need)
        return None

    def release(self, block: Block) -> None:
        """Give a block back; neighbours merge."""
        with self._lock:
            insort(self._free, block)
            merged: list[Block] = []
            for hole in self._free:
                if merged and merged[-1].offset + merged[-1].nbytes == hole.offset:
                    merged[-1] = Block(merged[-1].offset, merged[-1].nbytes + hole.nbytes)
                else:
                    merged.append(hole)
            self._free = merged

    @property
    def free_bytes(self) -> int:
        """Bytes that are not allocated."""
        with self._lock:
            return sum(hole.nbytes for hole in self._free)
