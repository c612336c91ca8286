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
from gfdit.policy.native import NativePlan, Plan
from gfdit.policy.tracing import Degrees, Operand, Row, Symbol, name, to_node

Pair = tuple[Operand, Operand]
StageOption = Operand | Sequence[str] | tuple[str, Operand]
N = TypeVar("N")


class TracedPolicy:
    """What `@policy` leaves of a class: the tree, the text that it prints as, and its native plan if it has one."""

    def __init__(self, tree: nodes.Policy, native: NativePlan | None = None) -> None:
        self.tree = unplaced(tree)
        self.text = format_tree(self.tree)
        self.native = native


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
    pool: str | None
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


class PolicyWord:
    """`@policy(...)` on a class; `@policy.native` on a function of it."""

    def __call__(
        self,
        *,
        version: int,
        title: str | None = None,
        name: str | None = None,
        extends: str | None = None,
        fallback: str | None = None,
        errors: int | None = 3,
        tick_limit: Operand | None = None,
    ) -> Callable[[type], TracedPolicy]:
        """Trace the decorated class. `name`: by default the class's name in snake case; `extends`: a policy whose
        clauses it takes over, as in the text form."""

        def trace(body: type) -> TracedPolicy:
            own = nodes.Ident(name or snake(body.__name__))
            words = None if title is None else nodes.Text(title)
            header = nodes.Header(own, nodes.Number(str(version)), words, _maybe_ident(extends))
            items = _items(vars(body))
            if fallback is not None:
                strikes = None if errors is None else nodes.Number(str(errors))
                item = nodes.Fallback(nodes.Ident(fallback), strikes, _maybe(tick_limit))
                tests = next((at for at, other in enumerate(items) if isinstance(other, nodes.Test)), len(items))
                items.insert(tests, item)  # where people look for it
            plans = [value for value in vars(body).values() if isinstance(value, NativePlan)]
            if len(plans) > 1:
                raise PolicyError(f"`{body.__name__}` has {len(plans)} native plans, expected one at most")
            if plans:
                items += [item for item in _SHELL if not any(_covers(other, item) for other in items)]
            return TracedPolicy(nodes.Policy(header, tuple(items)), plans[0] if plans else None)

        return trace

    def native(self, plan: Plan) -> NativePlan:
        """The escape hatch: `(columns, free, deadline) -> {id: degree}` in the place of order, stages and allocation.

        See `native.py` for what it is given and must give. Opaque to cost, checks and explanations, refused in signed
        bundles, and watched like every other policy.
        """
        return NativePlan(plan)


policy = PolicyWord()


