"""The grammar, its table, and recovery from syntax errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gfdit.lang import Source, grammar, nodes, parse, render
from gfdit.lang.grammar import table
from gfdit.policy import library

EVERYTHING = (Path(__file__).parent / "everything.pol").read_text("utf-8")
HEAD = 'policy p version 1 "t"\n'


def errors(text: str) -> list[str]:
    return render(parse(Source(text, "p")).diagnostics, style="short").splitlines()


def test_the_shipped_table_is_fresh() -> None:
    built = grammar.build(grammar.grammar_path().read_text("utf-8"))
    shipped = json.loads((Path(grammar.__file__).parent / grammar.TABLE_FILE).read_text("utf-8"))
    assert json.loads(json.dumps(built)) == shipped


def test_lark_accepts_what_the_driver_accepts() -> None:
    from lark import Lark

    text = grammar.grammar_path().read_text("utf-8")
    lark = Lark(text, parser="lalr", lexer="contextual", strict=True, start="policy", maybe_placeholders=True)
    for policy in [EVERYTHING, *(library.shipped_policy(name).read_text("utf-8") for name in library.names())]:
        assert parse(Source(policy)).complete
        tree = lark.parse(policy)
        assert len(list(tree.children)) - 1 == len(parse(Source(policy)).tree.items)


def test_item_keywords_stay_usable_as_names() -> None:
    words = sorted(table().words["item"] - {"next"})
    text = HEAD + "".join(f"let {word} = {word} + max\n" for word in words)
    tree = parse(Source(text)).tree
    assert [item.name.text for item in tree.items if isinstance(item, nodes.Let)] == words


def test_spans_cover_the_text_of_their_node() -> None:
    source = Source(HEAD + "order by a + (b * 2s), -c desc")
    order = parse(source).tree.items[0]
    assert isinstance(order, nodes.Order)
    first, second = order.keys
    assert isinstance(first.value, nodes.Binary)
    assert source.slice(first.value.right.span) == "b * 2s"
    assert source.slice(second.span) == "-c desc"
    assert source.slice(order.span) == "order by a + (b * 2s), -c desc"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("order by", ["p:2:9: error[P002]: unexpected end of the policy"]),
        ("ordr by arrival", ["p:2:1: error[P001]: unexpected `ordr` (did you mean `order`?)"]),
        (
            "guard a: slack < else alert",
            ["p:2:18: error[P001]: unexpected `else` (`else` is a word of the language and cannot be a name)"],
        ),
        ("order by a,\nstage x { sp fixed 1 gpu }", ["p:3:1: error[P001]: unexpected `stage`"]),
        ("order by $", ["p:2:10: error[P002]: unexpected character `$`"]),
        (
            'test "x { }',
            ['p:2:6: error[P002]: string is not closed on its line (close it with `"`; strings do not span lines)'],
        ),
        (
            "stage a {\n  sp fixed 1 gpu\n",
            ["p:3:17: error[P002]: unexpected end of the policy (the `{` in line 2 is never closed)"],
        ),
    ],
)
def test_one_error(text: str, wanted: list[str]) -> None:
    assert errors(HEAD + text) == wanted


def test_every_error_of_a_file_is_found() -> None:
    text = (
        "order by deadline, \nlet a = 1 +\nstage denoise {\n  sp in {1, 2} gpu smalest where x\n"
        "  grow by order wher y\n"
        "  hold until dne\n  sticky 1%\n}\nguard g: a < else alert\nallocat greedy\nfallback f after 3 errors\n"
    )
    parsed = parse(Source(HEAD + text, "p"))
    found = [(item.source.position(item.span.start)[0], item.message) for item in parsed.diagnostics]
    assert found == [
        (3, "unexpected `let`"),
        (4, "unexpected `stage`"),
        (5, "unexpected `smalest`"),
        (6, "unexpected `wher`"),
        (7, "unexpected `dne`"),
        (10, "unexpected `else`"),
        (11, "unexpected `allocat`"),
    ]
    stage = next(item for item in parsed.tree.items if isinstance(item, nodes.Stage))
    assert [type(part) for part in stage.items] == [nodes.SpChoice, nodes.Grow, nodes.Hold, nodes.Sticky]
    assert isinstance(parsed.tree.items[-1], nodes.Fallback)


def test_expected_lists_are_short_and_human() -> None:
    labels = [
        parse(Source(HEAD + text)).diagnostics[0].label
        for text in ("order by a 5", "let a 5", "let a = (", "stage a { 5 }", "5")
    ]
    assert labels == [
        "expected `,`, `asc`, `desc`, an operator or the next item",
        "expected `=`",
        "expected an expression",
        "expected `grow`, `hold`, `lanes`, `prefer` or `reserve`",
        "expected `extends` or the next item",
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([*table().literals, "a", "3", "%", "gpu", '"s"', "\n", "# c\n", "$", '"']), max_size=60)
)
@example(["}", "}", "order"])
def test_random_tokens_never_raise(words: list[str]) -> None:
    for text in (" ".join(words), HEAD + " ".join(words)):
        parsed = parse(Source(text))
        assert parsed.complete == (not parsed.diagnostics)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_random_text_never_raises(text: str) -> None:
    assert not parse(Source(text)).complete


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(EVERYTHING)), st.integers(0, 40))
def test_a_hole_in_a_policy_never_raises(start: int, length: int) -> None:
    text = EVERYTHING[:start] + EVERYTHING[start + length :]
    assert len(parse(Source(text)).diagnostics) < 20
