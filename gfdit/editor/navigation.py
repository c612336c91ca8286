"""Where a name is declared and read, what it may be called instead, and the outline of a policy."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from gfdit.editor import words
from gfdit.editor.analysis import Analysis, read
from gfdit.editor.slots import Slot, Where, where
from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.build import Token
from gfdit.lang.frozen import Frozen
from gfdit.lang.grammar import table
from gfdit.lang.mend import Edit
from gfdit.lang.parser import parse
from gfdit.lang.pieces import expression
from gfdit.lang.source import Source, Span
from gfdit.policy.vocabulary import schema


class Place(Frozen):
    """A piece of a file; `text` is the whole file, for its lines."""

    path: Path
    text: str
    span: Span


def definition(reading: Analysis, offset: int) -> Place | None:
    """Where the name at an offset is declared: here, in a policy that this one extends or tests, or a policy's file."""
    token = reading.token_at(offset)
    if token is None or reading.quiet(offset):
        return None
    slot = where(reading.before(token.span.start), schema()).slot
    if slot is Slot.POLICY:
        return _header(reading, token)
    if token.text in _request_names(reading) and slot is not Slot.SETTING:
        return _request(reading, token)
    found = reading.find(token.text)
    if found is None or slot in (Slot.SETTING, Slot.FIELD, Slot.TYPE, Slot.STAGE, Slot.TRIGGER, Slot.PREFERENCE):
        return None
    home, declared = found
    return Place(home.path, home.text, declared.span)


def _header(reading: Analysis, token: Token) -> Place | None:
    path = reading.policy_file(token.text)
    text = None if path is None else read(path)
    if path is None or text is None:
        return None
    header = parse(Source(text)).tree.header
    return Place(path, text, Span(0, 0) if header is None else header.name.span)


def _tests(reading: Analysis) -> Iterator[nodes.Test]:
    yield from (item for item in reading.parsed.tree.items if isinstance(item, nodes.Test))


def _request_names(reading: Analysis) -> set[str]:
    return {part.name.text for test in _tests(reading) for part in test.items if isinstance(part, nodes.Request)}


def _request(reading: Analysis, token: Token) -> Place | None:
    """The request of the surrounding test."""
    for test in _tests(reading):
        if test.span.start <= token.span.start < test.span.end:
            for part in test.items:
                if isinstance(part, nodes.Request) and part.name.text == token.text:
                    return Place(reading.path, reading.text, part.name.span)
    return None


_READS = frozenset({Slot.EXPRESSION, Slot.CLASS, Slot.POOL, Slot.MEMBER, Slot.DEGREE, Slot.EVENT})


def references(reading: Analysis, offset: int) -> list[Span]:
    """Every place of the declared name at an offset, its declaration first; empty for any other word."""
    token = reading.token_at(offset)
    declared = None if token is None else reading.declared.get(token.text)
    if token is None or declared is None or reading.quiet(offset):
        return []
    found = [one.span for one in reading.tokens if one.text == declared.name and _reads(reading, one)]
    return [declared.span, *found] if token.span in (declared.span, *found) else []


def _reads(reading: Analysis, token: Token) -> bool:
    """Whether a token, at its place, is a name that a declaration may have given a meaning."""
    state = reading.before(token.span.start)
    data = table()
    kinds = [kind for kind in data.terminals(token.text) if kind in state.accepted]
    if not kinds or kinds[0] == data.literals.get(token.text):
        return False
    follows = reading.text[token.span.end :].lstrip()[:1]
    return where(state, schema()).slot in _READS and follows not in ("(", ".")


def renamed(reading: Analysis, offset: int, name: str) -> list[Edit]:
    """The edits that give the declared name at an offset another name. Raises PolicyError for one that cannot be."""
    spans = references(reading, offset)
    if not spans:
        raise PolicyError("only names that this policy declares can be renamed")
    if "NAME" not in table().terminals(name):
        raise PolicyError(f"`{name}` cannot be a name")
    if name in reading.declared or words.name(name, Where(Slot.EXPRESSION)) is not None:
        raise PolicyError(f"`{name}` means something already")
    return [Edit(span.start, span.end, name) for span in spans]


class Symbols(Enum):
    """What an entry of the outline is."""

    POLICY = "policy"
    VALUE = "value"
    CLASS = "class"
    CLAUSE = "clause"
    TEST = "test"


class Entry(Frozen):
    """One line of the outline: `span` is the whole item, `name_span` the part to select."""

    name: str
    detail: str
    sort: Symbols
    span: Span
    name_span: Span
    parts: tuple[Entry, ...] = ()


def outline(reading: Analysis) -> list[Entry]:
    """The items that can be read, in the order of the text."""
    tree = reading.parsed.tree
    found = []
    if tree.header is not None:
        title = tree.header.title.value if tree.header.title is not None else ""
        found.append(Entry(tree.header.name.text, title, Symbols.POLICY, tree.header.span, tree.header.name.span))
    return [*found, *(_entry(item) for item in tree.items)]


def _entry(item: nodes.Item) -> Entry:
    match item:
        case nodes.Param(name=name, default=value) | nodes.Let(name=name, value=value):
            return Entry(name.text, expression(value), Symbols.VALUE, item.span, name.span)
        case nodes.Class(name=name):
            return Entry(name.text, "class", Symbols.CLASS, item.span, name.span)
        case nodes.Mode(name=name) | nodes.State(name=name) | nodes.Pool(name=name) | nodes.Guard(name=name):
            return Entry(name.text, type(item).__name__.lower(), Symbols.VALUE, item.span, name.span)
        case nodes.Stage(names=names):
            listed = ", ".join(name.text for name in names)
            return Entry(f"stage {listed}", "", Symbols.CLAUSE, item.span, names[0].span.to(names[-1].span))
        case nodes.Test(title=title):
            requests = tuple(
                Entry(part.name.text, "request", Symbols.VALUE, part.span, part.name.span)
                for part in item.items
                if isinstance(part, nodes.Request)
            )
            return Entry(title.value, "test", Symbols.TEST, item.span, title.span, requests)
        case _:
            word = type(item).__name__.lower()
            end = min(item.span.start + len(word), item.span.end)  # it may be misspelt
            return Entry(word, "", Symbols.CLAUSE, item.span, Span(item.span.start, end))
