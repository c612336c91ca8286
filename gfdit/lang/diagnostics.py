"""Diagnostics are values: a code, a message, a place and a way out. Rendering lives in `render.py`.

Voice: lower case, no final period, backticks round what the user typed, expected before found. Every code has a page in
`docs/reference/errors`, whose example yields that code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from gfdit.lang.source import Source, Span


class Severity(Enum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


CODES: Final = MappingProxyType(
    {
        "P001": (Severity.ERROR, "unexpected word or symbol"),
        "P002": (Severity.ERROR, "unreadable text or unexpected end"),
        "N101": (Severity.ERROR, "unknown name"),
        "N102": (Severity.ERROR, "unknown function"),
        "N103": (Severity.ERROR, "unknown stage, class, pool or policy"),
        "N104": (Severity.ERROR, "unknown field, knob, trigger or preference"),
        "N105": (Severity.ERROR, "name that means nothing here"),
        "N106": (Severity.ERROR, "name or clause given twice"),
        "T301": (Severity.ERROR, "wrong number of arguments"),
        "T302": (Severity.ERROR, "wrong type"),
        "T303": (Severity.ERROR, "unknown type"),
        "U201": (Severity.ERROR, "adding or subtracting across units"),
        "U202": (Severity.ERROR, "comparing across units"),
        "U203": (Severity.ERROR, "values of different units in one place"),
        "U204": (Severity.ERROR, "instant used as a duration, or the other way round"),
        "U205": (Severity.ERROR, "wrong unit for this place"),
        "V401": (Severity.ERROR, "division by zero"),
        "V402": (Severity.WARNING, "division by something that can be zero"),
        "V403": (Severity.INFO, "state that leaves its range"),
        "V404": (Severity.ERROR, "value outside its range"),
        "L501": (Severity.INFO, "order is not total"),
        "L502": (Severity.WARNING, "rule that can never match"),
        "L503": (Severity.WARNING, "condition that is always the same"),
        "L504": (Severity.WARNING, "degrees out of order, repeated or not offered"),
        "L505": (Severity.WARNING, "preemptible class that may starve"),
        "L506": (Severity.WARNING, "victims in the order of urgency"),
        "L507": (Severity.WARNING, "thresholds without a gap"),
        "L508": (Severity.WARNING, "declared and never used"),
        "A601": (Severity.ERROR, "allocation larger than the cluster"),
        "A602": (Severity.WARNING, "degree that never fits"),
        "A603": (Severity.ERROR, "stage with no clause or with two"),
        "A604": (Severity.ERROR, "pools that do not divide the cluster"),
        "A605": (Severity.ERROR, "model that fits into no GPU"),
        "C701": (Severity.ERROR, "worst tick above its limit"),
        "S801": (Severity.ERROR, "native clause in a bundle"),
        "S802": (Severity.ERROR, "bundle without a signature"),
        "S803": (Severity.ERROR, "bundle signed by another key"),
        "S804": (Severity.ERROR, "damaged bundle"),
    }
)
"""Every code with its severity and what it is about."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `label` stands beside the caret; `help` says what to write instead."""

    code: str
    message: str
    span: Span
    source: Source = field(repr=False, compare=False)
    label: str = ""
    help: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return CODES[self.code][0]

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sorted by place, then code; repeated findings at one place are kept once."""
    seen: dict[tuple[str, int, int, str], Diagnostic] = {}
    for item in diagnostics:
        seen.setdefault((item.source.name, item.span.start, item.span.end, item.code), item)
    return tuple(seen[key] for key in sorted(seen))


def did_you_mean(word: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """A help line naming the nearest candidate, or nothing when none is near."""
    near = nearest(word, candidates)
    return (f"did you mean `{near}`?",) if near else ()


def suggested(diagnostic: Diagnostic) -> str | None:
    """The candidate that `did_you_mean` named in the help of a finding."""
    for line in diagnostic.help:
        if line.startswith("did you mean `") and line.endswith("`?"):
            return line.removeprefix("did you mean `").removesuffix("`?")
    return None


def nearest(word: str, candidates: Iterable[str], cutoff: float | None = None) -> str | None:
    """The candidate most like `word`, ignoring case; None when none is like it by `cutoff` (0..1)."""
    by_lower = {name.lower(): name for name in sorted(candidates, reverse=True)}
    cutoff = cutoff or (0.5 if len(word) <= 4 else 0.6)
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def listing(words: Iterable[str], last: str = "or", limit: int = 8) -> str:
    """`a`, `b` or `c`; more than `limit` are cut short with an ellipsis."""
    quoted = [f"`{word}`" for word in words]
    if len(quoted) > limit:
        return ", ".join(quoted[:limit]) + ", ..."
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
