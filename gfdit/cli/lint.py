"""`gfdit lint`: what is right by the letter and probably not what was meant; `--fix` where that changes no decision."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.check import FORMATS, check_text, parse_settings, read_policies
from gfdit.errors import UsageError

if TYPE_CHECKING:
    from gfdit.lang.diagnostics import Diagnostic

FIXABLE = ("L504", "L508")
MOST_ROUNDS = 20  # a let that only another unused let reads is found in the next one


def lint(
    files: Annotated[
        list[str], typer.Argument(metavar="POLICY...", help="Files, folders, shipped names, or - for stdin.")
    ],
    fix: Annotated[
        bool, typer.Option("--fix", help="Sort degrees, and delete what is declared and never used.")
    ] = False,
    rules: Annotated[
        str | None, typer.Option("--rules", metavar="CODES", help="Only these, such as L505,L508.")
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="Lint for a cluster of this size.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="Override a param.")] = None,
    format_: Annotated[str, typer.Option("--format", help="pretty, short, json or github.")] = "pretty",
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Lint policies; exit 1 on any warning. Each rule has a page under docs/reference/errors."""
    from gfdit.lang.diagnostics import Severity
    from gfdit.lang.render import render, summary

    style = "json" if json_ else format_
    if style not in FORMATS:
        raise UsageError(f"unknown format `{format_}`", hint=f"formats are {', '.join(FORMATS)}")
    wanted = _wanted(rules)
    params = parse_settings(set_ or [])
    found: list[Diagnostic] = []
    for name, text in read_policies(files):
        if fix:
            text = _fixed(name, text, params, gpus, wanted)
        diagnostics = check_text(name, text, params, gpus).diagnostics
        found += [item for item in diagnostics if item.is_error or wanted is None or item.code in wanted]
    output = render(found, style=style, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    if output:
        typer.echo(output)
    if style == "pretty":
        typer.echo(f"{os.linesep if found else ''}{', '.join(files)}: {summary(found) or 'nothing to say'}")
        fixable = sum(item.code in FIXABLE for item in found)
        if fixable:
            typer.echo(f"`gfdit lint --fix` mends {fixable} of them")
    if any(item.severity is not Severity.INFO for item in found):
        raise typer.Exit(1)


def _wanted(rules: str | None) -> set[str] | None:
    from gfdit.lang.diagnostics import CODES

    if rules is None:
        return None
    wanted = {code.strip().upper() for code in rules.split(",")}
    if unknown := sorted(wanted - set(CODES)):
        raise UsageError(f"no rule `{unknown[0]}`", hint="docs/reference/errors lists them")
    return wanted


def _fixed(name: str, text: str, params: dict[str, str], gpus: int | None, wanted: set[str] | None) -> str:
    """Mend the file until nothing mendable is left; returns its text, which is written if it changed."""
    path = Path(name)
    if not path.is_file() or path.suffix != ".pol":
        raise UsageError(f"`{name}` cannot be mended", hint="--fix takes .pol files")
    before = text
    for _ in range(MOST_ROUNDS):
        checked = check_text(name, text, params, gpus)
        mendable = [item for item in checked.diagnostics if item.code in FIXABLE]
        if wanted is not None:
            mendable = [item for item in mendable if item.code in wanted]
        mended = next((better for item in mendable if (better := _mend(text, checked.tree, item)) is not None), None)
        if mended is None:
            break
        if not check_text(name, mended, {}, gpus).ok and checked.ok:
            break
        text = mended
    if text != before:
        path.write_text(text, encoding="utf-8")
        typer.echo(f"mended {name}", err=True)
    return text


def _mend(text: str, tree: object, item: Diagnostic) -> str | None:
    """The text without this finding; None when it is not one of the simple cases."""
    from gfdit.lang import nodes

    for node, _ in nodes.walk(tree):
        if item.code == "L508" and isinstance(node, nodes.Param | nodes.Let | nodes.Class):
            if node.name.span == item.span:
                return _without(text, node.span.start, node.span.end)
        elif item.code == "L504" and isinstance(node, nodes.SpChoice):
            inside = node.span.start <= item.span.start <= node.span.end
            wanted = sorted({count.text for count in node.degrees}, key=float)
            if inside and [count.text for count in node.degrees] != wanted:
                first, last = node.degrees[0].span.start, node.degrees[-1].span.end
                return text[:first] + ", ".join(wanted) + text[last:]
    return None


def _without(text: str, start: int, end: int) -> str:
    """The text without one item and the comment behind it; its line goes if nothing else is on it."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end + 1
    rest = text[end:line_end].strip()
    if not text[line_start:start].strip() and (not rest or rest.startswith("#")):
        return text[:line_start] + text[line_end:]
    return text[:start] + text[end:].lstrip(" ")
