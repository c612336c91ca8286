"""Interval arithmetic over expressions as they are written: between which values one can lie, in base units.

Sound for what a tick computes in IEEE doubles: rounding is monotone, so an end computed from ends is an end. A value
may also be undefined (NaN: infinity less infinity, 0 times infinity, 0 / 0); `undefined` says that it can be, and a
comparison with it is false. Conditions are numbers: 0 false, 1 true. Instants are relative to the clock, which is 0.
Knows no schedule: what a name or function ranges over comes from the schema and from what the policy declares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, isinf, isnan, nextafter
from typing import NamedTuple, assert_never

from gfdit.lang import nodes
from gfdit.lang.units import base_value

ROUNDING = 1e-9  # relative error of a mean over many requests, with room


class Interval(NamedTuple):
    """All values from `low` to `high`, both included, and NaN if `undefined`."""

    low: float
    high: float
    undefined: bool = False

    @property
    def has_zero(self) -> bool:
        return self.low <= 0.0 <= self.high

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return self != ANYTHING

    def holds(self, value: float) -> bool:
        """Whether `value` lies in it."""
        return self.undefined if isnan(value) else self.low <= value <= self.high

    def within(self, other: Interval) -> bool:
        """Whether every value of it lies in `other`."""
        return other.low <= self.low and self.high <= other.high and (other.undefined or not self.undefined)


ANYTHING = Interval(-inf, inf, True)
NUMBER = Interval(-inf, inf)
TRUE, FALSE, EITHER = Interval(1.0, 1.0), Interval(0.0, 0.0), Interval(0.0, 1.0)


def at(value: float) -> Interval:
    """One value."""
    return ANYTHING if isnan(value) else Interval(value, value)


def hull(a: Interval, b: Interval) -> Interval:
    """The smallest interval with both."""
    return Interval(min(a.low, b.low), max(a.high, b.high), a.undefined or b.undefined)


def common(a: Interval, b: Interval) -> Interval | None:
    """The values of both; None when there is none."""
    low, high, undefined = max(a.low, b.low), min(a.high, b.high), a.undefined and b.undefined
    return Interval(low, high, undefined) if low <= high else None


def add(a: Interval, b: Interval) -> Interval:
    low, high = a.low + b.low, a.high + b.high
    opposed = (a.low == -inf and b.high == inf) or (a.high == inf and b.low == -inf)
    return Interval(-inf if isnan(low) else low, inf if isnan(high) else high, a.undefined or b.undefined or opposed)


def negated(a: Interval) -> Interval:
    return Interval(-a.high, -a.low, a.undefined)


def multiply(a: Interval, b: Interval) -> Interval:
    corners = [0.0 if 0.0 in (x, y) else x * y for x in a[:2] for y in b[:2]]
    vague = (a.has_zero and _endless(b)) or (b.has_zero and _endless(a))
    return Interval(min(corners), max(corners), a.undefined or b.undefined or vague)


def divide(a: Interval, b: Interval) -> Interval:
    """By a divisor that can be zero: anything, for zero has a sign."""
    undefined = a.undefined or b.undefined or (a.has_zero and b.has_zero) or (_endless(a) and _endless(b))
    if b.has_zero:
        return Interval(-inf, inf, undefined)
    corners = [x / y for x in a[:2] for y in b[:2] if not (isinf(x) and isinf(y))]
    return Interval(min(corners), max(corners), undefined) if corners else ANYTHING


def _endless(a: Interval) -> bool:
    return isinf(a.low) or isinf(a.high)


def distance(a: Interval) -> Interval:
    """`abs`."""
    low = 0.0 if a.has_zero else min(abs(a.low), abs(a.high))
    return Interval(low, max(abs(a.low), abs(a.high)), a.undefined)


def largest(parts: Iterable[Interval]) -> Interval:
    lows, highs, undefined = zip(*parts, strict=True)
    return Interval(max(lows), max(highs), any(undefined))


def smallest(parts: Iterable[Interval]) -> Interval:
    lows, highs, undefined = zip(*parts, strict=True)
    return Interval(min(lows), min(highs), any(undefined))


def widened(a: Interval) -> Interval:
    """With room for the rounding of a mean."""
    low = a.low if isinf(a.low) else nextafter(a.low - ROUNDING * abs(a.low), -inf)
    high = a.high if isinf(a.high) else nextafter(a.high + ROUNDING * abs(a.high), inf)
    return Interval(low, high, a.undefined)


def truth(holds: bool, fails: bool) -> Interval:
    """A condition that surely `holds`, surely `fails`, or neither."""
    return TRUE if holds else FALSE if fails else EITHER


def compared(op: str, a: Interval, b: Interval) -> Interval:
    """Whether `a op b`."""
    defined = not (a.undefined or b.undefined)
    match op:
        case "<":
            return truth(a.high < b.low and defined, a.low >= b.high)
        case "<=":
            return truth(a.high <= b.low and defined, a.low > b.high)
        case ">" | ">=":
            return compared("<" if op == ">" else "<=", b, a)
        case "==":
            return truth(a.low == a.high == b.low == b.high and defined, common(a, b) is None)
        case _:
            same = compared("==", a, b)
            return Interval(1.0 - same.high, 1.0 - same.low)


def both(parts: Iterable[Interval]) -> Interval:
    """`and`."""
    return smallest(parts)


def either(parts: Iterable[Interval]) -> Interval:
    """`or`."""
    return largest(parts)


Narrow = Callable[[nodes.Expr, Interval], Interval]
"""What else is known of an expression at one place: its interval there, given the one it has everywhere."""


class Ranges:
    """What every name and function ranges over; `of` an expression follows.

    `built_in`: by name, functions with `()` behind it. `declared`: params, states and lets of the policy. Whatever is
    in neither can be anything.
    """

    def __init__(self, built_in: Mapping[str, Interval], declared: Mapping[str, Interval]) -> None:
        self.built_in = built_in
        self.declared = dict(declared)

    def of(self, node: nodes.Expr, narrow: Narrow | None = None) -> Interval:
        """The interval of an expression; `narrow` adds what is known at its place."""
        found = self._of(node, narrow)
        return found if narrow is None else narrow(node, found)

    def _of(self, node: nodes.Expr, narrow: Narrow | None) -> Interval:
        match node:
            case nodes.Number():
                return at(base_value(node))
            case nodes.Truth():
                return TRUE if node.value else FALSE
            case nodes.Name():
                return self.declared.get(node.name) or self.built_in.get(node.name, ANYTHING)
            case nodes.Text() | nodes.Field():
                return ANYTHING
            case nodes.Unary(op="not"):
                inner = _condition(self.of(node.operand, narrow))
                return Interval(1.0 - inner.high, 1.0 - inner.low)
            case nodes.Unary():
                return negated(self.of(node.operand, narrow))
            case nodes.Binary():
                return self._binary(node, narrow)
            case nodes.Compare():
                return compared(node.op, self.of(node.left, narrow), self.of(node.right, narrow))
            case nodes.Member():
                return self._member(node, narrow)
            case nodes.BoolOp():
                parts = [_condition(self.of(operand, narrow)) for operand in node.operands]
                return both(parts) if node.op == "and" else either(parts)
            case nodes.If():
                return self._if(node, narrow)
            case nodes.Call():
                return self._call(node, narrow)
        assert_never(node)

    def _binary(self, node: nodes.Binary, narrow: Narrow | None) -> Interval:
        left, right = self.of(node.left, narrow), self.of(node.right, narrow)
        match node.op:
            case "+":
                return add(left, right)
            case "-":
                return add(left, negated(right))
            case "*":
                return multiply(left, right)
            case _:
                return divide(left, right)

    def _member(self, node: nodes.Member, narrow: Narrow | None) -> Interval:
        value = self.of(node.value, narrow)
        found = either(compared("==", value, self.of(item, narrow)) for item in node.items)
        return Interval(1.0 - found.high, 1.0 - found.low) if node.negated else found

    def _if(self, node: nodes.If, narrow: Narrow | None) -> Interval:
        condition = self.of(node.condition, narrow)
        if condition == TRUE:
            return self.of(node.then, narrow)
        if condition == FALSE:
            return self.of(node.other, narrow)
        return hull(self.of(node.then, narrow), self.of(node.other, narrow))

    def _call(self, node: nodes.Call, narrow: Narrow | None) -> Interval:
        name = node.function.text
        if node.where is not None or name in ("count", "sum", "mean"):
            return self._aggregate(node)
        args = [self.of(arg, narrow) for arg in node.args]
        match name:
            case "max" if args:
                return largest(args)
            case "min" if args:
                return smallest(args)
            case "clamp" if len(args) == 3:
                return smallest((largest(args[:2]), args[2]))
            case "abs" if len(args) == 1:
                return distance(args[0])
            case "ewma" if args:
                return widened(args[0]._replace(undefined=args[0].undefined or _endless(args[0])))
            case _:
                return self.built_in.get(f"{name}()", ANYTHING)

    def _aggregate(self, node: nodes.Call) -> Interval:
        """Over other requests, so that nothing known here narrows it. Over nobody: 0, or beyond every value."""
        name = node.function.text
        if name == "count" or not node.args:
            return Interval(0.0, inf)
        value = self.of(node.args[0])
        match name:
            case "sum":
                opposed = value.low == -inf and value.high == inf
                low, high = (-inf if value.low < 0 else 0.0), (inf if value.high > 0 else 0.0)
                return Interval(low, high, value.undefined or opposed)
            case "mean":
                opposed = value.low == -inf and value.high == inf
                return widened(hull(at(0.0), value))._replace(undefined=value.undefined or opposed)
            case "max":
                return Interval(-inf, value.high, value.undefined)
            case _:
                return Interval(value.low, inf, value.undefined)


def _condition(value: Interval) -> Interval:
    """A condition of unknown value, or what is no condition, is true or false."""
    return (common(value, EITHER) or EITHER) if value.known else EITHER
