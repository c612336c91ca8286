"""The Python form of a policy: a decorated class is traced into the syntax tree that its `.pol` text would have.

    @policy(version=2, fallback="fcfs_static", tick_limit=5 * ms)
    class EdfBestFit:
        order = order_by(deadline, -priority, arrival)
        single = stages("encode", "decode", sp=1 * gpu)

        @stage("denoise", degrees=(1, 2, 4, 8) * gpu, prefer=("last_gpus", "same_node"))
        def width(r, sp):
            return choose(smallest=sp, where=r.finish(sp) <= r.deadline) | choose(minimizing=r.finish(sp))

        @grow("denoise")
        def wider(r, sp, nxt):
            return r.finish(nxt) < r.finish(sp)

The functions run once, when the class is made, on symbolic arguments. What comes out is checked, formatted, explained
and compiled exactly like a text; this module knows syntax only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.format import format_tree
from gfdit.lang.frozen import Frozen
from gfdit.lang.parser import parse
from gfdit.lang.render import render
from gfdit.lang.source import NOWHERE, Source
from gfdit.policy.tracing import Degrees, Operand, Row, Symbol, name, to_node

Pair = tuple[Operand, Operand]
N = TypeVar("N")


class TracedPolicy:
    """What `@policy` leaves of a class: the tree, and the text that it prints as."""

    def __init__(self, tree: nodes.Policy) -> None:
        self.tree = tree
        self.text = format_tree(tree)


@dataclass(slots=True)
class Clause:
    """Syntax of one item. Items come out in the order of the class body."""

    item: nodes.Item


@dataclass(slots=True)
class Written:
    """Items written in the language itself."""

    items: tuple[nodes.Item, ...]


@dataclass(slots=True)
class StageDraft:
    """A stage clause that a `grow` may still join."""

    names: tuple[str, ...]
    items: list[nodes.StageItem]


@dataclass(slots=True)
class GrowDraft:
    stage: str
    item: nodes.Grow


@dataclass(slots=True)
class Chain:
    """Alternatives of a choice, tried in order."""

    links: list[nodes.Alternative] = field(default_factory=list)

    def __or__(self, other: Chain) -> Chain:
        return Chain([*self.links, *other.links])


def policy(
    *,
    version: int,
    title: str = "",
    name: str | None = None,
    fallback: str | None = None,
    errors: int = 3,
    tick_limit: Operand | None = None,
) -> Callable[[type], TracedPolicy]:
    """Trace the decorated class. `name`: by default the class's name in snake case."""

    def trace(body: type) -> TracedPolicy:
        own = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", body.__name__).lower()
        header = nodes.Header(nodes.Ident(own), nodes.Number(str(version)), nodes.Text(title) if title else None)
        items = _items(vars(body))
        if fallback is not None:
            limit = None if tick_limit is None else to_node(tick_limit)
            items.append(nodes.Fallback(nodes.Ident(fallback), nodes.Number(str(errors)), limit))
        return TracedPolicy(nodes.Policy(header, tuple(items)))

    return trace


def _items(body: Mapping[str, object]) -> list[nodes.Item]:
    drafts: list[Clause | StageDraft] = []
    growing: list[GrowDraft] = []
    for value in body.values():
        if isinstance(value, Clause | StageDraft):
            drafts.append(value)
        elif isinstance(value, Symbol) and value.declares is not None:
            drafts.append(Clause(value.declares))
        elif isinstance(value, Written):
            drafts += map(Clause, value.items)
        elif isinstance(value, GrowDraft):
            growing.append(value)
    for grown in growing:
        homes = [draft for draft in drafts if isinstance(draft, StageDraft) and grown.stage in draft.names]
        if not homes:
            raise PolicyError(f'`@grow("{grown.stage}")`: the class has no stage `{grown.stage}`')
        homes[0].items.insert(1, grown.item)
    return [_item(draft) for draft in drafts]


def _item(draft: Clause | StageDraft) -> nodes.Item:
    if isinstance(draft, StageDraft):
        return nodes.Stage(_idents(draft.names), None, tuple(draft.items))
    return draft.item


# ---- declarations ---------------------------------------------------------------------------------------------------


def param(name: str, kind: str, default: Operand, within: Pair | None = None) -> Symbol:
    """`param name: kind = default within low .. high`."""
    limits = None if within is None else nodes.Range(to_node(within[0]), to_node(within[1]))
    item = nodes.Param(nodes.Ident(name), nodes.Ident(kind), to_node(default), limits)
    return Symbol(nodes.Name(name), item)


