"""What every word of the language means, as Markdown: the texts of the reference page, one word at a time."""

from __future__ import annotations

import re
from functools import cache

from gfdit.editor.slots import Slot, Where
from gfdit.lang.grammar import grammar_path
from gfdit.lang.program import AggregateKind
from gfdit.lang.report import Report
from gfdit.lang.schema import Attribute, Place, Schema
from gfdit.lang.scope import Scope
from gfdit.lang.source import Source
from gfdit.lang.types import TYPE_NAMES, UNITS, dim_text
from gfdit.policy.reference import CLAUSES, Grammar, Syntax, read_grammar, result, signature
from gfdit.policy.vocabulary import schema

AGGREGATES = tuple(kind.value for kind in AggregateKind)
_AGGREGATE = {
    "count": "how many admitted requests there are, or pass `where`",
    "sum": "sum over admitted requests",
    "mean": "mean over admitted requests",
    "max": "the largest over admitted requests",
    "min": "the smallest over admitted requests",
}


@cache
def _grammar() -> Grammar:
    return read_grammar(grammar_path().read_text(encoding="utf-8"))


@cache
def class_fields() -> dict[str, str]:
    """Fields of a class and what they say."""
    return dict(re.findall(r"`(\w+)` \(([^)]*)\)", " ".join(CLAUSES["class"].split())))


def scope() -> Scope:
    """The names of the language alone."""
    return Scope(schema(), Report(Source("")))


def keyword(word: str, item: str) -> str | None:
    """A keyword, inside the clause `item` or (empty) at its start; None when the reference says nothing of it."""
    clause = (item or word).replace("policy", "header")
    if clause not in CLAUSES:
        return None
    text = CLAUSES[clause]
    if item == "stage":
        parts = [part for part in text.split("\n- ")[1:] if word in re.findall(r"\w+", part.split(":")[0])]
        text = "\n\n".join(" ".join(part.split()) for part in parts) or text
    syntax = "\n".join(Syntax(_grammar()).block(clause))
    return f"```text\n{syntax}\n```\n\n{_plain(text)}"


def summary(word: str) -> str:
    """The first sentence about a clause, for a list."""
    text = " ".join(CLAUSES.get("header" if word == "policy" else word, "").split())
    return re.split(r"(?<=[.:])\s", text, maxsplit=1)[0]


def name(word: str, where: Where) -> str | None:
    """A name of the language at a place; None when it has no meaning there or anywhere."""
    words = schema()
    listed = _listed(words, where.slot)
    if listed is not None:
        return _titled(word, "", listed[word]) if word in listed else None
    if where.slot is Slot.MEMBER:
        return (
            _titled(word, "stage", words.stages[word].doc) if where.enum == "stage" and word in words.stages else None
        )
    if where.place is Place.DEGRADE and word in words.knobs:
        return _titled(word, "the present value", words.knobs[word].doc)
    entry = scope().attribute(word, where.place) or words.attributes.get(word) or words.degrees.get(word)
    return None if entry is None else _attribute(entry)


def _listed(words: Schema, slot: Slot) -> dict[str, str] | None:
    """The closed list of names that a slot takes, if it takes one."""
    match slot:
        case Slot.STAGE:
            return {stage.name: stage.doc for stage in words.stages.values()}
        case Slot.TRIGGER:
            return dict(words.triggers)
        case Slot.EVENT:
            return {event.name: event.doc for event in words.events.values()}
        case Slot.PREFERENCE:
            return dict(words.preferences)
        case Slot.KNOB:
            return {knob.name: knob.doc for knob in words.knobs.values()}
        case Slot.TYPE:
            return {kind: found.describe() for kind, found in TYPE_NAMES.items()}
        case Slot.FIELD:
            return class_fields()
        case Slot.INDEX:
            return {"class": "one number for each class"}
        case _:
            return None


def listed(slot: Slot) -> dict[str, str] | None:
    """The closed list of names that a slot takes, with their meaning; None for any other slot."""
    return _listed(schema(), slot)


def function(word: str) -> str | None:
    """A function, as it is called; None when there is none of that name."""
    entry = schema().functions.get(word)
    parts = [] if entry is None else [_titled(signature(entry), result(entry), entry.doc)]
    if word in AGGREGATES:
        shown = f"{word}([where c])" if word == "count" else f"{word}(x [where c])"
        parts.append(_titled(shown, "", _AGGREGATE[word]))
    return "\n\n---\n\n".join(parts) or None


def unit(word: str) -> str | None:
    """A unit in its base unit."""
    if word not in UNITS:
        return None
    factor, dim = UNITS[word]
    base = dim_text(dim)
    return f"**`{word}`** unit: " + (base if factor == 1 else f"{factor:.10g} {base}")


def _attribute(entry: Attribute) -> str:
    places = frozenset(Place) if entry.places is None else entry.places
    read = ", ".join(place.value for place in Place if place in places)
    return f"{_titled(entry.name, entry.type.describe(), entry.doc)}\n\nRead in {read}."


def _titled(title: str, kind: str, doc: str) -> str:
    return f"**`{title}`**{f' {kind}' if kind else ''}\n\n{doc}"


def _plain(text: str) -> str:
    """Without links into the reference page."""
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
