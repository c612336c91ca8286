"""The protocol of a lane as a state machine, searched over every interleaving, with crashes and aborts at every point.

Ranks are straight-line programs over words that only their owner writes. Staging and reading take two steps each, so
that a torn read shows. A rank that raises publishes its abort, closes, and goes on with its next lease. The search
reports the first state that breaks a rule: a read of anything but the published bytes, or ranks that wait for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto


class Phase(Enum):
    OPEN = auto()
    SETTLE = auto()
    STAGE_FIRST = auto()
    STAGE_SECOND = auto()
    PUBLISH = auto()
    WAIT = auto()
    READ = auto()
    CLOSE = auto()
    END = auto()


class Flaw(Enum):
    """What a broken variant leaves out."""

    NO_LAZY_CLOSE = auto()
    NO_SETTLE = auto()
    ONE_BUFFER = auto()
    TOKEN_FIRST = auto()
    NO_LIVENESS = auto()
    SKIPS_SILENTLY = auto()


@dataclass(frozen=True)
class Lease:
    """`sources[k]` are the members that operation k reads from; every member enters every operation."""

    epoch: int
    slot: int
    ranks: tuple[int, ...]
    sources: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of one rank: tokens and the two halves of the staged bytes by parity, closed and aborted epoch."""

    tokens: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    first: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    second: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    closed: int = 0
    aborted: int = 0


@dataclass(frozen=True, slots=True)
class Rank:
    """Where a rank is: lease number of its program, operation, next source, and the first half it read."""

    lease: int = 0
    phase: Phase = Phase.OPEN
    op: int = 0
    source: int = 0
    half: tuple[int, int] = (0, 0)
    alive: bool = True


@dataclass(frozen=True, slots=True)
class State:
    ranks: tuple[Rank, ...]
    memory: tuple[tuple[Slot, ...], ...]
    crashes: int
    aborts: int


class Broken(Exception):
    """A rule of the protocol does not hold."""


def put(items: tuple, at: int, value: object) -> tuple:
    return (*items[:at], value, *items[at + 1 :])


