"""Warnings: a policy that is right by the letter and probably not what was meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gfdit.lang import lint_victims, nodes
from gfdit.lang.expr import Expressions
from gfdit.lang.parser import Parsed
from gfdit.lang.report import Report
from gfdit.lang.source import Span


def check(parsed: Parsed, expressions: Expressions) -> None:
    """Adds L5xx findings to the report of `expressions`."""
    tree, report = parsed.tree, expressions.report
    _unreachable(tree, report)
    for node, _ in nodes.walk(tree.items):
        for condition in _conditions(node):
            _constant(condition, report)
    if parsed.complete:
        _starving(tree, report)
        lint_victims.check(tree, report)
        _unused(tree, expressions)


def _unreachable(tree: nodes.Policy, report: Report) -> None:
    """L502: rules, classes and alternatives behind one that matches everything, or behind an equal condition."""
    classes = [(item.when, item.span, True) for item in tree.items if isinstance(item, nodes.Class)]
    _behind(classes, "class rule", report)
    for item in tree.items:
        if isinstance(item, nodes.Admit):
            rules = [(rule.when, rule.span, rule.verdict != "degrade") for rule in item.rules]
            _behind(rules, "rule", report)
        elif isinstance(item, nodes.Stage):
            for part in item.items:
                if isinstance(part, nodes.SpChoice):
                    links = [(link.where, link.span, True) for link in part.alternatives]
                    _behind(links, "alternative", report, only_catch_all=True)


def _behind(
    rules: Sequence[tuple[nodes.Expr | None, Span, bool]], what: str, report: Report, only_catch_all: bool = False
) -> None:
    """Each rule is (condition, span, terminal)."""
    earlier: list[nodes.Expr] = []
    for index, (condition, span, terminal) in enumerate(rules):
        if not only_catch_all and condition is not None and condition in earlier:
            report.add("L502", f"{what} can never match: an earlier one has the same condition", span)
        if condition is None and terminal:
            for _, later, _ in rules[index + 1 :]:
                report.add("L502", f"{what} can never match: an earlier {what} matches everything", later)
            return
        if condition is not None and terminal:
            earlier.append(condition)


def _conditions(node: object) -> Iterable[nodes.Expr]:
    found: list[nodes.Expr | None] = []
    match node:
        case nodes.Class() | nodes.AdmitRule():
            found = [node.when]
        case nodes.Alternative() | nodes.Grow() | nodes.Batch() | nodes.Call():
            found = [node.where]
        case nodes.Preempt():
            found = [node.when, node.where]
        case nodes.Guard() | nodes.If():
            found = [node.condition]
    return [condition for condition in found if condition is not None]


def _constant(condition: nodes.Expr, report: Report) -> None:
    """L503: no name in it, or both sides the same."""
    if isinstance(condition, nodes.Compare) and condition.left == condition.right:
        report.add("L503", "both sides are the same", condition.span)
    elif not any(isinstance(node, (nodes.Name, nodes.Field, nodes.Call)) for node, _ in nodes.walk(condition)):
        report.add("L503", "condition is always the same", condition.span, "leave it out")


def _starving(tree: nodes.Policy, report: Report) -> None:
    """L505: GPUs may be taken from a class, and nothing bounds its wait."""
    if any(isinstance(item, nodes.Aging) for item in tree.items):
        return
    for item in tree.items:
        if isinstance(item, nodes.Guard) and any(
            isinstance(node, nodes.Call) and node.function.text == "longest_wait" for node, _ in nodes.walk(item)
        ):
            return
    for item in tree.items:
        if isinstance(item, nodes.Class):
            flag = next((entry for entry in item.fields if entry.value is None), None)
            if flag:
                text = f"class `{item.name.text}` is preemptible and nothing bounds its wait"
                helps = "add `aging every 60s raise 1` or a guard on `longest_wait`"
                report.add("L505", text, flag.span, helps)


_NAMED = (nodes.Param, nodes.Let, nodes.Mode, nodes.State, nodes.Pool, nodes.Class)


def _unused(tree: nodes.Policy, expressions: Expressions) -> None:
    """L508: params, lets, modes, states, pools and empty classes that nothing reads."""
    used, report = expressions.scope.used, expressions.report
    for item in tree.items:
        if not isinstance(item, _NAMED) or item.name.text in used:
            continue
        if isinstance(item, nodes.Class) and (item.fields or item.when is None):
            continue
        word = type(item).__name__.lower()
        report.add("L508", f"{word} `{item.name.text}` is never used", item.name.span)
