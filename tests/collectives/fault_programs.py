"""What the ranks of the fault tests run. Each returns plain values that the tests compare."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gfdit.collectives import (
    ArenaFull,
    CollectiveError,
    CollectiveTimeout,
    Key,
    LeaseFenced,
    Mismatch,
    PeerAborted,
    PeerDead,
    SlotBusy,
)
from tests.collectives.ranks import Here


def outcome(error: CollectiveError) -> tuple[str, Any]:
    """The error as plain values: its kind, and what it names."""
    match error:
        case CollectiveTimeout():
            return "timeout", list(error.waiting_on)
        case PeerAborted():
            return "aborted", (error.rank, error.reason)
        case PeerDead():
            return "dead", error.rank
        case Mismatch():
            return "mismatch", error.field
        case SlotBusy():
            return "busy", list(error.holders)
        case _:
            return type(error).__name__, str(error)


def all_fine(here: Here, ranks: Sequence[int], epoch: int) -> bool:
    """Whether a later lease of these ranks moves the right bytes."""
    with here.world.open(Key(tuple(ranks), epoch), timeout=20) as lease:
        got = lease.all_gather(bytes([rank_byte(here.world.rank)]) * (1000 + here.world.rank))
        return [bytes(part) for part in got] == [bytes([rank_byte(rank)]) * (1000 + rank) for rank in ranks]


def rank_byte(rank: int) -> int:
    return rank + 65


def order(here: Here, ranks: tuple[int, ...]) -> list[str]:
    if here.world.rank not in ranks:
        return []
    with here.world.open(Key(ranks, 3), timeout=20) as lease:
        me = f"{here.world.rank}@{lease.index}".encode()
        gathered = [bytes(part).decode() for part in lease.all_gather(me)]
        first = bytes(lease.broadcast(me if lease.index == 0 else None, 0)).decode()
    return [*gathered, first]


def dies_inside(here: Here, victim: int, after_publish: bool) -> tuple[Any, bool]:
    """The victim ends itself between two operations, or after it published what the others need."""
    ranks = tuple(range(4))
    try:
        with here.world.open(Key(ranks, 1), timeout=20) as lease:
            lease.barrier()
            if here.world.rank == victim:
                if after_publish:
                    lease.publish(b"last words")
                os.kill(os.getpid(), signal.SIGKILL)
            if after_publish:
                seq = lease.publish(b"")
                assert bytes(lease.pull(victim, seq)) == b"last words"
            lease.barrier()
        raised = None
    except CollectiveError as error:
        raised = outcome(error)
    rest = tuple(rank for rank in ranks if rank != victim)
    return raised, all_fine(here, rest, 17)


def never_arrives(here: Here, missing: int) -> tuple[Any, bool]:
    """One member does not come in time; the slot is free again once it closed that epoch, too."""
    ranks = (2, 0, 1)
    raised = None
    if here.world.rank == missing:
        here.ask()
        here.world.skip(Key(ranks, 5), "never wanted to")
    else:
        try:
            with here.world.open(Key(ranks, 5), timeout=20, first_timeout=0.2) as lease:
                lease.all_gather(b"x")
        except CollectiveError as error:
            raised = outcome(error)
        here.tell()
    return raised, all_fine(here, ranks, 5 + 16)


def aborts(here: Here, from_thread: bool) -> tuple[Any, bool]:
    """Rank 1 gives up while the others wait: by an exception, or from another thread while it waits itself."""
    raised: Any = None
    try:
        with here.world.open(Key((0, 1, 2), 1), timeout=20) as lease:
            lease.barrier()
            if here.world.rank == 1 and not from_thread:
                raise KeyError("no such latent")
            if here.world.rank == 2 and from_thread:
                threading.Timer(0.05, lease.abort, ["enough"]).start()
            if here.world.rank == 1 and from_thread:
                here.ask()  # never joins before the abort is out
            lease.all_gather(b"x")
    except CollectiveError as error:
        raised = outcome(error)
        here.tell()
    except KeyError as error:
        raised = type(error).__name__
    return raised, all_fine(here, (0, 1, 2), 2)


def disagrees(here: Here, what: str) -> tuple[Any, bool]:
    """Rank 2 runs something else than the others."""
    odd, raised = here.world.rank == 2, None
    ranks = (0, 2, 1) if odd and what == "group" else (0, 1, 2)
    try:
        with here.world.open(Key(ranks, 4), timeout=20) as lease:
            if what == "lane group":
                members = (0, 1, 2) if odd else (1, 0, 2)
                lease.lane(members, 3).barrier()
            elif what == "op" and odd:
                lease.all_gather(torch.ones(2))
            elif what == "dtype":
                lease.all_gather(torch.ones(2, dtype=torch.float64 if odd else torch.float32))
            elif what == "layout":
                lease.all_gather(torch.ones(3 if odd else 2), layout=[2, 2, 3 if odd else 2])
            elif what == "nbytes":
                sizes = [2, 2, 3] if odd else [2, 2, 2]
                lease.all_gather(torch.ones(sizes[lease.index]), out=[torch.empty(k) for k in sizes])
                lease.barrier()
            elif what == "operations":
                for _ in range(1 if odd else 2):
                    lease.barrier()
            elif what == "chunks":
                lease.all_gather(bytes(3 << 20), layout=7 if odd else 8)
            else:
                lease.barrier()
    except CollectiveError as error:
        raised = outcome(error)
    return raised, all_fine(here, (0, 1, 2), 4 + 16)


def refuses(here: Here) -> list[str]:
    """Calls that are wrong change nothing that peers see; afterwards the lease still works."""
    world, kinds = here.world, []

    def note(call: Any, *args: Any, **kwargs: Any) -> None:
        try:
            call(*args, **kwargs)
            kinds.append("nothing")
        except (CollectiveError, ValueError, TypeError) as error:
            kinds.append(type(error).__name__)

    note(world.open, Key((7, 8), 1))
    note(world.open, Key((world.rank, 9), 1))
    with world.open(Key((0, 1), 2), timeout=20) as lease:
        note(world.open, Key((1, 0), 18))
        note(lease.all_to_all, [b"only one"])
        note(lease.broadcast, None, lease.index)
        note(lease.all_gather, "text")
        note(lease.pull, 1 - lease.index, 0)
        note(lease.lane, (0, 1), 4)
        note(lease.lane, (1 - lease.index,), 1)
        note(lease.all_gather, torch.ones(2), out=[torch.ones(2), torch.ones(2, 2).t()[0]])
        kinds.append(bytes(lease.all_gather(b"ab")[1 - lease.index]).decode())
    note(lease.barrier)
    note(world.open, Key((0, 1), 2))
    return kinds


def meets_the_dead(here: Here) -> Any:
    """A member died before anybody mapped it, or its pid belongs to another process by now."""
    if here.world.rank == 2:
        return None
    here.ask()
    raised = []
    for epoch in (1, 2):
        try:
            with here.world.open(Key((0, 1, 2), epoch), timeout=20) as lease:
                lease.barrier()
        except PeerDead as error:
            raised.append(error.rank)
        stale = replace(here.world.endpoint, rank=2, incarnation=epoch + 1, start_time=1)
        here.world.update_peers([stale])
    return raised, all_fine(here, (1, 0), 17)


def holds_the_slot(here: Here) -> Any:
    """Rank 1 keeps a lease open; rank 0 closed it and comes back to the slot too early."""
    if here.world.rank == 1:
        with here.world.open(Key((0, 1), 1), timeout=20) as lease:
            lease.barrier()
            here.ask()
        return all_fine(here, (0, 1), 33)
    with here.world.open(Key((0, 1), 1), timeout=20) as lease:
        lease.barrier()
    try:
        here.world.open(Key((0,), 17), timeout=0.1)
        raised = None
    except SlotBusy as error:
        raised = outcome(error)
    here.tell()
    return raised, all_fine(here, (0, 1), 33)


def comes_back(here: Here, life: int) -> Any:
    """Rank 0 works with two lives of rank 1; the first one is killed while it waits."""
    if here.world.rank == 1:
        if life == 2:
            return all_fine(here, (1, 0), 2)
        with here.world.open(Key((0, 1), 1), timeout=20) as lease:
            lease.barrier()
            here.ask()
    with here.world.open(Key((0, 1), 1), timeout=20) as lease:
        lease.barrier()
        here.tell()
        try:
            lease.barrier()
        except PeerDead as error:
            here.tell(error.rank)
    here.world.update_peers(here.ask())
    return all_fine(here, (1, 0), 2)


def sleeps_through(here: Here) -> Any:
    """Rank 2 is stopped inside a lease and wakes when the others went on in the same slot without it."""
    raised: Any = None
    try:
        with here.world.open(Key((0, 1, 2), 1), timeout=20 if here.world.rank == 2 else 0.3) as lease:
            lease.barrier(timeout=20)
            here.tell()
            if here.world.rank == 2:
                here.ask()
                os.kill(os.getpid(), signal.SIGSTOP)
            lease.all_gather(b"x" * 10)
    except CollectiveError as error:
        raised = outcome(error)
    if here.world.rank == 2:
        return raised, True
    here.world.forget(2)
    fine = all_fine(here, (0, 1), 17)
    here.world.skip(Key((0, 1), 33), "so that the sleeper does not find the abort of its own epoch")
    return raised, fine


def sizes_around_the_chunk(here: Here, sizes: Sequence[int]) -> bool:
    """Every size through all_gather and broadcast, as bytes and as unaligned, non-contiguous tensors."""
    me, fine = here.world.rank, True
    with here.world.open(Key((1, 0), 9), timeout=40) as lease:
        for size in sizes:
            data = torch.arange(2 * size + 1, dtype=torch.int64).to(torch.uint8)
            odd, strided = data[1 : size + 1], data[: 2 * size : 2]
            got = lease.all_gather(odd if me else strided)
            fine &= torch.equal(got[0], odd) and torch.equal(got[1], strided)
            out = bytearray(size)
            lease.broadcast(odd.numpy().tobytes() if me else None, 0, out=None if me else out)
            fine &= bool(me) or bytes(out) == odd.numpy().tobytes()
    return fine


def in_place(here: Here) -> list[Any]:
    """Arena-backed tensors travel without staging and give their memory back."""
    world, n = here.world, 3 << 20
    before = world._heap.free_bytes
    ours = world.empty((n,), torch.uint8)
    ours.fill_(world.rank + 1)
    after_empty = before - world._heap.free_bytes
    with world.open(Key((0, 1), 1), timeout=20) as lease:
        got = lease.all_gather(ours)[1 - lease.index]
        assert isinstance(got, torch.Tensor)
        fine = bool((got == 2 - world.rank).all())
        lease.barrier()
        staged = before - world._heap.free_bytes - after_empty
        ours.fill_(9)
        seq = lease.publish(ours[5:], torch.tensor([world.rank]))
        fine &= bool((lease.pull(1 - lease.index, seq) == 9).all())
    too_large = ""
    try:
        with world.open(Key((world.rank,), 2)) as alone:
            alone.publish(bytes(world._heap.free_bytes + 1))
    except ArenaFull as error:
        too_large = type(error).__name__
    del ours
    here.tell()
    here.ask()
    world.drain(20)
    return [fine, after_empty, staged, too_large, before - world._heap.free_bytes]


def from_two_threads(here: Here, rounds: int) -> int:
    """Two threads a rank, each with its own slots and its own order of the group."""
    checked = [0, 0]

    def work(thread: int) -> None:
        ranks = (0, 1, 2) if thread else (2, 1, 0)
        for k in range(rounds):
            epoch = 1 + 2 * k + thread
            with here.world.open(Key(ranks, epoch, thread), timeout=30) as lease:
                got = lease.all_gather(bytes([thread, here.world.rank]) * (k * 400))
                wanted = [bytes([thread, rank]) * (k * 400) for rank in ranks]
                checked[thread] += sum(bytes(part) == want for part, want in zip(got, wanted, strict=True))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(checked)


def descriptors() -> list[str]:
    """What is open and mapped here."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:gfdit" in line]
    return sorted(name for name in names if "gfdit" in name or "pidfd" in name) + maps


