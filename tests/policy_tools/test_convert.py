"""`gfdit convert`: the Python form traces back to the syntax, and so to the program, that it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings

from gfdit.cli.app import main
from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.format import format_source, format_tree
from gfdit.lang.parser import parse
from gfdit.lang.source import Source
from gfdit.policy import library, store
from gfdit.policy.converting import to_python
from gfdit.policy.decorators import unplaced
from tests.lang import programs

Capture = pytest.CaptureFixture[str]
HERE = Path(__file__).resolve()
EVERYTHING = HERE.parents[1] / "lang" / "everything.pol"


def traced(text: str, path: Path) -> nodes.Policy:
    """The tree that the Python form of `text` traces to."""
    path.write_text(to_python(text), encoding="utf-8")
    again = parse(Source(store.read_text(str(path))[0]))
    assert again.complete
    return unplaced(again.tree)


def plain(node: object) -> object:
    """The tree with numbers by value, since Python prints them its own way."""
    if isinstance(node, tuple):
        return tuple(map(plain, node))
    if isinstance(node, nodes.Number):
        return ("number", float(node.text), node.unit)
    if isinstance(node, nodes.Key):
        return ("key", plain(node.value), node.direction.replace("asc", ""))
    fields = getattr(node, "_fields", None)
    return node if fields is None else (type(node).__name__, *(plain(getattr(node, name)) for name in fields))


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_policy_and_its_python_form_are_one_program(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    assert main(["convert", name, "--to", "python", "--out", str(path)]) == 0
    there, here = store.load_policy(str(path)).program, store.load_policy(name).program
    assert there == here
    assert there.tests == here.tests  # they travel too
    back = tmp_path / f"{name}_back.pol"
    assert main(["convert", str(path), "--out", str(back)]) == 0
    assert store.checked_program(back.read_text("utf-8")) == here
    assert format_source(back.read_text("utf-8")) == back.read_text("utf-8")


def test_every_clause_has_a_word_and_only_tests_are_quoted(tmp_path: Path) -> None:
    text = EVERYTHING.read_text("utf-8")
    python = to_python(text)
    before = unplaced(parse(Source(text)).tree)
    assert {type(item) for item in before.items} == set(get_args(nodes.Item))
    assert plain(traced(text, tmp_path / "everything.py")) == plain(before)
    quoted = python.split("pol(\n")[1:]
    assert quoted and all('test "' in part.split('"""')[1] for part in quoted)


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_policy_comes_back_word_for_word_but_for_comments(name: str, tmp_path: Path) -> None:
    text = library.shipped_policy(name).read_text("utf-8")
    tree = traced(text, tmp_path / f"{name}.py")
    before = unplaced(parse(Source(text)).tree)
    assert plain(tree) == plain(before)
    assert to_python(format_tree(tree)) == to_python(format_tree(before))
    there, here = store.checked_program(format_tree(tree)), store.checked_program(format_tree(before))
    assert there == here


def test_comments_go_along_to_python(tmp_path: Path) -> None:
    text = (
        "# on top\npolicy p version 1\n# about the order\norder by deadline  # soonest\n"
        "stage encode, decode { sp fixed 1 gpu }\nstage denoise {\n  # inside\n  sp in {1, 2} gpu smallest\n}\n"
        'test "t" {\n  # in a test\n  request a {}\n  expect a.sp == 1 gpu\n}\n# the end\n'
    )
    python = to_python(text)
    for note in ("# on top", "# about the order", "# soonest", "# inside", "# in a test", "# the end"):
        assert python.count(note) == 1, note
    assert python.startswith("# on top\n") and python.index("# in a test") > python.index('"""')
    assert python.index("# soonest") < python.index("order_by(deadline)")
    compile(python, "p.py", "exec")
    assert traced(text, tmp_path / "p.py") == unplaced(parse(Source(text)).tree)


def test_extends_stays_in_both_forms(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.pol").write_text(
        'policy mine version 1 "Mine" extends edf_best_fit\norder by arrival\n', encoding="utf-8"
    )
    assert main(["convert", str(tmp_path / "mine.pol"), "--out", str(tmp_path / "mine.py")]) == 0
    python = (tmp_path / "mine.py").read_text("utf-8")
    assert 'extends="edf_best_fit"' in python and "stage(" not in python
    there, here = store.load_policy(str(tmp_path / "mine.py")).program, store.load_policy(str(tmp_path / "mine.pol"))
    assert there == here.program and len(there.stages) == 6
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "mine.py")]) == 0
    assert capsys.readouterr().out.startswith('policy mine version 1 "Mine" extends edf_best_fit\n')


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs.exprs, programs.exprs)
def test_any_expression_survives(tmp_path: Path, first: nodes.Expr, second: nodes.Expr) -> None:
    chain = (nodes.Alternative("minimizing", first, second), nodes.Alternative("smallest"))
    tree = nodes.Policy(
        nodes.Header(nodes.Ident("p"), nodes.Number("1")),
        (
            nodes.Let(nodes.Ident("x1"), first),
            nodes.Guard(nodes.Ident("g"), second, "alert"),
            nodes.Stage((nodes.Ident("denoise"),), None, (nodes.SpChoice((nodes.Number("1"),), chain),)),
        ),
    )
    assert plain(traced(format_tree(tree), tmp_path / "any.py").items) == plain(tree.items)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs.policies)
def test_any_program_survives(tmp_path: Path, tree: nodes.Policy) -> None:
    """What the grammar makes, sensible or not; what has no exact word is quoted."""
    assert plain(traced(format_tree(tree), tmp_path / "any.py")) == plain(unplaced(tree))


def test_what_cannot_be_converted_says_why(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(PolicyError, match="unexpected"):
        to_python("policy p version 1\norder buy deadline")
    (tmp_path / "there.py").write_text("", "utf-8")
    assert main(["convert", "slo", "--out", str(tmp_path / "there.py")]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["convert", "slo", "--to", "yaml"]) == 2
    assert main(["convert", "slo", "--out", str(tmp_path / "no" / "folder.py")]) == 1


def test_json_holds_the_text(capsys: Capture) -> None:
    assert main(["convert", "fcfs", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["policy"], result["form"]) == ("fcfs", "python")
    assert "class Fcfs:" in result["text"]
