"""Source text and positions in it.

A `Span` is a pair of character offsets; a `Source` turns offsets into lines and columns. This module knows nothing of
the language and reads no file: the caller hands the text over.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range of character offsets, `start <= end`."""

    start: int
    end: int

    def to(self, other: Span) -> Span:
        """The smallest span that covers this one and `other`."""
        return Span(min(self.start, other.start), max(self.end, other.end))

    @property
    def known(self) -> bool:
        """False for nodes that were built by a program and not read from a text."""
        return self.start >= 0


NOWHERE = Span(-1, -1)


@dataclass(frozen=True, slots=True)
class Source:
    """A named text. `name` is what diagnostics print, usually the path as the user typed it."""

    text: str
    name: str = "<policy>"
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = [0, *(i + 1 for i, char in enumerate(self.text) if char == "\n")]
        object.__setattr__(self, "_starts", tuple(starts))

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of `offset`, both counted from 1; columns count characters."""
        line = bisect_right(self._starts, max(offset, 0))
        return line, max(offset, 0) - self._starts[line - 1] + 1

    def line_text(self, line: int) -> str:
        """Text of `line` (from 1) without its line end; empty past the end."""
        if line > len(self._starts):
            return ""
        start = self._starts[line - 1]
        end = self._starts[line] if line < len(self._starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def slice(self, span: Span) -> str:
        """The characters that `span` covers."""
        return self.text[span.start : span.end] if span.known else ""
