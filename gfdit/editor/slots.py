"""What a name may mean at a place, read off the parser's stack: completion, hover and definition agree by sharing this.

The stack of an LALR parser holds exactly what is not finished, so that the words on it say which clause a name would
belong to, whatever stands before.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from gfdit.lang import nodes
from gfdit.lang.build import Token
from gfdit.lang.frozen import Frozen
from gfdit.lang.grammar import table
from gfdit.lang.parser import Unfinished
from gfdit.lang.program import AggregateKind
from gfdit.lang.schema import Arg, Place, Schema
from gfdit.lang.types import Kind


class Slot(Enum):
    """The kinds of names."""

    NONE = auto()
    """no name, or a new one"""
    EXPRESSION = auto()
    POLICY = auto()
    TYPE = auto()
    INDEX = auto()
    STAGE = auto()
    POOL = auto()
    CLASS = auto()
    PREFERENCE = auto()
    KNOB = auto()
    TRIGGER = auto()
    FIELD = auto()
    """of a class"""
    SETTING = auto()
    """of a request in a test"""
    EVENT = auto()
    """of a `react` clause; modes are events too"""
    DEGREE = auto()
    MEMBER = auto()
    """of an enumeration"""


class Where(Frozen):
    """A place in a policy. `item`: the keyword of the unfinished clause, empty between clauses. `place`: where an
    expression would stand. `enum`: of which enumeration a MEMBER would be."""

    slot: Slot
    item: str = ""
    place: Place = Place.CONSTANT
    enum: str = ""


_RULES: Final = tuple(
    (re.compile(pattern), slot)
    for pattern, slot in (
        (r"POLICY .*EXTENDS$", Slot.POLICY),
        (r"(PARAM|STATE) .*COLON$", Slot.TYPE),
        (r"STATE NAME LSQB$", Slot.INDEX),
        (r"RESIZE$", Slot.POOL),
        (r"STAGE .*ON$", Slot.POOL),
        (r"STAGE(?:(?! LBRACE| ON).)*$", Slot.STAGE),
        (r"SPILL TO$", Slot.POOL),
        (r"PREFER( \S*names\S*| NAME| COMMA)*$", Slot.PREFERENCE),
        (r"PREEMPT FOR( \S*names\S*| NAME| COMMA)*$", Slot.CLASS),
        (r"PREEMPT .*FROM( \S*names\S*| NAME| COMMA)*$", Slot.CLASS),
        (r"DEGRADE( when)? TO(?:(?! EQUAL).)*$", Slot.KNOB),
        (r"TICK .*ON( \S*names\S*| NAME| COMMA)*$", Slot.TRIGGER),
        (r"FALLBACK$", Slot.POLICY),
        (r"REACT$", Slot.EVENT),
        (r"CLASS NAME class_when LBRACE", Slot.FIELD),
        (r"REQUEST NAME LBRACE", Slot.SETTING),
    )
)
_EXPRESSION: Final = frozenset({"NAME", "NUMBER", "LPAR"})


def where(state: Unfinished, schema: Schema) -> Where:
    """What a name at the end of what was read may mean."""
    stack = _tail(state)
    symbols = [symbol for symbol, _ in stack]
    item = _text(stack[0][1]) if stack else ""
    if not {"NAME", "FIELD"} & state.accepted:
        return Where(Slot.NONE, item)
    if not state.accepted >= _EXPRESSION:
        shown = " ".join(symbols)
        slot = next((slot for pattern, slot in _RULES if pattern.search(shown)), Slot.NONE)
        if "NAME" not in state.accepted:  # behind a dot
            slot = Slot.SETTING if item == "test" else Slot.NONE
        return Where(slot, item)
    calls = _calls(stack)
    place = _inside(_place(symbols), [function for function, _ in calls], "WHERE" in symbols[_last(symbols, "LPAR") :])
    entry = schema.functions.get(calls[0][0]) if calls else None
    if entry is not None and symbols[-1] in ("LPAR", "COMMA"):
        arg = entry.args[min(calls[0][1], len(entry.args) - 1)]
        slot = {Arg.DEGREE: Slot.DEGREE, Arg.CLASS: Slot.CLASS, Arg.POOL: Slot.POOL}.get(arg, Slot.EXPRESSION)
        return Where(slot, item, place)
    enum = _enum(stack, schema)
    return Where(Slot.MEMBER if enum else Slot.EXPRESSION, item, place, enum)


def starts_item(word: str, state: Unfinished) -> bool:
    """Whether a keyword would begin a new clause (or the policy) there, rather than go on with the present one."""
    data = table()
    items = data.words["item"]
    if word not in items:
        return word == "policy"
    return {data.literals[item] for item in items} <= state.accepted


def _tail(state: Unfinished) -> tuple[tuple[str, object], ...]:
    """The part of the stack that belongs to the clause at the end."""
    data = table()
    starts = {data.literals[word] for word in data.words["item"]} | {"POLICY"}
    for index in range(len(state.stack) - 1, -1, -1):
        if state.stack[index][0] in starts:
            return state.stack[index:]
    return ()


def _text(value: object) -> str:
    return value.text if isinstance(value, Token) else ""


def _last(symbols: list[str], wanted: str) -> int:
    return len(symbols) - 1 - symbols[::-1].index(wanted) if wanted in symbols else -1


def _calls(stack: tuple[tuple[str, object], ...]) -> list[tuple[str, int]]:
    """The functions whose arguments are being written, innermost first, and which argument it is."""
    found: list[tuple[str, int]] = []
    commas = 0
    for at in range(len(stack) - 1, 0, -1):
        match stack[at][0]:
            case "LPAR":
                if stack[at - 1][0] == "NAME":
                    found.append((_text(stack[at - 1][1]), commas))
                commas = 0
            case "COMMA":
                commas += 1
    return found


def _inside(place: Place, functions: list[str], filtered: bool) -> Place:
    """The place inside these functions: an aggregate runs over requests. `max` and `min` are aggregates when they have
    a `where`, and may be about to get one where single requests mean nothing otherwise."""
    sure = {AggregateKind.COUNT.value, AggregateKind.SUM.value, AggregateKind.MEAN.value}
    maybe = {AggregateKind.MAX.value, AggregateKind.MIN.value}
    if sure & set(functions) or (maybe & set(functions) and (filtered or place in (Place.TICK, Place.STATE))):
        return Place.AGGREGATE
    return place


def _enum(stack: tuple[tuple[str, object], ...], schema: Schema) -> str:
    """The enumeration that the value beside a comparison belongs to; empty when it is none."""
    symbols = [symbol for symbol, _ in stack]
    for at in range(len(stack) - 1, 0, -1):
        if symbols[at] == "COMPARE" or (symbols[at] == "IN" and "LBRACE" in symbols[at:]):
            if symbols[at] == "COMPARE" and at != len(stack) - 1:
                return ""
            value = stack[at - 1 - (symbols[at - 1] == "NOT")][1]
            entry = schema.attributes.get(value.name) if isinstance(value, nodes.Name) else None
            return entry.type.enum if entry is not None and entry.type.kind is Kind.ENUM else ""
        if symbols[at] not in ("LBRACE", "COMMA", "expr") and not symbols[at].startswith("__"):
            return ""
    return ""


_PLACES: Final = {
    "LET": Place.LET,
    "ORDER": Place.ORDER,
    "BATCH": Place.BATCH,
    "GUARD": Place.TICK,
    "REACT": Place.REACT,
    "TEST": Place.TEST,
}


def _place(symbols: list[str]) -> Place:
    """Where in a policy an expression at the end of these symbols would stand."""
    head, rest = symbols[0] if symbols else "", frozenset(symbols)
    match head:
        case "CLASS":
            return Place.CONSTANT if "LBRACE" in rest else Place.CLASS
        case "MODE" | "RESIZE":
            last = max(("WHEN", "UNTIL", "FOR", "WITHIN", "BY", "COOLDOWN"), key=lambda word: _last(symbols, word))
            return Place.TICK if last in ("WHEN", "UNTIL") else Place.CONSTANT
        case "BATCH" if _last(symbols, "MAX") > _last(symbols, "WHERE") or symbols[-1] == "WINDOW":
            return Place.CONSTANT
        case "REACT" if "DO" in rest:
            return Place.CONSTANT
        case "STATE" if "NEXT" in rest and "EVERY" not in rest:
            return Place.STATE if "LSQB" in rest else Place.TICK
        case "ADMIT":
            return Place.DEGRADE if "EQUAL" in rest else Place.ADMIT
        case "TRIAGE":
            return Place.CONSTANT if _last(symbols, "MARGIN") > _last(symbols, "SHED") else Place.TRIAGE
        case "STAGE":
            return _stage_place(symbols)
        case "PREEMPT":
            return _preempt_place(symbols)
        case "ALLOCATE":
            return Place.VALUE if {"MINIMIZING", "MAXIMIZING", "goal"} & rest else Place.CONSTANT
        case _:
            return _PLACES.get(head, Place.CONSTANT)


def _stage_place(symbols: list[str]) -> Place:
    part = symbols[_last(symbols, "LBRACE") :] if "SP" not in symbols else symbols[_last(symbols, "SP") :]
    if "SP" in symbols:
        return Place.FIXED if "FIXED" in part else Place.CHOOSE
    if "GROW" in part:
        return Place.TICK if "MAX" in part else Place.GROW
    return Place.TICK if "SPILL" in part else Place.CONSTANT


def _preempt_place(symbols: list[str]) -> Place:
    if {"DO", "LIMIT", "PROTECT"} & frozenset(symbols):
        return Place.CONSTANT
    return Place.VICTIM if "FROM" in symbols else Place.WINNER
