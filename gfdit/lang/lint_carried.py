"""V403, L507: states that leave their range, modes and resizes without a gap between their thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from gfdit.lang import intervals, nodes
from gfdit.lang import program as ir
from gfdit.lang.expr import Expressions
from gfdit.lang.facts import linear
from gfdit.lang.intervals import Interval, Ranges

_OTHER_SIDE: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}
_NEGATED: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


@dataclass(slots=True)
class CarriedLints:
    """Findings go to the report of `expressions`."""

    expressions: Expressions

    def check(
        self, items: Iterable[nodes.Item], states: Iterable[ir.State], modes: Iterable[ir.Mode], ranges: Ranges
    ) -> None:
        known = {state.name: state for state in states}
        for item in items:
            if isinstance(item, nodes.State) and (state := known.get(item.name.text)):
                self._leaves(item, state, ranges)
        for mode in modes:
            self._mode(mode)

    def _leaves(self, item: nodes.State, state: ir.State, ranges: Ranges) -> None:
        """V403: the next value, from any in the range, can lie outside. One that is moved both ways is left alone:
        there the range is what holds it."""
        if state.low is None or state.high is None or state.low > state.high:
            return
        value = ranges.of(item.next)
        moved = linear(item.next)
        if moved.get(nodes.Name(state.name)) == 1.0:
            drift = self._drift(item.next, state.name, ranges)
            if drift.low < 0.0 < drift.high:
                return
            if drift.low >= 0.0 and drift.high > 0.0:
                self._say(item, "can only rise: it ends at the upper end of its range")
            elif drift.high <= 0.0 and drift.low < 0.0:
                self._say(item, "can only fall: it ends at the lower end of its range")
        elif not Interval(value.low, value.high).within(Interval(state.low, state.high)):
            self._say(item, f"can leave {self._range(item)}: it is clamped")

    def _drift(self, node: nodes.Expr, name: str, ranges: Ranges) -> Interval:
        """The interval of `next - state`."""
        total = intervals.at(0.0)
        for term, factor in linear(node).items():
            if term == nodes.Name(name):
                continue
            value = intervals.at(1.0) if term is None else ranges.of(term)
            total = intervals.add(total, intervals.multiply(intervals.at(factor), value))
        return total

    def _range(self, item: nodes.State) -> str:
        return "its range" if item.within is None else f"`{self.expressions.report.source.slice(item.within.span)}`"

    def _say(self, item: nodes.State, what: str) -> None:
        self.expressions.report.add("V403", f"state `{item.name.text}` {what}", item.next.span)

    # ---- gaps -------------------------------------------------------------------------------------------------------

    def _mode(self, mode: ir.Mode) -> None:
        """L507: a value that is past both thresholds, or at both, flips the mode to and fro."""
        if not without_gap(mode.when, mode.until):
            return
        text = f"mode `{mode.name}` has no gap between the value that turns it on and the one that turns it off"
        source = self.expressions.report.source
        side = f"`{' '.join(source.slice(mode.when.span).split())}`"
        helps = f"end it some way off {side}, so that it does not flip to and fro"
        self.expressions.report.add("L507", text, mode.until.span, helps)

    def resizes(self, resizes: Sequence[ir.Resize]) -> None:
        """L507: a pool that may be told to grow and to shrink by one and the same value."""
        for number, one in enumerate(resizes):
            for other in resizes[:number]:
                if one.pool == other.pool and one.by * other.by < 0 and without_gap(one.when, other.when):
                    text = f"pool `{one.pool}` is told to grow and to shrink by values without a gap between them"
                    helps = f"line {other.clause.line} has the other direction; leave some distance between the two"
                    self.expressions.report.add("L507", text, one.when.span, helps)


def without_gap(one: ir.Expr, other: ir.Expr) -> bool:
    """Whether two conditions on the same values can hold at once, or touch. False when that cannot be told."""
    first, second = _bounds(one), _bounds(other)
    if first is None or second is None or not (first.keys() <= second.keys() or second.keys() <= first.keys()):
        return False
    shared = first.keys() & second.keys()
    return bool(shared) and all(intervals.common(first[term], second[term]) is not None for term in shared)


def _bounds(condition: ir.Expr) -> dict[ir.Expr, Interval] | None:
    """The closed interval of each value that a condition compares with constants; None when it does anything else."""
    match condition:
        case ir.BoolOp(conjunction=True, operands=operands):
            found: dict[ir.Expr, Interval] = {}
            for operand in operands:
                inner = _bounds(operand)
                if inner is None:
                    return None
                for term, bounds in inner.items():
                    both = intervals.common(found.get(term, intervals.NUMBER), bounds)
                    if both is None:
                        return None
                    found[term] = both
            return found
        case ir.Unary(op=ir.UnaryOp.NOT, operand=ir.Compare() as inner_comparison):
            return _comparison(inner_comparison, _NEGATED.get(inner_comparison.op.value))
        case ir.Compare():
            return _comparison(condition, condition.op.value)
    return None


def _comparison(node: ir.Compare, op: str | None) -> dict[ir.Expr, Interval] | None:
    term, bound = node.left, node.right
    if isinstance(term, ir.Const):
        term, bound, op = bound, term, _OTHER_SIDE.get(op or "")
    if op is None or not isinstance(bound, ir.Const) or isinstance(bound.value, str):
        return None
    value = float(bound.value)
    match op:
        case "<" | "<=":
            return {term: Interval(-inf, value)}
        case ">" | ">=":
            return {term: Interval(value, inf)}
        case "==":
            return {term: intervals.at(value)}
    return None
