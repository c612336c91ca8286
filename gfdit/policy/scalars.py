"""Expressions of a checked program for one request at a time, in plain floats: a few microseconds where columns of one
row would take a hundred.

The values are those of `compile.py` bit for bit: the same operations in the same order on the same doubles. What is
beyond one request (aggregates, pools, what is carried from tick to tick) is not compiled: `Unsupported`.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar, assert_never

from gfdit.core.glance import Glance
from gfdit.core.trajectory import Trajectory
from gfdit.lang.program import (
    Aggregate,
    Binary,
    BinaryOp,
    BoolOp,
    Call,
    Compare,
    Const,
    Expr,
    If,
    Let,
    LetRef,
    Member,
    Name,
    OrderKey,
    Unary,
    UnaryOp,
)
from gfdit.lang.schema import Level
from gfdit.lang.types import Kind
from gfdit.policy.columns import SYMBOLS, ClassTable
from gfdit.policy.compile import COMPARE
from gfdit.units import NS_PER_S, to_s

C = TypeVar("C")  # what the values are read from
ScalarFn = Callable[[C, int, int], Any]
"""A value for one request; the columns of the degree under test and of `next`, where those are read."""
Scalar = ScalarFn[Glance]

INF = math.inf


class Unsupported(Exception):
    """The expression is about more than one request."""


class Unsure(Exception):
    """The value depends on what a glance does not show."""


def present_degree(t: Trajectory) -> int:
    """The ranks that it has now."""
    return len(t.group)


def _row(glance: Glance) -> Trajectory:
    if glance.row is None:
        raise Unsure
    return glance.row


def _of(read: Callable[[Trajectory], Any]) -> Scalar:
    return lambda glance, here, wider: read(_row(glance))


def deadline_s(t: Trajectory) -> float:
    return INF if t.deadline_ns is None else to_s(t.deadline_ns)


def arrival_s(t: Trajectory) -> float:
    return to_s(t.request.arrival_ns)


def _slo_s(t: Trajectory) -> float:
    return INF if t.deadline_ns is None else to_s(t.deadline_ns - t.request.arrival_ns)


FIXED: dict[str, Callable[[Trajectory], float]] = {
    "priority": lambda t: float(t.request.priority),
    "slo": _slo_s,
    "tokens": lambda t: float(t.request.tokens),
    "text_tokens": lambda t: float(t.request.text_tokens),
    "pixels": lambda t: float(t.request.pixels),
    "width": lambda t: float(t.request.width),
    "height": lambda t: float(t.request.height),
    "frames": lambda t: float(t.request.frames),
    "steps_total": lambda t: float(t.steps_total),
    "alone": lambda t: t.cost.alone_s,
}
"""Attributes that do not change once a request is admitted."""

RELATIVE: dict[str, Callable[[Trajectory], float]] = {"deadline": deadline_s, "arrival": arrival_s}
"""Instants: fixed, and read relative to the tick."""


def _deadline(glance: Glance, here: int, wider: int) -> float:
    if glance.row is None:
        raise Unsure
    at = glance.row.deadline_ns
    return INF if at is None else at / NS_PER_S - glance.now_s


_LIVE: dict[str, Scalar] = {
    "deadline": _deadline,
    "arrival": lambda glance, here, wider: arrival_s(_row(glance)) - glance.now_s,
    "age": lambda glance, here, wider: -(arrival_s(_row(glance)) - glance.now_s),
    "late": lambda glance, here, wider: deadline_s(_row(glance)) - glance.now_s < 0,
    "lateness": lambda glance, here, wider: -(deadline_s(_row(glance)) - glance.now_s),
    "steps_done": _of(lambda t: float(t.steps_done)),
    "steps_left": _of(lambda t: float(t.steps_total) - float(t.steps_done)),
    "preemptions": _of(lambda t: float(t.preemptions)),
    "sp_best": lambda glance, here, wider: float(glance.degrees[_best(glance)]),
    "now": lambda glance, here, wider: 0.0,
    "gpus": lambda glance, here, wider: float(glance.gpus),
    "free": lambda glance, here, wider: float(glance.free),
}

_SYMBOLS: dict[str, Callable[[Trajectory], str]] = {
    "stage": lambda t: str(t.stage),
    "tag": lambda t: t.request.tag or t.request.class_name,
    "model": lambda t: t.request.model,
    "tenant": lambda t: t.request.tenant,
}


def divide(a: float, b: float) -> float:
    if b:
        return a / b
    if not a or a != a:
        return math.nan
    return math.copysign(INF, a) * math.copysign(1.0, b)


def _larger(a: float, b: float) -> float:
    return a if a >= b or a != a else b


def _smaller(a: float, b: float) -> float:
    return a if a <= b or a != a else b


_BINARY: dict[BinaryOp, Callable[[Any, Any], Any]] = {
    BinaryOp.ADD: operator.add,
    BinaryOp.SUB: operator.sub,
    BinaryOp.MUL: operator.mul,
    BinaryOp.DIV: divide,
}


def _best(glance: Glance) -> int:
    steps = glance.step_s
    return min(range(len(steps)), key=steps.__getitem__)


def _gain(glance: Glance, column: int) -> float:
    """Remaining at the best narrower degree over remaining at this one."""
    narrower = INF
    for value in glance.remaining_s[:column]:
        narrower = _smaller(narrower, value)
    return divide(narrower, glance.remaining_s[column])


def _remaining(glance: Glance, column: int) -> float:
    return glance.remaining_s[column]


_TABLES: dict[str, tuple[Callable[[Glance, int], float], float]] = {
    "step_time": (lambda glance, column: glance.step_s[column], INF),
    "remaining": (_remaining, INF),
    "finish": (_remaining, INF),
    "slack": (lambda glance, column: deadline_s(_row(glance)) - glance.now_s - glance.remaining_s[column], -INF),
    "gain": (_gain, 0.0),
}
"""Of a function, its value at a column, and what it is at a degree that is not offered."""


def _two(op: Callable[[Any, Any], Any], a: ScalarFn[C], b: ScalarFn[C]) -> ScalarFn[C]:
    return lambda of, here, wider: op(a(of, here, wider), b(of, here, wider))


def _folded(op: Callable[[Any, Any], Any], parts: list[ScalarFn[C]]) -> ScalarFn[C]:
    fn = parts[0]
    for part in parts[1:]:
        fn = _two(op, fn, part)
    return fn


def _joined(conjunction: bool, parts: list[ScalarFn[C]]) -> ScalarFn[C]:
    if conjunction:
        return lambda of, here, wider: all(part(of, here, wider) for part in parts)
    return lambda of, here, wider: any(part(of, here, wider) for part in parts)


class Scalars(ABC, Generic[C]):
    """Compiles the expressions of one program for one request at a time. Where values are read, subclasses say."""

    def __init__(self, lets: tuple[Let, ...]) -> None:
        self._lets = {let.name: let.value for let in lets}

    def expr(self, expr: Expr) -> ScalarFn[C]:
        """Raises Unsupported."""
        match expr:
            case Const(value=value):
                return lambda of, here, wider: value
            case Name():
                return self._name(expr)
            case LetRef(name=name):
                return self.expr(self._lets[name]) if name in self._lets else self._carried(expr)
            case Unary(op=op, operand=operand):
                fn = self.expr(operand)
                if op is UnaryOp.NEG:
                    return lambda of, here, wider: -fn(of, here, wider)
                return lambda of, here, wider: not fn(of, here, wider)
            case Binary(op=op):
                return self._pair(_BINARY[op], expr.left, expr.right)
            case Compare(op=compared):
                return self._pair(COMPARE[compared], expr.left, expr.right)
            case Member():
                return self._member(expr)
            case BoolOp(conjunction=conjunction, operands=operands):
                return _joined(conjunction, [self.expr(operand) for operand in operands])
            case If():
                test, then, other = (self.expr(part) for part in (expr.condition, expr.then, expr.other))
                return lambda of, here, wider: (then if test(of, here, wider) else other)(of, here, wider)
            case Call():
                return self._call(expr)
            case Aggregate():
                raise Unsupported(expr.kind.value)
            case _:
                assert_never(expr)

    def _pair(self, op: Callable[[Any, Any], Any], left: Expr, right: Expr) -> ScalarFn[C]:
        a = self.expr(left)
        if isinstance(right, Const):
            constant = right.value
            return lambda of, here, wider: op(a(of, here, wider), constant)
        return _two(op, a, self.expr(right))

    def key(self, key: OrderKey) -> ScalarFn[C]:
        """A sort key, smaller first."""
        fn = self.expr(key.value)
        sign = -1.0 if key.descending else 1.0
        return lambda of, here, wider: sign * float(fn(of, here, wider))

    def _member(self, expr: Member) -> ScalarFn[C]:
        fn, negated = self.expr(expr.value), expr.negated
        text = isinstance(expr.value, Name) and expr.value.type.kind in (Kind.ENUM, Kind.STR)
        items = [str(item.value) if text else item.value for item in expr.items]
        return lambda of, here, wider: any(fn(of, here, wider) == item for item in items) != negated

    def _call(self, expr: Call) -> ScalarFn[C]:
        match expr.function:
            case "max":
                return _folded(_larger, [self.expr(arg) for arg in expr.args])
            case "min":
                return _folded(_smaller, [self.expr(arg) for arg in expr.args])
            case "clamp":
                x, low, high = (self.expr(arg) for arg in expr.args)
                return _two(_smaller, _two(_larger, x, low), high)
            case "abs":
                fn = self.expr(expr.args[0])
                return lambda of, here, wider: abs(fn(of, here, wider))
            case _:
                return self._function(expr)

    def _carried(self, expr: LetRef) -> ScalarFn[C]:
        """A mode or a state."""
        raise Unsupported(expr.name)

    @abstractmethod
    def _name(self, expr: Name) -> ScalarFn[C]:
        """An attribute of what is asked about."""

    @abstractmethod
    def _function(self, expr: Call) -> ScalarFn[C]:
        """A function that is not the same for all kinds of things asked about."""


class ScalarCompiler(Scalars[Glance]):
    """For the row of a glance. `fixed_only`: for values that must not change while a request waits."""

    def __init__(self, lets: tuple[Let, ...], classes: ClassTable, aging: bool, *, fixed_only: bool = False) -> None:
        super().__init__(lets)
        self._classes = classes
        self._aging = aging
        self._fixed_only = fixed_only

    def _name(self, expr: Name) -> Scalar:
        name = expr.name
        if name in SYMBOLS:
            return self._symbol(name)
        if name in FIXED:
            return _of(FIXED[name])
        if name in ("rank", "weight", "miss") or (name == "tier" and not self._aging):
            values = {"rank": "rank", "tier": "rank", "weight": "weight", "miss": "miss"}
            column = [float(value) for value in getattr(self._classes, values[name])]
            return lambda glance, here, wider: column[self._class_index(_row(glance))]
        if self._fixed_only:
            raise Unsupported(name)
        if name == "sp" and expr.level is Level.REQUEST:
            return _of(present_degree)
        if name == "sp":
            return lambda glance, here, wider: float(glance.degrees[here])
        if name == "next":
            return lambda glance, here, wider: float(glance.degrees[wider])
        if name not in _LIVE:
            raise Unsupported(name)
        return _LIVE[name]

    def _class_index(self, t: Trajectory) -> int:
        """As `ClassTable.of_admitted`; a class that another policy gave would have to be judged anew."""
        if not self._classes.rules:
            return 0
        try:
            return self._classes.names.index(t.class_name)
        except ValueError:
            raise Unsure from None

    def _symbol(self, name: str) -> Scalar:
        if name == "class":
            names = self._classes.names
            if not names:
                return _of(lambda t: t.class_name)
            return lambda glance, here, wider: names[self._class_index(_row(glance))]
        if name not in _SYMBOLS or (self._fixed_only and name == "stage"):
            raise Unsupported(name)
        return _of(_SYMBOLS[name])

    def _function(self, expr: Call) -> Scalar:
        match expr.function:
            case "queued" | "longest_wait":
                return _when_nobody_waits
            case function if function in _TABLES and not self._fixed_only:
                return _per_degree(function, expr.args[0])
            case _:
                raise Unsupported(expr.function)


def _when_nobody_waits(glance: Glance, here: int, wider: int) -> float:
    if glance.waiting:
        raise Unsure
    return 0.0


def _per_degree(function: str, arg: Expr) -> Scalar:
    """As `Compiler._per_degree`: one table, by what its argument is."""
    value, missing = _TABLES[function]

    def at(glance: Glance, degree: float) -> float:
        return value(glance, glance.degrees.index(int(degree))) if degree in glance.degrees else missing

    match arg:
        case Name(name="sp", level=Level.DEGREE) if value is _remaining:
            return lambda glance, here, wider: glance.remaining_s[here]
        case Name(name="next") if value is _remaining:
            return lambda glance, here, wider: glance.remaining_s[wider]
        case Name(name="next") if function == "gain":
            return lambda glance, here, wider: divide(glance.remaining_s[here], glance.remaining_s[wider])
        case Name(name="next"):
            return lambda glance, here, wider: value(glance, wider)
        case Name(name="sp", level=Level.DEGREE):
            return lambda glance, here, wider: value(glance, here)
        case Name(name="sp_best"):
            return lambda glance, here, wider: value(glance, _best(glance))
        case Name(name="sp"):
            return lambda glance, here, wider: at(glance, present_degree(_row(glance)))
        case Const(value=degree):
            return lambda glance, here, wider: at(glance, float(degree))
        case _:
            raise Unsupported(function)
