"""Pools: which ranks each stage may use on this tick, and how the pools change their sizes.

Pools of a fixed size take the highest ranks, in the order of the text; the one of the rest begins at rank 0, where
aligned blocks do. Every pool keeps one rank as long as there are as many ranks as pools; below that nothing is divided.
Sizes are carried from tick to tick and rebuilt by a replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.core.view import B1, STAGE_CODE, View
from gfdit.core.work import STAGES, Stage
from gfdit.lang.program import Pool, Program, Resize
from gfdit.lang.schema import Level
from gfdit.policy.columns import Fn, Tick
from gfdit.policy.compile import Compiler, Share
from gfdit.policy.memory import TOLERANCE_S

_STAGE_COUNT = len(STAGES)


@dataclass(slots=True)
class _Resizing:
    """`since`: from when on its condition has held without a break."""

    resize: Resize
    when: Fn
    since: float | None = None


@dataclass(frozen=True, slots=True)
class _Spilling:
    """Rows of these stages may go to `pool` while `when` holds."""

    stages: B1
    pool: str
    when: Fn


class CompiledPools:
    """The pools of one program."""

    def __init__(self, program: Program, compiler: Compiler) -> None:
        self._pools: tuple[Pool, ...] = program.pools
        self._sizes = {pool.name: pool.count for pool in program.pools}
        self._stages = {pool.name: _mask(program, pool.name) for pool in program.pools}
        self._resizings = [_Resizing(item, compiler.expr(item.when, Level.TICK)) for item in program.resizes]
        self._resized_at: dict[str, float] = {}
        self._at = -np.inf
        self._spills: dict[str, list[_Spilling]] = {}
        for clause in program.stages:
            if clause.spill is not None and clause.pool is not None:
                when = compiler.expr(clause.spill.when, Level.TICK)
                spilling = _Spilling(_only(clause.stage), clause.spill.pool, when)
                self._spills.setdefault(clause.pool, []).append(spilling)

    def enter(self, tick: Tick) -> None:
        """Put the shares where expressions read them."""
        for share in self._shares(tick.view):
            tick.scalars[f"pool {share.name}"] = share

    def resize(self, tick: Tick) -> None:
        """Change sizes once an instant."""
        now = tick.view.now_s
        if not self._resizings or now <= self._at:
            return
        self._at = now
        frame = tick.live()
        for one in self._resizings:
            if not bool(one.when(frame)):
                one.since = None
                continue
            one.since = now if one.since is None else one.since
            if now >= self._due(one) - TOLERANCE_S and self._apply(one.resize):
                self._resized_at[one.resize.pool], one.since = now, None
                self.enter(tick)

    def _apply(self, resize: Resize) -> bool:
        size = self._sizes[resize.pool]
        assert size is not None
        changed = min(max(size + resize.by, resize.low), resize.high)
        self._sizes[resize.pool] = changed
        return changed != size

    def _due(self, one: _Resizing) -> float:
        """When it may act if its condition goes on to hold; +inf while it does not."""
        if one.since is None:
            return float("inf")
        rested = self._resized_at.get(one.resize.pool, -np.inf) + one.resize.cooldown
        return max(one.since + one.resize.when_for, rested)

    def wakes(self, view: View) -> list[float]:
        """When a resize falls due if its condition goes on to hold."""
        times = [self._due(one) for one in self._resizings]
        return [time for time in times if view.now_s < time < np.inf]

    def in_order(self, tick: Tick) -> list[Share]:
        """The shares to plan one after the other, those that spill first; empty when nothing is divided."""
        if len(tick.view.ranks) < len(self._pools):
            return []
        shares = [tick.scalars[f"pool {pool.name}"] for pool in self._pools]
        return sorted(shares, key=lambda share: share.name not in self._spills)

    def spills(self, tick: Tick, share: Share) -> list[tuple[str, B1]]:
        """Where rows of `share` may go that found no place: (pool, stages)."""
        found = self._spills.get(share.name, ())
        return [(item.pool, item.stages) for item in found if bool(item.when(tick.live()))]

    def inherit(self, earlier: CompiledPools) -> None:
        """Take over the sizes of pools of the same name, where both have one."""
        for name, size in earlier._sizes.items():
            if size is not None and self._sizes.get(name) is not None:
                self._sizes[name] = size

    def _shares(self, view: View) -> list[Share]:
        ranks = view.ranks
        if len(ranks) < len(self._pools):
            return [Share(p.name, frozenset(ranks), len(ranks), view.free, self._stages[p.name]) for p in self._pools]
        idle = frozenset(view.idle)
        fixed = [pool for pool in self._pools if pool.count is not None]
        shares, left = [], len(ranks)
        for taken, pool in enumerate(fixed):
            size = min(self._sizes[pool.name] or 1, left - (len(self._pools) - taken - 1))
            shares.append(self._share(pool, ranks[left - size : left], idle))
            left -= size
        rest = [pool for pool in self._pools if pool.count is None]
        return [*shares, *(self._share(pool, ranks[:left], idle) for pool in rest)]

    def _share(self, pool: Pool, ranks: Sequence[int], idle: frozenset[int]) -> Share:
        own = frozenset(ranks)
        return Share(pool.name, own, len(own), len(own & idle), self._stages[pool.name])


def _mask(program: Program, pool: str) -> B1:
    mask = np.zeros(_STAGE_COUNT, dtype=bool)
    mask[[STAGE_CODE[Stage(clause.stage)] for clause in program.stages if clause.pool == pool]] = True
    return mask


def _only(stage: str) -> B1:
    mask = np.zeros(_STAGE_COUNT, dtype=bool)
    mask[STAGE_CODE[Stage(stage)]] = True
    return mask
