"""Every code has a page; its bad example yields the code, its good one has no finding of that code and no error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.lang import Checked, Source
from gfdit.lang.diagnostics import CODES
from gfdit.policy.bundle import Fault
from gfdit.policy.checking import check_policy
from gfdit.policy.cluster import Cluster

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors"
SECTIONS = ["Summary", "Avoid", "Prefer", "Why", "How to fix"]
BLOCK = re.compile(r"```pol(?: gpus=(\d+)| (cluster))?\n(.*?)```", re.S)
GIB = 2.0**30
CLUSTER = Cluster((4,), gpu_mem=24 * GIB, models={"large": {1: 40 * GIB, 2: 28 * GIB, 4: 20 * GIB}})
"""The one that the pages of A605 and C701 speak of."""

IN_TEXT = sorted(code for code in CODES if not code.startswith("S"))
OF_BUNDLES = sorted(set(CODES) - set(IN_TEXT))


def sections(code: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", (PAGES / f"{code}.md").read_text("utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def examples(code: str) -> list[Checked]:
    return [
        check_policy(
            Source(text, f"{code}.pol"), gpus=int(gpus) if gpus else None, cluster=CLUSTER if cluster else None
        )
        for gpus, cluster, text in BLOCK.findall((PAGES / f"{code}.md").read_text("utf-8"))
    ]


def test_pages_and_codes_are_the_same_set() -> None:
    assert {path.stem for path in PAGES.glob("[A-Z]*.md")} == set(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_page_is_whole_and_listed(code: str) -> None:
    assert list(sections(code)) == SECTIONS
    assert all(text.strip() for text in sections(code).values())
    assert f"- [{code}]({code}.md): {CODES[code][1]}\n" in (PAGES / "index.md").read_text("utf-8")
    assert (PAGES / f"{code}.md").read_text("utf-8").startswith(f"# {code}: {CODES[code][1]}\n")


@pytest.mark.parametrize("code", IN_TEXT)
def test_page(code: str) -> None:
    avoid, prefer = examples(code)
    assert code in {item.code for item in avoid.diagnostics}
    assert prefer.ok
    assert not prefer.diagnostics


@pytest.mark.parametrize("code", OF_BUNDLES)
def test_page_of_bundles_shows_commands(code: str) -> None:
    """What yields S802 to S804 is tested with the bundles themselves."""
    for section in ("Avoid", "Prefer"):
        assert re.search(r"```console\n.*\.polb.*\n```", sections(code)[section], re.S)


NATIVE = """\
from gfdit.policy import arrival, gpu, order_by, policy, stages


@policy(version=1)
class Mine:
    order = order_by(arrival)
    fixed = stages("encode", "denoise", "decode", sp=1 * gpu)

    @policy.native
    def plan(columns, free, deadline):
        return {}
"""


def test_codes_of_bundles_are_those_that_bundles_have() -> None:
    assert {fault.value for fault in Fault} == set(OF_BUNDLES)


def test_a_native_policy_does_not_travel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "native.py"
    path.write_text(NATIVE, "utf-8")
    assert main(["policy", "build", str(path), "-o", str(tmp_path / "native.polb")]) == 1
    assert "S801" in capsys.readouterr().err
    assert not (tmp_path / "native.polb").exists()
