"""All tests of a policy: the `test` blocks in its own text, and those in the file `NAME_test.pol` beside it.

A file of tests holds `test` blocks and nothing else. It is checked as if it stood at the end of the policy; findings
and failures name its own lines. May not run anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.check import Checked, check
from gfdit.lang.render import render
from gfdit.lang.source import Source, Span
from gfdit.policy.library import TESTS_SUFFIX, fallback_names, find_policy
from gfdit.policy.native import compiled
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import checked_program, read_policy
from gfdit.policy.vocabulary import schema


@dataclass(frozen=True, slots=True)
class Suite:
    """A policy whose program has every test. `own_lines`: how many lines of its text are the policy's own."""

    policy: CompiledPolicy
    file: str
    tests_file: str
    own_lines: int

    def place(self, line: int) -> tuple[str, int]:
        """The file and line that a line of the joined text came from."""
        return (self.file, line) if line <= self.own_lines else (self.tests_file, line - self.own_lines)


def load_suite(name_or_path: str) -> Suite:
    """A policy (file, Python file or shipped name) with all its tests.

    Raises UsageError when there is no such policy, PolicyError with the findings when it or its tests do not check.
    """
    path = find_policy(name_or_path)
    found = read_policy(name_or_path)
    text, shown = found.text, found.shown
    program = checked_program(text, shown)
    beside = path.with_name(path.stem + TESTS_SUFFIX)
    if not beside.is_file():
        return Suite(compiled(program, found.native), shown, "", text.count("\n") + 1)
    own = text if text.endswith("\n") else text + "\n"
    tests_file = str(Path(shown).with_name(beside.name))
    tests = Source(_read(beside), tests_file)
    joined = check(Source(own + tests.text, shown), schema(), policies=fallback_names(path))
    _only_tests(joined, len(own), tests)
    if joined.program is None:
        raise PolicyError(_findings(joined, len(own), tests), hint=f"a test may name what `{shown}` declares")
    return Suite(compiled(joined.program, found.native), shown, tests_file, own.count("\n"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"cannot read tests `{path}`: {error}") from error


def _only_tests(joined: Checked, start: int, tests: Source) -> None:
    for item in joined.tree.items:
        if item.span.start >= start and not isinstance(item, nodes.Test):
            line, _ = tests.position(item.span.start - start)
            raise PolicyError(
                f"{tests.name}:{line}: a file of tests holds `test` blocks only, found `{type(item).__name__.lower()}`",
                hint=f"move it to the policy, or call the file something else than *{TESTS_SUFFIX}",
            )


def _findings(joined: Checked, start: int, tests: Source) -> str:
    """The findings in the file of tests, with its own lines."""
    moved = [
        replace(item, span=Span(item.span.start - start, max(item.span.end, start) - start), source=tests)
        for item in joined.diagnostics
        if item.span.start >= start
    ]
    return render(moved or joined.diagnostics)
