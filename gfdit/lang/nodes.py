"""The syntax tree: frozen nodes, exactly what was written and nothing resolved.

Equality ignores spans, so `parse(format(tree)) == tree`. Numbers keep their text and unit for the same reason. Names
are checked in `check.py`; what a compiler reads is `program.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from gfdit.lang.frozen import Frozen
from gfdit.lang.source import NOWHERE, Span


class Ident(Frozen):
    """One name as written."""

    text: str
    span: Span = NOWHERE


# -- expressions ------------------------------------------------------------------------------------------------------


class Number(Frozen):
    """`12`, `1.5`, `30min`, `15%`: digits and unit as written."""

    text: str
    unit: str = ""
    span: Span = NOWHERE


class Text(Frozen):
    """A quoted string, without its quotes."""

    value: str
    span: Span = NOWHERE


class Truth(Frozen):
    """`true` or `false`."""

    value: bool
    span: Span = NOWHERE


class Name(Frozen):
    """A bare name."""

    name: str
    span: Span = NOWHERE


class Field(Frozen):
    """`a.sp`: a field of a request, in tests only."""

    base: Ident
    name: Ident
    span: Span = NOWHERE


class Unary(Frozen):
    """`-x` or `not x`."""

    op: str
    operand: Expr
    span: Span = NOWHERE


class Binary(Frozen):
    """`+ - * /`."""

    op: str
    left: Expr
    right: Expr
    span: Span = NOWHERE


class Compare(Frozen):
    """`== != < <= > >=`; does not chain."""

    op: str
    left: Expr
    right: Expr
    span: Span = NOWHERE


class Member(Frozen):
    """`value in {a, b}` and, negated, `value not in {a, b}`."""

    value: Expr
    items: tuple[Expr, ...]
    negated: bool = False
    span: Span = NOWHERE


class BoolOp(Frozen):
    """`and` or `or` over two or more operands."""

    op: str
    operands: tuple[Expr, ...]
    span: Span = NOWHERE


class If(Frozen):
    """`if c then a else b`."""

    condition: Expr
    then: Expr
    other: Expr
    span: Span = NOWHERE


class Call(Frozen):
    """`name(args)`, `count(where p)`, `mean(x where p)`."""

    function: Ident
    args: tuple[Expr, ...]
    where: Expr | None = None
    span: Span = NOWHERE


Expr: TypeAlias = Number | Text | Truth | Name | Field | Unary | Binary | Compare | Member | BoolOp | If | Call


class Range(Frozen):
    """`low .. high`."""

    low: Expr
    high: Expr
    span: Span = NOWHERE


class Key(Frozen):
    """One key of an order: `expression [asc|desc]`; `direction` is empty when none was written."""

    value: Expr
    direction: str = ""
    span: Span = NOWHERE


# -- items ------------------------------------------------------------------------------------------------------------


class Header(Frozen):
    """`policy name version n "title" [extends base]`."""

    name: Ident
    version: Number
    title: Text | None = None
    extends: Ident | None = None
    span: Span = NOWHERE


class Param(Frozen):
    """`param name: type = default [within low .. high]`."""

    name: Ident
    type: Ident
    default: Expr
    within: Range | None = None
    span: Span = NOWHERE


class Let(Frozen):
    """`let name = expression`."""

    name: Ident
    value: Expr
    span: Span = NOWHERE


class ClassField(Frozen):
    """`slo 8s`, or the bare flag `preemptible` (value None)."""

    name: Ident
    value: Expr | None = None
    span: Span = NOWHERE


class Class(Frozen):
    """`class name (when condition | otherwise) { fields }`; `when` None means `otherwise`."""

    name: Ident
    when: Expr | None
    fields: tuple[ClassField, ...] = ()
    span: Span = NOWHERE


class Mode(Frozen):
    """`mode name when c [for t] until c [for t]`."""

    name: Ident
    when: Expr
    when_for: Expr | None
    until: Expr
    until_for: Expr | None
    span: Span = NOWHERE


class State(Frozen):
    """`state name[index]: type = start [within range] next value [every t]`."""

    name: Ident
    index: Ident | None
    type: Ident
    start: Expr
    within: Range | None
    next: Expr
    every: Expr | None
    span: Span = NOWHERE


class Pool(Frozen):
    """`pool name = count` or `pool name = rest` (count None)."""

    name: Ident
    count: Expr | None
    span: Span = NOWHERE


class Resize(Frozen):
    """`resize pool by n when c [for t] within low .. high [cooldown t]`."""

    pool: Ident
    by: Expr
    when: Expr
    when_for: Expr | None
    within: Range
    cooldown: Expr | None
    span: Span = NOWHERE


class Set(Frozen):
    """`knob = value` in a degrade rule, `name = value` in a test."""

    name: Ident
    value: Expr
    span: Span = NOWHERE


class AdmitRule(Frozen):
    """One rule of `admit`; `verdict` is accept, reject, defer or degrade."""

    verdict: str
    when: Expr | None = None
    because: Text | None = None
    changes: tuple[Set, ...] = ()
    span: Span = NOWHERE


class Admit(Frozen):
    """`admit { rules }`."""

    rules: tuple[AdmitRule, ...]
    span: Span = NOWHERE


class Order(Frozen):
    """`order by keys`."""

    keys: tuple[Key, ...]
    span: Span = NOWHERE


class Triage(Frozen):
    """`triage by key [margin r] [shed most|least x] then last | then reject because "..."`."""

    by: Key
    margin: Expr | None = None
    shed: str = ""
    shed_key: Expr | None = None
    then: str = "last"
    because: Text | None = None
    span: Span = NOWHERE


class Aging(Frozen):
    """`aging every t raise n [until tier m]`."""

    every: Expr
    amount: Expr
    until: Expr | None = None
    span: Span = NOWHERE


class SpFixed(Frozen):
    """`sp fixed n`."""

    value: Expr
    span: Span = NOWHERE


class Alternative(Frozen):
    """One link of the chain: `smallest`, `largest`, `minimizing x`, `maximizing x` (each `[where c]`) or `wait`."""

    kind: str
    key: Expr | None = None
    where: Expr | None = None
    span: Span = NOWHERE


class SpChoice(Frozen):
    """`sp in {degrees} gpu alternative else alternative ...`."""

    degrees: tuple[Number, ...]
    alternatives: tuple[Alternative, ...]
    span: Span = NOWHERE


class Grow(Frozen):
    """`grow by order|keys [where c] [max n]`; empty `keys` means `order`."""

    keys: tuple[Key, ...] = ()
    where: Expr | None = None
    most: Expr | None = None
    span: Span = NOWHERE


class Hold(Frozen):
    """`hold until done` (duration None) or `hold for t`."""

    duration: Expr | None = None
    span: Span = NOWHERE


class Sticky(Frozen):
    """`sticky r`."""

    amount: Expr
    span: Span = NOWHERE


class Prefer(Frozen):
    """`prefer name, name`."""

    names: tuple[Ident, ...]
    span: Span = NOWHERE


class Reserve(Frozen):
    """`reserve for t`."""

    duration: Expr
    span: Span = NOWHERE


class Lanes(Frozen):
    """`lanes n`."""

    count: Expr
    span: Span = NOWHERE


class Spill(Frozen):
    """`spill to pool when c`."""

    pool: Ident
    when: Expr
    span: Span = NOWHERE


StageItem: TypeAlias = SpFixed | SpChoice | Grow | Hold | Sticky | Prefer | Reserve | Lanes | Spill


class Stage(Frozen):
    """`stage names [on pool] { items }`."""

    names: tuple[Ident, ...]
    pool: Ident | None = None
    items: tuple[StageItem, ...] = ()
    span: Span = NOWHERE


class Take(Frozen):
    """One way to take GPUs back: shrink, pause, demote or migrate, with an optional `to`."""

    action: str
    to: Expr | None = None
    span: Span = NOWHERE


class Preempt(Frozen):
    """`preempt for classes [when c] from classes [where c] [by key] do take else take [limit n per t] [protect t]`."""

    winners: tuple[Ident, ...]
    when: Expr | None
    victims: tuple[Ident, ...]
    where: Expr | None
    by: tuple[Key, ...]
    takes: tuple[Take, ...]
    limit: Expr | None = None
    per: Expr | None = None
    protect: Expr | None = None
    span: Span = NOWHERE


class Batch(Frozen):
    """`batch by keys max n [window t] [where c]`."""

    by: tuple[Expr, ...]
    most: Expr
    where: Expr | None = None
    window: Expr | None = None
    span: Span = NOWHERE


class Allocate(Frozen):
    """`allocate greedy | backfill n | knapsack maximizing x | rollout horizon n beam n minimizing x`."""

    kind: str
    depth: Expr | None = None
    horizon: Expr | None = None
    beam: Expr | None = None
    goal: str = ""
    key: Expr | None = None
    span: Span = NOWHERE


class Tick(Frozen):
    """`tick [every t] [on events]`."""

    every: Expr | None = None
    on: tuple[Ident, ...] = ()
    span: Span = NOWHERE


class Reaction(Frozen):
    """`alert ["text"]`, `raise n [for t]`, `shrink to n [for t]` or `pause [for t]`: `amount` is n, `duration` is t."""

    action: str
    amount: Expr | None = None
    duration: Expr | None = None
    text: Text | None = None
    span: Span = NOWHERE


class React(Frozen):
    """`react event [when c] do reaction`; an event is one of the schema or a mode that turns on."""

    event: Ident
    when: Expr | None
    do: Reaction
    span: Span = NOWHERE


class Guard(Frozen):
    """`guard name: condition else alert|fallback`."""

    name: Ident
    condition: Expr
    action: str
    span: Span = NOWHERE


class Fallback(Frozen):
    """`fallback policy [after n errors] [or tick > t]`; a dotted name keeps its dot."""

    policy: Ident
    errors: Expr | None = None
    tick: Expr | None = None
    span: Span = NOWHERE


# -- tests ------------------------------------------------------------------------------------------------------------


class Cluster(Frozen):
    """`cluster 8 gpu`."""

    gpus: Expr
    span: Span = NOWHERE


class Request(Frozen):
    """`request name { attribute = value, ... }`."""

    name: Ident
    fields: tuple[Set, ...] = ()
    span: Span = NOWHERE


class At(Frozen):
    """`at 5s`: advances the simulated clock."""

    time: Expr
    span: Span = NOWHERE


class Expect(Frozen):
    """`expect condition`."""

    condition: Expr
    span: Span = NOWHERE


TestItem: TypeAlias = Cluster | Request | At | Expect


class Test(Frozen):
    """`test "title" { items }`."""

    title: Text
    items: tuple[TestItem, ...] = ()
    span: Span = NOWHERE


Item: TypeAlias = (
    Param
    | Let
    | Class
    | Mode
    | State
    | Pool
    | Resize
    | Admit
    | Order
    | Triage
    | Aging
    | Stage
    | Preempt
    | Batch
    | Allocate
    | Tick
    | React
    | Guard
    | Fallback
    | Test
)


class Policy(Frozen):
    """A whole file. `header` is None only when its syntax was wrong."""

    header: Header | None
    items: tuple[Item, ...] = ()
    span: Span = NOWHERE


Formatted: TypeAlias = Header | Item | AdmitRule | ClassField | StageItem | TestItem


def walk(root: object) -> Iterator[tuple[object, int]]:
    """Every node under `root` with its depth, parents first, in the order of the text; never recurses."""
    stack: list[tuple[object, int]] = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, tuple):
            stack.extend((child, depth) for child in reversed(node))
        elif isinstance(node, Frozen):
            yield node, depth
            stack.extend((getattr(node, name), depth + 1) for name in reversed(node._fields))
