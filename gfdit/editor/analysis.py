"""One reading of a policy as it stands in an editor: findings, tree and declared names, however unfinished the text is.

The text may extend another policy, or be the file of tests beside one: it is then checked together with that policy,
and what is found there is left out or told at the place that brought it in. Reads neighbouring files; runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gfdit.errors import GfditError
from gfdit.lang import nodes
from gfdit.lang.build import Token
from gfdit.lang.check import Checked
from gfdit.lang.diagnostics import Diagnostic
from gfdit.lang.frozen import Frozen
from gfdit.lang.parser import Comment, Parsed, Unfinished, parse, tokenize, unfinished
from gfdit.lang.source import Source, Span
from gfdit.policy import library
from gfdit.policy.checking import check_policy
from gfdit.policy.cluster import Cluster
from gfdit.policy.extending import expanded

_HEAD = "policy _ version 1\n"
_DECLARES = {"param": ":", "let": "=", "class": "when otherwise", "mode": "when", "state": "[ :", "pool": "="}
"""Keyword to the words that may follow the declared name."""


class Declared(Frozen):
    """A name that the policy declares. `item`: the whole declaration; None while it cannot be read."""

    kind: str
    name: str
    span: Span
    item: nodes.Item | None = None


@dataclass(frozen=True)
class Analysis:
    """See the module. `path`: the file, whether or not it was saved; `gpus`, `cluster`: what it is for, when known."""

    text: str
    path: Path
    gpus: int | None = None
    cluster: Cluster | None = None

    @cached_property
    def source(self) -> Source:
        return Source(self.text, self.path.name)

    @property
    def is_tests(self) -> bool:
        """Whether this is a file of tests: no header, `test` blocks only."""
        return self.path.name.endswith(library.TESTS_SUFFIX)

    @cached_property
    def policy_path(self) -> Path:
        """The policy: this file, or the one that this file tests."""
        if not self.is_tests:
            return self.path
        return self.path.with_name(self.path.name.removesuffix(library.TESTS_SUFFIX) + library.SUFFIX)

    @cached_property
    def _tested(self) -> str:
        """The text of the policy that a file of tests stands behind; empty for any other file."""
        if not self.is_tests:
            return ""
        whole = expanded(read(self.policy_path) or _HEAD, self.policy_path.parent)
        return whole if whole.endswith("\n") else whole + "\n"

    @cached_property
    def parsed(self) -> Parsed:
        """This text alone."""
        return parse(self.source)

    @cached_property
    def checked(self) -> Checked:
        """This text with what it extends or tests; spans count from `start`."""
        whole = self._tested + self.text if self.is_tests else expanded(self.text, self.path.parent)
        names = library.fallback_names(self.policy_path)
        return check_policy(Source(whole, self.path.name), gpus=self.gpus, cluster=self.cluster, policies=names)

    @property
    def start(self) -> int:
        """Where this text begins in what was checked."""
        return len(self._tested)

    @cached_property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The findings, in places of this text."""
        return tuple(self._own(self.checked.diagnostics))

    def _own(self, found: tuple[Diagnostic, ...]) -> Iterator[Diagnostic]:
        header = self.parsed.tree.header
        for item in found:
            start, end = item.span.start - self.start, item.span.end - self.start
            if 0 <= start <= len(self.text):
                yield replace(item, span=Span(start, min(max(start, end), len(self.text))), source=self.source)
            elif start > len(self.text) and header is not None and header.extends is not None:
                text = f"{item.message} (in what comes from `{header.extends.text}`)"
                yield replace(item, message=text, span=header.extends.span, source=self.source)

    @cached_property
    def _lexed(self) -> tuple[list[Token], tuple[Comment, ...]]:
        return tokenize(self.source)

    @property
    def tokens(self) -> list[Token]:
        return self._lexed[0]

    def token_at(self, offset: int) -> Token | None:
        """The token that touches an offset; of two, the word."""
        found = [token for token in self.tokens if token.text and token.span.start <= offset <= token.span.end]
        return max(
            found, key=lambda token: (token.text[0].isalnum() or token.text[0] == "_", -token.span.start), default=None
        )

    def quiet(self, offset: int) -> bool:
        """Whether an offset is inside a comment or a string, where no word means anything."""
        if any(note.span.start < offset <= note.span.end for note in self._lexed[1]):
            return True
        return any(token.text[:1] == '"' and token.span.start < offset < token.span.end for token in self.tokens)

    def before(self, offset: int) -> Unfinished:
        """What the parser is in the middle of at an offset."""
        return unfinished(Source((_HEAD if self.is_tests else "") + self.text[:offset]))

    @cached_property
    def declared(self) -> dict[str, Declared]:
        """Every name that this text declares, also in items that cannot be read yet."""
        found: dict[str, Declared] = {}
        for one in self._declarations():
            found.setdefault(one.name, one)
        return found

    def _declarations(self) -> Iterator[Declared]:
        items = {item.name.span.start: item for item in self.parsed.tree.items if isinstance(item, _NAMED)}
        tokens = self.tokens
        for word, name, follows in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if word.text in _DECLARES and follows.text in _DECLARES[word.text].split() and name.text.isidentifier():
                yield Declared(word.text, name.text, name.span, items.get(name.span.start))

    @cached_property
    def requests(self) -> tuple[str, ...]:
        """Names of the requests in tests, also of those that cannot be read yet."""
        tokens = self.tokens
        ends = zip(tokens, tokens[1:], tokens[2:], strict=False)
        found = [name.text for word, name, brace in ends if word.text == "request" and brace.text == "{"]
        return tuple(dict.fromkeys(found))

    def named(self, kind: str) -> list[str]:
        """Declared names of one kind, this text's first."""
        found = [one.name for one in self.declared.values() if one.kind == kind]
        return [*found, *(name for base in self.bases for name in base.named(kind) if name not in found)]

    @cached_property
    def bases(self) -> tuple[Analysis, ...]:
        """The policy that this one extends or tests, if it can be found."""
        header = self.parsed.tree.header
        if self.is_tests:
            path: Path | None = self.policy_path
        else:
            path = None if header is None or header.extends is None else self.policy_file(header.extends.text)
        text = None if path is None or path == self.path else read(path)
        return () if text is None or path is None else (Analysis(text, path),)

    def find(self, name: str) -> tuple[Analysis, Declared] | None:
        """Where a name is declared: in this text, or in what it extends or tests."""
        seen: set[Path] = set()
        place: Analysis | None = self
        while place is not None and place.path not in seen:
            if found := place.declared.get(name):
                return place, found
            seen.add(place.path)
            place = next(iter(place.bases), None)
        return None

    def policy_file(self, name: str) -> Path | None:
        """The file of a policy by its name: beside this one, or shipped."""
        beside = self.path.parent / f"{name}{library.SUFFIX}"
        if beside.is_file():
            return beside
        try:
            return library.shipped_policy(name)
        except GfditError:
            return None


_NAMED = (nodes.Param, nodes.Let, nodes.Class, nodes.Mode, nodes.State, nodes.Pool)


def read(path: Path) -> str | None:
    """The text of a file, or None when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
