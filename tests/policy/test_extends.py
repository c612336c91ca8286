"""`extends`: what is replaced, what stays, and bases that cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfdit.cli.check import check_text
from gfdit.errors import PolicyError
from gfdit.lang.extends import expand
from gfdit.policy.library import shipped_policy
from gfdit.policy.store import compile_text, load_policy

BASE = """policy base version 1 "the base"
param worth: ratio = 110% within 100% .. 300%
class ui when tag == "ui" { rank 0 }
class rest otherwise { rank 1 }
order by rank, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp in {1, 2} gpu largest where gain(sp) >= worth }
guard g: free < 9 gpu else alert
test "of the base" { expect free == 8 gpu }
"""


def base(name: str) -> str | None:
    return BASE if name == "base" else None


def test_an_own_clause_replaces_its_like_and_the_rest_is_inherited() -> None:
    own = """policy own version 2 "mine" extends base
param worth: ratio = 150% within 100% .. 300%
order by arrival
stage decode { sp fixed if late then 1 gpu else 1 gpu }
"""
    text = expand(own, base)
    lines = text.splitlines()
    assert lines[0].rstrip() == 'policy own version 2 "mine"' and lines[1:4] == own.splitlines()[1:4]  # line for line
    program = compile_text(text).program
    assert (program.name, program.version, program.params[0].value) == ("own", 2, 1.5)
    assert [rule.name for rule in program.classes] == ["ui", "rest"] and len(program.order.keys) == 1
    assert program.stage("decode").clause.line == 4 and program.stage("encode").clause.line > 4
    assert [guard.name for guard in program.guards] == ["g"] and program.tests == ()


def test_a_base_may_itself_extend() -> None:
    texts = {"base": BASE, "middle": "policy middle version 1 extends base order by arrival"}
    program = compile_text(expand("policy top version 1 extends middle allocate backfill 3", texts.get)).program
    assert program.allocate.depth == 3 and len(program.order.keys) == 1 and len(program.classes) == 2


@pytest.mark.parametrize("name", ["nobody", "own", "broken"])
def test_a_base_that_cannot_be_had_is_a_finding(name: str) -> None:
    text = f"policy own version 1 extends {name} order by arrival stage encode, denoise, decode {{ sp fixed 1 gpu }}"
    texts = {"broken": "policy broken version 1 order order", "own": "policy own version 1 extends own"}
    assert expand(text, texts.get) == text
    with pytest.raises(PolicyError, match=f"cannot extend `{name}`"):
        compile_text(text)


def test_circles_end() -> None:
    texts = {"a": "policy a version 1 extends b", "b": "policy b version 1 extends a"}
    assert expand(texts["a"], texts.get) == texts["a"]


def test_files_extend_their_neighbours_and_shipped_policies(tmp_path: Path) -> None:
    (tmp_path / "base.pol").write_text(BASE, encoding="utf-8")
    (tmp_path / "near.pol").write_text("policy near version 1 extends base order by arrival", encoding="utf-8")
    patient = tmp_path / "patient.pol"
    patient.write_text('policy patient version 1 "waits" extends edf_best_fit allocate backfill 2\n', encoding="utf-8")
    assert len(load_policy(str(tmp_path / "near.pol")).program.classes) == 2
    loaded = load_policy(str(patient)).program
    shipped = load_policy("edf_best_fit").program
    assert loaded.allocate.depth == 2 and loaded.order.keys == shipped.order.keys
    assert loaded.sha != shipped.sha and shipped_policy("edf_best_fit").is_file()
    checked = check_text(str(patient), patient.read_text("utf-8"), {})
    assert checked.ok and [item.code for item in checked.diagnostics] == []
