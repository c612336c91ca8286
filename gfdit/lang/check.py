"""Checks a syntax tree against a schema and turns it into a `Program`.

All findings are collected; a program comes out only when none is an error. Declarations go first (params, classes,
lets), so that clauses may stand in any order; a `let` may use those above it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from gfdit.lang import lint, nodes
from gfdit.lang import program as ir
from gfdit.lang.carried import Carried
from gfdit.lang.clauses import Clauses
from gfdit.lang.diagnostics import Diagnostic, in_order, listing
from gfdit.lang.expr import Expressions
from gfdit.lang.parser import Parsed, parse
from gfdit.lang.pools import Pools
from gfdit.lang.reactions import Reactions
from gfdit.lang.report import Report
from gfdit.lang.schema import Place, Schema
from gfdit.lang.scope import Scope
from gfdit.lang.source import NOWHERE, Source, Span
from gfdit.lang.stages import Stages
from gfdit.lang.types import TYPE_NAMES, Type
from gfdit.lang.values import Overrides, ParamValue

MAX_DEPTH = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked:
    """`program` is None when some diagnostic is an error; `tree` is what could be read."""

    program: ir.Program | None
    tree: nodes.Policy
    diagnostics: tuple[Diagnostic, ...]

    @property
    def ok(self) -> bool:
        return self.program is not None


def check(
    source: Source,
    schema: Schema,
    params: Mapping[str, ParamValue] | None = None,
    *,
    gpus: int | None = None,
    policies: Collection[str] | None = None,
) -> Checked:
    """Parses and checks a policy.

    `params` overrides defaults: text such as `"30s"` or a value in base units. `gpus`: size of the cluster, when known.
    `policies`: names that `fallback` may take, when known. Never raises on bad text.
    """
    parsed = _parsed(source)
    if deep := _too_deep(parsed.tree):
        text = f"nested more than {MAX_DEPTH} deep"
        found = (*parsed.diagnostics, Diagnostic("P002", text, deep, source, "", ("name a part of it with `let`",)))
        return Checked(None, parsed.tree, in_order(found))
    report = Report(source, list(parsed.diagnostics))
    scope = Scope(schema, report, lost=set(parsed.lost))
    checker = _Checker(parsed, Expressions(scope), Overrides(params or {}, report, schema), gpus, policies)
    program = checker.run()
    diagnostics = in_order(report.diagnostics)
    return Checked(None if report.failed else program, parsed.tree, diagnostics)


@lru_cache(maxsize=8)
def _parsed(source: Source) -> Parsed:
    """Reading a text is most of the work, and other params do not change it."""
    return parse(source)


def _too_deep(tree: nodes.Policy) -> Span | None:
    """The place of an expression nested beyond reason."""
    for node, depth in nodes.walk(tree):
        if depth > MAX_DEPTH:
            span = getattr(node, "span", NOWHERE)
            return span if isinstance(span, Span) else NOWHERE
    return None


_ONCE = (nodes.Admit, nodes.Order, nodes.Triage, nodes.Aging, nodes.Batch, nodes.Allocate, nodes.Tick, nodes.Fallback)


@dataclass(slots=True)
class _Checker:
    parsed: Parsed
    expressions: Expressions
    overrides: Overrides
    gpus: int | None
    policies: Collection[str] | None
    once: dict[type, nodes.Item] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        return self.expressions.scope

    @property
    def report(self) -> Report:
        return self.expressions.report

    def run(self) -> ir.Program | None:
        """Checks everything; None when there is not even a header."""
        items = self.parsed.tree.items
        self._count()
        self._not_extended()
        for item in items:
            if isinstance(item, nodes.Param):
                self._param(item)
        self.overrides.unknown(list(self.scope.params), self.scope.lost)
        for item in items:
            if isinstance(item, nodes.Class) and self.scope.declare(item.name, "class"):
                self.scope.classes[item.name.text] = item.name
        pools = Pools(self.expressions, self.gpus)
        pools.declare(items)
        clauses = Clauses(self.expressions, self.gpus, self.policies)
        carried = Carried(self.expressions)
        for item in items:
            if isinstance(item, nodes.Let):
                clauses.let(item)
            elif isinstance(item, (nodes.Mode, nodes.State)):
                carried.add(item)
        program = self._program(clauses, carried, pools)
        lint.check(self.parsed, self.expressions, program, self.gpus)
        return program

    def _program(self, clauses: Clauses, carried: Carried, pools: Pools) -> ir.Program | None:
        items, header = self.parsed.tree.items, self.parsed.tree.header
        stages = Stages(self.expressions, self.gpus, pools, self.parsed.complete).clauses(items)
        resizes = pools.resizes(items)
        classes = clauses.classes(items)
        admit = clauses.admit(self._only(nodes.Admit))
        order = clauses.order(self._only(nodes.Order), self.parsed.complete)
        triage = clauses.triage(self._only(nodes.Triage))
        aging = clauses.aging(self._only(nodes.Aging))
        preempts = clauses.preempts(items)
        allocate = clauses.allocate(self._only(nodes.Allocate))
        batch = clauses.batch(self._only(nodes.Batch))
        tick = clauses.tick(self._only(nodes.Tick))
        reacts = Reactions(clauses, tuple(mode.name for mode in carried.modes)).clauses(items)
        guards = clauses.guards(items)
        fallback = clauses.fallback(self._only(nodes.Fallback), header)
        tests = clauses.tests(items)
        if header is None:
            return None
        return ir.Program(
            name=header.name.text,
            version=self._version(header),
            title=header.title.value if header.title else "",
            sha=self._sha(),
            source=self.report.source,
            params=tuple(self.scope.params.values()),
            lets=tuple(self.scope.lets.values()),
            modes=tuple(carried.modes),
            states=tuple(carried.states),
            pools=tuple(pools.pools),
            resizes=resizes,
            classes=classes,
            admit=admit,
            order=order,
            triage=triage,
            aging=aging,
            stages=stages,
            preempts=preempts,
            batch=batch,
            allocate=allocate,
            tick=tick,
            reacts=reacts,
            guards=guards,
            fallback=fallback,
            tests=tests,
            uses=frozenset(name for name in self.scope.used if name in self._built_in()),
        )

    def _built_in(self) -> set[str]:
        schema = self.scope.schema
        return {*schema.attributes, *schema.degrees, *schema.functions}

    def _sha(self) -> str:
        digest = hashlib.sha256(self.report.source.text.encode("utf-8", "surrogatepass"))
        for name, param in sorted(self.scope.params.items()):
            if param.value != param.default:
                digest.update(f"\0{name}={param.value!r}".encode())
        return digest.hexdigest()

    def _version(self, header: nodes.Header) -> int:
        if not header.version.text.isdigit():
            self.report.add("T302", "a version is a whole number", header.version.span)
            return 0
        return int(header.version.text)

    def _count(self) -> None:
        """Clauses that may be given once only."""
        for item in self.parsed.tree.items:
            if not isinstance(item, _ONCE):
                continue
            first = self.once.setdefault(type(item), item)
            if first is not item:
                line, _ = self.report.source.position(first.span.start)
                word = type(item).__name__.lower()
                self.report.add("N106", f"`{word}` is given twice", item.span, f"the first is in line {line}")

    def _only(self, kind: type[T]) -> T | None:
        found = self.once.get(kind)
        return found if isinstance(found, kind) else None

    def _not_extended(self) -> None:
        """A base that is named and was not found: whoever reads files puts its clauses in before."""
        header = self.parsed.tree.header
        if header and header.extends:
            text = f"cannot extend `{header.extends.text}`: it is not there, does not parse, or extends this policy"
            self.report.add("N103", text, header.extends.span, "a base lies beside the policy or is a shipped one")

    def _param(self, item: nodes.Param) -> None:
        if not self.scope.declare(item.name, "param"):
            return
        name, kind = item.name.text, TYPE_NAMES.get(item.type.text)
        if kind is None:
            known = f"types are {listing(TYPE_NAMES, limit=12)}"
            self.report.unknown("T303", "type", item.type.text, item.type.span, list(TYPE_NAMES), known)
            self.scope.lost.add(name)
            return
        default = self._value(item.default, kind, name)
        low, high = self._range(item, kind)
        value = default
        if (override := self.overrides.value(name, kind)) is not None:
            value = override
        if default is None or value is None:
            self.scope.lost.add(name)
            return
        self._in_range(default, low, high, item)
        if override is not None:
            self.overrides.in_range(name, override, low, high)
        line, _ = self.report.source.position(item.span.start)
        clause = ir.Clause(f"param.{name}", line, item.span)
        self.scope.params[name] = ir.Param(name, kind, value, default, low, high, clause)

    def _value(self, node: nodes.Expr, kind: Type, name: str) -> float | bool | str | None:
        value = self.expressions.slot(node, Place.CONSTANT, kind, f"param `{name}`")
        if value.type.is_error or not isinstance(value, ir.Const):
            return None
        return value.value

    def _range(self, item: nodes.Param, kind: Type) -> tuple[float | None, float | None]:
        if item.within is None:
            return None, None
        if not kind.is_num:
            self.report.add("T302", f"a {kind.describe()} has no range", item.within.span)
            return None, None
        low = self.expressions.constant(item.within.low, kind, "the range")
        high = self.expressions.constant(item.within.high, kind, "the range")
        if low is not None and high is not None and low > high:
            self.report.add("V404", "the range is empty: its low end is above its high end", item.within.span)
        return low, high

    def _in_range(self, value: float | bool | str, low: float | None, high: float | None, item: nodes.Param) -> None:
        if isinstance(value, str) or low is None or high is None or low > high:
            return
        if not low <= value <= high and item.within:
            text = self.expressions.text(item.default)
            bounds = self.report.source.slice(item.within.span)
            self.report.add("V404", f"default `{text}` is outside `{bounds}`", item.default.span)
