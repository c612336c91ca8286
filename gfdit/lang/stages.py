"""Stage clauses: which degree, when to grow, hold, stick, prefer, reserve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.diagnostics import listing
from gfdit.lang.expr import Expressions
from gfdit.lang.pools import Pools
from gfdit.lang.report import Report
from gfdit.lang.schema import Level, Place, Schema
from gfdit.lang.scope import poison
from gfdit.lang.source import Span
from gfdit.lang.types import DUR, GPUS, NUM, Kind, Type


@dataclass(slots=True)
class Stages:
    """Checks all stage clauses; `gpus` is the size of the cluster, when known."""

    expressions: Expressions
    gpus: int | None
    pools: Pools
    complete: bool
    """false after a syntax error: what seems to be missing may be in the text that could not be read"""
    found: dict[str, ir.StageClause] = field(default_factory=dict)

    @property
    def report(self) -> Report:
        return self.expressions.report

    @property
    def schema(self) -> Schema:
        return self.expressions.schema

    def clauses(self, items: Iterable[nodes.Item]) -> tuple[ir.StageClause, ...]:
        """One clause per stage of the schema, in its order."""
        for item in items:
            if isinstance(item, nodes.Stage):
                self._stage(item)
        result: list[ir.StageClause] = []
        missing: list[str] = []
        for name, stage in self.schema.stages.items():
            clause = self.found.get(name) or self._followed(name, stage.follows)
            if clause:
                result.append(clause)
            elif not stage.follows:
                missing.append(name)
        if missing and self.complete:
            first = self.report.source.line_text(1)
            text = f"no clause for stage {listing(missing, 'and')}"
            helps = f"such as `stage {', '.join(missing)} {{ sp fixed 1 gpu }}`"
            self.report.add("A603", text, Span(0, len(first)), helps)
        return tuple(result)

    def _followed(self, name: str, follows: str) -> ir.StageClause | None:
        base = self.found.get(follows)
        if base is None:
            return None
        own = {field: getattr(base, field) for field in ir.StageClause._fields}
        return ir.StageClause(**own | {"stage": name, "follows": follows})

    def _stage(self, item: nodes.Stage) -> None:
        pool = self.pools.of_stage(item)
        by_kind = self._by_kind(item)
        degree = self._degree(item, by_kind)
        for name in item.names:
            if self._is_new(name):
                self.found[name.text] = self._clause(name.text, item, degree, by_kind, pool)

    def _is_new(self, name: nodes.Ident) -> bool:
        if name.text not in self.schema.stages:
            known = f"stages are {listing(self.schema.stages)}"
            self.report.unknown("N103", "stage", name.text, name.span, list(self.schema.stages), known)
            return False
        if name.text in self.found:
            line = self.found[name.text].clause.line
            text = f"second clause for stage `{name.text}`"
            self.report.add("A603", text, name.span, f"the first is in line {line}")
            return False
        return True

    def _by_kind(self, item: nodes.Stage) -> dict[type, nodes.StageItem]:
        """The stage's items, each given once; `sp fixed` and `sp in` exclude each other."""
        by_kind: dict[type, nodes.StageItem] = {}
        for part in item.items:
            kind = nodes.SpFixed if isinstance(part, nodes.SpChoice) else type(part)
            if kind in by_kind:
                word = self.report.source.slice(part.span).split()[0]
                line, _ = self.report.source.position(by_kind[kind].span.start)
                self.report.add("N106", f"`{word}` is given twice", part.span, f"the first is in line {line}")
            else:
                by_kind[kind] = part
        return by_kind

    def _clause(
        self,
        stage: str,
        item: nodes.Stage,
        degree: ir.FixedDegree | ir.ChosenDegree,
        by_kind: dict[type, nodes.StageItem],
        pool: str | None,
    ) -> ir.StageClause:
        prefix = f"stage.{stage}"
        grow, hold = by_kind.get(nodes.Grow), by_kind.get(nodes.Hold)
        lanes, spill = by_kind.get(nodes.Lanes), by_kind.get(nodes.Spill)
        sticky, prefer, reserve = by_kind.get(nodes.Sticky), by_kind.get(nodes.Prefer), by_kind.get(nodes.Reserve)
        return ir.StageClause(
            stage=stage,
            follows="",
            degree=_renamed(degree, prefix),
            grow=self._grow(grow, degree, prefix) if isinstance(grow, nodes.Grow) else None,
            hold=self._hold(hold, prefix) if isinstance(hold, nodes.Hold) else None,
            sticky=self._amount(sticky.amount, NUM, "`sticky`") if isinstance(sticky, nodes.Sticky) else None,
            prefer=self._prefer(prefer) if isinstance(prefer, nodes.Prefer) else (),
            reserve=self._amount(reserve.duration, DUR, "`reserve for`")
            if isinstance(reserve, nodes.Reserve)
            else None,
            clause=self._at(prefix, item.span),
            pool=pool,
            lanes=self.pools.lanes(lanes) if isinstance(lanes, nodes.Lanes) else None,
            spill=self.pools.spill(spill, item.pool, f"{prefix}.spill") if isinstance(spill, nodes.Spill) else None,
        )

    def _at(self, name: str, span: Span) -> ir.Clause:
        return ir.Clause(name, self.report.source.position(span.start)[0], span)

    # -- degrees

    def _degree(self, item: nodes.Stage, by_kind: dict[type, nodes.StageItem]) -> ir.FixedDegree | ir.ChosenDegree:
        match by_kind.get(nodes.SpFixed):
            case nodes.SpFixed() as fixed:
                return self._fixed(fixed)
            case nodes.SpChoice() as choice:
                return self._choice(choice)
        if self.complete:
            word = Span(item.span.start, item.names[-1].span.end)
            helps = "such as `sp fixed 1 gpu` or `sp in {1, 2, 4} gpu smallest`"
            self.report.add("A603", "stage says no degree", word, helps)
        return ir.ChosenDegree((), (), self._at("sp", item.span))

    def _fixed(self, item: nodes.SpFixed) -> ir.FixedDegree:
        value = self.expressions.slot(item.value, Place.FIXED, GPUS, "`sp fixed`")
        for leaf in _leaves(value):
            if not isinstance(leaf, ir.Const) or leaf.type.is_error:
                continue
            count = float(leaf.value)
            if count < 1 or count % 1:
                self.report.add("V404", "a degree is a whole number of GPUs, at least 1", leaf.span)
            elif self.gpus is not None and count > self.gpus:
                text = f"{count:g} gpu is more than the cluster has"
                self.report.add("A601", text, leaf.span, f"the cluster has {self.gpus} gpu")
        return ir.FixedDegree(value, self._at("sp", item.span))

    def _choice(self, item: nodes.SpChoice) -> ir.ChosenDegree:
        degrees: list[int] = []
        for number in item.degrees:
            if not number.text.isdigit() or int(number.text) < 1:
                helps = "use `wait` as the last alternative" if number.text == "0" else ""
                self.report.add("V404", "a degree is a whole number of GPUs, at least 1", number.span, helps)
                continue
            degree = int(number.text)
            if degree in degrees:
                self.report.add("L504", f"degree {degree} is listed twice", number.span)
            elif degrees and degree < degrees[-1]:
                self.report.add("L504", "degrees are not ascending", number.span, "list the smallest first")
            elif self.gpus is not None and degree > self.gpus:
                text = f"degree {degree} never fits in {self.gpus} gpu"
                self.report.add("A602", text, number.span, "it is left out on this cluster")
            degrees.append(degree)
        if self.gpus is not None and degrees and min(degrees) > self.gpus:
            text = f"every degree is larger than the cluster of {self.gpus} gpu"
            self.report.add("A601", text, item.degrees[0].span.to(item.degrees[-1].span))
        alternatives = tuple(self._alternative(part, n) for n, part in enumerate(item.alternatives, 1))
        return ir.ChosenDegree(tuple(sorted(set(degrees))), alternatives, self._at("sp", item.span))

    def _alternative(self, item: nodes.Alternative, number: int) -> ir.Alternative:
        where = self.expressions.condition(item.where, Place.CHOOSE) if item.where is not None else None
        key = None
        if item.key is not None:
            key = self.expressions.expr(item.key, Place.CHOOSE)
            if key.type.kind not in (Kind.NUM, Kind.INSTANT, Kind.ERROR):
                text = f"`{item.kind}` takes a number or an instant, found {key.type.describe()}"
                self.report.add("T302", text, item.key.span)
                key = poison(item.key.span)
            elif key.level < Level.DEGREE and not key.type.is_error:
                text = f"`{item.kind}` compares the same value for every degree"
                self.report.add("L503", text, item.key.span, "use `sp` in it, such as `finish(sp)`")
        return ir.Alternative(ir.Pick(item.kind), key, where, self._at(f"sp.{number}", item.span))

    # -- the rest

    def _grow(self, item: nodes.Grow, degree: ir.FixedDegree | ir.ChosenDegree, prefix: str) -> ir.Grow | None:
        if isinstance(degree, ir.FixedDegree):
            self.report.add("N105", "`grow` has no degrees to grow to", item.span, "it needs `sp in {...} gpu ...`")
            return None
        where = self.expressions.condition(item.where, Place.GROW) if item.where is not None else None
        most = self.expressions.slot(item.most, Place.TICK, GPUS, "`max`") if item.most is not None else None
        by = tuple(self._grow_key(key) for key in item.keys)
        return ir.Grow(where, most, self._at(f"{prefix}.grow", item.span), by)

    def _grow_key(self, key: nodes.Key) -> ir.OrderKey:
        value = self.expressions.expr(key.value, Place.GROW)
        if value.type.kind not in (Kind.NUM, Kind.INSTANT, Kind.BOOL, Kind.ERROR):
            text = f"`grow by` takes a number, an instant or a condition, found {value.type.describe()}"
            self.report.add("T302", text, key.value.span)
            value = poison(key.value.span)
        return ir.OrderKey(value, key.direction == "desc")

    def _hold(self, item: nodes.Hold, prefix: str) -> ir.Hold:
        clause = self._at(f"{prefix}.hold", item.span)
        if item.duration is None:
            return ir.Hold(ir.HoldKind.UNTIL_DONE, None, clause)
        return ir.Hold(ir.HoldKind.FOR, self._amount(item.duration, DUR, "`hold for`"), clause)

    def _amount(self, node: nodes.Expr, kind: Type, what: str) -> float | None:
        value = self.expressions.constant(node, kind, what)
        if value is not None and value < 0:
            self.report.add("V404", f"{what} cannot be negative", node.span)
        return value

    def _prefer(self, item: nodes.Prefer) -> tuple[str, ...]:
        known = self.schema.preferences
        for name in item.names:
            if name.text not in known:
                self.report.unknown(
                    "N104", "preference", name.text, name.span, list(known), f"known ones are {listing(known)}"
                )
        return tuple(name.text for name in item.names if name.text in known)


def _leaves(value: ir.Expr) -> list[ir.Expr]:
    """The values an `if` chain can yield."""
    return [*_leaves(value.then), *_leaves(value.other)] if isinstance(value, ir.If) else [value]


def _renamed(degree: ir.FixedDegree | ir.ChosenDegree, prefix: str) -> ir.FixedDegree | ir.ChosenDegree:
    """The same degree with clause ids of its stage."""

    def at(clause: ir.Clause) -> ir.Clause:
        return ir.Clause(f"{prefix}.{clause.id}", clause.line, clause.span)

    if isinstance(degree, ir.FixedDegree):
        return ir.FixedDegree(degree.value, at(degree.clause))
    links = tuple(ir.Alternative(link.pick, link.key, link.where, at(link.clause)) for link in degree.alternatives)
    return ir.ChosenDegree(degree.degrees, links, at(degree.clause))
