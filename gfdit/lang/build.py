"""One function per production: the values of a reduced rule become a node at once.

Only the parser uses this module. `Kids` gives typed access to the values the grammar promises; a mismatch would be a
bug of the grammar, not of the user, and fails an assertion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast, get_args

from gfdit.lang import nodes as n
from gfdit.lang.frozen import Frozen
from gfdit.lang.source import Span

T = TypeVar("T")


class Token(Frozen):
    """A piece of text. `fresh`: the first token of its line; `first`: it also stands in the first column."""

    text: str
    span: Span
    fresh: bool = False
    first: bool = False


class _Names(Frozen):
    values: tuple[n.Ident, ...]


class _Keys(Frozen):
    values: tuple[n.Key, ...]


class _Chain(Frozen):
    values: tuple[n.Alternative, ...]


class _Arguments(Frozen):
    values: tuple[n.Expr, ...]
    where: n.Expr | None


class _Shed(Frozen):
    extreme: str
    key: n.Expr


class _Limit(Frozen):
    count: n.Expr
    per: n.Expr


class Kids:
    """The values of one production, in order; None stands for an omitted option."""

    def __init__(self, values: Sequence[object], span: Span) -> None:
        self.values = values
        self.span = span

    def __len__(self) -> int:
        return len(self.values)

    def of(self, index: int, kind: type[T]) -> T:
        value = self.values[index]
        assert isinstance(value, kind), (index, kind, value)
        return value

    def maybe(self, index: int, kind: type[T]) -> T | None:
        return None if self.values[index] is None else self.of(index, kind)

    def every(self, kind: type[T]) -> tuple[T, ...]:
        return tuple(value for value in self.values if isinstance(value, kind))

    def expr(self, index: int) -> n.Expr:
        assert isinstance(self.values[index], get_args(n.Expr)), self.values[index]
        return cast(n.Expr, self.values[index])

    def maybe_expr(self, index: int) -> n.Expr | None:
        return None if self.values[index] is None else self.expr(index)

    def exprs(self, first: int = 0) -> tuple[n.Expr, ...]:
        return tuple(self.expr(i) for i in range(first, len(self.values)) if self.values[i] is not None)

    def ident(self, index: int) -> n.Ident:
        token = self.of(index, Token)
        return n.Ident(token.text, token.span)

    def maybe_ident(self, index: int) -> n.Ident | None:
        return None if self.values[index] is None else self.ident(index)

    def string(self, index: int) -> n.Text:
        token = self.of(index, Token)
        return n.Text(token.text[1:-1], token.span)

    def maybe_string(self, index: int) -> n.Text | None:
        return None if self.values[index] is None else self.string(index)

    def word(self, index: int) -> str:
        return self.of(index, Token).text

    def number(self, index: int) -> n.Number:
        token = self.of(index, Token)
        return n.Number(token.text, "", token.span)

    def names(self, index: int) -> tuple[n.Ident, ...]:
        names = self.maybe(index, _Names)
        return names.values if names else ()

    def keys(self, index: int) -> tuple[n.Key, ...]:
        keys = self.maybe(index, _Keys)
        return keys.values if keys else ()


def node(action: str, values: Sequence[object], span: Span) -> object:
    """The value of a production named `action`."""
    return _ACTIONS[action](Kids(values, span))


def as_policy(value: object) -> n.Policy:
    """The finished tree."""
    assert isinstance(value, n.Policy)
    return value


def partial_policy(header: n.Header | None, values: Sequence[object]) -> n.Policy:
    """A tree of those `values` that are finished items."""
    return n.Policy(header, tuple(cast(n.Item, value) for value in values if isinstance(value, _ITEMS)))


_ITEMS = get_args(n.Item)


def _policy(k: Kids) -> n.Policy:
    return n.Policy(k.maybe(0, n.Header), tuple(cast(n.Item, v) for v in k.values if isinstance(v, _ITEMS)), k.span)


def _set(k: Kids) -> n.Set:
    return n.Set(k.ident(0), k.expr(1), k.span)


def _key(k: Kids) -> n.Key:
    return n.Key(k.expr(0), k.of(1, str) if k.values[1] is not None else "", k.span)


def _triage(k: Kids) -> n.Triage:
    shed = k.maybe(2, _Shed)
    end = k.of(3, n.AdmitRule)
    return n.Triage(
        k.of(0, n.Key),
        k.maybe_expr(1),
        shed.extreme if shed else "",
        shed.key if shed else None,
        "reject" if end.verdict == "reject" else "last",
        end.because,
        k.span,
    )


def _preempt(k: Kids) -> n.Preempt:
    limit = k.maybe(len(k) - 2, _Limit)
    return n.Preempt(
        winners=k.names(0),
        when=k.maybe_expr(1),
        victims=k.names(2),
        where=k.maybe_expr(3),
        by=k.keys(4),
        takes=k.every(n.Take),
        limit=limit.count if limit else None,
        per=limit.per if limit else None,
        protect=k.maybe_expr(len(k) - 1),
        span=k.span,
    )


def _sp_choice(k: Kids) -> n.SpChoice:
    degrees = tuple(n.Number(token.text, "", token.span) for token in k.every(Token))
    return n.SpChoice(degrees, k.of(len(k) - 1, _Chain).values, k.span)


def _grow(k: Kids) -> n.Grow:
    return n.Grow(k.keys(0), k.maybe_expr(1), k.maybe_expr(2), k.span)


def _batch(k: Kids) -> n.Batch:
    *by, most = [k.expr(i) for i in range(len(k) - 2)]
    return n.Batch(tuple(by), most, k.maybe_expr(len(k) - 1), k.maybe_expr(len(k) - 2), k.span)


def _arguments(k: Kids) -> _Arguments:
    return _Arguments(tuple(k.expr(i) for i in range(len(k) - 1)), k.maybe_expr(len(k) - 1))


def _call(k: Kids) -> n.Call:
    arguments = k.maybe(1, _Arguments) or _Arguments((), None)
    return n.Call(k.ident(0), arguments.values, arguments.where, k.span)


def _number(k: Kids) -> n.Number:
    return n.Number(k.word(0), k.word(1) if k.values[1] is not None else "", k.span)


def _member(k: Kids, negated: bool) -> n.Member:
    return n.Member(k.expr(0), k.exprs(1), negated, k.span)


def _dotted(k: Kids) -> n.Ident:
    tail = "" if k.values[1] is None else "." + k.word(1)
    return n.Ident(k.word(0) + tail, k.span)


def _bool_op(op: str) -> Callable[[Kids], n.BoolOp]:
    return lambda k: n.BoolOp(op, k.exprs(), k.span)


_ACTIONS: dict[str, Callable[[Kids], object]] = {
    "policy": _policy,
    "header": lambda k: n.Header(k.ident(0), k.number(1), k.maybe_string(2), k.maybe_ident(3), k.span),
    "param": lambda k: n.Param(k.ident(0), k.ident(1), k.expr(2), k.maybe(3, n.Range), k.span),
    "let": lambda k: n.Let(k.ident(0), k.expr(1), k.span),
    "range": lambda k: n.Range(k.expr(0), k.expr(1), k.span),
    "class": lambda k: n.Class(k.ident(0), k.maybe_expr(1), k.every(n.ClassField), k.span),
    "when": lambda k: k.expr(0),
    "otherwise": lambda k: None,
    "class_field": lambda k: n.ClassField(k.ident(0), k.expr(1), k.span),
    "class_flag": lambda k: n.ClassField(n.Ident("preemptible", k.span), None, k.span),
    "mode": lambda k: n.Mode(k.ident(0), k.expr(1), k.maybe_expr(2), k.expr(3), k.maybe_expr(4), k.span),
    "state": lambda k: n.State(
        k.ident(0), k.maybe_ident(1), k.ident(2), k.expr(3), k.maybe(4, n.Range), k.expr(5), k.maybe_expr(6), k.span
    ),
    "inner": lambda k: k.expr(0),
    "pool": lambda k: n.Pool(k.ident(0), k.maybe_expr(1), k.span),
    "rest": lambda k: None,
    "resize": lambda k: n.Resize(
        k.ident(0), k.expr(1), k.expr(2), k.maybe_expr(3), k.of(4, n.Range), k.maybe_expr(5), k.span
    ),
    "admit": lambda k: n.Admit(k.every(n.AdmitRule), k.span),
    "accept": lambda k: n.AdmitRule("accept", k.maybe_expr(0), span=k.span),
    "reject": lambda k: n.AdmitRule("reject", k.maybe_expr(0), k.maybe_string(1), span=k.span),
    "defer": lambda k: n.AdmitRule("defer", k.maybe_expr(0), k.maybe_string(1), span=k.span),
    "degrade": lambda k: n.AdmitRule("degrade", k.maybe_expr(0), changes=k.every(n.Set), span=k.span),
    "set": _set,
    "order": lambda k: n.Order(k.keys(0), k.span),
    "keys": lambda k: _Keys(k.every(n.Key)),
    "key": _key,
    "direction": lambda k: k.word(0),
    "triage": _triage,
    "shed": lambda k: _Shed(k.of(0, str), k.expr(1)),
    "extreme": lambda k: k.word(0),
    "last": lambda k: n.AdmitRule("accept", span=k.span),
    "turn_away": lambda k: n.AdmitRule("reject", None, k.maybe_string(0), span=k.span),
    "aging": lambda k: n.Aging(k.expr(0), k.expr(1), k.maybe_expr(2), k.span),
    "stage": lambda k: n.Stage(
        k.names(0), k.maybe_ident(1), tuple(cast(n.StageItem, v) for v in k.values[2:] if v is not None), k.span
    ),
    "names": lambda k: _Names(tuple(k.ident(i) for i in range(len(k)))),
    "sp_fixed": lambda k: n.SpFixed(k.expr(0), k.span),
    "sp_choice": _sp_choice,
    "chain": lambda k: _Chain(k.every(n.Alternative)),
    "pick_word": lambda k: k.word(0),
    "pick": lambda k: n.Alternative(k.of(0, str), None, k.maybe_expr(1), k.span),
    "goal": lambda k: k.word(0),
    "optimize": lambda k: n.Alternative(k.of(0, str), k.expr(1), k.maybe_expr(2), k.span),
    "wait": lambda k: n.Alternative("wait", span=k.span),
    "grow": _grow,
    "by_order": lambda k: _Keys(()),
    "by_keys": lambda k: _Keys(k.every(n.Key)),
    "hold_done": lambda k: n.Hold(None, k.span),
    "hold_for": lambda k: n.Hold(k.expr(0), k.span),
    "sticky": lambda k: n.Sticky(k.expr(0), k.span),
    "prefer": lambda k: n.Prefer(k.names(0), k.span),
    "reserve": lambda k: n.Reserve(k.expr(0), k.span),
    "lanes": lambda k: n.Lanes(k.expr(0), k.span),
    "spill": lambda k: n.Spill(k.ident(0), k.expr(1), k.span),
    "preempt": _preempt,
    "take": lambda k: n.Take(k.of(0, str), k.maybe_expr(1), k.span),
    "action": lambda k: k.word(0),
    "limit": lambda k: _Limit(k.expr(0), k.expr(1)),
    "batch": _batch,
    "allocate": lambda k: n.Allocate(
        **{name: getattr(k.of(0, n.Allocate), name) for name in ("kind", "depth", "horizon", "beam", "goal", "key")},
        span=k.span,
    ),
    "greedy": lambda k: n.Allocate("greedy"),
    "backfill": lambda k: n.Allocate("backfill", depth=k.expr(0)),
    "knapsack": lambda k: n.Allocate("knapsack", goal=k.of(0, str), key=k.expr(1)),
    "rollout": lambda k: n.Allocate("rollout", horizon=k.expr(0), beam=k.expr(1), goal=k.of(2, str), key=k.expr(3)),
    "tick": lambda k: n.Tick(k.maybe_expr(0), k.names(1), k.span),
    "react": lambda k: n.React(k.ident(0), k.maybe_expr(1), k.of(2, n.Reaction), k.span),
    "react_alert": lambda k: n.Reaction("alert", text=k.maybe_string(0), span=k.span),
    "react_raise": lambda k: n.Reaction("raise", k.expr(0), k.maybe_expr(1), span=k.span),
    "react_shrink": lambda k: n.Reaction("shrink", k.expr(0), k.maybe_expr(1), span=k.span),
    "react_pause": lambda k: n.Reaction("pause", None, k.maybe_expr(0), span=k.span),
    "guard": lambda k: n.Guard(k.ident(0), k.expr(1), k.of(2, str), k.span),
    "guard_action": lambda k: k.word(0),
    "fallback": lambda k: n.Fallback(k.of(0, n.Ident), k.maybe_expr(1), k.maybe_expr(2), k.span),
    "dotted": _dotted,
    "test": lambda k: n.Test(k.string(0), tuple(cast(n.TestItem, v) for v in k.values[1:]), k.span),
    "cluster": lambda k: n.Cluster(k.expr(0), k.span),
    "request": lambda k: n.Request(k.ident(0), k.every(n.Set), k.span),
    "at": lambda k: n.At(k.expr(0), k.span),
    "expect": lambda k: n.Expect(k.expr(0), k.span),
    "if_else": lambda k: n.If(k.expr(0), k.expr(1), k.expr(2), k.span),
    "disjunction": _bool_op("or"),
    "conjunction": _bool_op("and"),
    "not_": lambda k: n.Unary("not", k.expr(0), k.span),
    "compare": lambda k: n.Compare(k.word(1), k.expr(0), k.expr(2), k.span),
    "member": lambda k: _member(k, False),
    "not_member": lambda k: _member(k, True),
    "binary": lambda k: n.Binary(k.word(1), k.expr(0), k.expr(2), k.span),
    "negative": lambda k: n.Unary("-", k.expr(1), k.span) if k.word(0) == "-" else k.expr(1),
    "number": _number,
    "text": lambda k: k.string(0),
    "true": lambda k: n.Truth(True, k.span),
    "false": lambda k: n.Truth(False, k.span),
    "name": lambda k: n.Name(k.word(0), k.span),
    "field": lambda k: n.Field(k.ident(0), k.ident(1), k.span),
    "call": _call,
    "arguments": _arguments,
    "only_where": lambda k: _Arguments((), k.maybe_expr(0)),
}
