"""`gfdit fmt`: one canonical layout for policies, comments kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gfdit.cli.check import read_text
from gfdit.errors import PolicyError, UsageError
from gfdit.policy.library import SUFFIX, TESTS_SUFFIX

_HEADER = "policy tests version 1\n"


def fmt(
    files: Annotated[list[str], typer.Argument(metavar="POLICY...", help="Files or folders, or - for stdin.")],
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Change nothing; print what would change.")] = False,
) -> None:
    """Format policies in place."""
    failed = False
    for path in _paths(files):
        name = "<stdin>" if path is None else str(path)
        text = sys.stdin.read() if path is None else read_text(path)
        try:
            formatted = _formatted(text, name)
        except PolicyError as error:
            typer.echo(error.message, err=True)
            failed = True
            continue
        if path is None and not (check or diff):
            typer.echo(formatted, nl=False)
        elif formatted != text:
            failed |= _changed(path, name, text, formatted, check, diff)
    if failed:
        raise typer.Exit(1)


def _formatted(text: str, name: str) -> str:
    """The text in its canonical layout; a file of tests has no header of its own."""
    from dataclasses import replace

    from gfdit.lang.format import format_source, format_tree
    from gfdit.lang.parser import parse
    from gfdit.lang.render import render
    from gfdit.lang.source import Source, Span

    if not name.endswith(TESTS_SUFFIX):
        return format_source(text, name)
    whole, own = Source(_HEADER + text, name), Source(text, name)
    parsed = parse(whole)
    if parsed.complete:
        return format_tree(parsed.tree, whole, parsed.comments).removeprefix(_HEADER).lstrip("\n")
    moved = [
        replace(item, source=own, span=Span(*(max(at - len(_HEADER), 0) for at in (item.span.start, item.span.end))))
        for item in parsed.diagnostics
    ]
    raise PolicyError(render(moved, style="short"), hint="only tests that parse can be formatted")


def _changed(path: Path | None, name: str, text: str, formatted: str, check: bool, diff: bool) -> bool:
    """Writes or shows a change; True if it counts as a finding."""
    if diff:
        import difflib

        lines = difflib.unified_diff(text.splitlines(True), formatted.splitlines(True), name, f"{name} (formatted)")
        typer.echo("".join(lines), nl=False)
    elif check:
        typer.echo(f"would reformat {name}")
    elif path is not None:
        path.write_text(formatted, "utf-8")
        typer.echo(f"reformatted {name}")
    return check or diff


def _paths(files: list[str]) -> list[Path | None]:
    """Files to format; None is standard input."""
    paths: list[Path | None] = []
    for name in files:
        path = Path(name)
        if name == "-":
            paths.append(None)
        elif path.is_dir():
            paths += sorted(path.glob(f"*{SUFFIX}"))
        elif path.is_file():
            paths.append(path)
        else:
            raise UsageError(f"no policy file `{name}`", hint="shipped policies are formatted already")
    return paths
