"""Symbolic values of the Python form: operators build syntax instead of computing.

`r.finish(sp) <= r.deadline` is a `Compare` node. A symbolic value has no truth, length or items: code that asks for one
would run once, at load, and not once a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from gfdit.errors import PolicyError
from gfdit.lang import nodes

Plain = bool | int | float | str
Declaration = nodes.Param | nodes.Let | nodes.Mode | nodes.State


class Symbol:
    """An expression of the policy language under construction."""

    __slots__ = ("declares", "node")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, node: nodes.Expr, declares: Declaration | None = None) -> None:
        """`declares`: the item of the policy that gives this name its meaning."""
        self.node = node
        self.declares = declares

    def __call__(self, *args: Operand) -> Symbol:
        """`r.finish(sp)`: only a name can be called."""
        if not isinstance(self.node, nodes.Name):
            raise PolicyError("only functions of the language can be called")
        return call(self.node.name, *args)

    def __bool__(self) -> NoReturn:
        raise PolicyError(
            "a symbolic value has no truth while the policy is traced: `if`, `and`, `or`, `not` and chained "
            "comparisons run once, not once a request",
            hint="use `where(condition, a, b)`, `&`, `|` and `~`",
        )

    def __iter__(self) -> NoReturn:
        raise PolicyError("a symbolic value cannot be looped over: the policy language has no loops")

    def __add__(self, other: Operand) -> Symbol:
        return _binary("+", self, other)

    def __radd__(self, other: Operand) -> Symbol:
        return _binary("+", other, self)

    def __sub__(self, other: Operand) -> Symbol:
        return _binary("-", self, other)

    def __rsub__(self, other: Operand) -> Symbol:
        return _binary("-", other, self)

    def __mul__(self, other: Operand) -> Symbol:
        return _binary("*", self, other)

    def __rmul__(self, other: Operand) -> Symbol:
        return _binary("*", other, self)

    def __truediv__(self, other: Operand) -> Symbol:
        return _binary("/", self, other)

    def __rtruediv__(self, other: Operand) -> Symbol:
        return _binary("/", other, self)

    def __neg__(self) -> Symbol:
        return Symbol(nodes.Unary("-", self.node))

    def __invert__(self) -> Symbol:
        return Symbol(nodes.Unary("not", self.node))

    def __and__(self, other: Operand) -> Symbol:
        return _joined("and", self, other)

    def __or__(self, other: Operand) -> Symbol:
        return _joined("or", self, other)

    def __lt__(self, other: Operand) -> Symbol:
        return _compare("<", self, other)

    def __le__(self, other: Operand) -> Symbol:
        return _compare("<=", self, other)

    def __gt__(self, other: Operand) -> Symbol:
        return _compare(">", self, other)

    def __ge__(self, other: Operand) -> Symbol:
        return _compare(">=", self, other)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return _compare("==", self, _operand(other))

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return _compare("!=", self, _operand(other))

    def isin(self, *items: Operand) -> Symbol:
        """`value in {a, b}`."""
        return Symbol(nodes.Member(self.node, tuple(to_node(item) for item in items)))

    def not_in(self, *items: Operand) -> Symbol:
        """`value not in {a, b}`."""
        return Symbol(nodes.Member(self.node, tuple(to_node(item) for item in items), negated=True))


Operand = Symbol | Plain


class Unit:
    """A unit: `5 * ms` is a quantity, `(1, 2, 4) * gpu` a set of degrees."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __rmul__(self, amount: int | float | tuple[int, ...]) -> Symbol | Degrees:
        if isinstance(amount, tuple):
            return Degrees(amount)
        return Symbol(_number(amount, self.name))


class Degrees:
    """GPU counts that a stage may choose from."""

    def __init__(self, counts: tuple[int, ...]) -> None:
        self.counts = counts


class Row:
    """The request at hand: every attribute is a name of the language, every method a function."""

    def __getattr__(self, name: str) -> Symbol:
        if name.startswith("__"):
            raise AttributeError(name)
        return Symbol(nodes.Name(name))


def call(function: str, *args: Operand, where: Operand | None = None) -> Symbol:
    """A function of the language."""
    condition = None if where is None else to_node(where)
    return Symbol(nodes.Call(nodes.Ident(function), tuple(to_node(arg) for arg in args), condition))


def where(condition: Operand, then: Operand, other: Operand) -> Symbol:
    """`if condition then a else b`, decided for each request."""
    return Symbol(nodes.If(to_node(condition), to_node(then), to_node(other)))


def count(where: Operand | None = None) -> Symbol:
    """How many live requests satisfy a condition."""
    return call("count", where=where)


def name(text: str) -> Symbol:
    """Any name of the language: an attribute, a class, a model."""
    return Symbol(nodes.Name(text))


def const(value: Plain) -> Symbol:
    """A plain value that operators shall not compute with: `const(1) < x` keeps its sides, `const(1) + 2` its sum."""
    return Symbol(to_node(value))


def to_node(value: object) -> nodes.Expr:
    """The syntax of a value. Raises PolicyError for what the language has no word for."""
    if isinstance(value, Symbol):
        return value.node
    if isinstance(value, bool):
        return nodes.Truth(value)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        return nodes.Text(value)
    if isinstance(value, Unit):
        raise PolicyError(
            f"unit `{value.name}` has no number", hint="put the two together first, such as `x * (70 * percent)`"
        )
    raise PolicyError(
        f"`{value!r}` is not a value of the policy language", hint="use numbers with units, strings or names"
    )


def _number(amount: int | float, unit: str = "") -> nodes.Expr:
    if amount < 0:
        return nodes.Unary("-", _number(-amount, unit))
    return nodes.Number(f"{amount:d}" if isinstance(amount, int) else f"{amount!r}", unit)


def _operand(value: object) -> Operand:
    if isinstance(value, Symbol | bool | int | float | str):
        return value
    raise PolicyError(f"cannot compare a symbolic value with `{value!r}`")


def _binary(op: str, left: Operand, right: Operand) -> Symbol:
    return Symbol(nodes.Binary(op, to_node(left), to_node(right)))


def _compare(op: str, left: Operand, right: Operand) -> Symbol:
    return Symbol(nodes.Compare(op, to_node(left), to_node(right)))


def _joined(op: str, left: Operand, right: Operand) -> Symbol:
    """`a & b & c` is one node, as in the text form."""
    first = to_node(left)
    operands: Sequence[nodes.Expr] = first.operands if isinstance(first, nodes.BoolOp) and first.op == op else (first,)
    return Symbol(nodes.BoolOp(op, (*operands, to_node(right))))


us, ms, s, minutes, hours = Unit("us"), Unit("ms"), Unit("s"), Unit("min"), Unit("h")
gpu, tok, step, px, mpx, percent = Unit("gpu"), Unit("tok"), Unit("step"), Unit("px"), Unit("Mpx"), Unit("%")

arrival, deadline, priority, slo = name("arrival"), name("deadline"), name("priority"), name("slo")
tier, rank, weight, age, waited = name("tier"), name("rank"), name("weight"), name("age"), name("waited")
tag, tenant, model, alone = name("tag"), name("tenant"), name("model"), name("alone")
tokens, pixels, sp_best, gpu_time = name("tokens"), name("pixels"), name("sp_best"), name("gpu_time")
steps_total, steps_done, steps_left = name("steps_total"), name("steps_done"), name("steps_left")
now, gpus, free, load = name("now"), name("gpus"), name("free"), name("load")
