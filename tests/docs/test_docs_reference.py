"""Reference pages and tables agree with the code that they describe."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

import pytest

from gfdit.core.events import Event
from gfdit.core.lifecycle import TRANSITIONS
from gfdit.policy import cluster, reference
from gfdit.policy.cluster import load_cluster
from gfdit.policy.vocabulary import schema
from gfdit.runtime import costfile, workload
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.workload import load_workload
from tests.docs.pages import DOCS, blocks, run, save

GIB = 2.0**30
Capture = pytest.CaptureFixture[str]
FILES = DOCS / "reference" / "files.md"
DECISIONS = sorted((DOCS / "explanation" / "decisions").glob("*.md"))
LANGUAGE = DOCS / "reference" / "policy-language.md"


def section(page: Path, heading: str) -> str:
    """The text below one heading of second order."""
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", page.read_text("utf-8"), re.M | re.S)
    assert found is not None, heading
    return found[1]


def named_in_tables(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables."""
    rows = re.findall(r"^\| ([^|]*) \|", text, re.M)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_the_language_page_is_made_from_grammar_and_vocabulary() -> None:
    assert LANGUAGE.read_text("utf-8") == reference.page(), (
        "run: python -m gfdit.policy.reference > docs/reference/policy-language.md"
    )


def test_the_language_page_tells_every_word() -> None:
    text, words = LANGUAGE.read_text("utf-8"), schema()
    named = named_in_tables(text)
    assert {*words.attributes, *words.degrees, *words.stages, *words.knobs, *words.triggers} <= named
    assert {*words.preferences, *words.events} <= named
    assert {name.partition("(")[0] for name in named} >= {*words.functions}
    assert len(re.findall(r"^#### ", text, re.M)) == len(reference.CLAUSES)


def test_clause_syntax_is_read_off_the_grammar() -> None:
    grammar = reference.read_grammar(
        '// -- things\nitem: box | bag\nbox: "box" NAME [lid] tail -> made\nlid: "lid" expr\n'
        'tail: "a" -> x\n    | "b"\nbag: "bag" "(" box ("," box)* ")"\n\n'
        "// -- expressions, loosest first\nexpr: NUMBER\n"
    )
    syntax = reference.Syntax(grammar)
    assert grammar.items == ("box", "bag")
    assert syntax.block("box") == ["box NAME [lid EXPR] (a | b)"]
    assert syntax.block("bag") == ["bag '(' box NAME [lid EXPR] (a | b) (, box NAME [lid EXPR] (a | b))* ')'"]


def test_example_files_load_and_give_the_result_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = blocks(FILES)
    for block in shown:
        save(block, tmp_path)
    assert [request.id for request in load_workload(tmp_path / "two.jsonl")] == ["a", "b"]
    assert load_cost_model(tmp_path / "tiny.cost.json").degrees("tiny") == (1, 2)
    assert load_cluster(tmp_path / "cluster.toml").models == {"large": {1: 96 * GIB, 2: 58 * GIB, 4: 40 * GIB}}
    assert named_in_tables(section(FILES, "Cluster")) == set(cluster.KEYS)
    (command,) = (block.commands[0] for block in shown if block.runs)
    code, output = run(command, tmp_path, capsys)
    (expected,) = (json.loads(block.text) for block in shown if block.words == ("result",))
    got = json.loads(output)
    assert (code, list(got)) == (0, list(expected))
    for result in (got, expected):
        del result["tick_p50_us"], result["tick_p99_us"]  # measured
    assert got == expected
    assert named_in_tables(section(FILES, "Simulation result")) == {*got, "tick_p50_us", "tick_p99_us"}


def test_file_tables_name_every_field() -> None:
    assert named_in_tables(section(FILES, "Workload")) == set(workload._FIELDS)
    known = {"models", *costfile._File.model_fields}
    assert named_in_tables(section(FILES, "Cost model")) == known
    costs = section(FILES, "Cost model")
    assert all(f"`{stage}`" in costs for stage in costfile.KNOWN_STAGES)
    events = {kind.__name__ for kind in typing.get_args(Event)}
    assert events <= named_in_tables(section(FILES, "Journal"))


def test_the_states_of_a_request_are_those_of_the_table() -> None:
    (text,) = (block.text for block in blocks(DOCS / "explanation" / "scheduling.md") if "arrived" in block.text)
    told = {
        (line.split()[0], *step.split(" -> "))
        for line in text.splitlines()[1:]
        for step in line.split(maxsplit=1)[1].split(", ")
    }
    assert told == {(str(state), str(trigger), str(after)) for (state, trigger), after in TRANSITIONS.items()}


def test_decisions_are_short_numbered_and_listed() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    for number, page in enumerate(DECISIONS, 1):
        lines = page.read_text("utf-8").splitlines()
        assert page.name.startswith(f"{number:04d}-")
        assert lines[0].startswith(f"# {number}. ")
        assert len(lines) <= 15, page.name
        assert f"[{lines[0].removeprefix('# ')}](explanation/decisions/{page.name})" in index
