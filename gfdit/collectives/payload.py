"""What travels: CPU torch tensors and raw bytes, seen as an address, a size and a shape. Torch is imported only when
needed."""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias, cast

from gfdit.collectives.errors import ArenaFull
from gfdit.collectives.heap import Heap
from gfdit.collectives.segment import Segment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Buffer: TypeAlias = bytes | bytearray | memoryview
    Data: TypeAlias = Buffer | Tensor
    Received: TypeAlias = bytearray | Tensor

BYTES = 1
DTYPES = (
    "any", "bytes", "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64",
    "complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
"""Code of a dtype is its place here; `any` is what a member that sends nothing says."""
MAX_DIMS = 8
ENTRY_WORDS = 3 + MAX_DIMS
DIRECT = 1


@dataclass(frozen=True, slots=True)
class Payload:
    """Contiguous memory of this process; `owner` keeps it alive."""

    owner: object
    address: int
    nbytes: int
    dtype: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One part as its publisher describes it: in the stream at `position`, or `direct` in the segment at that
    offset."""

    nbytes: int
    position: int
    direct: bool
    dtype: int
    shape: tuple[int, ...]

    def words(self) -> list[int]:
        """The entry as words of the part table."""
        packed = self.dtype | len(self.shape) << 8 | (DIRECT << 16 if self.direct else 0)
        return [self.nbytes, self.position, packed, *self.shape, *(0,) * (MAX_DIMS - len(self.shape))]

    @classmethod
    def of(cls, words: Sequence[int]) -> Entry:
        """Inverse of `words`."""
        nbytes, position, packed = words[0], words[1], words[2]
        return cls(nbytes, position, bool(packed >> 16), packed & 0xFF, tuple(words[3 : 3 + (packed >> 8 & 0xFF)]))


def payload_of(data: Data) -> Payload:
    """View data as a payload, copying only what is not contiguous.

    Raises `ValueError` for tensors that are not on the CPU or have a dtype or number of dimensions that cannot travel,
    and `TypeError` for anything that is neither a tensor nor bytes.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.Tensor):
        return _payload_of_tensor(data)
    view = memoryview(cast("Buffer", data))  # TypeError names what it got
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    if view.nbytes == 0:
        return Payload(view, 0, 0, BYTES, (0,))
    if view.readonly:
        import numpy

        address = int(numpy.frombuffer(view, dtype=numpy.uint8).ctypes.data)
    else:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    return Payload(view, address, view.nbytes, BYTES, (view.nbytes,))


def _payload_of_tensor(tensor: Tensor) -> Payload:
    if tensor.device.type != "cpu":
        raise ValueError(f"only CPU tensors travel through shared memory, not one on {tensor.device}; copy it first")
    code = _code_of(str(tensor.dtype))
    if tensor.dim() > MAX_DIMS:
        raise ValueError(f"a tensor may have at most {MAX_DIMS} dimensions, not {tensor.dim()}; flatten it first")
    flat = tensor.resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor
    flat = flat.detach().contiguous()
    return Payload(flat, flat.data_ptr(), flat.nbytes, code, tuple(flat.shape))


@cache
def _code_of(name: str) -> int:
    try:
        return DTYPES.index(name.removeprefix("torch."), BYTES)
    except ValueError:
        raise ValueError(f"tensors of {name} cannot travel; known are {', '.join(DTYPES[2:])}") from None


def allocate(dtype: int, shape: tuple[int, ...]) -> Payload:
    """Fresh private memory for a received part: a tensor of that shape, or a bytearray."""
    if dtype == BYTES:
        return payload_of(bytearray(math.prod(shape)))
    import torch

    return _payload_of_tensor(torch.empty(shape, dtype=getattr(torch, DTYPES[dtype])))


def target_of(data: Data) -> Payload:
    """A payload to receive into: must be writable and contiguous (`ValueError`)."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.Tensor):
        if not data.is_contiguous() or data.is_conj() or data.is_neg():
            raise ValueError("a tensor to receive into must be contiguous")
        return _payload_of_tensor(data)
    view = memoryview(cast("Buffer", data))
    if view.readonly or not view.c_contiguous:
        raise ValueError("a buffer to receive into must be writable and contiguous")
    return payload_of(view)


def received(payload: Payload) -> Received:
    """What the caller gets: the tensor, or the bytearray behind the view."""
    owner = payload.owner
    return cast("Received", owner.obj if isinstance(owner, memoryview) else owner)


def copy(target: int, source: int, nbytes: int) -> None:
    """memcpy without the interpreter lock."""
    if nbytes:
        ctypes.memmove(target, source, nbytes)


def arena_tensor(segment: Segment, heap: Heap, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a block of the arena, which goes back when the last tensor over that memory is gone; else
    `ArenaFull`."""
    import torch

    _code_of(str(dtype))
    count = math.prod(shape)
    nbytes = count * dtype.itemsize
    block = heap.allocate(nbytes)
    if block is None:
        raise ArenaFull(
            f"{nbytes} bytes do not fit into the arena, {heap.free_bytes} bytes free",
            hint="create the world with a larger arena_bytes",
        )
    view = segment.view[block.offset : block.offset + block.nbytes]
    weakref.finalize(view, heap.release, block).atexit = False
    return torch.frombuffer(view, dtype=dtype, count=count).view(shape) if count else torch.empty(shape, dtype=dtype)
