"""`gfdit convert`: the Python form traces back to the syntax, and so to the program, that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert there.tests  # they travel too
    back = tmp_path / f"{name}_back.pol"
    assert main(["convert", str(path), "--out", str(back)]) == 0
    assert store.checked_program(back.read_text("utf-8")) == here
    assert format_source(back.read_text("utf-8")) == back.read_text("utf-8")


def test_what_has_no_word_is_quoted_and_the_rest_is_not(tmp_path: Path) -> None:
    text = EVERYTHING.read_text("utf-8").replace(" extends base", "")
    python = to_python(text)
    tree = traced(text, tmp_path / "everything.py")
    before = unplaced(parse(Source(text)).tree)
    assert sorted(map(repr, map(plain, tree.items))) == sorted(map(repr, map(plain, before.items)))
    assert plain(tree.header) == plain(before.header)
    quoted = [item for item in before.items if f"{type(item).__name__.lower()}" in python.partition("pol(")[2]]
    assert {nodes.Mode, nodes.State, nodes.Pool, nodes.Test} <= set(map(type, quoted))
    assert "service_class(" in python and "guard(" in python and "aging(" in python


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


def test_what_cannot_be_converted_says_why(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(PolicyError, match="extends `base`"):
        to_python(EVERYTHING.read_text("utf-8"))
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
