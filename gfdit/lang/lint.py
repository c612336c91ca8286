"""Warnings: a policy that is right by the letter and probably not what was meant."""

from __future__ import annotations

from gfdit.lang import lint_room, lint_victims, nodes
from gfdit.lang import program as ir
from gfdit.lang.expr import Expressions
from gfdit.lang.lint_carried import CarriedLints
from gfdit.lang.lint_conditions import Conditions, background
from gfdit.lang.parser import Parsed
from gfdit.lang.report import Report


def check(parsed: Parsed, expressions: Expressions, program: ir.Program | None, gpus: int | None) -> None:
    """Adds L5xx and V40x findings, and A60x findings about pools, to the report of `expressions`. `program` None: the
    policy has no header. `gpus`: size of the cluster, when known."""
    tree, report = parsed.tree, expressions.report
    states = () if program is None else program.states
    known = background(tree, expressions.scope, states)
    Conditions(expressions, known).check(tree.items)
    if program is not None:
        carried = CarriedLints(expressions)
        carried.check(tree.items, states, program.modes, known.ranges)
        carried.resizes(program.resizes)
        lint_room.check(tree, program, gpus, report)
    if parsed.complete:
        _starving(tree, report)
        lint_victims.check(tree, report)
        _unused(tree, expressions)


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
