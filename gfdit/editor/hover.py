"""Hover: what the word under the cursor means, and what a declared name is worth."""

from __future__ import annotations

from gfdit.editor import words
from gfdit.editor.analysis import Analysis, Declared
from gfdit.editor.slots import Slot, starts_item, where
from gfdit.lang import program as ir
from gfdit.lang.build import Token
from gfdit.lang.frozen import Frozen
from gfdit.lang.grammar import table
from gfdit.lang.parser import parse
from gfdit.lang.source import Source, Span
from gfdit.lang.types import Kind
from gfdit.policy.vocabulary import schema


class Hover(Frozen):
    """Markdown, and the word that it is about."""

    text: str
    span: Span


def hover(reading: Analysis, offset: int) -> Hover | None:
    """What to show at an offset; None where there is nothing to say."""
    token = reading.token_at(offset)
    if token is None or reading.quiet(offset):
        return None
    text = _text(reading, token)
    return None if text is None else Hover(text, token.span)


def _text(reading: Analysis, token: Token) -> str | None:
    state = reading.before(token.span.start)
    kinds = [kind for kind in table().terminals(token.text) if kind in state.accepted]
    spot = where(state, schema())
    if kinds and kinds[0] == "UNIT":
        return words.unit(token.text)
    if kinds and kinds[0] == table().literals.get(token.text):
        if not token.text[0].isalpha():
            return None
        return words.keyword(token.text, "" if starts_item(token.text, state) else spot.item)
    if _is_called(reading, token):
        return words.function(token.text)
    if spot.slot is Slot.POLICY:
        return _policy(reading, token.text)
    if spot.slot in (Slot.EXPRESSION, Slot.CLASS, Slot.POOL, Slot.MEMBER, Slot.DEGREE, Slot.NONE):
        found = reading.find(token.text)
        if found is not None:
            return _declared(*found)
    return words.name(token.text, spot)


def _is_called(reading: Analysis, token: Token) -> bool:
    return reading.text[token.span.end :].lstrip()[:1] == "(" and words.function(token.text) is not None


def _policy(reading: Analysis, name: str) -> str | None:
    path = reading.policy_file(name)
    if path is None:
        return None
    header = parse(Source(path.read_text(encoding="utf-8", errors="replace"))).tree.header
    title = header.title.value if header is not None and header.title is not None else ""
    version = f" version {header.version.text}" if header is not None else ""
    return f"**`{name}`** policy{version}\n\n{title}"


def _declared(reading: Analysis, found: Declared) -> str:
    """A declaration as written, and what it comes to."""
    if found.item is None:
        written = reading.source.line_text(reading.source.position(found.span.start)[0]).strip()
    else:
        written = reading.source.slice(found.item.span)
    program = reading.checked.program
    worth = "" if program is None else _worth(program, found)
    return f"```pol\n{written}\n```" + (f"\n\n{worth}" if worth else "")


def _worth(program: ir.Program, found: Declared) -> str:
    match found.kind:
        case "param":
            item = next((one for one in program.params if one.name == found.name), None)
            return "" if item is None else f"{_described(item)}; `--set {found.name}=VALUE` changes it."
        case "let":
            let = next((one for one in program.lets if one.name == found.name), None)
            return "" if let is None else f"{let.value.type.describe()}, {_varies(let.value)}."
        case "mode":
            return "condition with hysteresis, one for the whole system."
        case "state":
            state = next((one for one in program.states if one.name == found.name), None)
            return "" if state is None else f"{state.type.describe()}, one for {_holder(state)}."
        case "class":
            rule = next((one for one in program.classes if one.name == found.name), None)
            return "" if rule is None else _class(rule)
        case _:
            return ""


def _described(item: ir.Param) -> str:
    unit = item.type.describe()
    value = item.value if item.type.kind is not Kind.NUM else f"{float(item.value):g}"
    base = {"duration": " s", "gpu count": " gpu"}.get(unit, "")
    return f"{unit}, `{value}{base}`"


def _varies(value: ir.Expr) -> str:
    return "one value for each request" if value.level >= value.level.REQUEST else "one value for the whole system"


def _holder(state: ir.State) -> str:
    return "each class" if state.per_class else "the whole system"


def _class(rule: ir.ClassRule) -> str:
    parts = [f"rank {rule.rank}", f"weight {rule.weight:g}"]
    parts += [] if rule.slo is None else [f"slo {rule.slo:g} s"]
    parts += [] if rule.miss is None else [f"miss {rule.miss:.0%}"]
    return f"class: {', '.join(parts)}{', preemptible' if rule.preemptible else ''}."
