"""Trajectory state to bytes and back, without pickle.

    magic "GFDSTATE" | u64 length of the tree | tree (JSON, UTF-8) | padding | buffer 0 | padding | buffer 1 | ...

Every buffer starts on a multiple of 64 bytes, and decoding makes views of the bytes it is given, not copies. JSON
values stand for themselves; whatever JSON lacks is an object with the one key `$`, whose value names the kind:

    tuple, dict, tensor, array (numpy), scalar (numpy), generator, dtype, device, size

Tensors of an accelerator are marked, and decode onto the device of whoever decodes. Two references to one tensor stay
two references to one tensor. Bytes may come from other processes: nothing in them is executed, all sizes are checked,
and whatever does not fit raises StateError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch

from gfdit.errors import StateError

ALIGNMENT = 64
MAGIC = b"GFDSTATE"
MAX_DEPTH = 32

State: TypeAlias = Mapping[str, object]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.complex128,
    )
}
_ARRAY_KINDS = "biufc"  # numpy dtypes that are nothing but numbers


def pack(state: State) -> torch.Tensor:
    """The bytes of `state` as one uint8 tensor on the CPU. Raises StateError for a value that has no form in bytes."""
    encoder = _Encoder()
    tree = encoder.mapping(state, "state")
    head = json.dumps({"tree": tree, "buffers": encoder.table()}, separators=(",", ":")).encode()
    start = _aligned(len(MAGIC) + 8 + len(head))
    out = torch.zeros(start + encoder.length, dtype=torch.uint8)  # zeros: padding must not carry old memory
    out[: len(MAGIC) + 8 + len(head)] = torch.frombuffer(
        bytearray(MAGIC + len(head).to_bytes(8, "little") + head), dtype=torch.uint8
    )
    for offset, data in encoder.buffers:
        out[start + offset : start + offset + data.numel()] = data
    return out


def to_bytes(packed: torch.Tensor) -> bytes:
    """A packed state as bytes, for a message."""
    return packed.numpy().tobytes()


def unpack(data: bytes | torch.Tensor, device: torch.device | str = "cpu") -> dict[str, object]:
    """The state in `data` (bytes, or a uint8 tensor that the result then shares). Raises StateError if it does not
    decode.
    """
    raw = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8) if isinstance(data, bytes) else data
    prefix = bytes(raw[: len(MAGIC) + 8].numpy())
    if prefix[: len(MAGIC)] != MAGIC or len(prefix) < len(MAGIC) + 8:
        raise StateError(
            f"these {raw.numel()} bytes are not a trajectory state", hint="both ends need the same version"
        )
    length = int.from_bytes(prefix[len(MAGIC) :], "little")
    if length > raw.numel() - len(prefix):
        raise StateError(f"the tree of a state says {length} bytes, {raw.numel() - len(prefix)} are there")
    head = bytes(raw[len(prefix) : len(prefix) + length].numpy())
    try:
        parsed = json.loads(head)
        tree, table = parsed["tree"], parsed["buffers"]
        return _Decoder(raw[_aligned(len(prefix) + length) :], table, torch.device(device)).mapping(tree, 0)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise StateError(f"a state of {raw.numel()} bytes does not decode: {error}") from error


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


class _Encoder:
    """Walks a state once, collecting buffers; a tensor seen twice is stored once."""

    def __init__(self) -> None:
        self.buffers: list[tuple[int, torch.Tensor]] = []
        self.length = 0
        self._seen: dict[int, tuple[int, object]] = {}  # id -> (buffer, the object: kept, so that its id stays taken)

    def table(self) -> list[Json]:
        return [[offset, data.numel()] for offset, data in self.buffers]

    def mapping(self, value: Mapping[str, object], where: str) -> dict[str, Json]:
        return {str(key): self.value(item, f"{where}.{key}") for key, item in value.items()}

    def value(self, value: object, where: str) -> Json:
        match value:
            case None | bool() | str():
                return value
            case np.generic():  # before int and float: numpy's float64 is a Python float too
                return {"$": "scalar", **self._array(np.asarray(value), where)}
            case int() | float():
                return value
            case torch.Size():
                return {"$": "size", "items": list(value)}
            case list():
                return [self.value(item, f"{where}[{i}]") for i, item in enumerate(value)]
            case tuple():
                return {"$": "tuple", "items": [self.value(item, f"{where}[{i}]") for i, item in enumerate(value)]}
            case dict():
                if not all(isinstance(key, str) for key in value):
                    raise StateError(f"{where} is a dict with keys that are not strings; it cannot be stored")
                return {"$": "dict", "items": self.mapping(value, where)}
            case torch.Tensor():
                return {"$": "tensor", **self._tensor(value, where)}
            case np.ndarray():
                return {"$": "array", **self._array(value, where)}
            case torch.Generator():
                accelerator = value.device.type != "cpu"
                return {"$": "generator", "accelerator": accelerator, **self._tensor(value.get_state(), where)}
            case torch.dtype():
                return {"$": "dtype", "name": str(value).removeprefix("torch.")}
            case torch.device():
                return {"$": "device", "accelerator": value.type != "cpu"}
        raise StateError(f"{where} is a {type(value).__name__}, which has no form in bytes")

    def _tensor(self, value: torch.Tensor, where: str) -> dict[str, Json]:
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in _DTYPES or value.layout != torch.strided:
            raise StateError(f"{where} is a {value.layout} tensor of {dtype}, which has no form in bytes")
        known = self._seen.get(id(value))
        index = known[0] if known else self._add(value, value.detach().cpu().contiguous().reshape(-1).view(torch.uint8))
        return {"buffer": index, "dtype": dtype, "shape": list(value.shape), "moved": value.device.type != "cpu"}

    def _array(self, value: np.ndarray, where: str) -> dict[str, Json]:
        if value.dtype.kind not in _ARRAY_KINDS:
            raise StateError(f"{where} is a numpy array of {value.dtype}, which has no form in bytes")
        raw = torch.from_numpy(np.frombuffer(bytearray(value.tobytes()), dtype=np.uint8))
        return {"buffer": self._add(value, raw), "dtype": value.dtype.str, "shape": list(value.shape)}

    def _add(self, owner: object, data: torch.Tensor) -> int:
        index = len(self.buffers)
        self.buffers.append((self.length, data))
        self.length = _aligned(self.length + data.numel())
        self._seen[id(owner)] = (index, owner)
        return index


class _Decoder:
    """Rebuilds a state over the buffers of one received block."""

    def __init__(self, block: torch.Tensor, table: list[list[int]], device: torch.device) -> None:
        self._block = block
        self._table = table
        self._device = device
        self._tensors: dict[tuple[int, bool], torch.Tensor] = {}
        self._kinds: dict[str, Callable[[dict, int], object]] = {
            "tuple": lambda node, depth: tuple(self.value(item, depth) for item in node["items"]),
            "dict": lambda node, depth: self.mapping(node["items"], depth),
            "size": lambda node, depth: torch.Size(node["items"]),
            "tensor": lambda node, depth: self._tensor(node),
            "array": lambda node, depth: self._array(node).copy(),
            "scalar": lambda node, depth: self._array(node)[()],
            "generator": lambda node, depth: self._generator(node),
            "dtype": lambda node, depth: _DTYPES[node["name"]],
            "device": lambda node, depth: self._device if node["accelerator"] else torch.device("cpu"),
        }

    def mapping(self, node: dict, depth: int) -> dict[str, object]:
        return {str(key): self.value(item, depth + 1) for key, item in node.items()}

    def value(self, node: Json, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        match node:
            case list():
                return [self.value(item, depth + 1) for item in node]
            case dict():
                return self._kinds[str(node["$"])](node, depth + 1)
            case _:
                return node

    def _bytes(self, index: int) -> torch.Tensor:
        if index < 0:
            raise ValueError(f"there is no buffer {index}")
        offset, length = self._table[index]
        if not 0 <= offset <= offset + length <= self._block.numel():
            raise ValueError(f"buffer {index} lies outside the block")
        return self._block[offset : offset + length]

    def _tensor(self, node: dict) -> torch.Tensor:
        index, moved = int(node["buffer"]), bool(node["moved"])
        if (index, moved) not in self._tensors:
            dtype, shape = _DTYPES[node["dtype"]], [int(extent) for extent in node["shape"]]
            raw = self._bytes(index)
            if raw.numel() != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"buffer {index} has {raw.numel()} bytes, not {shape} of {dtype}")
            tensor = raw.view(dtype).view(shape)
            self._tensors[index, moved] = tensor.to(self._device) if moved else tensor
        return self._tensors[index, moved]

    def _array(self, node: dict) -> np.ndarray:
        dtype = np.dtype(str(node["dtype"]))
        if dtype.kind not in _ARRAY_KINDS:
            raise ValueError(f"numpy dtype {dtype} is not a number")
        return np.frombuffer(self._bytes(int(node["buffer"])).numpy(), dtype=dtype).reshape(node["shape"])

    def _generator(self, node: dict) -> torch.Generator:
        generator = torch.Generator(device=self._device if node["accelerator"] else "cpu")
        return generator.set_state(self._tensor(node).clone())
