"""The pages of the documentation as blocks and links, and a reader who types what they say.

Conventions of fenced blocks. The first word is the language; a file name after it saves the block beside the page's
other files; these words say more:

    policy FILE [faulty]     a policy; it must check without a finding, unless it is faulty on purpose
    sh [no-run] [fails]      commands, run one after the other in the page's folder; `fails`: exit code 1
    text [varies]            right after commands that are run: lines of their output, in order; `varies`: only alike
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gfdit.cli.app import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `words`: what stands behind its language; `after`: where it ends in the page."""

    page: Path
    language: str
    words: tuple[str, ...]
    text: str
    start: int
    after: int

    @property
    def file(self) -> str | None:
        return next((word for word in self.words if "." in word), None)

    @property
    def commands(self) -> list[str]:
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]

    @property
    def runs(self) -> bool:
        return self.language == "sh" and "no-run" not in self.words

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.page.read_text('utf-8')[: self.start].count(chr(10)) + 1}"


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    return [
        Block(page, found[1], tuple((found[2] or "").split()), found[3], found.start(), found.end())
        for found in FENCE.finditer(page.read_text("utf-8"))
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def links(page: Path) -> Iterator[str]:
    """Targets of links to other pages or headings; without those that leave the repository."""
    yield from (target for target in LINK.findall(prose(page)) if "://" not in target)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may say."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_answer(command: Block, block: Block) -> bool:
    """Whether `block` shows what `command` prints: it follows with nothing in between."""
    between = command.page.read_text("utf-8")[command.after : block.start]
    return command.runs and block.language == "text" and "varies" not in block.words and not between.strip()


def save(block: Block, folder: Path) -> None:
    if block.file is not None:
        (folder / block.file).write_text(block.text, "utf-8")


def run(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the output of one command in `folder`, which is the current one."""
    program, *arguments = shlex.split(command)
    if program == "gfdit":
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out + err
    assert program == "python", command
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout + done.stderr


def missing_line(expected: str, output: str) -> str | None:
    """The first line of `expected` that `output` does not have behind the ones before it."""
    rest = iter([line.rstrip() for line in output.splitlines()])
    return next((line for line in map(str.rstrip, expected.splitlines()) if line not in rest), None)
