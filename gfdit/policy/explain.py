"""Expressions and values as people read them, for the reasons that decisions carry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from gfdit.core.proposal import Because
from gfdit.lang.program import (
    Aggregate,
    Binary,
    BoolOp,
    Call,
    Compare,
    Const,
    Expr,
    If,
    LetRef,
    Member,
    Name,
    Unary,
    UnaryOp,
)
from gfdit.lang.schema import Level
from gfdit.lang.types import BYTE, GPU, PLAIN, SECOND, Kind, Type, dim_text
from gfdit.policy.columns import Fn, Frame
from gfdit.policy.compile import COMPARE, Compiler
from gfdit.units import human_s

MOST_VALUES = 4
GIB = 2.0**30


def show(expr: Expr) -> str:
    """The expression as source text, without needless brackets."""
    match expr:
        case Const(value=value, type=kind):
            return value if isinstance(value, str) else render(kind, value)
        case Name(name=name) | LetRef(name=name):
            return name
        case Unary(op=op, operand=operand):
            return f"-{show(operand)}" if op is UnaryOp.NEG else f"not {show(operand)}"
        case Binary(op=op, left=left, right=right) | Compare(op=op, left=left, right=right):
            return f"{_part(left)} {op.value} {_part(right)}"
        case Member(value=value, items=items, negated=negated):
            return f"{_part(value)} {'not in' if negated else 'in'} {{{', '.join(show(item) for item in items)}}}"
        case BoolOp(conjunction=conjunction, operands=operands):
            return (" and " if conjunction else " or ").join(_part(operand) for operand in operands)
        case If(condition=condition, then=then, other=other):
            return f"if {show(condition)} then {show(then)} else {show(other)}"
        case Call(function=function, args=args):
            return f"{function}({', '.join(show(arg) for arg in args)})"
        case Aggregate(kind=kind, value=value, where=where):
            parts = [show(value)] if value is not None else []
            parts += [f"where {show(where)}"] if where is not None else []
            return f"{kind.value}({' '.join(parts)})"
        case _:
            assert_never(expr)


def _part(expr: Expr) -> str:
    return f"({show(expr)})" if isinstance(expr, Binary | BoolOp | If) else show(expr)


def render(kind: Type, value: float | bool) -> str:
    """A value with its unit: `3.00 s`, `4 gpu`, `1.15`; an instant counts from now, as `+3.00 s`."""
    if kind.kind is Kind.BOOL:
        return "true" if value else "false"
    if isinstance(value, float | int) and not math.isfinite(value):
        if kind.kind is Kind.NUM and kind.dim == BYTE:
            return "unknown"
        return "none" if math.isnan(value) else "never" if value > 0 else "-unbounded"
    if kind.kind is Kind.INSTANT:
        return f"{'' if value < 0 else '+'}{human_s(value)}"
    if kind.kind is not Kind.NUM:
        return str(value)
    if kind.dim == SECOND:
        return human_s(value)
    if kind.dim == BYTE:
        return f"{value / GIB:.4g} GiB"
    if kind.dim == PLAIN:
        return f"{value:.4g}"
    return f"{value:.0f} gpu" if kind.dim == GPU else f"{value:.4g} {dim_text(kind.dim)}"


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: its text (with `sp` and `next` still in it), type, level and code."""

    text: str
    type: Type
    level: Level
    fn: Fn


@dataclass(frozen=True, slots=True)
class Ranked:
    """A request in plan order: the values of the order's keys, and whether triage set it aside."""

    row: int
    keys: tuple[tuple[str, str], ...]
    aside: bool


Compared = list[tuple[Side, Any]]
"""What a condition compared, side by side, as it was computed."""


