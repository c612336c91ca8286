"""Every code has a page; its bad example yields the code, its good one has no finding of that code and no error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gfdit.lang import Checked, Source, check
from gfdit.lang.diagnostics import CODES
from gfdit.policy.vocabulary import schema

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors"
SECTIONS = ["Summary", "Avoid", "Prefer", "Why", "How to fix"]
BLOCK = re.compile(r"```pol(?: gpus=(\d+))?\n(.*?)```", re.S)


def examples(code: str) -> list[Checked]:
    blocks = BLOCK.findall((PAGES / f"{code}.md").read_text("utf-8"))
    return [check(Source(text, f"{code}.pol"), schema(), gpus=int(gpus) if gpus else None) for gpus, text in blocks]


def test_pages_and_codes_are_the_same_set() -> None:
    assert {path.stem for path in PAGES.glob("[A-Z]*.md")} == set(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_page(code: str) -> None:
    text = (PAGES / f"{code}.md").read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    avoid, prefer = examples(code)
    assert code in {item.code for item in avoid.diagnostics}
    assert prefer.ok
    assert not prefer.diagnostics
    assert f"({code}.md)" in (PAGES / "index.md").read_text("utf-8")
