"""Edits that put a finding right: those that change no decision, and the spelling that a message suggests.

Reads findings and the tree they were found in; writes no file.
"""

from __future__ import annotations

import re
from typing import Final

from gfdit.lang import nodes
from gfdit.lang.diagnostics import Diagnostic, suggested
from gfdit.lang.frozen import Frozen

FIXABLE: Final = ("L504", "L508")
_NUMBER_WITH_UNIT = re.compile(r"write `(?P<text>[^`]+)`$")


class Edit(Frozen):
    """`text` in place of the characters `start` to `end` (half-open)."""

    start: int
    end: int
    text: str

    def apply(self, text: str) -> str:
        """The text after the edit."""
        return text[: self.start] + self.text + text[self.end :]


def lint_fix(text: str, tree: nodes.Policy, item: Diagnostic) -> Edit | None:
    """What `gfdit lint --fix` does about a finding: no decision of the policy changes. None: not a simple case."""
    for node, _ in nodes.walk(tree):
        if item.code == "L508" and isinstance(node, nodes.Param | nodes.Let | nodes.Class):
            if node.name.span == item.span:
                return _without(text, node.span.start, node.span.end)
        elif item.code == "L504" and isinstance(node, nodes.SpChoice):
            inside = node.span.start <= item.span.start <= node.span.end
            wanted = sorted({count.text for count in node.degrees}, key=float)
            if inside and [count.text for count in node.degrees] != wanted:
                return Edit(node.degrees[0].span.start, node.degrees[-1].span.end, ", ".join(wanted))
    return None


def spelling_fix(item: Diagnostic) -> Edit | None:
    """The word or the unit that the help of a finding suggests, in place of what was written."""
    if not item.span.known:
        return None
    written = item.source.slice(item.span)
    word = suggested(item)
    if word is not None:
        return Edit(item.span.start, item.span.end, f'"{word}"' if written.startswith('"') else word)
    for line in item.help:
        found = _NUMBER_WITH_UNIT.match(line)
        if found and written and found["text"].startswith(written):
            return Edit(item.span.start, item.span.end, found["text"])
    return None


def _without(text: str, start: int, end: int) -> Edit:
    """Takes out one item and the comment behind it; its line goes if nothing else is on it."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end + 1
    rest = text[end:line_end].strip()
    if not text[line_start:start].strip() and (not rest or rest.startswith("#")):
        return Edit(line_start, line_end, "")
    return Edit(start, end + len(text[end:]) - len(text[end:].lstrip(" ")), "")