def snake(name: str) -> str:
    """`EdfBestFit` as `edf_best_fit`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


_SHELL = parse(
    Source(
        "policy shell version 1 order by arrival stage encode { sp fixed 1 gpu } stage decode { sp fixed 1 gpu } "
        "stage denoise { sp in {1, 2, 4, 8} gpu smallest }"
    )
).tree.items
"""The clauses of a native policy that the language asks for and its plan does not use."""


def _covers(other: nodes.Item, item: nodes.Item) -> bool:
    """Whether the class has said `item`, a clause of the shell, in its own way."""
    if isinstance(item, nodes.Stage) and isinstance(other, nodes.Stage):
        return item.names[0].text in {name.text for name in other.names}
    return type(item) is type(other) and not isinstance(item, nodes.Stage)


def _items(body: Mapping[str, object]) -> list[nodes.Item]:
    drafts: list[Clause | StageDraft] = []
    growing: list[GrowDraft] = []
    for word, value in body.items():
        if isinstance(value, Clause | StageDraft):
            drafts.append(value)
        elif isinstance(value, Symbol) and value.declares is not None:
            drafts.append(Clause(value.declares))
        elif isinstance(value, nodes.AdmitRule | Chain | Doing | Surplus):
            raise PolicyError(f"`{word} = ...` is part of a clause, and no clause by itself")
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
        return nodes.Stage(_idents(draft.names), _maybe_ident(draft.pool), tuple(draft.items))
    return draft.item


# ---- declarations ---------------------------------------------------------------------------------------------------


def param(name: str, kind: str, default: Operand, within: Pair | None = None) -> Symbol:
    """`param name: kind = default within low .. high`."""
    item = nodes.Param(nodes.Ident(name), nodes.Ident(kind), to_node(default), _range(within))
    return Symbol(nodes.Name(name), item)


def let(name: str, value: Operand) -> Symbol:
    """`let name = value`."""
    return Symbol(nodes.Name(name), nodes.Let(nodes.Ident(name), to_node(value)))


def mode(
    name: str,
    when: Operand,
    until: Operand,
    *,
    when_for: Operand | None = None,
    until_for: Operand | None = None,
) -> Symbol:
    """`mode name when c for t until c for t`; stands for the condition that it is."""
    item = nodes.Mode(nodes.Ident(name), to_node(when), _maybe(when_for), to_node(until), _maybe(until_for))
    return Symbol(nodes.Name(name), item)


def state(
    name: str,
    kind: str,
    start: Operand,
    following: Operand,
    *,
    within: Pair | None = None,
    every: Operand | None = None,
    per: str | None = None,
) -> Symbol:
    """`state name[per]: kind = start within low .. high next following every t`; `following` names it by
    `name("...")`."""
    own, index = nodes.Ident(name), _maybe_ident(per)
    limits = _range(within)
    item = nodes.State(own, index, nodes.Ident(kind), to_node(start), limits, to_node(following), _maybe(every))
    return Symbol(nodes.Name(name), item)


def pool(name: str, count: Operand | None = None) -> Clause:
    """`pool name = count`; without a count: the rest."""
    return Clause(nodes.Pool(nodes.Ident(name), _maybe(count)))


def resize(
    pool: str,
    by: Operand,
    when: Operand,
    within: Pair,
    *,
    when_for: Operand | None = None,
    cooldown: Operand | None = None,
) -> Clause:
    """`resize pool by n when c for t within low .. high cooldown t`."""
    limits = nodes.Range(to_node(within[0]), to_node(within[1]))
    return Clause(
        nodes.Resize(nodes.Ident(pool), to_node(by), to_node(when), _maybe(when_for), limits, _maybe(cooldown))
    )


def service_class(name: str, when: Operand | None = None, *, preemptible: bool = False, **fields: Operand) -> Clause:
    """`class name when condition { slo .. rank .. weight .. miss .. preemptible }`; no `when`: otherwise."""
    items = [nodes.ClassField(nodes.Ident(key), to_node(value)) for key, value in fields.items()]
    if preemptible:
        items.append(nodes.ClassField(nodes.Ident("preemptible")))
    return Clause(nodes.Class(nodes.Ident(name), _maybe(when), tuple(items)))


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
    return nodes.AdmitRule(verdict, _maybe(when), None if because is None else nodes.Text(because), changes)


def order_by(*keys: Operand) -> Clause:
    """`order by keys`; `-key` is `key desc`."""
    return Clause(nodes.Order(tuple(_key(key) for key in keys)))


def triage(
    by: Operand,
    margin: Operand | None = None,
    *,
    shed_most: Operand | None = None,
    shed_least: Operand | None = None,
    reject: str | None = None,
) -> Clause:
    """`triage by key margin m shed most x then last`, or `then reject because "..."`; `reject=""` gives no reason."""
    if shed_most is not None and shed_least is not None:
        raise PolicyError("`triage` sheds the most or the least of something, not both")
    shed = "most" if shed_most is not None else "least" if shed_least is not None else ""
    key = _maybe(shed_most if shed_least is None else shed_least)
    then, because = ("last", None) if reject is None else ("reject", nodes.Text(reject) if reject else None)
    return Clause(nodes.Triage(_key(by), _maybe(margin), shed, key, then, because))


def aging(every: Operand, raise_by: Operand = 1, until_tier: Operand | None = None) -> Clause:
    """`aging every t raise n until tier m`."""
    return Clause(nodes.Aging(to_node(every), to_node(raise_by), _maybe(until_tier)))


# ---- stages ---------------------------------------------------------------------------------------------------------


def stages(*names: str, sp: Operand, on: str | None = None, **options: StageOption) -> StageDraft:
    """`stage names on pool { sp fixed n }` with the options of `stage`."""
    return StageDraft(names, on, [nodes.SpFixed(to_node(sp)), *_options(options)])


def stage(
    *names: str, degrees: Symbol | Degrees, on: str | None = None, **options: StageOption
) -> Callable[[Callable[..., Chain]], StageDraft]:
    """Decorates the chooser `(r, sp) -> choose(...) | choose(...)`.

    Options: `hold="done"` or a duration, `sticky` (a ratio), `prefer` (names), `reserve` (a duration), `lanes` (a
    number), `spill=(pool, condition)`; `on`: its pool.
    """
    if not isinstance(degrees, Degrees):
        raise PolicyError("`degrees` is a set of GPU counts", hint="such as `degrees=(1, 2, 4, 8) * gpu`")

    def trace(chooser: Callable[..., Chain]) -> StageDraft:
        chain = chooser(Row(), name("sp"))
        if not isinstance(chain, Chain):
            raise PolicyError(f"`{chooser.__name__}` returns `{chain!r}`, expected `choose(...)`")
        counts = tuple(nodes.Number(str(count)) for count in degrees.counts)
        choice = nodes.SpChoice(counts, tuple(chain.links))
        return StageDraft(names, on, [choice, *_options(options)])

    return trace


def _options(options: Mapping[str, StageOption]) -> list[nodes.StageItem]:
    """The parts of a stage beside its degrees, in the order in which they were written."""
    items: list[nodes.StageItem] = []
    for word, value in options.items():
        match word, value:
            case "hold", str():
                if value != "done":
                    raise PolicyError(f"`hold={value!r}`", hint='it is `hold="done"` or a duration')
                items.append(nodes.Hold())
            case "hold", _:
                items.append(nodes.Hold(to_node(value)))
            case "sticky", _:
                items.append(nodes.Sticky(to_node(value)))
            case "reserve", _:
                items.append(nodes.Reserve(to_node(value)))
            case "lanes", _:
                items.append(nodes.Lanes(to_node(value)))
            case "prefer", str():
                items.append(nodes.Prefer(_idents((value,))))
            case "prefer", [*names]:
                items.append(nodes.Prefer(_idents([str(one) for one in names])))
            case "spill", (str(other), condition):
                items.append(nodes.Spill(nodes.Ident(other), to_node(condition)))
            case _:
                raise PolicyError(f"no option `{word}={value!r}` of a stage", hint=_OPTIONS)
    return items


_OPTIONS = "options are hold, sticky, prefer, reserve, lanes and spill=(pool, condition)"


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


@dataclass(frozen=True, slots=True)
class Surplus:
    """What `surplus(...)` says inside a `grow`."""

    by: tuple[Operand, ...]
    where: Operand | None


def surplus(*by: Operand, where: Operand | None = None) -> Surplus:
    """For the function of a `grow`: by these keys step by step (none: in plan order), where a condition holds."""
    return Surplus(by, where)


def grow(stage: str, most: Operand | None = None) -> Callable[[Callable[..., Operand | Surplus]], GrowDraft]:
    """Decorates `(r, sp, nxt) -> condition`, the test of `grow by order where`; it may also give `surplus(...)`."""

    def trace(test: Callable[..., Operand | Surplus]) -> GrowDraft:
        found = test(Row(), name("sp"), name("next"))
        said = found if isinstance(found, Surplus) else Surplus((), found)
        keys = tuple(_key(key) for key in said.by)
        return GrowDraft(stage, nodes.Grow(keys, _maybe(said.where), _maybe(most)))

    return trace


# ---- the system -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doing:
    """Something that is done to a request or said about it: a part of `preempt` and `react`."""

    action: str
    amount: Operand | None = None
    lasting: Operand | None = None
    text: str | None = None


def shrink(to: Operand, lasting: Operand | None = None) -> Doing:
    """`shrink to n`; in a reaction for a while."""
    return Doing("shrink", to, lasting)


def pause(lasting: Operand | None = None) -> Doing:
    """`pause`; in a reaction for a while."""
    return Doing("pause", None, lasting)


def demote(to: Operand | None = None) -> Doing:
    """`demote`: a take of `preempt`."""
    return Doing("demote", to)


def migrate() -> Doing:
    """`migrate`: a take of `preempt`."""
    return Doing("migrate")


def raise_tier(by: Operand, lasting: Operand | None = None) -> Doing:
    """`raise n`: a reaction."""
    return Doing("raise", by, lasting)


def alert(text: str | None = None) -> Doing:
    """`alert "text"`: a reaction."""
    return Doing("alert", text=text)


def preempt(
    winners: Sequence[str],
    victims: Sequence[str],
    do: Doing | Sequence[Doing],
    *,
    when: Operand | None = None,
    where: Operand | None = None,
    by: Sequence[Operand] = (),
    limit: tuple[Operand, Operand] | None = None,
    protect: Operand | None = None,
) -> Clause:
    """`preempt for winners when c from victims where c by keys do take else take limit n per t protect t`."""
    takes = (do,) if isinstance(do, Doing) else tuple(do)
    return Clause(
        nodes.Preempt(
            winners=_idents(winners),
            when=_maybe(when),
            victims=_idents(victims),
            where=_maybe(where),
            by=tuple(_key(key) for key in by),
            takes=tuple(nodes.Take(take.action, _maybe(take.amount)) for take in takes),
            limit=None if limit is None else to_node(limit[0]),
            per=None if limit is None else to_node(limit[1]),
            protect=_maybe(protect),
        )
    )


def react(event: str, do: Doing, when: Operand | None = None) -> Clause:
    """`react event when c do reaction`; an event is one of the language or a mode that turns on."""
    text = None if do.text is None else nodes.Text(do.text)
    reaction = nodes.Reaction(do.action, amount=_maybe(do.amount), duration=_maybe(do.lasting), text=text)
    return Clause(nodes.React(nodes.Ident(event), _maybe(when), reaction))


def batch(*by: Operand, most: Operand, window: Operand | None = None, where: Operand | None = None) -> Clause:
    """`batch by values max n window t where c`."""
    values = tuple(to_node(one) for one in by)
    return Clause(nodes.Batch(values, to_node(most), where=_maybe(where), window=_maybe(window)))


def greedy() -> Clause:
    """`allocate greedy`."""
    return Clause(nodes.Allocate("greedy"))


def backfill(depth: Operand) -> Clause:
    """`allocate backfill n`."""
    return Clause(nodes.Allocate("backfill", to_node(depth)))


def allocate_knapsack(goal: str = "maximizing") -> Callable[[Callable[..., Operand]], Clause]:
    """Decorates the value `(r, sp) -> number` of `allocate knapsack maximizing`; `sp` is 0 for not running now."""
    return lambda value: Clause(nodes.Allocate("knapsack", goal=goal, key=to_node(value(Row(), name("sp")))))


def allocate_rollout(
    horizon: Operand, beam: Operand, goal: str = "minimizing"
) -> Callable[[Callable[..., Operand]], Clause]:
    """Decorates the value `(r, sp) -> number` of `allocate rollout horizon n beam m minimizing`."""

    def trace(value: Callable[..., Operand]) -> Clause:
        key = to_node(value(Row(), name("sp")))
        return Clause(nodes.Allocate("rollout", None, to_node(horizon), to_node(beam), goal, key))

    return trace


def tick(every: Operand | None = None, on: Sequence[str] = ()) -> Clause:
    """`tick every t on events`."""
    return Clause(nodes.Tick(_maybe(every), _idents(on)))


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


def _maybe(value: Operand | None) -> nodes.Expr | None:
    return None if value is None else to_node(value)


def _range(within: Pair | None) -> nodes.Range | None:
    return None if within is None else nodes.Range(to_node(within[0]), to_node(within[1]))


def _maybe_ident(name: str | None) -> nodes.Ident | None:
    return None if name is None else nodes.Ident(name)


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
