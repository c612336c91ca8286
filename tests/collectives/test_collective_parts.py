"""The pure parts: splits and orders, keys, the allocator, payloads, the platform; and that no torch group is made."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gfdit
from gfdit.collectives import Key, UnsupportedPlatform
from gfdit.collectives.heap import Heap
from gfdit.collectives.keys import group_hash, token
from gfdit.collectives.payload import Entry, allocate, copy, payload_of, received
from gfdit.collectives.splits import (
    best_order,
    even_split,
    factor_degree,
    intervals,
    moved,
    offsets,
    reshard_edges,
    sequence_lanes,
)
from gfdit.collectives.wait import require_platform

relaxed = settings(deadline=None)
ORDERS = st.integers(2, 7).flatmap(lambda n: st.permutations(range(n)))


@relaxed
@given(st.integers(0, 500), st.integers(1, 40))
def test_even_split_is_that_of_torch(total: int, parts: int) -> None:
    sizes = even_split(total, parts)
    assert sum(sizes) == total and max(sizes) - min(sizes) <= 1 and list(sizes) == sorted(sizes, reverse=True)
    assert sizes == tuple(len(part) for part in torch.empty(total).tensor_split(parts))
    assert [end - start for start, end in intervals(sizes)] == list(sizes)
    assert offsets(sizes)[0] == 0


@relaxed
@given(ORDERS, ORDERS, st.integers(0, 60))
def test_reshard_edges_cover_the_target_once(source: list[int], target: list[int], total: int) -> None:
    edges = reshard_edges(total, source, target)
    units = sorted(unit for _, _, start, end in edges for unit in range(start, end))
    assert units == list(range(total))
    for s, t, start, end in edges:
        assert intervals(even_split(total, len(source)))[source.index(s)][0] <= start < end
        assert end <= intervals(even_split(total, len(target)))[target.index(t)][1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_best_order_moves_no_more_than_any_other(data: st.DataObject) -> None:
    ranks = st.lists(st.integers(0, 7), unique=True, min_size=1, max_size=5)
    source, target, total = data.draw(ranks), data.draw(ranks), data.draw(st.integers(1, 60))
    best = best_order(total, source, target)
    assert sorted(best) == sorted(target)
    assert moved(total, source, best) == min(moved(total, source, order) for order in itertools.permutations(target))


@pytest.mark.parametrize(
    ("source", "target", "naive", "best"),
    [
        ((0, 1), (0, 1, 2, 3), 0.75, 0.5),
        ((0, 1), (0, 1, 2), 0.5, 1 / 3),
        ((0, 1, 2, 3), tuple(range(8)), 0.875, 0.5),
        ((0, 1, 2, 3), (2, 3, 4, 5), 1.0, 0.5),
        ((0,), (0, 1, 2, 3), 0.75, 0.75),
    ],
)
def test_share_moved_by_known_changes(source: tuple, target: tuple, naive: float, best: float) -> None:
    assert moved(240, source, target) == naive * 240
    assert moved(240, source, best_order(240, source, target)) == pytest.approx(best * 240)


@relaxed
@given(st.integers(1, 64), st.integers(1, 64))
def test_degree_factors_into_ulysses_and_ring(degree: int, heads: int) -> None:
    ulysses, ring = factor_degree(degree, heads)
    assert ulysses * ring == degree and ulysses <= heads
    rows, columns = sequence_lanes(range(degree), ulysses)
    assert len(rows) == ring and len(columns) == ulysses
    assert sorted(itertools.chain(*rows)) == sorted(itertools.chain(*columns)) == list(range(degree))
    assert all(len(set(row) & set(column)) == 1 for row in rows for column in columns)


def test_keys_refuse_what_cannot_be_a_lease() -> None:
    assert Key((3, 1), 35).slot == 3
    for ranks, epoch, slot in [
        ((), 1, 0),
        ((1, 1), 1, 0),
        ((0,), 0, 0),
        ((0,), 1 << 40, 0),
        ((0,), 1, 16),
        ((-1,), 1, 0),
    ]:
        with pytest.raises(ValueError):
            Key(ranks, epoch, slot)
    assert token(2, 0) > token(1, (1 << 24) - 1)
    orders = list(itertools.permutations(range(4)))
    assert len({group_hash(order, order, 0) for order in orders}) == len(orders)
    assert group_hash((0, 1), (0, 1), 0) != group_hash((0, 1), (0, 1), 1)


@relaxed
@given(st.lists(st.integers(0, 3000), max_size=30), st.randoms(use_true_random=False))
def test_heap_blocks_never_overlap_and_all_come_back(sizes: list[int], dice: object) -> None:
    heap, held = Heap(640, 20_000 // 64 * 64), []
    whole = heap.free_bytes
    for size in sizes:
        block = heap.allocate(size)
        if block is None:
            heap.release(held.pop(dice.randrange(len(held))))  # type: ignore[attr-defined]
            continue
        assert block.nbytes >= size and block.offset % 64 == 0
        assert all(block.offset + block.nbytes <= b.offset or b.offset + b.nbytes <= block.offset for b in held)
        held.append(block)
    assert heap.free_bytes == whole - sum(block.nbytes for block in held)
    for block in held:
        heap.release(block)
    assert heap.allocate(whole) is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "complex64", "float8_e4m3fn"])
def test_payloads_keep_bits_shape_and_dtype(dtype: str) -> None:
    data = torch.arange(24).to(getattr(torch, dtype)).view(2, 3, 4).transpose(0, 2)
    payload = payload_of(data)
    entry = Entry(payload.nbytes, 7, False, payload.dtype, payload.shape)
    assert Entry.of(entry.words()) == entry
    target = allocate(entry.dtype, entry.shape)
    copy(target.address, payload.address, payload.nbytes)
    got = received(target)
    assert isinstance(got, torch.Tensor) and got.dtype == data.dtype and got.shape == data.shape
    assert torch.equal(got.view(torch.uint8), data.contiguous().view(torch.uint8))


@pytest.mark.parametrize("data", [b"", b"abc", bytearray(b"abc"), memoryview(b"abcdef")[::2], memoryview(b"abc")])
def test_bytes_like_payloads(data: bytes) -> None:
    payload = payload_of(data)
    target = allocate(payload.dtype, payload.shape)
    copy(target.address, payload.address, payload.nbytes)
    assert received(target) == bytearray(bytes(data))


def test_other_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(UnsupportedPlatform, match="aarch64"):
        require_platform()


def test_no_code_of_ours_makes_a_torch_process_group() -> None:
    """The benchmark makes the gloo groups that it compares with; nothing else may."""
    root = Path(gfdit.__file__).parent
    allowed = root / "collectives" / "bench.py"
    banned = {"new_group", "init_process_group", "new_subgroups", "init_device_mesh"}
    scanned = 0
    for path in root.rglob("*.py"):
        if path == allowed:
            continue
        scanned += 1
        tree = ast.parse(path.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not names & banned, f"{path} uses {names & banned}"
    assert scanned > 20


def test_collectives_import_nothing_else_of_the_package() -> None:
    root = Path(gfdit.__file__).parent / "collectives"
    for path in root.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gfdit"):
                assert node.module == "gfdit.errors" or node.module.startswith("gfdit.collectives"), path
