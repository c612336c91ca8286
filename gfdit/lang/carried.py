"""Clauses whose value is carried from tick to tick: modes and states."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.diagnostics import listing
from gfdit.lang.expr import Expressions
from gfdit.lang.report import Report
from gfdit.lang.schema import Level, Place
from gfdit.lang.scope import Scope
from gfdit.lang.source import Span
from gfdit.lang.types import BOOL, DUR, ERROR, TYPE_NAMES, Type


@dataclass(slots=True)
class Carried:
    """Checks modes and states in the order of the text; each may use the names above it."""

    expressions: Expressions
    modes: list[ir.Mode] = field(default_factory=list)
    states: list[ir.State] = field(default_factory=list)

    @property
    def scope(self) -> Scope:
        return self.expressions.scope

    @property
    def report(self) -> Report:
        return self.expressions.report

    def add(self, item: nodes.Mode | nodes.State) -> None:
        """Declares one of them."""
        if isinstance(item, nodes.Mode):
            self._mode(item)
        else:
            self._state(item)

    def _at(self, name: str, span: Span) -> ir.Clause:
        return ir.Clause(name, self.report.source.position(span.start)[0], span)

    def _mode(self, item: nodes.Mode) -> None:
        name = item.name.text
        mode = ir.Mode(
            name=name,
            when=self.expressions.condition(item.when, Place.TICK),
            when_for=self._duration(item.when_for, "`for`") or 0.0,
            until=self.expressions.condition(item.until, Place.TICK),
            until_for=self._duration(item.until_for, "`for`") or 0.0,
            clause=self._at(f"mode.{name}", item.span),
        )
        if self.scope.declare(item.name, "mode"):
            self.scope.carried[name] = BOOL, Level.TICK
            self.modes.append(mode)

    def _state(self, item: nodes.State) -> None:
        name, kind = item.name.text, self._type(item)
        per_class = self._per_class(item)
        start = self.expressions.constant(item.start, kind, f"state `{name}`")
        low, high = self._range(item, kind)
        self._starts_inside(item, start, low, high)
        if not self.scope.declare(item.name, "state"):
            return
        self.scope.carried[name] = kind, Level.REQUEST if per_class else Level.TICK
        place = Place.STATE if per_class else Place.TICK
        following = self.expressions.slot(item.next, place, kind, f"state `{name}`")
        every = self._duration(item.every, "`every`") if item.every is not None else None
        if every == 0 and item.every is not None:
            self.report.add("V404", "`every` must be above zero", item.every.span)
        clause = self._at(f"state.{name}", item.span)
        self.states.append(ir.State(name, per_class, kind, start or 0.0, low, high, following, every, clause))

    def _type(self, item: nodes.State) -> Type:
        numbers = {word: kind for word, kind in TYPE_NAMES.items() if kind.is_num}
        kind = numbers.get(item.type.text)
        if kind is not None:
            return kind
        known = f"a state is one of {listing(numbers, limit=12)}"
        self.report.unknown("T303", "type", item.type.text, item.type.span, list(numbers), known)
        return ERROR

    def _per_class(self, item: nodes.State) -> bool:
        if item.index is None:
            return False
        if item.index.text != "class":
            text = f"a state has one value for each class, not for each `{item.index.text}`"
            self.report.add("N105", text, item.index.span, f"write `{item.name.text}[class]`")
        elif not self.scope.classes:
            helps = "declare them: `class NAME when ... { ... }`"
            self.report.add("N105", "this policy has no classes", item.index.span, helps)
        return True

    def _range(self, item: nodes.State, kind: Type) -> tuple[float | None, float | None]:
        if item.within is None:
            return None, None
        low = self.expressions.constant(item.within.low, kind, "the range")
        high = self.expressions.constant(item.within.high, kind, "the range")
        if low is not None and high is not None and low > high:
            self.report.add("V404", "the range is empty: its low end is above its high end", item.within.span)
        return low, high

    def _starts_inside(self, item: nodes.State, start: float | None, low: float | None, high: float | None) -> None:
        if start is None or low is None or high is None or low > high or low <= start <= high or item.within is None:
            return
        bounds = self.report.source.slice(item.within.span)
        self.report.add("V404", f"`{self.expressions.text(item.start)}` is outside `{bounds}`", item.start.span)

    def _duration(self, node: nodes.Expr | None, what: str) -> float | None:
        if node is None:
            return None
        value = self.expressions.constant(node, DUR, what)
        if value is not None and value < 0:
            self.report.add("V404", f"{what} cannot be negative", node.span)
        return value
