"""`gfdit lint`: what is right by the letter and probably not what was meant; `--fix` where that changes no decision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.check import check_text, parse_settings, read_policies
from gfdit.cli.findings import known_format, show
from gfdit.errors import UsageError
from gfdit.lang.mend import FIXABLE, lint_fix

if TYPE_CHECKING:
    from gfdit.lang.diagnostics import Diagnostic

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
    format_: Annotated[str, typer.Option("--format", help="pretty, short, json, github or junit.")] = "pretty",
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Lint policies; exit 1 on any warning. Each rule has a page under docs/reference/errors."""
    from gfdit.lang.diagnostics import Severity
    from gfdit.lang.render import summary

    style = known_format("json" if json_ else format_)
    wanted = _wanted(rules)
    params = parse_settings(set_ or [])
    results: list[tuple[str, list[Diagnostic]]] = []
    for name, text in read_policies(files):
        if fix:
            text = _fixed(name, text, params, gpus, wanted)
        diagnostics = check_text(name, text, params, gpus).diagnostics
        results.append((name, [one for one in diagnostics if one.is_error or wanted is None or one.code in wanted]))
    found = [item for _, items in results for item in items]
    show(results, style)
    if style == "pretty":
        gap = "\n" if found else ""
        typer.echo(f"{gap}{', '.join(files)}: {summary(found) or 'nothing to say'}")
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
        fix = next((found for item in mendable if (found := lint_fix(text, checked.tree, item)) is not None), None)
        if fix is None:
            break
        mended = fix.apply(text)
        if not check_text(name, mended, {}, gpus).ok and checked.ok:
            break
        text = mended
    if text != before:
        path.write_text(text, encoding="utf-8")
        typer.echo(f"mended {name}", err=True)
    return text