def let(name: str, value: Operand) -> Symbol:
    """`let name = value`."""
    return Symbol(nodes.Name(name), nodes.Let(nodes.Ident(name), to_node(value)))


def service_class(name: str, when: Operand | None = None, *, preemptible: bool = False, **fields: Operand) -> Clause:
    """`class name when condition { slo .. rank .. weight .. miss .. preemptible }`; no `when`: otherwise."""
    items = [nodes.ClassField(nodes.Ident(key), to_node(value)) for key, value in fields.items()]
    if preemptible:
        items.append(nodes.ClassField(nodes.Ident("preemptible")))
    return Clause(nodes.Class(nodes.Ident(name), None if when is None else to_node(when), tuple(items)))


# ---- intake and order -----------------------------------------------------------------------------------------------


def admit(*rules: nodes.AdmitRule) -> Clause:
    """`admit { rules }`, from `accept`, `reject`, `defer` and `degrade`."""
    return Clause(nodes.Admit(rules))


def accept(when: Operand | None = None) -> nodes.AdmitRule:
    return _rule("accept", when, None)


def reject(when: Operand | None = None, because: str | None = None) -> nodes.AdmitRule:
    return _rule("reject", when, because)


def defer(when: Operand | None = None, because: str | None = None) -> nodes.AdmitRule:
    return _rule("defer", when, because)


def degrade(when: Operand | None = None, **knobs: Operand) -> nodes.AdmitRule:
    return _rule("degrade", when, None, knobs)


def _rule(
    verdict: str, when: Operand | None, because: str | None, knobs: dict[str, Operand] | None = None
) -> nodes.AdmitRule:
    changes = tuple(nodes.Set(nodes.Ident(knob), to_node(value)) for knob, value in (knobs or {}).items())
    condition = None if when is None else to_node(when)
    return nodes.AdmitRule(verdict, condition, None if because is None else nodes.Text(because), changes)


def order_by(*keys: Operand) -> Clause:
    """`order by keys`; `-key` is `key desc`."""
    return Clause(nodes.Order(tuple(_key(key) for key in keys)))


def triage(
    by: Operand, margin: Operand | None = None, shed_most: Operand | None = None, reject: str | None = None
) -> Clause:
    """`triage by key margin m shed most x then last`, or `then reject because "..."`."""
    shed, key = ("", None) if shed_most is None else ("most", to_node(shed_most))
    then, because = ("last", None) if reject is None else ("reject", nodes.Text(reject))
    return Clause(nodes.Triage(_key(by), None if margin is None else to_node(margin), shed, key, then, because))


def aging(every: Operand, raise_by: Operand = 1, until_tier: Operand | None = None) -> Clause:
    """`aging every t raise n until tier m`."""
    return Clause(nodes.Aging(to_node(every), to_node(raise_by), None if until_tier is None else to_node(until_tier)))


# ---- stages ---------------------------------------------------------------------------------------------------------


def stages(*names: str, sp: Operand, **options: object) -> StageDraft:
    """`stage names { sp fixed n }` with the options of `stage`."""
    return StageDraft(names, [nodes.SpFixed(to_node(sp)), *_options(**options)])  # type: ignore[arg-type]


def stage(*names: str, degrees: Symbol | Degrees, **options: object) -> Callable[[Callable[..., Chain]], StageDraft]:
    """Decorates the chooser `(r, sp) -> choose(...) | choose(...)`.

    Options: `hold="done"` or a duration, `sticky` (a ratio), `prefer` (names), `reserve` (a duration).
    """
    if not isinstance(degrees, Degrees):
        raise PolicyError("`degrees` is a set of GPU counts", hint="such as `degrees=(1, 2, 4, 8) * gpu`")

    def trace(chooser: Callable[..., Chain]) -> StageDraft:
        chain = chooser(Row(), name("sp"))
        if not isinstance(chain, Chain):
            raise PolicyError(f"`{chooser.__name__}` returns `{chain!r}`, expected `choose(...)`")
        counts = tuple(nodes.Number(str(count)) for count in degrees.counts)
        choice = nodes.SpChoice(counts, tuple(chain.links))
        return StageDraft(names, [choice, *_options(**options)])  # type: ignore[arg-type]

    return trace


def _options(
    hold: Operand | None = None,
    sticky: Operand | None = None,
    prefer: Sequence[str] = (),
    reserve: Operand | None = None,
) -> list[nodes.StageItem]:
    items: list[nodes.StageItem] = []
    if hold is not None:
        items.append(nodes.Hold(None if isinstance(hold, str) else to_node(hold)))
    if sticky is not None:
        items.append(nodes.Sticky(to_node(sticky)))
    if prefer:
        items.append(nodes.Prefer(_idents(prefer)))
    if reserve is not None:
        items.append(nodes.Reserve(to_node(reserve)))
    return items


