"""Pools, their resizing, and what a stage says of them: `on`, `lanes`, `spill`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.expr import Expressions
from gfdit.lang.report import Report
from gfdit.lang.schema import Place
from gfdit.lang.scope import Scope
from gfdit.lang.source import Span
from gfdit.lang.types import DUR, GPUS, NUM


@dataclass(slots=True)
class Pools:
    """Checks everything about pools; `gpus` is the size of the cluster, when known."""

    expressions: Expressions
    gpus: int | None
    pools: list[ir.Pool] = field(default_factory=list)

    @property
    def scope(self) -> Scope:
        return self.expressions.scope

    @property
    def report(self) -> Report:
        return self.expressions.report

    def _at(self, name: str, span: Span) -> ir.Clause:
        return ir.Clause(name, self.report.source.position(span.start)[0], span)

    def declare(self, items: Iterable[nodes.Item]) -> None:
        """All pools, before anything names one."""
        for item in items:
            if not isinstance(item, nodes.Pool):
                continue
            count = None if item.count is None else self._count(item.count)
            if item.count is None and any(pool.count is None for pool in self.pools):
                self.report.add("A604", "a second pool of the rest", item.span, "give it a number of GPUs")
            elif self.scope.declare(item.name, "pool"):
                self.scope.pools[item.name.text] = item.name
                self.pools.append(ir.Pool(item.name.text, count, self._at(f"pool.{item.name.text}", item.span)))
        self._whole_cluster(items)

    def _count(self, node: nodes.Expr) -> int:
        value = self.expressions.constant(node, GPUS, "the size of a pool")
        if value is not None and (value < 1 or value % 1):
            self.report.add("V404", "a pool has a whole number of GPUs, at least 1", node.span)
            return 1
        return int(value or 1)

    def _whole_cluster(self, items: Iterable[nodes.Item]) -> None:
        """A604: every GPU belongs to a pool, and every pool has one."""
        last = next((item for item in reversed(list(items)) if isinstance(item, nodes.Pool)), None)
        if last is None:
            return
        if all(pool.count is not None for pool in self.pools):
            text, helps = "no pool takes the rest of the cluster", f"write `pool {last.name.text} = rest`"
            self.report.add("A604", text, last.span, helps)
        total = sum(pool.count or 1 for pool in self.pools)
        if self.gpus is not None and total > self.gpus:
            text = f"pools want at least {total} gpu, the cluster has {self.gpus}"
            self.report.add("A604", text, last.span, "make them smaller")

    def name(self, name: nodes.Ident) -> str | None:
        """A pool that a clause names, or None when it was wrong."""
        return self.scope.pool_name(name)

    def of_stage(self, item: nodes.Stage) -> str | None:
        """The pool of a stage clause. With pools, every clause must say one."""
        if item.pool is not None:
            return self.name(item.pool)
        if self.pools:
            first, last = item.names[0], item.names[-1]
            text = "stage says no pool, and the cluster is divided into pools"
            helps = f"write `on {self.pools[-1].name}`"
            self.report.add("A603", text, Span(first.span.start, last.span.end), helps)
        return None

    def lanes(self, item: nodes.Lanes) -> int:
        value = self.expressions.constant(item.count, NUM, "`lanes`")
        if value is not None and (value < 1 or value % 1):
            self.report.add("V404", "`lanes` takes a whole number, at least 1", item.count.span)
            return 1
        return int(value or 1)

    def spill(self, item: nodes.Spill, home: nodes.Ident | None, clause: str) -> ir.Spill | None:
        """Where a stage may go beside its own pool."""
        pool = self.name(item.pool)
        when = self.expressions.condition(item.when, Place.TICK)
        if home is None:
            self.report.add("N105", "`spill` needs a pool to spill from", item.span, "write `stage ... on POOL`")
        elif pool == home.text:
            self.report.add("N105", "a stage cannot spill to its own pool", item.pool.span)
        return None if pool is None else ir.Spill(pool, when, self._at(clause, item.span))

    def resizes(self, items: Iterable[nodes.Item]) -> tuple[ir.Resize, ...]:
        found = [item for item in items if isinstance(item, nodes.Resize)]
        return tuple(self._resize(item, number) for number, item in enumerate(found, 1))

    def _resize(self, item: nodes.Resize, number: int) -> ir.Resize:
        name = self.name(item.pool) or ""
        pool = next((pool for pool in self.pools if pool.name == name), None)
        if pool is not None and pool.count is None:
            helps = "resize the others: it takes what they leave"
            self.report.add("N105", f"pool `{name}` is the rest of the cluster", item.pool.span, helps)
        by = self.expressions.constant(item.by, GPUS, "`by`")
        if by is not None and (by == 0 or by % 1):
            self.report.add("V404", "`by` takes a whole number of GPUs, not 0", item.by.span)
        low = self.expressions.constant(item.within.low, GPUS, "`within`")
        high = self.expressions.constant(item.within.high, GPUS, "`within`")
        self._bounds(item, pool, low, high)
        return ir.Resize(
            pool=name,
            by=int(by or 1),
            when=self.expressions.condition(item.when, Place.TICK),
            when_for=self._duration(item.when_for, "`for`"),
            low=int(low or 1),
            high=int(high or 1),
            cooldown=self._duration(item.cooldown, "`cooldown`"),
            clause=self._at(f"resize.{number}", item.span),
        )

    def _bounds(self, item: nodes.Resize, pool: ir.Pool | None, low: float | None, high: float | None) -> None:
        if low is None or high is None:
            return
        if low < 1 or low % 1 or high % 1:
            self.report.add("V404", "a pool has a whole number of GPUs, at least 1", item.within.span)
        elif low > high:
            self.report.add("A604", "the bounds of `resize` cross: the first is above the second", item.within.span)
        elif pool is not None and pool.count is not None and not low <= pool.count <= high:
            text = f"pool `{pool.name}` begins with {pool.count} gpu, outside these bounds"
            self.report.add("A604", text, item.within.span)

    def _duration(self, node: nodes.Expr | None, what: str) -> float:
        if node is None:
            return 0.0
        value = self.expressions.constant(node, DUR, what)
        if value is not None and value < 0:
            self.report.add("V404", f"{what} cannot be negative", node.span)
        return value or 0.0
