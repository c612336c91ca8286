"""`gfdit fmt`: one canonical layout for policies, comments kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gfdit.cli.check import read_text
from gfdit.errors import PolicyError, UsageError
from gfdit.policy.library import policies_in


def fmt(
    files: Annotated[list[str], typer.Argument(metavar="POLICY...", help="Files or folders, or - for stdin.")],
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Change nothing; print what would change.")] = False,
) -> None:
    """Format policies in place."""
    from gfdit.lang.format import format_source

    failed = False
    for path in _paths(files):
        name = "<stdin>" if path is None else str(path)
        text = sys.stdin.read() if path is None else read_text(path)
        try:
            formatted = format_source(text, name)
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
            paths += policies_in(path)
        elif path.is_file():
            paths.append(path)
        else:
            raise UsageError(f"no policy file `{name}`", hint="shipped policies are formatted already")
    return paths
