"""The formatter: layout, comments, idempotence, and that it never changes the meaning."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from programs import policies

from gfdit.errors import PolicyError
from gfdit.lang import Source, format_source, format_tree, nodes, parse
from gfdit.policy import library

EVERYTHING = (Path(__file__).parent / "everything.pol").read_text("utf-8")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies)
def test_formatting_keeps_the_tree(tree: nodes.Policy) -> None:
    text = format_tree(tree)
    parsed = parse(Source(text))
    assert parsed.diagnostics == ()
    assert parsed.tree == tree
    assert format_source(text) == text


def test_everything_keeps_its_tree_and_its_comments() -> None:
    formatted = format_source(EVERYTHING)
    assert parse(Source(formatted)).tree == parse(Source(EVERYTHING)).tree
    assert format_source(formatted) == formatted
    before, after = (parse(Source(text)).comments for text in (EVERYTHING, formatted))
    assert [comment.text for comment in after] == [comment.text for comment in before]
    assert max(map(len, formatted.splitlines())) <= 120


def test_everything_uses_every_item() -> None:
    found = {type(node) for node, _ in nodes.walk(parse(Source(EVERYTHING)).tree)}
    assert {
        kind for kind in vars(nodes).values() if isinstance(kind, type) and kind.__module__ == nodes.__name__
    } <= found


@pytest.mark.parametrize("name", library.names())
def test_shipped_policies_are_formatted(name: str) -> None:
    text = library.shipped_policy(name).read_text("utf-8")
    assert format_source(text) == text


@pytest.mark.parametrize(
    ("written", "formatted"),
    [
        ("let a=(1+2)*3", "let a = (1 + 2) * 3"),
        ("let a = 1+(2*3)", "let a = 1 + 2 * 3"),
        ("let a = 1-(2-3)", "let a = 1 - (2 - 3)"),
        ("let a = (1-2)-3", "let a = 1 - 2 - 3"),
        ("let a = not (x and y) or (z)", "let a = not (x and y) or z"),
        ("let a = 4gpu + 10 s+1   %", "let a = 4 gpu + 10s + 1%"),
        ("let a = count( where   waiting )", "let a = count(where waiting)"),
        ("stage a,b{sp fixed 1 gpu}", "stage a, b { sp fixed 1 gpu }"),
        ("stage a {\n sp fixed 1 gpu }", "stage a {\n  sp fixed 1 gpu\n}"),
        ("admit { accept }", "admit {\n  accept\n}"),
        ("order by a # why\n, b", "order by a, b  # why"),
        ("order by a # one\n, b # two", "# one\norder by a, b  # two"),
    ],
)
def test_layout(written: str, formatted: str) -> None:
    head = 'policy p version 1 "t"\n\n'
    assert format_source(head + written) == head + formatted + "\n"


def test_one_blank_line_at_most_is_kept() -> None:
    text = 'policy p version 1 "t"\norder by a\n\n\n\n# why\naging every 1s raise 1\nlet x = 1\n'
    wanted = 'policy p version 1 "t"\n\norder by a\n\n# why\naging every 1s raise 1\nlet x = 1\n'
    assert format_source(text) == wanted


def test_bad_syntax_is_not_formatted() -> None:
    with pytest.raises(PolicyError, match=r"x\.pol:1:10: error\[P001\]: unexpected `order`"):
        format_source("policy p order by arrival", "x.pol")