def choose(
    *,
    smallest: Symbol | None = None,
    largest: Symbol | None = None,
    minimizing: Operand | None = None,
    maximizing: Operand | None = None,
    where: Operand | None = None,
) -> Chain:
    """One alternative of a chooser; join several with `|`, end with `wait` to let it wait."""
    given = {
        word: value
        for word, value in (
            ("smallest", smallest),
            ("largest", largest),
            ("minimizing", minimizing),
            ("maximizing", maximizing),
        )
        if value is not None
    }
    if len(given) != 1:
        raise PolicyError(
            f"`choose` takes one of smallest, largest, minimizing and maximizing, found {len(given)}",
            hint="such as `choose(smallest=sp, where=r.finish(sp) <= r.deadline)`",
        )
    ((word, value),) = given.items()
    key = to_node(value) if word in ("minimizing", "maximizing") else None
    return Chain([nodes.Alternative(word, key, None if where is None else to_node(where))])


wait = Chain([nodes.Alternative("wait")])


def grow(stage: str, most: Operand | None = None) -> Callable[[Callable[..., Operand]], GrowDraft]:
    """Decorates the pair test `(r, sp, nxt) -> condition` of `grow by order where`."""

    def trace(test: Callable[..., Operand]) -> GrowDraft:
        condition = to_node(test(Row(), name("sp"), name("next")))
        return GrowDraft(stage, nodes.Grow((), condition, None if most is None else to_node(most)))

    return trace


# ---- the system -----------------------------------------------------------------------------------------------------


def preempt(
    winners: Sequence[str],
    victims: Sequence[str],
    *,
    when: Operand | None = None,
    where: Operand | None = None,
    by: Sequence[Operand] = (),
    shrink_to: Operand | None = None,
    pause: bool = True,
    limit: tuple[int, Operand] | None = None,
    protect: Operand | None = None,
) -> Clause:
    """`preempt for winners when c from victims where c by keys do shrink to n else pause limit n per t protect t`."""
    takes = [] if shrink_to is None else [nodes.Take("shrink", to_node(shrink_to))]
    takes += [nodes.Take("pause")] if pause else []
    return Clause(
        nodes.Preempt(
            winners=_idents(winners),
            when=None if when is None else to_node(when),
            victims=_idents(victims),
            where=None if where is None else to_node(where),
            by=tuple(_key(key) for key in by),
            takes=tuple(takes),
            limit=None if limit is None else to_node(limit[0]),
            per=None if limit is None else to_node(limit[1]),
            protect=None if protect is None else to_node(protect),
        )
    )


def greedy() -> Clause:
    """`allocate greedy`."""
    return Clause(nodes.Allocate("greedy"))


def backfill(depth: int) -> Clause:
    """`allocate backfill n`."""
    return Clause(nodes.Allocate("backfill", to_node(depth)))


def tick(every: Operand | None = None, on: Sequence[str] = ()) -> Clause:
    """`tick every t on events`."""
    return Clause(nodes.Tick(None if every is None else to_node(every), _idents(on)))


def guard(name: str, condition: Operand, otherwise: str = "alert") -> Clause:
    """`guard name: condition else alert`, or `otherwise="fallback"`."""
    return Clause(nodes.Guard(nodes.Ident(name), to_node(condition), otherwise))


def pol(text: str) -> Written:
    """Clauses and tests in the language itself, for what has no word of its own here. Raises PolicyError."""
    source = Source(f"policy p version 1\n{text}", "pol(...)")
    parsed = parse(source)
    if not parsed.complete:
        raise PolicyError(render(parsed.diagnostics), hint="the first line of the text counts as line 2")
    return Written(unplaced(parsed.tree).items)


def _key(value: Operand) -> nodes.Key:
    node = to_node(value)
    return nodes.Key(node.operand, "desc") if isinstance(node, nodes.Unary) and node.op == "-" else nodes.Key(node)


def unplaced(node: N) -> N:
    """The same syntax without places in a text, as if it had been built."""
    if isinstance(node, tuple):
        return cast(N, tuple(unplaced(one) for one in node))
    if not isinstance(node, Frozen):
        return node
    values = (NOWHERE if name == "span" else unplaced(getattr(node, name)) for name in node._fields)
    return cast(N, type(node)(*values))


def _idents(names: Sequence[str]) -> tuple[nodes.Ident, ...]:
    return tuple(nodes.Ident(text) for text in names)
