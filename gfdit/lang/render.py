"""Diagnostics as text: pretty (with source and carets), short (one line each), json, and github annotations."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from enum import Enum

from gfdit.lang.diagnostics import Diagnostic, Severity

TAB = 4
CAP = 100

_COLORS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.INFO: "36"}


class Style(Enum):
    PRETTY = "pretty"
    SHORT = "short"
    JSON = "json"
    GITHUB = "github"


def render(diagnostics: Iterable[Diagnostic], *, style: Style | str = Style.PRETTY, color: bool = False) -> str:
    """All findings in one text without a final newline; `color` (ANSI) matters for pretty and short only."""
    items = list(diagnostics)
    match Style(style):
        case Style.JSON:
            return json.dumps([record(item) for item in items], indent=2)
        case Style.GITHUB:
            return "\n".join(_github(item) for item in items)
        case Style.SHORT:
            return "\n".join(_capped([_short(item, color) for item in items], "\n"))
        case Style.PRETTY:
            return "\n\n".join(_capped([_pretty(item, color) for item in items], ""))


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """`2 errors, 1 warning`; empty when there is nothing to say."""
    counts: dict[Severity, int] = {}
    for item in diagnostics:
        counts[item.severity] = counts.get(item.severity, 0) + 1
    parts = []
    for severity, count in ((severity, counts.get(severity, 0)) for severity in Severity):
        if count:
            plural = "s" if count > 1 and severity is not Severity.INFO else ""
            parts.append(f"{count} {severity.value}{plural}")
    return ", ".join(parts)


def cell_width(text: str) -> int:
    """Terminal cells that `text` takes: wide characters two, combining ones none."""
    width = 0
    for char in text:
        if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Mn", "Me"):
            continue
        width += 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
    return width


def _capped(blocks: list[str], gap: str) -> list[str]:
    if len(blocks) <= CAP:
        return blocks
    return [*blocks[:CAP], f"... and {len(blocks) - CAP} more{gap.strip()}"]


def _paint(text: str, code: str, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text


def _head(item: Diagnostic, color: bool) -> str:
    tag = _paint(f"{item.severity.value}[{item.code}]", f"1;{_COLORS[item.severity]}", color)
    return f"{tag}{_paint(': ' + item.message, '1', color)}"


def _where(item: Diagnostic) -> str:
    line, column = item.source.position(item.span.start)
    return f"{item.source.name}:{line}:{column}"


def _short(item: Diagnostic, color: bool) -> str:
    helps = "".join(f" ({text})" for text in item.help[:1])
    return f"{_where(item)}: {_head(item, color)}{helps}"


def _pretty(item: Diagnostic, color: bool) -> str:
    lines = [_head(item, color)]
    gutter = "  "
    if item.span.known:
        number, column = item.source.position(item.span.start)
        raw = item.source.line_text(number)
        before = raw[: column - 1].expandtabs(TAB)
        marked = raw[column - 1 : column - 1 + item.span.end - item.span.start]
        carets = max(1, cell_width((before + marked).expandtabs(TAB)) - cell_width(before))
        bar = _paint("|", "34", color)
        gutter = " " * (len(str(number)) + 1)
        pad = " " * cell_width(before)
        label = f" {item.label}" if item.label else ""
        underline = _paint("^" * carets + label, _COLORS[item.severity], color)
        lines += [
            f"{gutter[:-1]}{_paint('-->', '34', color)} {_where(item)}",
            f"{gutter}{bar}",
            f"{_paint(str(number), '34', color)} {bar} {raw.expandtabs(TAB)}",
            f"{gutter}{bar} {pad}{underline}",
        ]
    else:
        lines.append(f" {_paint('-->', '34', color)} {item.source.name}")
    lines += [f"{gutter}{_paint('=', '34', color)} help: {text}" for text in item.help]
    return "\n".join(lines)


def record(item: Diagnostic) -> dict[str, object]:
    """One finding as data: what the json style prints."""
    line, column = item.source.position(item.span.start)
    end_line, end_column = item.source.position(item.span.end)
    return {
        "code": item.code,
        "severity": item.severity.value,
        "message": item.message,
        "file": item.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "label": item.label,
        "help": list(item.help),
    }


def _github(item: Diagnostic) -> str:
    line, column = item.source.position(item.span.start)
    kind = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}[item.severity]
    text = item.message + "".join(f"\n{text}" for text in item.help)
    return annotation(kind, item.source.name, line, item.code, text, column)


def annotation(kind: str, file: str, line: int, title: str, text: str, column: int = 1) -> str:
    """A workflow command that shows `text` at a line; `kind`: error, warning or notice."""
    name = _escaped(file).replace(",", "%2C").replace(":", "%3A")
    shown = _escaped(title).replace(",", "%2C").replace(":", "%3A")
    return f"::{kind} file={name},line={line},col={column},title={shown}::{_escaped(text)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
