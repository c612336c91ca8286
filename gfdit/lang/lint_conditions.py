"""L502, L503, V402: rules that can never match, conditions that are always the same, divisors that can be zero.

Follows each condition from left to right with what is known by then: the rules before it did not match, the operands
of the `and` before it hold, this is the `else` of an `if`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, NamedTuple, TypeGuard, get_args

from gfdit.lang import intervals, nodes
from gfdit.lang import program as ir
from gfdit.lang.expr import Expressions
from gfdit.lang.facts import Background, Facts
from gfdit.lang.frozen import Frozen
from gfdit.lang.intervals import Interval, Ranges
from gfdit.lang.report import Report
from gfdit.lang.schema import Place
from gfdit.lang.scope import Scope
from gfdit.lang.source import Span
from gfdit.lang.types import DUR, Kind, Type
from gfdit.lang.units import with_unit

MOST_NESTED: Final = 20  # lets inside lets that conditions are followed through

_EXPRESSIONS: Final = get_args(nodes.Expr)
_CONDITIONS: Final = frozenset({"when", "where", "until", "condition"})
_NAMELESS: Final = (nodes.Name, nodes.Field, nodes.Call)


class Rule(NamedTuple):
    """One of several of which the first that holds is taken. `ends`: no later one is asked then."""

    condition: nodes.Expr | None
    span: Span
    ends: bool = True


def background(tree: nodes.Policy, scope: Scope, states: Iterable[ir.State]) -> Background:
    """What the names of a policy can be: by the schema, by `within`, by what they are defined as."""
    ranges = Ranges(scope.schema.ranges, {})
    for name, param in scope.params.items():
        ranges.declared[name] = _bounded(param.type, param.low, param.high)
    for name, (kind, _) in scope.carried.items():
        ranges.declared[name] = _bounded(kind, None, None)
    for state in states:
        ranges.declared[state.name] = _bounded(state.type, state.low, state.high)
    lets: dict[str, nodes.Expr] = {}
    nested: dict[str, int] = {}
    for item in tree.items:
        if not isinstance(item, nodes.Let) or item.name.text in nested:
            continue
        name = item.name.text
        inner = [nested.get(node.name, 0) for node, _ in nodes.walk(item.value) if isinstance(node, nodes.Name)]
        nested[name] = 1 + max(inner, default=0)
        if name in scope.lets and scope.lets[name].value.type.kind is Kind.BOOL and nested[name] <= MOST_NESTED:
            lets[name] = item.value
        ranges.declared.setdefault(name, ranges.of(item.value))
    known = {*scope.schema.attributes, *scope.schema.degrees, *scope.schema.knobs, *ranges.declared}

    def word(node: nodes.Expr) -> str | None:
        if isinstance(node, nodes.Text):
            return node.value
        return node.name if isinstance(node, nodes.Name) and node.name not in known else None

    return Background(ranges, lets, word)


def _bounded(kind: Type, low: float | None, high: float | None) -> Interval:
    if kind.kind is Kind.BOOL:
        return intervals.EITHER
    if low is None or high is None or low > high:
        return intervals.NUMBER if kind.is_num else intervals.ANYTHING
    return Interval(low, high)


def _running(everywhere: Background) -> Background:
    """Where a degree is chosen or grown `sp` is under test; elsewhere a request may have no GPUs."""
    ranges = Ranges(everywhere.ranges.built_in, everywhere.ranges.declared | {"sp": Interval(1.0, inf)})
    return Background(ranges, everywhere.lets, everywhere.word, everywhere.work)


@dataclass(slots=True)
class Conditions:
    """Checks every condition of a policy; findings go to the report of `expressions`."""

    expressions: Expressions
    background: Background

    @property
    def report(self) -> Report:
        return self.expressions.report

    def check(self, items: Sequence[nodes.Item]) -> None:
        self._rules([Rule(item.when, item.span) for item in items if isinstance(item, nodes.Class)], "class rule")
        running = Conditions(self.expressions, _running(self.background))
        for item in items:
            if isinstance(item, nodes.Stage):
                for part in item.items:
                    (running if isinstance(part, (nodes.SpChoice, nodes.Grow)) else self)._item(part)
            elif not isinstance(item, nodes.Test):
                self._item(item)

    def _item(self, item: Frozen) -> None:
        """All expressions of an item and of its parts, but for the conditions of rules, which are checked together."""
        if isinstance(item, nodes.Admit):
            self._rules([Rule(rule.when, rule.span, rule.verdict != "degrade") for rule in item.rules], "rule")
        elif isinstance(item, nodes.SpChoice):
            self._rules([Rule(link.where, link.span) for link in item.alternatives], "alternative")
        for name in item._fields:
            if (name, type(item)) in _GROUPED:
                continue
            value = getattr(item, name)
            for part in value if isinstance(value, tuple) else (value,):
                if not _is_expression(part):
                    if isinstance(part, Frozen):
                        self._item(part)
                elif name in _CONDITIONS and not isinstance(item, nodes.Aging):  # `until tier 0` is a number
                    self._condition(part, Facts(self.background))
                else:
                    self._visit(part, Facts(self.background))

    # ---- rules ------------------------------------------------------------------------------------------------------

    def _rules(self, rules: Sequence[Rule], what: str) -> None:
        """L502: behind one that matches everything, or where an earlier one has matched already."""
        facts, earlier = Facts(self.background), list[nodes.Expr]()
        for index, rule in enumerate(rules):
            if rule.condition is not None:
                self._rule(rule, rule.condition, facts, earlier, what)
            if not rule.ends:
                facts = Facts(self.background)  # a degraded request is another one
                continue
            if rule.condition is None or not facts.assume(rule.condition, False):
                one = f"an earlier {what} matches" if rule.condition is None else "those before it match"
                for later in rules[index + 1 :]:
                    self.report.add("L502", f"{what} can never match: {one} everything", later.span)
                return
            earlier.append(rule.condition)

    def _rule(self, rule: Rule, condition: nodes.Expr, facts: Facts, earlier: list[nodes.Expr], what: str) -> None:
        if self._is_constant(condition, Facts(self.background)):
            return
        if condition in earlier and facts.truths.get(condition) is False:
            self.report.add("L502", f"{what} can never match: an earlier one has the same condition", rule.span)
        elif not facts.possible(condition, True):
            text = f"{what} can never match: wherever it holds, an earlier one has matched"
            self.report.add("L502", text, rule.span)
        else:
            self._visit(condition, facts)

    # ---- conditions -------------------------------------------------------------------------------------------------

    def _condition(self, node: nodes.Expr, facts: Facts) -> None:
        if not self._is_constant(node, facts):
            self._visit(node, facts)

    def _is_constant(self, node: nodes.Expr, facts: Facts) -> bool:
        """L503, reported: no name in it, both sides the same, or one answer for all that its names can be."""
        if isinstance(node, nodes.Compare) and node.left == node.right:
            self.report.add("L503", "both sides are the same", node.span)
            return True
        if not any(isinstance(inner, _NAMELESS) for inner, _ in nodes.walk(node)):
            self.report.add("L503", "condition is always the same", node.span, "leave it out")
            return True
        answer = facts.settled(node)
        if answer is None:
            return False
        word = "true" if answer else "false"
        if Facts(self.background).settled(node) is None:
            self.report.add("L503", f"condition is always {word} here: what stands before it decides it", node.span)
        else:
            self.report.add("L503", f"condition is always {word}", node.span, self._why(node))
        return True

    def _why(self, node: nodes.Expr) -> str:
        """The side of a comparison that cannot go far enough."""
        if isinstance(node, nodes.Compare):
            for side in (node.left, node.right):
                found = self.background.ranges.of(side)
                if isinstance(side, nodes.Number) or not found.known:
                    continue
                if found.low > -inf:
                    return f"`{self.expressions.text(side)}` is never below {self._quantity(found.low, side)}"
                if found.high < inf:
                    return f"`{self.expressions.text(side)}` is never above {self._quantity(found.high, side)}"
        return ""

    def _visit(self, node: nodes.Expr, facts: Facts) -> None:
        """The parts of an expression, each with what is known where it stands."""
        match node:
            case nodes.BoolOp():
                here = facts.copy()
                for operand in node.operands:
                    self._condition(operand, here)
                    here.assume(operand, node.op == "and")
            case nodes.If():
                self._condition(node.condition, facts)
                for part, value in ((node.then, True), (node.other, False)):
                    here = facts.copy()
                    here.assume(node.condition, value)
                    self._visit(part, here)
            case nodes.Call(where=where):
                here = facts if where is None else Facts(self.background)  # about other requests
                if where is not None:
                    self._condition(where, here)
                    here.assume(where, True)
                for arg in node.args:
                    self._visit(arg, here)
            case nodes.Unary():
                self._visit(node.operand, facts)
            case nodes.Binary() | nodes.Compare():
                if node.op == "/":
                    self._divisor(node.right, facts)
                self._visit(node.left, facts)
                self._visit(node.right, facts)
            case nodes.Member():
                self._visit(node.value, facts)

    # ---- divisors ---------------------------------------------------------------------------------------------------

    def _divisor(self, node: nodes.Expr, facts: Facts) -> None:
        """V402; a divisor that is always zero is V401, an unknown name an error of its own."""
        found = facts.interval(node)
        if self.report.failed or not found.has_zero or found.low == found.high:
            return
        text, kind = self.expressions.text(node), self._type(node)
        if isinstance(node, nodes.Name) and node.name in self.expressions.scope.params:
            helps = "give it a range without 0, with `within`"
        elif found.low == 0.0 and kind is not None:
            least = "1ms" if kind == DUR else with_unit("1", kind) if kind.dim != (0,) * 6 else "1"
            helps = f"write `max({text}, {least})`, or test it first"
        else:
            helps = f"test it first: `if {text} ... then ... else ...`"
        self.report.add("V402", f"divisor `{text}` can be zero", node.span, helps)

    def _quantity(self, value: float, node: nodes.Expr) -> str:
        kind = self._type(node)
        return f"{value:g}" if kind is None or kind.dim == (0,) * 6 else with_unit(f"{value:g}", kind)

    def _type(self, node: nodes.Expr) -> Type | None:
        """The type of a number, wherever it stands; None when it is none."""
        for place in Place:
            quiet = Expressions(replace(self.expressions.scope, report=Report(self.report.source)))
            kind = quiet.expr(node, place).type
            if kind.is_num:
                return kind
        return None


def _is_expression(value: object) -> TypeGuard[nodes.Expr]:
    return isinstance(value, _EXPRESSIONS)


_GROUPED: Final = frozenset({("when", nodes.Class), ("when", nodes.AdmitRule), ("where", nodes.Alternative)})
