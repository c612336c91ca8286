"""How findings look."""

from __future__ import annotations

import json

from gfdit.lang import Source, Span, render, summary
from gfdit.lang.diagnostics import Diagnostic, did_you_mean, in_order, listing
from gfdit.lang.render import cell_width

SOURCE = Source('order by a\n\tlet x = "日本" + agee\n', "p.pol")
AT = SOURCE.text.index("agee")
FOUND = Diagnostic("N101", "unknown name `agee`", Span(AT, AT + 4), SOURCE, "here", ("did you mean `age`?",))


def test_carets_stand_under_the_text_in_terminal_cells() -> None:
    assert render([FOUND]).splitlines() == [
        "error[N101]: unknown name `agee`",
        " --> p.pol:2:17",
        "  |",
        '2 |     let x = "日本" + agee',
        "  |                      ^^^^ here",
        "  = help: did you mean `age`?",
    ]


def test_color_changes_nothing_but_color() -> None:
    import re

    colored = render([FOUND], color=True)
    assert "\x1b[1;31merror[N101]" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == render([FOUND])


def test_short_json_and_github() -> None:
    assert render([FOUND], style="short") == "p.pol:2:17: error[N101]: unknown name `agee` (did you mean `age`?)"
    (record,) = json.loads(render([FOUND], style="json"))
    assert record == {
        "code": "N101",
        "severity": "error",
        "message": "unknown name `agee`",
        "file": "p.pol",
        "line": 2,
        "column": 17,
        "end_line": 2,
        "end_column": 21,
        "label": "here",
        "help": ["did you mean `age`?"],
    }
    line = render([FOUND], style="github")
    assert line == "::error file=p.pol,line=2,col=17,title=N101::unknown name `agee`%0Adid you mean `age`?"


def test_many_findings_are_sorted_and_capped() -> None:
    many = [Diagnostic("N101", "x", Span(i, i + 1), SOURCE) for i in reversed(range(20))]
    assert [item.span.start for item in in_order([*many, *many])] == list(range(20))
    assert render([FOUND] * 250, style="short").splitlines()[-1] == "... and 150 more"
    assert summary([FOUND, FOUND]) == "2 errors"
    assert summary([]) == ""


def test_a_finding_without_a_place() -> None:
    assert render([Diagnostic("N101", "policy has no param `x`", Span(-1, -1), SOURCE)]).splitlines() == [
        "error[N101]: policy has no param `x`",
        " --> p.pol",
    ]


def test_words() -> None:
    assert did_you_mean("slak", ["slack", "sp"]) == ("did you mean `slack`?",)
    assert did_you_mean("zzz", ["slack"]) == ()
    assert listing(["a", "b", "c"]) == "`a`, `b` or `c`"
    assert cell_width("e\u0301a") == 2
