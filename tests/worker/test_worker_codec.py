"""State through bytes: every kind of value comes back, and damaged bytes never do anything but raise StateError."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gfdit.errors import StateError
from gfdit.worker.codec import ALIGNMENT, pack, to_bytes, unpack

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8)
TENSORS = st.builds(
    lambda shape, dtype: torch.arange(float(np.prod(shape, dtype=int)) or 0.0).reshape(shape).to(dtype),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]),
)
VALUES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.float(), b.float())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
@settings(max_examples=60, deadline=None)
def test_states_come_back(state: dict[str, object]) -> None:
    packed = pack(state)
    assert packed.numel() % ALIGNMENT == 0
    assert same(unpack(to_bytes(packed)), state)
    assert same(unpack(packed), state)


def test_values_of_libraries_come_back() -> None:
    generator = torch.Generator().manual_seed(7)
    torch.rand(3, generator=generator)
    sigmas = np.linspace(1, 0, 5, dtype=np.float32)
    state = {
        "generator": generator,
        "sigmas": sigmas,
        "scale": np.float64(0.5),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "transposed": torch.arange(6).reshape(2, 3).t(),
    }
    back = unpack(to_bytes(pack(state)))
    assert isinstance(back["generator"], torch.Generator)
    assert torch.equal(torch.rand(4, generator=back["generator"]), torch.rand(4, generator=generator))
    assert isinstance(back["sigmas"], np.ndarray)
    assert back["sigmas"].dtype == sigmas.dtype
    assert np.array_equal(back["sigmas"], sigmas)
    assert type(back["scale"]) is np.float64
    assert [back[name] for name in ("scale", "dtype", "device", "size")] == [
        state[name] for name in ("scale", "dtype", "device", "size")
    ]
    assert torch.equal(back["transposed"], state["transposed"])


def test_one_tensor_stays_one_tensor_and_travels_once() -> None:
    timesteps = torch.arange(1000)
    once, twice = pack({"a": timesteps}), pack({"a": timesteps, "b": [timesteps]})
    assert twice.numel() - once.numel() < timesteps.nbytes
    back = unpack(twice)
    assert back["a"] is back["b"][0]


def test_decoding_shares_the_received_memory() -> None:
    packed = pack({"latents": torch.ones(64)})
    latents = unpack(packed)["latents"]
    first, length = packed.data_ptr(), packed.numel()
    assert first <= latents.data_ptr() < first + length
    assert latents.data_ptr() % ALIGNMENT == 0


def test_padding_carries_no_old_memory() -> None:
    state = {"a": torch.ones(3), "b": torch.ones(5, dtype=torch.int8)}
    assert to_bytes(pack(state)) == to_bytes(pack(state))


@pytest.mark.parametrize("value", [object(), {1: 2}, print, np.array(["text"]), torch.eye(2).to_sparse()])
def test_what_has_no_form_in_bytes_is_named(value: object) -> None:
    with pytest.raises(StateError, match=r"state\.odd\[0\]"):
        pack({"odd": [value]})


def test_foreign_and_short_bytes_are_refused() -> None:
    whole = to_bytes(pack({"latents": torch.ones(64)}))
    for damaged in (b"", b"GFDSTATE", b"\x80\x04pickle", whole[:40], whole[:-300], b"X" + whole[1:]):
        with pytest.raises(StateError):
            unpack(damaged)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_decode_or_are_refused(data: st.DataObject) -> None:
    whole = bytearray(to_bytes(pack({"a": torch.ones(4), "t": (1, [2.5, np.float32(1)]), "g": torch.float16})))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(bytes(whole))
    except StateError:
        pass


@pytest.mark.parametrize(
    "node",
    [
        {"$": "tensor", "buffer": 0, "dtype": "float32", "shape": [1 << 40], "moved": False},
        {"$": "tensor", "buffer": 9, "dtype": "float32", "shape": [4], "moved": False},
        {"$": "tensor", "buffer": -1, "dtype": "float32", "shape": [4], "moved": False},
        {"$": "array", "buffer": 0, "dtype": "|O", "shape": [2]},
        {"$": "scalar", "buffer": 0, "dtype": "<U4", "shape": []},
        {"$": "exec", "code": "1"},
        {"no kind": 1},
    ],
)
def test_hand_made_trees_are_refused(node: dict[str, object]) -> None:
    head = json.dumps({"tree": {"a": node}, "buffers": [[0, 16]]}).encode()
    prefix = b"GFDSTATE" + len(head).to_bytes(8, "little") + head
    with pytest.raises(StateError):
        unpack(prefix + bytes(-len(prefix) % ALIGNMENT) + bytes(16))


def test_deep_trees_are_refused() -> None:
    value: object = 1
    for _ in range(100):
        value = [value]
    with pytest.raises(StateError):
        unpack(to_bytes(pack({"deep": value})))