class Condition:
    """A condition that remembers what it compared, so that the decision can quote it.

    The sides of a comparison, or of those joined by `and` and `or`, are kept as they were computed.
    """

    def __init__(self, compiler: Compiler, expr: Expr, level: Level) -> None:
        self.level = level
        self.expr, self._watch = expr, compiler.watch
        self._joined: BoolOp | None = expr if isinstance(expr, BoolOp) else None
        operands = expr.operands if isinstance(expr, BoolOp) else (expr,)
        self._tests: list[Fn | tuple[Any, Side, Side]] = []
        self.sides: list[tuple[Side, Expr]] = []  # what is compared
        for operand in operands:
            if isinstance(operand, Compare) and operand.left.type.kind in (Kind.NUM, Kind.INSTANT):
                sides = [Side(show(e), e.type, e.level, compiler.expr(e, level)) for e in (operand.left, operand.right)]
                self._tests.append((COMPARE[operand.op], sides[0], sides[1]))
                self.sides += zip(sides, (operand.left, operand.right), strict=True)
            else:
                self._tests.append(compiler.expr(operand, level))

    def evaluate(self, frame: Frame) -> tuple[Any, Compared]:
        """The truth, and the compared values; both in the shape of the level or broadcastable to it."""
        truth: Any = None
        compared: Compared = []
        for test in self._tests:
            if isinstance(test, tuple):
                op, left, right = test
                a, b = left.fn(frame), right.fn(frame)
                one = op(a, b)
                compared += ((left, a), (right, b))
            else:
                one = test(frame)
            if truth is None:
                truth = one
            elif self._joined is not None and self._joined.conjunction:
                truth = np.logical_and(truth, one)
            else:
                truth = np.logical_or(truth, one)
        if self._watch is not None:
            self._watch(self.expr, truth)
        return truth, compared


Values = tuple[tuple[str, str], ...]
"""Up to four compared values as a decision quotes them: what, and how much."""


class Quoting(Because):
    """A reason whose values are written out when somebody reads them. Equal to the `Because` that it stands for."""

    __slots__ = ("_write",)

    def __init__(self, clause: str, line: int = 0, values: Values | Callable[[], Values] = ()) -> None:
        object.__setattr__(self, "clause", clause)
        object.__setattr__(self, "line", line)
        object.__setattr__(self, "_write" if callable(values) else "values", values)

    def __getattr__(self, name: str) -> Values:
        """Called for a slot that is still empty, which `values` is until it is first read."""
        if name != "values":
            raise AttributeError(name)
        values: Values = object.__getattribute__(self, "_write")()
        object.__setattr__(self, "values", values)  # `_write` stays: another thread may be about to read it
        return values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Because):
            return NotImplemented
        return (self.clause, self.line, self.values) == (other.clause, other.line, other.values)

    def __hash__(self) -> int:
        return hash((self.clause, self.line, self.values))

    def __reduce__(self) -> tuple[type[Because], tuple[str, int, Values]]:
        return Because, (self.clause, self.line, self.values)


def quoting(
    clause: str,
    line: int,
    compared: Compared,
    at: tuple[int, ...],
    degree: int | None = None,
    wider: int | None = None,
) -> Because:
    """The reason of a decision, with the compared values at one index of the columns, constants left out; `sp` and
    `next` in their texts stand for degrees."""
    shown = [(side, pick(values, at)) for side, values in compared if side.level is not Level.CONST][:MOST_VALUES]
    if not shown:
        return Because(clause, line)

    def write() -> Values:
        return tuple((_with_degrees(side.text, degree, wider), render(side.type, value)) for side, value in shown)

    return Quoting(clause, line, write)


def _with_degrees(text: str, degree: int | None, wider: int | None) -> str:
    if wider is not None:
        text = text.replace("(next)", f"({wider})")
    return text if degree is None else text.replace("(sp)", f"({degree})")


def pick(values: Any, at: tuple[int, ...]) -> Any:
    """One element of a value that broadcasts over the shape that `at` indexes."""
    if not isinstance(values, np.ndarray) or not values.ndim:
        return values.item() if isinstance(values, np.generic | np.ndarray) else values
    return values.item(*[0 if size == 1 else index for index, size in zip(at, values.shape, strict=True)])
