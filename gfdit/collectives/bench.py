"""The speed of the collectives next to gloo's, both measured by the same processes in the same run.

The only module that makes torch.distributed groups: they are the baseline.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from gfdit.collectives.errors import CollectiveError
from gfdit.collectives.keys import Key
from gfdit.collectives.world import World

if TYPE_CHECKING:
    import torch

LIMIT_S = 300.0
"""After this many seconds without a result a run is given up."""
_KIB, _MIB = 1 << 10, 1 << 20


class Row(TypedDict):
    """One operation: times in microseconds over all ranks; `bytes` is what every rank puts in."""

    op: str
    ranks: int
    bytes: int
    p50_us: float
    p99_us: float
    gloo_p50_us: float
    memcpy_us: float


class Report(TypedDict):
    """What `bench_collectives` returns; formation is `World.open`, by itself and with the first barrier."""

    bench: str
    rows: list[Row]
    formation_p50_us: float
    formation_barrier_p50_us: float
    gloo_new_group_p50_us: float
    machine: dict[str, str | int | float]


class _Samples(TypedDict):
    """Seconds, as one rank measured them."""

    rows: dict[tuple[str, int], tuple[list[float], list[float], list[float]]]
    formation: list[float]
    formation_barrier: list[float]
    new_group: list[float]


def bench_collectives(quick: bool) -> Report:
    """Measure on this machine: 2 ranks when quick (about half a minute), else 2 and 4. Raises `CollectiveError`."""
    rows: list[Row] = []
    formation: list[float] = []
    formation_barrier: list[float] = []
    new_group: list[float] = []
    for n in (2,) if quick else (2, 4):
        measured = _measure(n, quick)
        rows += _rows(n, measured)
        if n == 2:
            formation = [sample for rank in measured for sample in rank["formation"]]
            formation_barrier = [sample for rank in measured for sample in rank["formation_barrier"]]
            new_group = [sample for rank in measured for sample in rank["new_group"]]
    return {
        "bench": "collectives",
        "rows": rows,
        "formation_p50_us": _quantile(formation, 50),
        "formation_barrier_p50_us": _quantile(formation_barrier, 50),
        "gloo_new_group_p50_us": _quantile(new_group, 50),
        "machine": _machine(),
    }


def _machine() -> dict[str, str | int | float]:
    import torch

    return {
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _quantile(samples: list[float], percent: int) -> float:
    """A percentile in microseconds."""
    return round(statistics.quantiles(samples, n=100, method="inclusive")[percent - 1] * 1e6, 2)


def _rows(n: int, measured: list[_Samples]) -> list[Row]:
    rows: list[Row] = []
    for op, nbytes in measured[0]["rows"]:
        ours, gloo, memcpy = (
            [sample for rank in measured for sample in rank["rows"][op, nbytes][kind]] for kind in range(3)
        )
        rows.append(
            {
                "op": op,
                "ranks": n,
                "bytes": nbytes,
                "p50_us": _quantile(ours, 50),
                "p99_us": _quantile(ours, 99),
                "gloo_p50_us": _quantile(gloo, 50),
                "memcpy_us": _quantile(memcpy, 50) if memcpy else 0.0,
            }
        )
    return rows


def _measure(n: int, quick: bool) -> list[_Samples]:
    """Run the ranks as processes of their own and collect what they measured."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        lines, processes = [], []
        for rank in range(n):
            mine, theirs = context.Pipe()
            process = context.Process(target=_rank_main, args=(theirs, rank, n, str(Path(folder) / "store"), quick))
            process.start()
            theirs.close()
            lines.append(mine)
            processes.append(process)
        try:
            endpoints = [_receive(line) for line in lines]
            for line in lines:
                line.send(endpoints)
            results = [_receive(line) for line in lines]
            for line in lines:
                line.send(None)
        finally:
            for line in lines:
                line.close()
            for process in processes:
                process.join(10)
                process.kill()
                process.join()
    return results  # type: ignore[return-value]


def _receive(line: Connection) -> object:
    if not line.poll(LIMIT_S):
        raise CollectiveError(f"a rank of the benchmark said nothing for {LIMIT_S:.0f} s")
    try:
        return line.recv()
    except EOFError:
        raise CollectiveError("a rank of the benchmark ended early; its own output says why") from None


