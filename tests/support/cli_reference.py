"""The command line's reference page, made from the commands' own help. Run as a script it writes the page."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import typer

from gfdit.cli.app import COMMANDS, app, main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md"
HEAD = """# Commands

Made by `make docs` from the commands' own help.

Exit codes: 0 done, nothing found; 1 findings, or an input that is wrong; 2 the command line is wrong; 70 an error of
gfdit's own; 130 interrupted.
"""


def help_of(*command: str) -> str:
    """What `gfdit ... --help` prints on a terminal of 100 columns."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main([*command, "--help"]) == 0
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return out.getvalue()


def commands() -> list[tuple[str, ...]]:
    """Every command, and behind a family of them its members."""
    group = typer.main.get_command(app)
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command = group.get_command(typer.Context(group), name)
        found += [(name,), *((name, member) for member in getattr(command, "commands", ()))]
    return found


def page() -> str:
    sections = [f"\n## gfdit {' '.join(words)}\n\n```text\n{help_of(*words)}```\n" for words in commands()]
    return HEAD + f"\n```text\n{help_of()}```\n" + "".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
