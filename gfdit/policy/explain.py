"""Expressions and values as people read them, for the reasons that decisions carry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

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
from gfdit.lang.types import GPU, PLAIN, SECOND, Kind, Type, dim_text
from gfdit.policy.columns import Fn, Frame
from gfdit.policy.compile import COMPARE, Compiler
from gfdit.units import human_s

MOST_VALUES = 4


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
        return "none" if math.isnan(value) else "never" if value > 0 else "-unbounded"
    if kind.kind is Kind.INSTANT:
        return f"{'' if value < 0 else '+'}{human_s(value)}"
    if kind.kind is not Kind.NUM:
        return str(value)
    if kind.dim == SECOND:
        return human_s(value)
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
        self._expr, self._watch = expr, compiler.watch
        self._joined: BoolOp | None = expr if isinstance(expr, BoolOp) else None
        operands = expr.operands if isinstance(expr, BoolOp) else (expr,)
        self._tests: list[Fn | tuple[Any, Side, Side]] = []
        for operand in operands:
            if isinstance(operand, Compare) and operand.left.type.kind in (Kind.NUM, Kind.INSTANT):
                sides = [Side(show(e), e.type, e.level, compiler.expr(e, level)) for e in (operand.left, operand.right)]
                self._tests.append((COMPARE[operand.op], sides[0], sides[1]))
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
            self._watch(self._expr, truth)
        return truth, compared


def quote(
    compared: Compared, at: tuple[int, ...], degree: int | None = None, wider: int | None = None
) -> tuple[tuple[str, str], ...]:
    """The compared values at one index of the columns, constants left out; `sp` and `next` replaced by degrees."""
    found: list[tuple[str, str]] = []
    for side, values in compared:
        if side.level is Level.CONST or len(found) == MOST_VALUES:
            continue
        text = side.text
        if wider is not None:
            text = text.replace("(next)", f"({wider})")
        if degree is not None:
            text = text.replace("(sp)", f"({degree})")
        found.append((text, render(side.type, pick(values, at))))
    return tuple(found)


def pick(values: Any, at: tuple[int, ...]) -> Any:
    """One element of a value that broadcasts over the shape that `at` indexes."""
    shape = np.shape(values)
    if not shape:
        return values.item() if isinstance(values, np.generic) else values
    return values[tuple(0 if size == 1 else index for index, size in zip(at, shape, strict=True))].item()
