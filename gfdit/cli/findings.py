"""What `gfdit check` and `gfdit lint` found, in the form that was asked for. Imports neither torch, numpy nor rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from gfdit.config import Environment
from gfdit.errors import UsageError

if TYPE_CHECKING:
    from gfdit.lang.diagnostics import Diagnostic

FORMATS = ("pretty", "short", "json", "github", "junit")
Found = tuple[str, Sequence["Diagnostic"]]
"""A file as it was named, and its findings."""


def known_format(style: str, formats: Sequence[str] = FORMATS) -> str:
    """`style`, or UsageError when there is no such format."""
    if style not in formats:
        raise UsageError(f"unknown format `{style}`", hint=f"formats are {', '.join(formats)}")
    return style


def show(files: Sequence[Found], style: str) -> None:
    """Print the findings of all files; nothing where there are none, but for formats that are one document."""
    from gfdit.lang.render import render

    if style == "junit":
        typer.echo(junit(files))
        return
    color = sys.stdout.isatty() and not Environment.read().no_color
    output = render([item for _, found in files for item in found], style=style, color=color)
    if output:
        typer.echo(output)


def junit(files: Sequence[Found]) -> str:
    """One suite a file and one case a finding: errors fail, the rest is output. A file without findings passes."""
    from xml.etree import ElementTree as Xml

    from gfdit.lang.render import render

    root = Xml.Element("testsuites")
    for name, found in files:
        failures = sum(item.severity.value != "info" for item in found)
        suite = Xml.SubElement(root, "testsuite", name=name, tests=str(max(len(found), 1)), failures=str(failures))
        for item in found:
            line, _ = item.source.position(item.span.start)
            title = f"{item.code} line {line}"
            case = Xml.SubElement(suite, "testcase", name=title, classname=name, file=name, line=str(line))
            text = _printable(render([item]))
            if item.severity.value == "info":
                Xml.SubElement(case, "system-out").text = text
            else:
                kind = item.severity.value
                Xml.SubElement(case, "failure", type=kind, message=_printable(item.message)).text = text
        if not found:
            Xml.SubElement(suite, "testcase", name="no findings", classname=name, file=name)
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True)


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(char if char in "\t\n" or char.isprintable() else "?" for char in text)
