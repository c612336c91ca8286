"""The parts of the editor support without the protocol: positions, what is said and offered where, half texts."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfdit.editor import changing, navigation, words
from gfdit.editor.analysis import Analysis
from gfdit.editor.completion import completions
from gfdit.editor.hover import hover
from gfdit.editor.pages import error_page
from gfdit.editor.positions import Positions, Units
from gfdit.editor.slots import Slot, where
from gfdit.errors import PolicyError
from gfdit.lang.diagnostics import CODES
from gfdit.lang.format import format_source
from gfdit.lang.parser import unfinished
from gfdit.lang.source import Source
from gfdit.policy.reference import CLAUSES
from gfdit.policy.vocabulary import schema

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "policies").glob("*.pol"))
EVERY = os.environ.get("GFDIT_EVERY_PREFIX") == "1"  # an hour
SAMPLE = 40
TEXTS = st.text(st.sampled_from("ab \n\r\té🚀"), max_size=40)


# ---- positions ------------------------------------------------------------------------------------------------------


@given(TEXTS, st.sampled_from(Units))
def test_offsets_survive_the_way_to_a_column_and_back(text: str, units: Units) -> None:
    positions = Positions(text, units)
    for offset in range(len(text) + 1):
        inside_line_end = 0 < offset < len(text) and text[offset - 1 : offset + 1] == "\r\n"
        assert positions.offset(*positions.at(offset)) == offset - inside_line_end


@given(TEXTS, st.integers(-2, 9), st.integers(-2, 50), st.sampled_from(Units))
def test_any_position_is_some_offset(text: str, line: int, column: int, units: Units) -> None:
    assert 0 <= Positions(text, units).offset(line, column) <= len(text)


def test_columns_count_code_units() -> None:
    text = "a🚀b\r\nc"
    assert [Positions(text, units).at(2)[1] for units in Units] == [5, 3, 2]
    assert Positions(text).at(6) == (1, 1) and Positions(text).offset(1, 0) == 5
    assert Positions(text).offset(0, 2) == 1  # inside the pair


# ---- what stands where ----------------------------------------------------------------------------------------------

HEAD = (
    "policy p version 1\nparam worth: ratio = 110%\nclass ui otherwise { rank 0 }\npool aux = 2 gpu\nlet x1 = worth\n"
)


def labels(text: str, before: str = HEAD, path: Path = Path("p.pol")) -> list[str]:
    return [offer.label for offer in completions(Analysis(before + text, path), len(before + text))]


@pytest.mark.parametrize(
    ("text", "some", "none"),
    [
        ("", {"order", "stage", "guard"}, {"deadline", "slo"}),
        ("st", {"stage"}, {"deadline"}),
        ("order by ", {"deadline", "worth", "x1", "finish", "if"}, {"next", "gpu_time", "stage denoise"}),
        ("triage by deadline shed most ", {"gpu_time"}, {"next"}),
        ("stage ", {"encode", "denoise"}, {"deadline"}),
        ("stage denoise on ", {"aux"}, {"ui", "worth"}),
        ("stage denoise { ", {"sp", "grow", "hold", "prefer"}, {"order", "deadline"}),
        ("stage denoise { prefer ", {"last_gpus", "spread"}, {"deadline"}),
        ("stage denoise { sp in {1, 2} gpu ", {"smallest", "minimizing"}, {"deadline"}),
        ("stage denoise { grow by order where gain(", {"next", "sp"}, {"deadline", "if"}),
        ("stage denoise { sticky ", {"worth"}, {"x1", "deadline"}),
        ("preempt for ", {"ui", "any"}, {"deadline"}),
        ("preempt for ui from any do ", {"shrink", "pause"}, {"deadline"}),
        ("admit { reject when class == ", {"ui"}, {"deadline"}),
        ("admit { reject when stage in {", {"denoise"}, {"deadline"}),
        ("admit { degrade to ", {"steps"}, {"deadline"}),
        ("tick on ", {"arrival", "step_end"}, {"deadline"}),
        ("tick every 5", {"ms", "s"}, {"deadline"}),
        ("fallback ", {"fcfs", "builtin.fcfs"}, {"deadline", "p"}),
        ("param a: ", {"dur", "ratio"}, {"deadline"}),
        ("class a otherwise { ", {"slo", "preemptible"}, {"deadline"}),
        ("guard g: queued(", {"ui", "any"}, {"deadline"}),
        ("guard g: count(where ", {"waiting"}, {"next"}),
        ("guard g: mean(max(", {"lateness"}, {"next"}),
        ("tick on arrival, step_end, ", {"stage_end"}, {"deadline"}),
        ('test "t" { request r {} expect ', {"r", "free"}, {"next"}),
        ("allocate ", {"greedy", "knapsack"}, {"deadline"}),
        ("mode full when load > 2 until load < 1\nreact ", {"full", "worker_lost"}, {"deadline", "ui"}),
        ("batch by ", {"model", "tokens"}, {"next"}),
        ('test "t" { ', {"cluster", "request", "expect"}, {"deadline"}),
        ('test "t" { request a { ', {"deadline", "age"}, {"worth"}),
        ("order by # dead", set(), {"deadline"}),
        ('admit { reject because "dead', set(), {"deadline"}),
    ],
)
def test_what_is_offered(text: str, some: set[str], none: set[str]) -> None:
    offered = labels(text)
    assert some <= set(offered) and not none & set(offered)
    assert len(offered) == len(set(offered))


NEW = frozenset({"policy", "param", "let", "class", "mode", "state", "pool", "guard", "request"})


@pytest.mark.parametrize("name", ["slo", "stage_aware", "primal_dual", "clean_edf"])
def test_every_word_of_a_policy_is_offered_where_it_stands(name: str) -> None:
    """The policies are the oracle: whatever they say must be among the offers, unless it is a new name."""
    path = ROOT / "policies" / f"{name}.pol"
    reading = Analysis(path.read_text("utf-8"), path)
    tokens = reading.tokens
    words = [
        n for n, token in enumerate(tokens) if token.text[:1].isalpha() and (not n or tokens[n - 1].text not in NEW)
    ]
    seed = random.SystemRandom().randrange(2**32)
    for n in random.Random(seed).sample(words, min(len(words), 40)):
        token = tokens[n]
        offered = {offer.label for offer in completions(reading, token.span.start)}
        assert token.text in offered, (path.name, reading.source.position(token.span.start), token.text, seed)


def test_a_header_is_offered_in_an_empty_file_and_its_base() -> None:
    assert labels("", before="") == ["policy"]
    assert {"slo", "fcfs"} <= set(labels("extends ", before="policy q version 1 "))


def test_a_completion_replaces_what_was_typed() -> None:
    text = HEAD + "order by dead, arrival"
    reading = Analysis(text, Path("p.pol"))
    (offer,) = [one for one in completions(reading, text.index("dead") + 4) if one.label == "deadline"]
    assert reading.source.slice(offer.span) == "dead"


# ---- what is said ---------------------------------------------------------------------------------------------------


def said(text: str, word: str, nth: int = 0) -> str:
    offset = -1
    for _ in range(nth + 1):
        offset = text.index(word, offset + 1)
    found = hover(Analysis(text, ROOT / "policies" / "p.pol"), offset + 1)
    return "" if found is None else found.text


def test_hover_says_what_a_word_means_where_it_stands() -> None:
    text = HEAD + (
        'class batch when tag == "b" { slo 30min weight 2 preemptible }\n'
        "order by class == batch, deadline\n"
        "stage encode, decode on aux { sp fixed 1 gpu }\npool dit = rest\n"
        "stage denoise on dit { sp in {1} gpu smallest grow by order where gain(next) > worth }\n"
        "guard g: count(where late) < 3 else alert\nfallback slo\n"
    )
    assert "How many GPUs a stage gets" in said(text, "stage")
    assert "Who comes first" in said(text, "order") and "surplus" in said(text, "order", 1)
    assert "surplus goes to the placed" in said(text, "grow")
    assert "speed-up" in said(text, "gain") and "gain(k)" in said(text, "gain")
    assert "param worth: ratio = 110%" in said(text, "worth", 2) and "--set worth=VALUE" in said(text, "worth", 2)
    assert "instant" in said(text, "deadline") and "arrival + slo" in said(text, "deadline")
    assert "class that the policy assigned" in said(text, "class", 2)  # the attribute, not the clause
    assert "class of service" in said(text, "class", 0)
    assert "rank 1, weight 2, slo 1800 s, preemptible" in said(text, "batch", 1)
    assert "60 s" in said(text, "min")
    assert "how many admitted requests" in said(text, "count")
    assert "policy version 1" in said(text, "slo\n")
    assert said(text, "{ slo 30min") == ""


def test_every_word_of_the_vocabulary_has_something_to_say() -> None:
    for clause in CLAUSES:
        assert words.keyword("policy" if clause == "header" else clause, "")
    for name in schema().attributes:
        assert words.name(name, where(unfinished(Source(HEAD + "order by ")), schema()))
    for function in schema().functions:
        assert words.function(function)
    assert {"slo", "rank", "weight", "miss", "preemptible"} == set(words.class_fields())
    for code in CODES:
        assert error_page(code) is not None, code


def test_definitions_lead_to_declarations_bases_and_requests(tmp_path: Path) -> None:
    (tmp_path / "base.pol").write_text(HEAD, encoding="utf-8")
    text = (
        "policy top version 1 extends base\norder by x1\nguard g: queued(ui) < 3 else alert\n"
        'test "t" { request a { tag = "x" } expect a.sp == 1 gpu }\n'
    )
    reading = Analysis(text, tmp_path / "top.pol")

    def target(word: str, nth: int = 0) -> tuple[str, str]:
        offset = -1
        for _ in range(nth + 1):
            offset = text.index(word, offset + 1)
        found = navigation.definition(reading, offset)
        assert found is not None
        return found.path.name, found.text[found.span.start :].splitlines()[0]

    assert target("x1") == ("base.pol", "x1 = worth")
    assert target("ui") == ("base.pol", "ui otherwise { rank 0 }")
    assert target("base") == ("base.pol", "p version 1")
    assert target("a.sp")[0] == "top.pol" and target("a.sp")[1].startswith("a { tag")


def test_a_name_is_found_and_renamed_wherever_it_is_read_and_nowhere_else() -> None:
    text = (
        "policy p version 1\nclass batch otherwise { rank 0 }\nparam wide: num = 2\nlet x1 = wide\n"
        "admit { reject when class == batch and queued(batch) > 3 }\norder by x1 + wide  # wide\n"
        "stage encode, denoise, decode { sp fixed if wide > 1 then 2 gpu else 1 gpu }\nbatch by model max 8\n"
        'test "wide" { request batch { tag = "wide" } expect batch.sp == 1 gpu }\n'
    )
    reading = Analysis(text, Path("p.pol"))
    assert len(navigation.references(reading, text.index("wide"))) == 4
    assert len(navigation.references(reading, text.index("class batch") + 6)) == 3  # no clause, no request
    assert navigation.references(reading, text.index("order")) == []
    after = text
    for edit in sorted(navigation.renamed(reading, text.index("wide"), "broad"), key=lambda edit: -edit.start):
        after = edit.apply(after)
    assert after.count("broad") == 4 and Analysis(after, Path("p.pol")).checked.ok
    for name, why in (("in", "cannot be"), ("2x", "cannot be"), ("deadline", "already"), ("x1", "already")):
        with pytest.raises(PolicyError, match=why):
            navigation.renamed(reading, text.index("wide"), name)
    with pytest.raises(PolicyError, match="declares"):
        navigation.renamed(reading, text.index("model"), "any1")


def test_a_file_of_tests_is_read_with_its_policy(tmp_path: Path) -> None:
    policy = (ROOT / "policies" / "slo.pol").read_text("utf-8")
    (tmp_path / "slo.pol").write_text(policy, encoding="utf-8")
    tests = 'test "a" { request r { tag = "ui" } expect r.class == interactve }\n'
    reading = Analysis(tests, tmp_path / "slo_test.pol")
    (found,) = reading.diagnostics
    assert tests[found.span.start : found.span.end] == "interactve"
    (fix,) = changing.fixes(reading, 0, len(tests))
    assert Analysis(fix.edit.apply(tests), reading.path).diagnostics == ()
    for path in (ROOT / "policies").glob("*_test.pol"):
        assert not [item for item in Analysis(path.read_text("utf-8"), path).diagnostics if item.is_error], path.name


# ---- edits ----------------------------------------------------------------------------------------------------------


def test_formatting_is_that_of_fmt_and_touches_only_what_changes() -> None:
    text = (ROOT / "policies" / "slo.pol").read_text("utf-8")
    assert changing.formatted(Analysis(text, Path("slo.pol"))) is None
    for seed in range(20):
        lines = text.splitlines(keepends=True)
        at = random.Random(seed).randrange(len(lines))
        lines[at] = "  " + lines[at].replace(" ", "  ", 1)
        ugly = "".join(lines)
        edit = changing.formatted(Analysis(ugly, Path("slo.pol")))
        after = ugly if edit is None else edit.apply(ugly)
        assert after == format_source(ugly), seed
        if edit is not None:
            assert edit.text.count("\n") <= 4, seed
    assert changing.formatted(Analysis("policy p version", Path("p.pol"))) is None


def test_what_only_a_cluster_shows_is_shown_when_it_is_known() -> None:
    stages = "stage encode, decode { sp fixed 1 gpu }\nstage denoise { sp fixed 8 gpu }\n"
    text = f"policy p version 1\norder by arrival\n{stages}"
    assert not [item for item in Analysis(text, Path("p.pol")).diagnostics if item.is_error]
    (found,) = [item for item in Analysis(text, Path("p.pol"), gpus=4).diagnostics if item.is_error]
    assert found.code == "A601" and text[found.span.start : found.span.end] == "8 gpu"


def test_safe_fixes_are_applied_together_and_change_no_program() -> None:
    text = (
        HEAD.replace("pool aux = 2 gpu\n", "")
        + "let y1 = x1\norder by deadline\nstage encode, denoise, decode { sp in {4, 1, 2} gpu smallest }\n"
    )
    reading = Analysis(text, Path("p.pol"))
    edit = changing.fix_all(reading)
    assert edit is not None
    after = Analysis(edit.apply(text), Path("p.pol"))
    assert after.checked.ok and not [item for item in after.diagnostics if item.code in ("L504", "L508")]
    assert "{1, 2, 4}" in after.text and "y1" not in after.text and "worth" not in after.text
    titles = {fix.title for fix in changing.fixes(reading, 0, len(text))}
    assert "Write `1, 2, 4`" in titles and "Remove `y1`" in titles


def test_a_missing_unit_is_offered() -> None:
    text = "policy p version 1\norder by arrival\nstage encode, denoise, decode { sp fixed 4 }\n"
    (fix,) = changing.fixes(Analysis(text, Path("p.pol")), 0, len(text))
    assert fix.edit.apply(text) == text.replace("fixed 4", "fixed 4 gpu")


# ---- half texts -----------------------------------------------------------------------------------------------------


def everything_about(text: str, path: Path) -> None:
    """Ask everything at the end of a text and in its middle; what comes back lies in the text."""
    reading = Analysis(text, path)
    positions = Positions(text)
    for item in reading.diagnostics:
        assert 0 <= item.span.start <= item.span.end <= len(text)
    for entry in navigation.outline(reading):
        assert entry.span.start <= entry.name_span.start <= entry.name_span.end <= entry.span.end
    for offset in (len(text), len(text) // 2):
        positions.at(offset)
        hover(reading, offset)
        navigation.definition(reading, offset)
        navigation.references(reading, offset)
        for offer in completions(reading, offset):
            assert offer.span.start <= offset == offer.span.end
    for fix in changing.fixes(reading, 0, len(text)):
        assert fix.edit.apply(text) != text
    changing.formatted(reading)


def test_a_misspelt_keyword_has_a_place_in_the_outline() -> None:
    text = HEAD + "ti"  # read as `tick`
    last = navigation.outline(Analysis(text, Path("p.pol")))[-1]
    assert last.name == "tick" and last.name_span.end == last.span.end == len(text)


def test_no_prefix_of_a_policy_is_too_much() -> None:
    """GFDIT_EVERY_PREFIX=1 takes all of them."""
    cuts = [(path, end) for path in SHIPPED for end in range(len(path.read_text("utf-8")) + 1)]
    seed = random.SystemRandom().randrange(2**32)
    for path, end in cuts if EVERY else random.Random(seed).sample(cuts, SAMPLE):
        text = path.read_text("utf-8")[:end]
        try:
            everything_about(text, path)
        except Exception as error:
            raise AssertionError(f"{path.name}[:{end}], seed {seed}") from error


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_damage_to_a_policy_is_too_much(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(SHIPPED))
    text = path.read_text("utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 80)))
    noise = data.draw(st.text(st.sampled_from('{}()",.:=<>#% \n\r\t$é🚀aorder1'), max_size=8))
    everything_about(text[:start] + noise + text[end:], path)


def test_slots_know_every_name_list() -> None:
    """A slot with a closed list offers it; the others are open by nature."""
    with_list = {slot for slot in Slot if words.listed(slot) is not None}
    assert {Slot.STAGE, Slot.TRIGGER, Slot.PREFERENCE, Slot.KNOB, Slot.TYPE, Slot.FIELD, Slot.INDEX} <= with_list
