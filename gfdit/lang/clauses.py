"""Every clause but the stages: syntax in, clauses of `program.py` out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.diagnostics import listing
from gfdit.lang.expr import Expressions
from gfdit.lang.report import Report
from gfdit.lang.schema import Level, Place
from gfdit.lang.scope import Scope, poison
from gfdit.lang.source import NOWHERE, Span
from gfdit.lang.types import DUR, GPUS, NUM, Kind, Type

BUILTIN_FALLBACK: Final = "builtin.fcfs"
DEFAULT_STRIKES: Final = 3
# A rollout extends `beam` plans by every degree, `horizon` times over. A plan takes a microsecond at most, a round as
# much as STEP_PLANS plans beside those; measured on up to 1,024 GPUs with 4 and 8 degrees. A fifth of 5 ms is to spare.
STEP_PLANS: Final = 100
MOST_PLANS: Final = 4000

_CLASS_FIELDS: Final = {"slo": DUR, "rank": NUM, "weight": NUM, "miss": NUM}


@dataclass(slots=True)
class Clauses:
    """Checks clauses one by one; each method takes the syntax (None: not given) and returns the checked clause."""

    expressions: Expressions
    gpus: int | None
    policies: Collection[str] | None

    @property
    def scope(self) -> Scope:
        return self.expressions.scope

    @property
    def report(self) -> Report:
        return self.expressions.report

    def at(self, name: str, span: Span) -> ir.Clause:
        """The place of a clause."""
        return ir.Clause(name, self.report.source.position(span.start)[0], span)

    # -- names

    def let(self, item: nodes.Let) -> None:
        """Declares a `let`; those below may use it."""
        value = self.expressions.expr(item.value, Place.LET)
        if not self.scope.declare(item.name, "let"):
            return
        if value.type.kind in (Kind.ENUM, Kind.STR):
            self.report.add("T302", "a `let` holds a number, an instant or a condition", item.value.span)
            value = poison(item.value.span)
        name = item.name.text
        self.scope.lets[name] = ir.Let(name, value, self.at(f"let.{name}", item.span))

    def classes(self, items: Iterable[nodes.Item]) -> tuple[ir.ClassRule, ...]:
        """Class rules in the order of the text."""
        rules: list[ir.ClassRule] = []
        for item in items:
            if isinstance(item, nodes.Class):
                rules.append(self._class(item, len(rules)))
        return tuple(rules)

    def _class(self, item: nodes.Class, position: int) -> ir.ClassRule:
        when = self.expressions.condition(item.when, Place.CLASS) if item.when is not None else None
        values: dict[str, float | None] = {}
        flags: set[str] = set()
        for entry in item.fields:
            word = entry.name.text
            if word in values or word in flags:
                self.report.add("N106", f"`{word}` is given twice", entry.span)
            elif entry.value is None:
                flags.add(word)
            elif word not in _CLASS_FIELDS:
                known = [*_CLASS_FIELDS, "preemptible"]
                fields = f"fields are {listing(known)}"
                self.report.unknown("N104", "class field", word, entry.name.span, known, fields)
            else:
                values[word] = self._class_field(entry, word)
        rank, weight = values.get("rank"), values.get("weight")
        return ir.ClassRule(
            name=item.name.text,
            when=when,
            rank=position if rank is None else int(rank),
            weight=1.0 if weight is None else weight,
            slo=values.get("slo"),
            miss=values.get("miss"),
            preemptible="preemptible" in flags,
            clause=self.at(f"class.{item.name.text}", item.span),
        )

    def _class_field(self, entry: nodes.ClassField, word: str) -> float | None:
        assert entry.value is not None
        value = self.expressions.constant(entry.value, _CLASS_FIELDS[word], f"`{word}`")
        if value is None:
            return None
        if word == "rank" and (value < 0 or value % 1):
            self._bad("a rank is a whole number, 0 or more", entry.value)
        elif word in ("slo", "weight") and value <= 0:
            self._bad(f"`{word}` must be above zero", entry.value)
        elif word == "miss" and not 0 <= value <= 1:
            self._bad("`miss` is a ratio from 0% to 100%", entry.value)
        return value

    def _bad(self, message: str, node: nodes.Expr) -> None:
        self.report.add("V404", message, node.span)

    # -- intake and order

    def admit(self, item: nodes.Admit | None) -> tuple[ir.AdmitRule, ...]:
        """Admission rules in order."""
        rules = item.rules if item else ()
        return tuple(self._admit_rule(rule, number) for number, rule in enumerate(rules, 1))

    def _admit_rule(self, rule: nodes.AdmitRule, number: int) -> ir.AdmitRule:
        when = self.expressions.condition(rule.when, Place.ADMIT) if rule.when is not None else None
        return ir.AdmitRule(
            verdict=ir.Verdict(rule.verdict),
            when=when,
            because=rule.because.value if rule.because else "",
            changes=tuple(change for item in rule.changes if (change := self._change(item))),
            clause=self.at(f"admit.{number}", rule.span),
        )

    def _change(self, item: nodes.Set) -> ir.Change | None:
        schema, word = self.scope.schema, item.name.text
        knob = schema.knobs.get(word)
        if knob is None:
            known = f"knobs are {listing(schema.knobs)}"
            self.report.unknown("N104", "knob", word, item.name.span, list(schema.knobs), known)
            return None
        return ir.Change(word, self.expressions.slot(item.value, Place.DEGRADE, knob.type, f"knob `{word}`"))

    def order(self, item: nodes.Order | None, complete: bool) -> ir.Order:
        """The order, made total by the schema's tie key."""
        tie = self.scope.schema.tie
        keys = [self._key(key, Place.ORDER, "an order key") for key in item.keys] if item else []
        span = item.span if item else NOWHERE
        if not any(isinstance(key.value, ir.Name) and key.value.name == tie for key in keys):
            entry = self.scope.schema.attributes[tie]
            keys.append(ir.OrderKey(ir.Name(tie, entry.type, entry.level, span), False))
            if item:
                text = f"order is not total: `{tie}` and then the request id are appended"
                self.report.add("L501", text, span, f"end it with `, {tie}`")
            elif complete:
                self.report.add(
                    "L501", f"no `order`: requests go by `{tie}`", self._header(), f"write `order by {tie}`"
                )
        return ir.Order(tuple(keys), self.at("order", span))

    def _header(self) -> Span:
        return Span(0, len(self.report.source.line_text(1)))

    def _key(self, key: nodes.Key, place: Place, what: str) -> ir.OrderKey:
        value = self.expressions.expr(key.value, place)
        if value.type.kind in (Kind.ENUM, Kind.STR):
            text = f"{what} takes a number, an instant or a condition, found {value.type.describe()}"
            helps = "use `rank` or `tier` for the class" if value.type.enum == "class" else ""
            self.report.add("T302", text, key.value.span, helps)
            value = poison(key.value.span)
        return ir.OrderKey(value, key.direction == "desc")

    def triage(self, item: nodes.Triage | None) -> ir.Triage | None:
        if item is None:
            return None
        margin = self.expressions.constant(item.margin, NUM, "`margin`") if item.margin is not None else 1.0
        if margin is not None and margin <= 0 and item.margin is not None:
            self._bad("`margin` must be above zero", item.margin)
        if item.shed_key is not None:
            shed = self._key(nodes.Key(item.shed_key), Place.TRIAGE, "`shed`").value
        else:
            entry = self.scope.schema.attributes[self.scope.schema.shed]
            self.scope.used.add(entry.name)
            shed = ir.Name(entry.name, entry.type, entry.level, item.span)
        reason = item.because.value if item.because else "cannot be on time"
        return ir.Triage(
            by=self._key(item.by, Place.TRIAGE, "`triage by`"),
            margin=margin or 1.0,
            shed=shed,
            shed_most=item.shed != "least",
            reject_because=reason if item.then == "reject" else None,
            clause=self.at("triage", item.span),
        )

    def aging(self, item: nodes.Aging | None) -> ir.Aging | None:
        if item is None:
            return None
        every = self.positive(item.every, DUR, "`aging every`")
        amount = self.positive(item.amount, NUM, "`raise`")
        until = self.expressions.constant(item.until, NUM, "`until tier`") if item.until is not None else 0.0
        return ir.Aging(every or 1.0, amount or 1.0, until or 0.0, self.at("aging", item.span))

    def positive(self, node: nodes.Expr, kind: Type, what: str) -> float | None:
        """A constant above zero."""
        value = self.expressions.constant(node, kind, what)
        if value is not None and value <= 0:
            self._bad(f"{what} must be above zero", node)
        return value

    def whole(self, node: nodes.Expr, kind: Type, what: str) -> int:
        """A whole number, at least 1."""
        value = self.expressions.constant(node, kind, what)
        if value is not None and (value < 1 or value % 1):
            self._bad(f"{what} takes a whole number, at least 1", node)
            return 1
        return int(value or 1)

    # -- taking GPUs back

    def preempts(self, items: Iterable[nodes.Item]) -> tuple[ir.Preempt, ...]:
        found = [item for item in items if isinstance(item, nodes.Preempt)]
        return tuple(self._preempt(item, number) for number, item in enumerate(found, 1))

    def _preempt(self, item: nodes.Preempt, number: int) -> ir.Preempt:
        check = self.expressions
        when = check.condition(item.when, Place.WINNER) if item.when is not None else None
        where = check.condition(item.where, Place.VICTIM) if item.where is not None else None
        return ir.Preempt(
            winners=self._class_names(item.winners),
            when=when,
            victims=self._class_names(item.victims),
            where=where,
            by=tuple(self._key(key, Place.VICTIM, "the order of victims") for key in item.by),
            takes=tuple(take for node in item.takes if (take := self._take(node))),
            limit=self.whole(item.limit, NUM, "`limit`") if item.limit is not None else None,
            per=self.positive(item.per, DUR, "`per`") if item.per is not None else None,
            protect=(check.constant(item.protect, DUR, "`protect`") or 0.0) if item.protect is not None else 0.0,
            clause=self.at(f"preempt.{number}", item.span),
        )

    def _class_names(self, names: Sequence[nodes.Ident]) -> tuple[str, ...]:
        """Class names; the empty tuple for `any`."""
        found = tuple(self.scope.class_name(name) for name in names)
        return () if "any" in found else found

    def _take(self, node: nodes.Take) -> ir.Take | None:
        action = ir.Action(node.action)
        if action is ir.Action.SHRINK:
            if node.to is None:
                self.report.add("T301", "`shrink` needs a degree", node.span, "write `shrink to 1 gpu`")
                return None
            return ir.Take(action, self.whole(node.to, GPUS, "`shrink to`"))
        if node.to is not None:
            self.report.add("T301", f"`{node.action}` takes no `to`", node.to.span)
        return ir.Take(action, None)

    # -- allocation, time, safety

    def allocate(self, item: nodes.Allocate | None) -> ir.Allocate:
        if item is None:
            return ir.Allocate(ir.AllocateKind.GREEDY, 0, None)
        clause = self.at("allocate", item.span)
        if item.key is not None:
            kind, value = ir.AllocateKind(item.kind), self._value(item.key, item.kind)
            horizon, beam = self._rollout(item) if kind is ir.AllocateKind.ROLLOUT else (0, 0)
            return ir.Allocate(kind, 0, clause, value, item.goal == "maximizing", horizon, beam)
        depth = self.whole(item.depth, NUM, "`backfill`") if item.depth is not None else 0
        return ir.Allocate(ir.AllocateKind(item.kind), depth, clause)

    def _rollout(self, item: nodes.Allocate) -> tuple[int, int]:
        """How far and how widely it looks ahead, within what 5 ms are enough for."""
        horizon = self.whole(item.horizon, NUM, "`horizon`") if item.horizon is not None else 1
        beam = self.whole(item.beam, NUM, "`beam`") if item.beam is not None else 1
        if horizon * (STEP_PLANS + beam) > MOST_PLANS and item.horizon is not None and item.beam is not None:
            text = f"a rollout of horizon {horizon} and beam {beam} may take more than 5 ms a tick"
            widest = MOST_PLANS // horizon - STEP_PLANS
            helps = f"with this horizon the beam may be at most {widest}" if widest > 0 else ""
            most = f"the horizon may be at most {MOST_PLANS // (STEP_PLANS + 1)}, with a beam of 1"
            self.report.add("V404", text, item.horizon.span.to(item.beam.span), helps or most)
        return horizon, beam

    def _value(self, node: nodes.Expr, allocator: str) -> ir.Expr:
        """What a knapsack or a rollout adds up: a number for every request and degree."""
        value = self.expressions.expr(node, Place.VALUE)
        if not value.type.is_num and not value.type.is_error:
            self.report.add("T302", f"a {allocator} adds numbers up, found {value.type.describe()}", node.span)
            return poison(node.span)
        if value.level < Level.DEGREE and not value.type.is_error:
            none = "if sp == 0 gpu then 0 else 1" if allocator == "knapsack" else "remaining(sp) / alone"
            helps = f"use `sp` in it, such as `{none}`"
            self.report.add("L503", "the value is the same for every degree", node.span, helps)
        return value

    def batch(self, item: nodes.Batch | None) -> ir.Batch | None:
        if item is None:
            return None
        window = self.expressions.constant(item.window, DUR, "`window`") if item.window is not None else None
        if item.window is not None and window is not None and window < 0:
            self._bad("`window` cannot be negative", item.window)
        return ir.Batch(
            by=tuple(self.expressions.expr(key, Place.BATCH) for key in item.by),
            most=self.whole(item.most, NUM, "`max`"),
            window=window or 0.0,
            where=None if item.where is None else self.expressions.condition(item.where, Place.BATCH),
            clause=self.at("batch", item.span),
        )

    def tick(self, item: nodes.Tick | None) -> ir.Tick:
        if item is None:
            return ir.Tick(None, (), None)
        every = self.positive(item.every, DUR, "`tick every`") if item.every is not None else None
        if item.every is None and not item.on:
            self.report.add("T301", "`tick` says nothing", item.span, "write `tick every 20ms` or `tick on arrival`")
        triggers = self.scope.schema.triggers
        for name in item.on:
            if name.text not in triggers:
                known = f"triggers are {listing(triggers)}"
                self.report.unknown("N104", "trigger", name.text, name.span, list(triggers), known)
        return ir.Tick(every, tuple(name.text for name in item.on), self.at("tick", item.span))

    def guards(self, items: Iterable[nodes.Item]) -> tuple[ir.Guard, ...]:
        guards: dict[str, ir.Guard] = {}
        for item in items:
            if not isinstance(item, nodes.Guard):
                continue
            name = item.name.text
            condition = self.expressions.condition(item.condition, Place.TICK)
            if name in guards:
                self.report.add("N106", f"guard `{name}` is declared twice", item.name.span)
            guards[name] = ir.Guard(name, condition, ir.GuardAction(item.action), self.at(f"guard.{name}", item.span))
        return tuple(guards.values())

    def fallback(self, item: nodes.Fallback | None, header: nodes.Header | None) -> ir.Fallback:
        if item is None:
            return ir.Fallback(BUILTIN_FALLBACK, DEFAULT_STRIKES, None, None)
        name = item.policy.text
        if header and name == header.name.text:
            self.report.add("N103", "a policy cannot fall back to itself", item.policy.span)
        elif self.policies is not None and name != BUILTIN_FALLBACK and name not in self.policies:
            known = [BUILTIN_FALLBACK, *sorted(self.policies)]
            self.report.unknown("N103", "policy", name, item.policy.span, known, f"known ones are {listing(known)}")
        errors = self.whole(item.errors, NUM, "`after`") if item.errors is not None else DEFAULT_STRIKES
        tick = self.positive(item.tick, DUR, "`tick >`") if item.tick is not None else None
        return ir.Fallback(name, errors, tick, self.at("fallback", item.span))

    # -- tests

    def tests(self, items: Iterable[nodes.Item]) -> tuple[ir.Test, ...]:
        found = [item for item in items if isinstance(item, nodes.Test)]
        return tuple(self._test(item, number) for number, item in enumerate(found, 1))

    def _test(self, item: nodes.Test, number: int) -> ir.Test:
        self.scope.requests = set()
        for part in item.items:
            match part:
                case nodes.Cluster():
                    self.whole(part.gpus, GPUS, "`cluster`")
                case nodes.At():
                    self.expressions.constant(part.time, DUR, "`at`")
                case nodes.Expect():
                    self.expressions.condition(part.condition, Place.TEST)
                case nodes.Request():
                    self._request(part)
        self.scope.requests = set()
        return ir.Test(item.title.value, item, self.at(f"test.{number}", item.span))

    def _request(self, part: nodes.Request) -> None:
        """Values of a test request: any per-request attribute of the schema."""
        if part.name.text in self.scope.requests:
            self.report.add("N106", f"request `{part.name.text}` is declared twice", part.name.span)
        self.scope.requests.add(part.name.text)
        attributes = {n: a for n, a in self.scope.schema.attributes.items() if a.level is Level.REQUEST}
        for entry in part.fields:
            attribute = attributes.get(entry.name.text)
            if attribute is None:
                known = list(attributes)
                self.report.unknown("N104", "field", entry.name.text, entry.name.span, known)
            elif attribute.type.kind is not Kind.ENUM or not self.scope.member(entry.value, attribute.type):
                self.expressions.slot(entry.value, Place.TEST, attribute.type, f"`{attribute.name}`")
