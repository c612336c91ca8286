"""Random traffic that every rank derives from a seed: overlapping ordered groups, all operations, uneven sizes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from gfdit.collectives import CollectiveError, Key, Lane, PeerAborted, PeerDead
from tests.collectives.ranks import Here

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
KINDS = ("barrier", "all_gather", "all_to_all", "broadcast", "exchange", "handover", "publish", "lanes")


@dataclass(frozen=True)
class Group:
    epoch: int
    ranks: tuple[int, ...]
    seeds: tuple[int, ...]


def groups(seed: int, n: int, count: int, ops: int = 4) -> list[Group]:
    """Ordered subsets of the ranks, in random order, with seeds for their operations."""
    dice = random.Random(seed)
    return [
        Group(
            epoch,
            tuple(dice.sample(range(n), dice.randint(1, n))),
            tuple(dice.randrange(1 << 30) for _ in range(dice.randint(1, ops))),
        )
        for epoch in range(1, count + 1)
    ]


def size(dice: random.Random, big: int) -> int:
    """Often tiny or nothing, sometimes around the small stage, sometimes many chunks."""
    return dice.choice((0, 1, 7, dice.randrange(4096), 16384 - dice.randrange(300), dice.randrange(big)))


def piece(seed: int, source: int, target: int, big: int) -> bytes:
    """What `source` sends to `target` in the operation `seed`."""
    dice = random.Random(f"{seed} {source} {target}")
    return dice.randbytes(size(dice, big))


def tensor(seed: int, source: int, target: int, big: int) -> torch.Tensor:
    """The same as a tensor whose dtype the operation decides and whose shape the pair does."""
    dtype = random.Random(seed).choice(DTYPES)
    data = bytearray(piece(seed, source, target, big))
    if dtype is torch.bool:
        return torch.frombuffer(data, dtype=torch.uint8).gt(99) if data else torch.empty(0, dtype=dtype)
    width = 2 * dtype.itemsize
    data = data[: len(data) // width * width]
    if not data:
        return torch.empty(0, 2, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).view(-1, 2)


def same(got: object, want: object) -> bool:
    """Equal bits, shape and dtype (NaNs included)."""
    if isinstance(want, torch.Tensor):
        assert isinstance(got, torch.Tensor)
        return (
            got.dtype == want.dtype
            and got.shape == want.shape
            and torch.equal(got.contiguous().view(torch.uint8), want.contiguous().view(torch.uint8))
        )
    return bytes(got) == bytes(want)  # type: ignore[arg-type, call-overload]


def operate(lane: Lane, seed: int, big: int, kinds: tuple[str, ...] = KINDS) -> int:
    """Run the operation that `seed` names and check every byte; returns how many pieces were checked."""
    dice = random.Random(seed)
    kind, make = dice.choice(kinds), dice.choice((piece, tensor))
    ranks, me, n = lane.ranks, lane.ranks[lane.index], lane.size
    checks: list[tuple[object, object]] = []
    match kind:
        case "barrier":
            lane.barrier()
        case "all_gather":
            got = lane.all_gather(make(seed, me, 0, big))
            checks = [(got[i], make(seed, ranks[i], 0, big)) for i in range(n)]
        case "all_to_all":
            got = lane.all_to_all([make(seed, me, to, big) for to in ranks])
            checks = [(got[i], make(seed, ranks[i], me, big)) for i in range(n)]
        case "broadcast":
            src = dice.randrange(n)
            data = make(seed, ranks[src], 0, big)
            checks = [(lane.broadcast(data if src == lane.index else None, src), data)]
        case "exchange":
            shift = dice.randrange(n)
            to, source = (lane.index + shift) % n, (lane.index - shift) % n
            sends = {to: make(seed, me, ranks[to], big)} if shift else {}
            arrived = lane.exchange(sends, [source] if shift else [])
            checks = [(data, make(seed, ranks[i], me, big)) for i, data in arrived.items()]
        case "handover":
            holders = dice.sample(range(n), dice.randint(1, n))
            data = make(seed, 0, 0, big)
            checks = [(lane.handover(data if lane.index in holders else None, holders), data)]
        case "publish":
            seq = lane.publish(make(seed, me, 0, big // 4), make(seed, me, 1, big // 4))
            for i in random.Random(f"{seed} {me}").sample(range(n), n):
                if i != lane.index:
                    checks += [(lane.pull(i, seq, k), make(seed, ranks[i], k, big // 4)) for k in (1, 0)]
            lane.wait(seq)
        case "lanes":
            return operate_lanes(lane, seed, big)
    for got_one, want in checks:
        assert same(got_one, want), f"{kind} {seed} of {ranks} at rank {me}"
    return len(checks)


def operate_lanes(lease: Lane, seed: int, big: int) -> int:
    """The group as a grid, rows in lane 1 and columns in lane 2, one operation in each."""
    assert hasattr(lease, "lane")
    ranks, n = lease.ranks, lease.size
    width = 2 if n % 2 == 0 else n
    row, column = lease.index // width, lease.index % width
    plain = tuple(kind for kind in KINDS if kind != "lanes")
    rows = lease.lane(ranks[row * width : (row + 1) * width], 1)
    columns = lease.lane(ranks[column::width], 2)
    return operate(rows, seed * 3 + row, big, plain) + operate(columns, seed * 5 + column, big, plain)


def traffic(here: Here, seed: int, n: int, count: int, big: int, kinds: tuple[str, ...] = KINDS) -> tuple[int, int]:
    """All groups that name this rank; (operations, pieces checked)."""
    operations = checked = 0
    for group in groups(seed, n, count):
        if here.world.rank in group.ranks:
            with here.world.open(Key(group.ranks, group.epoch), timeout=30) as lease:
                for op in group.seeds:
                    checked += operate(lease, op, big, kinds)
                    operations += 1
    return operations, checked


def traffic_with_victim(here: Here, seed: int, n: int, count: int, victim: int) -> tuple[int, list[str]]:
    """The same, with a victim that the test kills: groups with it may end in an error, groups without it may not.

    Returns the groups without the victim that went well and the kinds of errors of the others.
    """
    good, errors, told = 0, [], False
    for group in groups(seed, n, count):
        if here.world.rank not in group.ranks:
            continue
        try:
            with here.world.open(Key(group.ranks, group.epoch), timeout=30) as lease:
                if here.world.rank == victim and group.epoch > count // 3 and not told:
                    here.tell("under way")
                    told = True
                for op in group.seeds:
                    operate(lease, op, 100_000)
                good += victim not in group.ranks
        except CollectiveError as error:
            assert victim in group.ranks, f"{group} fails without the victim: {error}"
            assert isinstance(error, PeerDead | PeerAborted), error
            errors.append(type(error).__name__)
    return good, errors
