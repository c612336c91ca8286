"""Character offsets and the line and column pairs that editors speak.

A line ends at `\\n`, `\\r\\n` or `\\r`; columns count code units of the encoding that was agreed on, UTF-16 by default.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum

_LINE_END = re.compile(r"\r\n|\n|\r")


class Units(Enum):
    """What a column counts."""

    UTF8 = "utf-8"
    UTF16 = "utf-16"
    UTF32 = "utf-32"

    def of(self, char: str) -> int:
        """Code units of one character."""
        match self:
            case Units.UTF8:
                return len(char.encode("utf-8", "surrogatepass"))
            case Units.UTF16:
                return 2 if ord(char) > 0xFFFF else 1
            case Units.UTF32:
                return 1


@dataclass(frozen=True, slots=True)
class Positions:
    """Both directions for one text. Positions that the text does not have are moved to the nearest one that it has."""

    text: str
    units: Units = Units.UTF16
    _lines: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    """start and end of every line, its line end left out"""

    def __post_init__(self) -> None:
        found, start = [], 0
        for end in _LINE_END.finditer(self.text):
            found.append((start, end.start()))
            start = end.end()
        object.__setattr__(self, "_lines", (*found, (start, len(self.text))))

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 0, of a character offset."""
        offset = min(max(offset, 0), len(self.text))
        line = bisect_right(self._lines, offset, key=lambda place: place[0]) - 1
        start, end = self._lines[line]
        return line, sum(map(self.units.of, self.text[start : min(offset, end)]))

    def offset(self, line: int, column: int) -> int:
        """The character offset of a line and column; inside a character means before it."""
        if line < 0:
            return 0
        if line >= len(self._lines):
            return len(self.text)
        start, end = self._lines[line]
        for place in range(start, end):
            column -= self.units.of(self.text[place])
            if column < 0:
                return place
        return end