class Model:
    """All behaviours of some ranks that open some leases, in epoch order."""

    def __init__(self, n: int, slots: int, leases: list[Lease], crashes: int, aborts: int, flaw: Flaw | None) -> None:
        self.programs = [[lease for lease in leases if rank in lease.ranks] for rank in range(n)]
        self.flaw = flaw
        empty = tuple(tuple(Slot() for _ in range(slots)) for _ in range(n))
        ranks = tuple(Rank(phase=Phase.OPEN if program else Phase.END) for program in self.programs)
        self.start = State(ranks, empty, crashes, aborts)

    def search(self) -> int:
        """The number of states; raises `Broken` for the first bad one."""
        seen, queue = {self.start}, deque([self.start])
        while queue:
            state = queue.popleft()
            moved = False
            for after, progress in self.moves(state):
                moved |= progress
                if after not in seen:
                    seen.add(after)
                    queue.append(after)
            if not moved and any(rank.alive and rank.phase is not Phase.END for rank in state.ranks):
                raise Broken(f"stuck: {[(rank.lease, rank.phase.name, rank.op) for rank in state.ranks]}")
        return len(seen)

    def moves(self, state: State) -> Iterator[tuple[State, bool]]:
        """Every next state, and whether it is a step of the protocol (a crash or an abort is not)."""
        for i, rank in enumerate(state.ranks):
            if not rank.alive or rank.phase is Phase.END:
                continue
            after = self.step(state, i, rank)
            if after is not None:
                yield after, True
            if state.crashes:
                dead = replace(rank, alive=False)
                yield replace(state, ranks=put(state.ranks, i, dead), crashes=state.crashes - 1), False
            if state.aborts and rank.phase not in (Phase.OPEN, Phase.CLOSE):
                yield replace(self.give_up(state, i, rank), aborts=state.aborts - 1), False

    def go(self, state: State, i: int, rank: Rank, **changes: object) -> State:
        return replace(state, ranks=put(state.ranks, i, replace(rank, **changes)))

    def write(self, state: State, i: int, slot: int, **changes: object) -> State:
        changed = put(state.memory[i], slot, replace(state.memory[i][slot], **changes))
        return replace(state, memory=put(state.memory, i, changed))

    def give_up(self, state: State, i: int, rank: Rank) -> State:
        lease = self.programs[i][rank.lease]
        if self.flaw is not Flaw.SKIPS_SILENTLY:
            state = self.write(state, i, lease.slot, aborted=lease.epoch)
        return self.go(state, i, rank, phase=Phase.CLOSE)

    def step(self, state: State, i: int, rank: Rank) -> State | None:
        """What rank i does next, or None while it waits."""
        lease = self.programs[i][rank.lease]
        parity = 0 if self.flaw is Flaw.ONE_BUFFER else rank.op & 1
        mine, mark = state.memory[i][lease.slot], (lease.epoch, rank.op)
        match rank.phase:
            case Phase.OPEN:
                return self.open(state, i, rank, lease)
            case Phase.SETTLE:
                return self.settle(state, i, rank, lease)
            case Phase.STAGE_FIRST:
                after = self.write(state, i, lease.slot, first=put(mine.first, parity, mark))
                return self.go(after, i, rank, phase=Phase.STAGE_SECOND)
            case Phase.STAGE_SECOND:
                after = self.write(state, i, lease.slot, second=put(mine.second, parity, mark))
                early = self.flaw is Flaw.TOKEN_FIRST
                return self.go(after, i, rank, phase=Phase.WAIT if early else Phase.PUBLISH, source=0)
            case Phase.PUBLISH:
                after = self.write(state, i, lease.slot, tokens=put(mine.tokens, parity, mark))
                early = self.flaw is Flaw.TOKEN_FIRST
                return self.go(after, i, rank, phase=Phase.STAGE_FIRST if early else Phase.WAIT, source=0)
            case Phase.WAIT:
                return self.wait(state, i, rank, lease, parity)
            case Phase.READ:
                source = lease.sources[rank.op][rank.source]
                read = (rank.half, state.memory[source][lease.slot].second[parity])
                if read != (mark, mark):
                    raise Broken(f"rank {i} read {read} of rank {source} instead of {mark}")
                return self.go(state, i, rank, phase=Phase.WAIT, source=rank.source + 1, half=(0, 0))
            case Phase.CLOSE:
                after = self.write(state, i, lease.slot, closed=lease.epoch)
                last = rank.lease + 1 == len(self.programs[i])
                return self.go(after, i, Rank(), lease=rank.lease + (not last), phase=Phase.END if last else Phase.OPEN)
        return None

    def open(self, state: State, i: int, rank: Rank, lease: Lease) -> State | None:
        """Wait until the last lease of this slot is closed by all that live."""
        before = [old for old in self.programs[i][: rank.lease] if old.slot == lease.slot]
        if before and self.flaw is not Flaw.NO_LAZY_CLOSE:
            old = before[-1]
            for peer in old.ranks:
                if state.ranks[peer].alive and state.memory[peer][old.slot].closed < old.epoch:
                    return None
        return self.go(state, i, rank, phase=Phase.SETTLE)

    def settle(self, state: State, i: int, rank: Rank, lease: Lease) -> State | None:
        """Wait until all members published the last operation, so that they have read the one before."""
        ready = Phase.PUBLISH if self.flaw is Flaw.TOKEN_FIRST else Phase.STAGE_FIRST
        if rank.op >= 2 and self.flaw not in (Flaw.NO_SETTLE, Flaw.ONE_BUFFER):
            for peer in lease.ranks:
                if state.memory[peer][lease.slot].tokens[(rank.op - 1) & 1] < (lease.epoch, rank.op - 1):
                    return self.pointless(state, i, rank, lease, peer)
        return self.go(state, i, rank, phase=ready)

    def wait(self, state: State, i: int, rank: Rank, lease: Lease, parity: int) -> State | None:
        """Wait for the next source and read the first half of what it published; or go on when all are read."""
        sources = lease.sources[rank.op]
        if rank.source == len(sources):
            last = rank.op + 1 == len(lease.sources)
            return self.go(state, i, rank, phase=Phase.CLOSE if last else Phase.SETTLE, op=rank.op + (not last))
        source = sources[rank.source]
        if source == i:
            return self.go(state, i, rank, source=rank.source + 1)
        theirs = state.memory[source][lease.slot]
        if theirs.tokens[parity] == (lease.epoch, rank.op):
            return self.go(state, i, rank, phase=Phase.READ, half=theirs.first[parity])
        if theirs.tokens[parity] > (lease.epoch, rank.op):
            return self.give_up(state, i, rank)
        return self.pointless(state, i, rank, lease, source)

    def pointless(self, state: State, i: int, rank: Rank, lease: Lease, peer: int) -> State | None:
        """Give up when some member aborted, or the awaited one closed or died; else wait on."""
        aborted = any(state.memory[member][lease.slot].aborted == lease.epoch for member in lease.ranks)
        closed = state.memory[peer][lease.slot].closed >= lease.epoch and self.flaw is not Flaw.SKIPS_SILENTLY
        dead = not state.ranks[peer].alive and self.flaw is not Flaw.NO_LIVENESS
        return self.give_up(state, i, rank) if aborted or closed or dead else None


def everybody(*ranks: int) -> tuple[int, ...]:
    """An operation in which each member hears from each."""
    return ranks


CONFIGS: dict[str, tuple[int, int, list[Lease]]] = {
    "overlapping groups, two slots": (
        3,
        2,
        [Lease(1, 0, (0, 1), ((0, 1),)), Lease(2, 1, (2, 1), ((2,),)), Lease(3, 0, (2, 0), ((2,),))],
    ),
    "one slot, three operations": (
        2,
        1,
        [Lease(epoch, 0, (0, 1), (everybody(0, 1), (0,), (1,))) for epoch in (1, 2)],
    ),
    "parities wrap, one source": (2, 1, [Lease(1, 0, (0, 1), ((0,), (0,), (0,), (0,), (1,)))]),
    "three members, two operations": (3, 1, [Lease(1, 0, (0, 1, 2), ((0,), (0, 2)))]),
}
