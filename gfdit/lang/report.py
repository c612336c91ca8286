"""Collects diagnostics of one source; the checker's passes share it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfdit.lang.diagnostics import Diagnostic, did_you_mean
from gfdit.lang.source import Source, Span


@dataclass(slots=True)
class Report:
    """What was found so far in `source`."""

    source: Source
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def add(self, code: str, message: str, span: Span, *helps: str, label: str = "") -> None:
        """One more finding; empty help lines are left out."""
        help_lines = tuple(text for text in helps if text)
        self.diagnostics.append(Diagnostic(code, message, span, self.source, label, help_lines))

    def unknown(self, code: str, what: str, word: str, span: Span, known: list[str], fallback: str = "") -> None:
        """An unknown word, with the nearest known one or else `fallback` as help."""
        helps = did_you_mean(word, known)
        self.add(code, f"unknown {what} `{word}`", span, *(helps or (fallback,)))

    @property
    def failed(self) -> bool:
        return any(item.is_error for item in self.diagnostics)