def _rank_main(line: Connection, rank: int, n: int, store: str, quick: bool) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    with World.create(rank, arena_bytes=256 * _MIB) as world:
        line.send(world.endpoint)
        world.update_peers(line.recv())
        rendezvous = dist.FileStore(store, n)  # type: ignore[attr-defined]
        patience = timedelta(seconds=120)
        dist.init_process_group("gloo", store=rendezvous, rank=rank, world_size=n, timeout=patience)
        epochs = iter(range(1, 1 << 30))
        formation, formation_barrier = _form(world, n, epochs, 300 if quick else 3000)
        samples: _Samples = {
            "rows": _operations(world, n, epochs, quick),
            "formation": formation,
            "formation_barrier": formation_barrier,
            "new_group": _times(lambda: dist.new_group(list(range(n))), 5 if quick else 20, lambda: dist.barrier()),
        }
        dist.destroy_process_group()
        line.send(samples)
        line.recv()


def _form(world: World, n: int, epochs: Iterator[int], count: int) -> tuple[list[float], list[float]]:
    ranks = tuple(range(n))
    formation, formation_barrier = [], []
    for _ in range(count):
        started = time.perf_counter()
        with world.open(Key(ranks, next(epochs))) as lease:
            opened = time.perf_counter()
            lease.barrier()
            done = time.perf_counter()
        formation.append(opened - started)
        formation_barrier.append(done - started)
    return formation, formation_barrier


def _times(call: Callable[[], object], count: int, before: Callable[[], object]) -> list[float]:
    samples = []
    call()  # the first one warms up
    for _ in range(count):
        before()
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return samples


def _operations(
    world: World, n: int, epochs: Iterator[int], quick: bool
) -> dict[tuple[str, int], tuple[list[float], list[float], list[float]]]:
    """Every operation and size: our times, gloo's, and those of copying as many bytes once."""
    import torch
    import torch.distributed as dist

    rows: dict[tuple[str, int], tuple[list[float], list[float], list[float]]] = {}
    sizes = (_KIB, _MIB, 16 * _MIB) if quick else (_KIB, 64 * _KIB, _MIB, 16 * _MIB, 64 * _MIB)
    with world.open(Key(tuple(range(n)), next(epochs)), timeout=60) as lease:
        count = 300 if quick else 2000
        rows["barrier", 0] = (
            _times(lease.barrier, count, lease.barrier),
            _times(dist.barrier, count // 3, dist.barrier),
            [],
        )
        for nbytes in sizes:
            count = max(6, min(200 if quick else 1000, (64 if quick else 256) * _MIB // nbytes))
            buffers = _Buffers(world, n, nbytes, torch.float32)
            copied = _times(lambda b=buffers: b.whole.copy_(b.plain), count, lambda: None)  # type: ignore[misc]
            for op, ours, theirs in buffers.calls(lease):
                rows[op, nbytes] = _times(ours, count, lease.barrier), _times(theirs, count, lease.barrier), copied
            lease.barrier()
    return rows


class _Buffers:
    """Sources in private memory and in the arena, and targets, made once: first touches are not what is measured."""

    def __init__(self, world: World, n: int, nbytes: int, dtype: torch.dtype) -> None:
        import torch

        self.n = n
        count = nbytes // dtype.itemsize
        self.plain = torch.ones(count, dtype=dtype)
        self.whole = torch.empty_like(self.plain)
        self.arena = world.empty((count,), dtype)
        self.arena.fill_(1)
        self.gathered = [torch.empty_like(self.plain) for _ in range(n)]

    def calls(self, lease: object) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
        """(name, our operation, gloo's) of each; `in place` means that the source lies in the arena."""
        import torch.distributed as dist

        from gfdit.collectives.lease import Lease

        assert isinstance(lease, Lease)

        def gather(source: torch.Tensor) -> Callable[[], object]:
            return lambda: lease.all_gather(source, out=self.gathered)

        def scatter(source: torch.Tensor) -> Callable[[], object]:
            parts, targets = list(source.chunk(self.n)), list(self.whole.chunk(self.n))
            return lambda: lease.all_to_all(parts, out=targets)

        first = lease.index == 0
        gloo_gather = lambda: dist.all_gather(self.gathered, self.plain)  # noqa: E731
        gloo_scatter = lambda: dist.all_to_all_single(self.whole, self.plain)  # noqa: E731
        yield "all_gather", gather(self.plain), gloo_gather
        yield "all_gather in place", gather(self.arena), gloo_gather
        yield "all_to_all", scatter(self.plain), gloo_scatter
        yield "all_to_all in place", scatter(self.arena), gloo_scatter
        yield (
            "broadcast",
            lambda: lease.broadcast(self.plain if first else None, 0, out=None if first else self.whole),
            lambda: dist.broadcast(self.plain if first else self.whole, 0),
        )
