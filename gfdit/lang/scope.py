"""What a policy declares, and how a name in an expression is resolved against it and the schema."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfdit.lang import nodes, program
from gfdit.lang.diagnostics import listing
from gfdit.lang.report import Report
from gfdit.lang.schema import Attribute, Level, Place, Schema
from gfdit.lang.source import Span
from gfdit.lang.types import BOOL, ERROR, GPUS, Type

ANY = "any"


def poison(span: Span) -> program.Const:
    """The value of an expression that was reported already."""
    return program.Const(0.0, ERROR, span)


@dataclass(slots=True)
class Scope:
    """The declared names of one policy. `lost` names were declared in text that could not be read."""

    schema: Schema
    report: Report
    lost: set[str] = field(default_factory=set)
    params: dict[str, program.Param] = field(default_factory=dict)
    lets: dict[str, program.Let] = field(default_factory=dict)
    carried: dict[str, tuple[Type, Level]] = field(default_factory=dict)
    """modes and states"""
    classes: dict[str, nodes.Ident] = field(default_factory=dict)
    pools: dict[str, nodes.Ident] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    """declared names and schema names that some expression reads"""

    def declare(self, name: nodes.Ident, what: str) -> bool:
        """Checks that a new name is free; reports and returns False otherwise."""
        word = name.text
        if (
            word in self.params
            or word in self.lets
            or word in self.classes
            or word in self.carried
            or word in self.pools
        ):
            self.report.add("N106", f"name `{word}` is declared twice", name.span)
        elif what != "class" and (doc := self._built_in(word)):
            text = f"`{word}` is a built-in name"
            self.report.add("N106", text, name.span, f"it means: {doc.doc}; choose another name for the {what}")
        elif word == ANY:
            self.report.add("N106", "`any` stands for every class", name.span, f"choose another name for the {what}")
        else:
            return True
        return False

    def _built_in(self, word: str) -> Attribute | None:
        """The schema's entry that a policy must not declare again."""
        entry = self.schema.attributes.get(word) or self.schema.degrees.get(word)
        return None if entry is None or entry.yields else entry

    def name(self, node: nodes.Name, place: Place) -> program.Expr:
        """What a bare name means at `place`."""
        word = node.name
        if word in self.lost:
            return poison(node.span)
        if param := self.params.get(word):
            self.used.add(word)
            return program.Const(param.value, param.type, node.span)
        if (let := self.lets.get(word)) and place is not Place.CONSTANT:
            return self._declared(word, let.value.type, let.value.level, node, place)
        if word in self.carried and place is not Place.CONSTANT:
            return self._declared(word, *self.carried[word], node, place)
        if place is Place.DEGRADE and (knob := self.schema.knobs.get(word)):
            return program.Name(word, knob.type, Level.REQUEST, node.span)
        if attribute := self.attribute(word, place):
            self.used.add(word)
            return program.Name(word, attribute.type, attribute.level, node.span)
        self._missing(node, place)
        return poison(node.span)

    def _declared(self, word: str, kind: Type, level: Level, node: nodes.Name, place: Place) -> program.Expr:
        """The value of a `let`, a mode or a state."""
        self.used.add(word)
        whole = place in (Place.TICK, Place.CLASS, Place.TEST) or (place is Place.STATE and word in self.lets)
        if whole and level > Level.TICK:
            text = f"`{word}` varies by request, which means nothing in {place.value}"
            self.report.add("N105", text, node.span)
            return poison(node.span)
        return poison(node.span) if kind.is_error else program.LetRef(word, kind, level, node.span)

    def attribute(self, word: str, place: Place) -> Attribute | None:
        """The schema's entry for `word` at `place`; the candidate meaning of `sp` goes first."""
        for entries in (self.schema.degrees, self.schema.attributes):
            entry = entries.get(word)
            if entry and (entry.places is None or place in entry.places):
                return entry
        return None

    def visible(self, place: Place) -> list[str]:
        """Every name that may be used at `place`."""
        entries = [*self.schema.attributes.values(), *self.schema.degrees.values()]
        built_in = [item.name for item in entries if item.places is None or place in item.places]
        knobs = self.schema.knobs if place is Place.DEGRADE else ()
        return [*self.params, *self.lets, *self.carried, *built_in, *knobs]

    def _missing(self, node: nodes.Name, place: Place) -> None:
        word, report = node.name, self.report
        elsewhere = self.schema.degrees.get(word) or self.schema.attributes.get(word)
        if elsewhere or word in self.lets or word in self.carried:
            report.add("N105", f"`{word}` means nothing in {place.value}", node.span, self._instead(word, place))
        elif word in self.classes:
            report.add("N105", f"`{word}` is a class", node.span, f"compare it: `class == {word}`")
        elif word in self.schema.functions:
            example = f"{word}({'sp_best' if place is not Place.CHOOSE else 'sp'})"
            report.add("N101", f"`{word}` is a function", node.span, f"call it, such as `{example}`")
        else:
            report.unknown("N101", "name", word, node.span, self.visible(place))

    def _instead(self, word: str, place: Place) -> str:
        if place is Place.CONSTANT:
            return "only numbers and params may stand here"
        if word == "next":
            return "`next` is the wider degree in `grow ... where`"
        if word == "sp":
            return "use `sp_best`, the degree with the shortest step"
        entry = self.schema.attributes.get(word)
        if entry and place is Place.CLASS:
            return "class rules see what is fixed on arrival, such as `tag`, `tokens` or `model`"
        if entry and entry.level is Level.REQUEST and place is Place.TICK:
            kind = "count(where {})" if entry.type == BOOL else "max({} where waiting)"
            return f"it varies by request; use an aggregate such as `{kind.format(word)}`"
        return ""

    # -- classes and other enums

    def class_name(self, name: nodes.Ident) -> str:
        """A class in a clause or a function; `any` is every class. Reports unknown ones."""
        if name.text == ANY or name.text in self.lost:
            return ANY
        self.used.add(name.text)
        if name.text not in self.classes:
            known = list(self.classes)
            other = f"classes are {listing(known)}" if known else "declare it: `class NAME when ... { ... }`"
            self.report.unknown("N103", "class", name.text, name.span, known, other)
        return name.text

    def pool_name(self, name: nodes.Ident) -> str | None:
        """A pool in a clause or a function; None for an unknown one, which is reported."""
        if name.text in self.pools:
            self.used.add(name.text)
            return name.text
        if name.text not in self.lost:
            known = list(self.pools)
            other = f"pools are {listing(known)}" if known else "declare it: `pool NAME = 2 gpu`"
            self.report.unknown("N103", "pool", name.text, name.span, known, other)
        return None

    def member(self, node: nodes.Expr, enum: Type) -> program.Const | None:
        """`node` as a member of `enum`, when it is a bare word or a string; None when it is something else."""
        if isinstance(node, nodes.Name) and node.name not in self.params:
            word, quoted = node.name, False
        elif isinstance(node, nodes.Text):
            word, quoted = node.value, True
        else:
            return None
        if not quoted and word in self.schema.attributes and word not in self.classes:
            return None
        known = list(self.classes) if enum.enum == "class" else self.schema.enums.get(enum.enum)
        is_open = known is None or (enum.enum == "class" and not known)
        if word in self.lost or word in (known or ()) or (is_open and quoted):
            self.used.add(word)
            return program.Const(word, enum, node.span)
        code = "N103" if enum.enum in ("class", "stage", "pool") else "N101"
        other = f'write it as a string: `"{word}"`' if is_open else f"known ones are {listing(known or ())}"
        self.report.unknown(code, enum.enum, word, node.span, list(known or ()), other)
        return program.Const(word, ERROR, node.span)

    def degree(self, node: nodes.Expr, place: Place) -> program.Expr | None:
        """An argument that stands for a degree: `sp`, `next`, `sp_best`; None when it is something else."""
        entry = self.attribute(node.name, place) if isinstance(node, nodes.Name) else None
        if entry is None or entry.type != GPUS or entry.level < Level.REQUEST:
            return None
        self.used.add(entry.name)
        return program.Name(entry.name, entry.type, entry.level, node.span)
