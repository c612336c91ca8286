"""The pages say what holds: their commands run, their policies check, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from gfdit.cli.app import COMMANDS, app
from tests.docs.pages import (
    DOCS,
    ROOT,
    Block,
    anchors,
    blocks,
    is_answer,
    links,
    missing_line,
    pages,
    run,
    save,
)

Capture = pytest.CaptureFixture[str]
RUNNING = [page for page in pages() if any(block.runs for block in blocks(page))]
POLICIES = [block for page in pages() for block in blocks(page) if block.language == "policy"]


def name(item: Path | Block) -> str:
    return item.where if isinstance(item, Block) else str(item.relative_to(DOCS))


@pytest.mark.parametrize("page", RUNNING, ids=name)
def test_commands_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    before, said = None, ""
    for block in blocks(page):
        save(block, tmp_path)
        if block.runs:
            said = ""
            for command in block.commands:
                code, output = run(command, tmp_path, capsys)
                assert code == int("fails" in block.words), f"{block.where}: `{command}` exits with {code}\n{output}"
                said += output
        elif before is not None and is_answer(before, block):
            missing = missing_line(block.text, said)
            assert missing is None, f"{block.where}: not in the output: {missing!r}\n{said}"
        before = block


def test_most_pages_are_tried() -> None:
    assert {name(page) for page in RUNNING} >= {
        "tutorials/first-run.md",
        "how-to/write-a-policy.md",
        "how-to/simulate-a-policy.md",
        "how-to/replay-a-journal.md",
        "how-to/use-the-collectives.md",
        "reference/files.md",
    }


def test_every_shown_command_line_is_accepted() -> None:
    """Commands that are too slow to run, or need a server, are parsed at least."""
    group = typer.main.get_command(app)
    seen = set()
    for block in (block for page in pages() for block in blocks(page) if block.language == "sh"):
        for line in block.commands:
            program, *words = shlex.split(line, comments=True)
            if program == "gfdit":
                words = words[: words.index(">")] if ">" in words else words
                command = group.get_command(typer.Context(group), words[0])
                assert command is not None, f"{block.where}: no command `{words[0]}`"
                command.make_context(words[0], words[1:])  # raises what the command line would say
                seen.add(words[0])
    assert seen >= set(COMMANDS) - {"version"}


@pytest.mark.parametrize("block", POLICIES, ids=name)
def test_policies_check_without_findings(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for other in blocks(block.page):  # fallbacks may be neighbours
        if "faulty" not in other.words:
            save(other, tmp_path)
    (tmp_path / "shown.pol").write_text(block.text, "utf-8")
    code, output = run("gfdit check --format short shown.pol", tmp_path, capsys)
    assert (code, output.strip() != "") == ((1, True) if "faulty" in block.words else (0, False)), output


@pytest.mark.parametrize("page", [*pages(), ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, heading = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{target}: no such file"
        assert other.is_relative_to(ROOT), f"{target}: leaves the repository"
        if heading:
            assert heading in anchors(other), f"{target}: no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, queue = set(), [ROOT / "README.md", DOCS / "README.md"]
    while queue:
        page = queue.pop()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        for target in links(page):
            other = (page.parent / target.partition("#")[0]).resolve()
            queue += sorted(other.glob("*.md")) if other.is_dir() else [other] if other.suffix == ".md" else []
    assert set(pages()) <= reached


def test_no_page_names_a_machine() -> None:
    for page in pages():
        assert not re.search(r"/(work|tmp|root|home)/", page.read_text("utf-8")), page