def counts_descriptors(here: Here, lives: int) -> tuple[int, int]:
    """Rank 0 works with one life of rank 1 after the other; how much is open after the second and after the last."""
    counts = []
    for life in range(1, lives + 1):
        here.world.update_peers(here.ask())
        with here.world.open(Key((0, 1), life), timeout=20) as lease:
            lease.barrier()
        counts.append(len(descriptors()))
        here.tell()
    return counts[1], counts[-1]


def lives_once(here: Here, life: int) -> None:
    with here.world.open(Key((0, 1), life), timeout=20) as lease:
        lease.barrier()


def forks(here: Here) -> Any:
    """A fork of rank 1 outlives it: rank 0 still sees rank 1 die; the fork itself may not use the world."""
    if here.world.rank == 0:
        with here.world.open(Key((0, 1), 1), timeout=20) as lease:
            lease.barrier()
            try:
                lease.barrier()
            except PeerDead as error:
                return error.rank
        return None
    lease = here.world.open(Key((0, 1), 1), timeout=20)
    lease.barrier()
    child = os.fork()
    if child == 0:
        try:
            here.world.open(Key((0, 1), 2))
        except LeaseFenced:
            here.tell("refused")
        signal.pause()
        os._exit(0)
    here.tell(child)
    here.ask()
    os.kill(os.getpid(), signal.SIGKILL)
    return None
