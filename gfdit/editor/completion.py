"""Completion: the words that the grammar takes at a place, and the names that mean something there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

from gfdit.editor import words
from gfdit.editor.analysis import Analysis
from gfdit.editor.slots import Slot, Where, starts_item, where
from gfdit.lang.frozen import Frozen
from gfdit.lang.grammar import table
from gfdit.lang.parser import Unfinished
from gfdit.lang.schema import Level, Place
from gfdit.lang.scope import ANY
from gfdit.lang.source import Span
from gfdit.lang.types import UNITS
from gfdit.policy import library
from gfdit.policy.builtin import BUILTIN_NAME
from gfdit.policy.reference import result, signature
from gfdit.policy.vocabulary import schema

_PARTIAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CLOSED = frozenset({Slot.CLASS, Slot.POOL, Slot.DEGREE, Slot.MEMBER})
"""places of an expression where only some names make sense"""


class Sort(Enum):
    """What is offered."""

    KEYWORD = "keyword"
    NAME = "name"
    FUNCTION = "function"
    DECLARED = "declared"
    POLICY = "policy"
    UNIT = "unit"


class Offer(Frozen):
    """One completion. `span`: the characters that it takes the place of."""

    label: str
    sort: Sort
    detail: str
    doc: str
    span: Span


def completions(reading: Analysis, offset: int) -> list[Offer]:
    """Everything that may stand at an offset, names first; empty inside comments and strings."""
    if reading.quiet(offset):
        return []
    partial = _PARTIAL.search(reading.text[:offset])
    start = offset if partial is None else partial.start()
    state = reading.before(start)
    spot = where(state, schema())
    span = Span(start, offset)
    seen: set[str] = set()
    found = []
    keywords = () if spot.slot in _CLOSED else _keywords(state, spot)
    for label, sort, detail, doc in (*_names(reading, spot), *keywords):
        if label not in seen:
            seen.add(label)
            found.append(Offer(label, sort, detail, doc, span))
    return found


_Row = tuple[str, Sort, str, str]


def _keywords(state: Unfinished, spot: Where) -> Iterator[_Row]:
    for text, terminal in table().literals.items():
        if terminal in state.accepted and text[0].isalpha():
            starts = starts_item(text, state)
            detail, clause = (words.summary(text), "") if starts else ("", spot.item)
            yield text, Sort.KEYWORD, detail, words.keyword(text, clause) or ""
    if "UNIT" in state.accepted:
        for unit in UNITS:
            yield unit, Sort.UNIT, (words.unit(unit) or "").partition("unit: ")[2], ""


def _names(reading: Analysis, spot: Where) -> Iterator[_Row]:
    closed = words.listed(spot.slot)
    if closed is not None:
        for name, doc in closed.items():
            yield name, Sort.NAME, doc, ""
        if spot.slot is Slot.EVENT:
            yield from _declared(reading, "mode")
        return
    match spot.slot:
        case Slot.POLICY:
            yield from _policies(reading, spot)
        case Slot.POOL:
            yield from _declared(reading, "pool")
        case Slot.CLASS:
            yield from _declared(reading, "class")
            yield ANY, Sort.NAME, "every class", ""
        case Slot.DEGREE:
            yield from _degrees(spot)
        case Slot.MEMBER if spot.enum in ("class", "stage"):
            yield from _declared(reading, spot.enum)  # no policy declares a stage
            for stage in schema().stages.values() if spot.enum == "stage" else ():
                yield stage.name, Sort.NAME, stage.doc, ""
        case Slot.SETTING:
            for entry in (entry for entry in schema().attributes.values() if entry.level is Level.REQUEST):
                yield entry.name, Sort.NAME, entry.type.describe(), entry.doc
        case Slot.EXPRESSION | Slot.MEMBER:
            yield from _expression(reading, spot)
        case _:
            return


def _policies(reading: Analysis, spot: Where) -> Iterator[_Row]:
    own = reading.policy_path.stem
    for path in library.policies_in(reading.path.parent):
        if path.stem != own:
            yield path.stem, Sort.POLICY, "beside this file", ""
    for name in library.names():
        if name != own:
            yield name, Sort.POLICY, "shipped", ""
    if spot.item == "fallback":
        yield BUILTIN_NAME, Sort.POLICY, "the policy of last resort", ""


def _declared(reading: Analysis, *kinds: str) -> Iterator[_Row]:
    for kind in kinds:
        for name in reading.named(kind):
            yield name, Sort.DECLARED, kind, ""


def _degrees(spot: Where) -> Iterator[_Row]:
    scope = words.scope()
    for name in ("sp", "next", "sp_best"):
        if (entry := scope.attribute(name, spot.place)) is not None:
            yield name, Sort.NAME, entry.type.describe(), entry.doc


def _expression(reading: Analysis, spot: Where) -> Iterator[_Row]:
    if spot.place is Place.TEST:
        for name in reading.requests:
            yield name, Sort.DECLARED, "request", ""
    yield from _declared(reading, "param")
    if spot.place is not Place.CONSTANT:
        yield from _declared(reading, "let", "mode", "state")
    scope = words.scope()
    for name in scope.visible(spot.place):
        entry = scope.attribute(name, spot.place)
        if entry is not None:
            yield name, Sort.NAME, entry.type.describe(), entry.doc
        else:
            yield name, Sort.NAME, "the present value", schema().knobs[name].doc
    for function in schema().functions.values():
        yield function.name, Sort.FUNCTION, f"{signature(function)}: {result(function)}", function.doc
    for name in words.AGGREGATES:
        yield name, Sort.FUNCTION, "over requests", words.function(name) or ""
