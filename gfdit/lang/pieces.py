"""Syntax back to text: each statement as pieces between which a line may break, each expression as one string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, assert_never

from gfdit.lang import nodes
from gfdit.lang.frozen import Frozen

_TIGHT_UNITS: Final = frozenset({"us", "ms", "s", "min", "h", "%"})

# Binding strength of an expression; a weaker one inside a stronger one needs parentheses.
_IF, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _UNARY, _ATOM = range(9)


class Piece(Frozen):
    """Text that stays on one line, and where it starts in the source (-1: unknown)."""

    text: str
    start: int = -1


def expression(node: nodes.Expr, least: int = _IF) -> str:
    """The text of an expression, in parentheses if it binds weaker than `least`."""
    text, strength = _expression(node)
    return text if strength >= least else f"({text})"


def _expression(node: nodes.Expr) -> tuple[str, int]:
    match node:
        case nodes.Number():
            space = "" if not node.unit or node.unit in _TIGHT_UNITS else " "
            return f"{node.text}{space}{node.unit}", _ATOM
        case nodes.Text():
            return f'"{node.value}"', _ATOM
        case nodes.Truth():
            return "true" if node.value else "false", _ATOM
        case nodes.Name():
            return node.name, _ATOM
        case nodes.Field():
            return f"{node.base.text}.{node.name.text}", _ATOM
        case nodes.Unary(op="not"):
            return f"not {expression(node.operand, _NOT)}", _NOT
        case nodes.Unary():
            return f"-{expression(node.operand, _UNARY)}", _UNARY
        case nodes.Binary():
            strength = _SUM if node.op in "+-" else _PRODUCT
            left, right = expression(node.left, strength), expression(node.right, strength + 1)
            return f"{left} {node.op} {right}", strength
        case nodes.Compare():
            return f"{expression(node.left, _SUM)} {node.op} {expression(node.right, _SUM)}", _COMPARE
        case nodes.Member():
            word = "not in" if node.negated else "in"
            return f"{expression(node.value, _SUM)} {word} {{{listed(node.items)}}}", _COMPARE
        case nodes.BoolOp():
            strength = _OR if node.op == "or" else _AND
            return f" {node.op} ".join(expression(item, strength + 1) for item in node.operands), strength
        case nodes.If():
            condition, then = expression(node.condition, _OR), expression(node.then, _OR)
            return f"if {condition} then {then} else {expression(node.other)}", _IF
        case nodes.Call():
            inside = [text for text in (listed(node.args), _part("where", node.where)) if text]
            return f"{node.function.text}({' '.join(inside)})", _ATOM
    assert_never(node)


def listed(items: Sequence[nodes.Expr]) -> str:
    """Expressions between commas."""
    return ", ".join(expression(item) for item in items)


def _part(word: str, node: nodes.Expr | None) -> str:
    return "" if node is None else f"{word} {expression(node)}"


def _names(names: Sequence[nodes.Ident]) -> str:
    return ", ".join(name.text for name in names)


def _key(key: nodes.Key) -> str:
    return expression(key.value) + (f" {key.direction}" if key.direction else "")


def _keys(keys: Sequence[nodes.Key]) -> str:
    return ", ".join(_key(key) for key in keys)


def _within(within: nodes.Range | None) -> str:
    return "" if within is None else f"within {expression(within.low)} .. {expression(within.high)}"


def _because(text: nodes.Text | None) -> str:
    return "" if text is None else f'because "{text.value}"'


def pieces(node: nodes.Formatted) -> Iterator[Piece]:
    """The pieces of a statement, or of the head of a block, in order; at least one."""
    if isinstance(node, nodes.SpChoice):
        yield from _choice(node)
        return
    if isinstance(node, nodes.Allocate) and node.key is not None and has_parts(node):
        yield from _valued(node, node.key)
        return
    first = True
    for text in _texts(node):
        if text:
            yield Piece(text, node.span.start if first else -1)
            first = False


def _choice(node: nodes.SpChoice) -> Iterator[Piece]:
    degrees = ", ".join(number.text for number in node.degrees)
    yield Piece(f"sp in {{{degrees}}} gpu", node.span.start)
    for index, link in enumerate(node.alternatives):
        words = [
            "else" if index else "",
            link.kind,
            expression(link.key) if link.key else "",
            _part("where", link.where),
        ]
        yield Piece(" ".join(word for word in words if word), link.span.start)


def has_parts(node: nodes.Formatted) -> bool:
    """Whether it is an allocator whose value may go over several lines: an `if`, or a sum."""
    value = node.key if isinstance(node, nodes.Allocate) else None
    return isinstance(value, nodes.If) or (isinstance(value, nodes.Binary) and value.op in "+-")


def _valued(node: nodes.Allocate, value: nodes.Expr) -> Iterator[Piece]:
    """An allocator whose value is an `if` or a sum: each branch, or term, may have its own line."""
    head = [text for text in _system_texts(node)[:-1] if text]
    yield Piece(" ".join([*head, node.goal]), node.span.start)
    before = ""
    rest: nodes.Expr = value
    if isinstance(rest, nodes.Binary):
        yield from _terms(rest)
        return
    while isinstance(rest, nodes.If):
        condition, then = expression(rest.condition, _OR), expression(rest.then, _OR)
        yield Piece(f"{before}if {condition} then {then}", rest.span.start)
        before, rest = "else ", rest.other
    yield Piece(f"else {expression(rest)}", rest.span.start)


def _terms(value: nodes.Expr) -> Iterator[Piece]:
    """The terms of a sum, each but the first behind its sign."""
    if isinstance(value, nodes.Binary) and value.op in "+-":
        yield from _terms(value.left)
        yield Piece(f"{value.op} {expression(value.right, _PRODUCT)}", value.right.span.start)
    else:
        yield Piece(expression(value, _SUM), value.span.start)


def _texts(node: nodes.Formatted) -> Sequence[str]:
    match node:
        case nodes.Header() | nodes.Param() | nodes.Let() | nodes.Class() | nodes.ClassField():
            return _names_texts(node)
        case nodes.Mode() | nodes.State() | nodes.Pool() | nodes.Resize():
            return _cluster_texts(node)
        case nodes.Admit() | nodes.AdmitRule() | nodes.Order() | nodes.Triage() | nodes.Aging():
            return _intake_texts(node)
        case nodes.Preempt() | nodes.Batch() | nodes.Allocate() | nodes.Tick() | nodes.React() | nodes.Guard():
            return _system_texts(node)
        case nodes.Fallback():
            return _fallback_texts(node)
        case nodes.Test() | nodes.Cluster() | nodes.Request() | nodes.At() | nodes.Expect():
            return _test_texts(node)
        case _:
            return _stage_texts(node)


def _names_texts(node: nodes.Header | nodes.Param | nodes.Let | nodes.Class | nodes.ClassField) -> Sequence[str]:
    match node:
        case nodes.Header():
            title = f'"{node.title.value}"' if node.title else ""
            base = f"extends {node.extends.text}" if node.extends else ""
            return f"policy {node.name.text} version {node.version.text}", title, base
        case nodes.Param():
            head = f"param {node.name.text}: {node.type.text} = {expression(node.default)}"
            return head, _within(node.within)
        case nodes.Let():
            return (f"let {node.name.text} = {expression(node.value)}",)
        case nodes.Class():
            return f"class {node.name.text}", "otherwise" if node.when is None else _part("when", node.when)
        case nodes.ClassField():
            return (node.name.text if node.value is None else f"{node.name.text} {expression(node.value)}",)
    assert_never(node)


def _cluster_texts(node: nodes.Mode | nodes.State | nodes.Pool | nodes.Resize) -> Sequence[str]:
    match node:
        case nodes.Mode():
            start = _part("when", node.when), _part("for", node.when_for)
            return f"mode {node.name.text}", *start, _part("until", node.until), _part("for", node.until_for)
        case nodes.State():
            index = f"[{node.index.text}]" if node.index else ""
            head = f"state {node.name.text}{index}: {node.type.text} = {expression(node.start)}"
            return head, _within(node.within), _part("next", node.next), _part("every", node.every)
        case nodes.Pool():
            return (f"pool {node.name.text} = {expression(node.count) if node.count else 'rest'}",)
        case nodes.Resize():
            when = _part("when", node.when), _part("for", node.when_for)
            head = f"resize {node.pool.text} by {expression(node.by)}"
            return head, *when, _within(node.within), _part("cooldown", node.cooldown)
    assert_never(node)


def _intake_texts(
    node: nodes.Admit | nodes.AdmitRule | nodes.Order | nodes.Triage | nodes.Aging,
) -> Sequence[str]:
    match node:
        case nodes.Admit():
            return ("admit",)
        case nodes.AdmitRule():
            changes = ", ".join(f"{item.name.text} = {expression(item.value)}" for item in node.changes)
            return node.verdict, _part("when", node.when), f"to {changes}" if changes else "", _because(node.because)
        case nodes.Order():
            return (f"order by {_keys(node.keys)}",)
        case nodes.Triage():
            shed = f"shed {node.shed} {expression(node.shed_key)}" if node.shed_key else ""
            end = f"then {node.then}"
            return f"triage by {_key(node.by)}", _part("margin", node.margin), shed, end, _because(node.because)
        case nodes.Aging():
            head = f"aging every {expression(node.every)} raise {expression(node.amount)}"
            return head, _part("until tier", node.until)
    assert_never(node)


def _stage_texts(node: nodes.Formatted) -> Sequence[str]:
    match node:
        case nodes.Stage():
            return f"stage {_names(node.names)}", f"on {node.pool.text}" if node.pool else ""
        case nodes.SpFixed():
            return (f"sp fixed {expression(node.value)}",)
        case nodes.Grow():
            by = _keys(node.keys) if node.keys else "order"
            return f"grow by {by}", _part("where", node.where), _part("max", node.most)
        case nodes.Hold():
            return ("hold until done" if node.duration is None else _part("hold for", node.duration),)
        case nodes.Sticky():
            return (_part("sticky", node.amount),)
        case nodes.Prefer():
            return (f"prefer {_names(node.names)}",)
        case nodes.Reserve():
            return (_part("reserve for", node.duration),)
        case nodes.Lanes():
            return (_part("lanes", node.count),)
        case nodes.Spill():
            return f"spill to {node.pool.text}", _part("when", node.when)
    raise TypeError(type(node).__name__)


def _system_texts(
    node: nodes.Preempt | nodes.Batch | nodes.Allocate | nodes.Tick | nodes.React | nodes.Guard,
) -> Sequence[str]:
    match node:
        case nodes.Preempt():
            takes = " else ".join(f"{take.action} {_part('to', take.to)}".strip() for take in node.takes)
            limit = f"limit {expression(node.limit)} {_part('per', node.per)}" if node.limit else ""
            victims = f"from {_names(node.victims)}", _part("where", node.where)
            by = f"by {_keys(node.by)}" if node.by else ""
            head = f"preempt for {_names(node.winners)}", _part("when", node.when)
            return *head, *victims, by, f"do {takes}", limit, _part("protect", node.protect)
        case nodes.Batch():
            held = _part("max", node.most), _part("window", node.window)
            return f"batch by {listed(node.by)}", *held, _part("where", node.where)
        case nodes.Allocate():
            depth = _part("", node.depth).strip()
            window = _part("horizon", node.horizon), _part("beam", node.beam)
            return " ".join(filter(None, ("allocate", node.kind, depth))), *window, _part(node.goal, node.key)
        case nodes.Tick():
            return "tick", _part("every", node.every), f"on {_names(node.on)}" if node.on else ""
        case nodes.React():
            return f"react {node.event.text}", _part("when", node.when), f"do {_reaction(node.do)}"
        case nodes.Guard():
            return f"guard {node.name.text}:", expression(node.condition), f"else {node.action}"
    assert_never(node)


def _reaction(node: nodes.Reaction) -> str:
    amount = "" if node.amount is None else f"{'to ' if node.action == 'shrink' else ''}{expression(node.amount)}"
    text = f'"{node.text.value}"' if node.text else ""
    return " ".join(filter(None, (node.action, amount, _part("for", node.duration), text)))


def _fallback_texts(node: nodes.Fallback) -> Sequence[str]:
    strikes = f"after {expression(node.errors)} errors" if node.errors else ""
    return f"fallback {node.policy.text}", strikes, _part("or tick >", node.tick)


def _test_texts(node: nodes.Test | nodes.Cluster | nodes.Request | nodes.At | nodes.Expect) -> Sequence[str]:
    match node:
        case nodes.Test():
            return (f'test "{node.title.value}"',)
        case nodes.Cluster():
            return (_part("cluster", node.gpus),)
        case nodes.Request():
            fields = [f"{item.name.text} = {expression(item.value)}" for item in node.fields]
            if not fields:
                return (f"request {node.name.text} {{}}",)
            last = len(fields) - 1
            inside = [text + (" }" if i == last else ",") for i, text in enumerate(fields)]
            return f"request {node.name.text} {{ {inside[0]}", *inside[1:]
        case nodes.At():
            return (_part("at", node.time),)
        case nodes.Expect():
            return (_part("expect", node.condition),)
    assert_never(node)
