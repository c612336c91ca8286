"""`gfdit explain`: a request's life from the journal, with the clause, the line and the values that decided."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.core.proposal import WaitReason
from gfdit.core.work import Outcome
from gfdit.runtime.explaining import EntryKind, Life, Lives, Replay, Taken, asked
from gfdit.runtime.journal import JournalReader
from tests.policy_tools.journals import TAKING, contended, record

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("explain") / "run.sqlite", TAKING, contended())


@pytest.fixture(scope="module")
def lives(journal: Path) -> dict[str, Life]:
    replay = Replay(JournalReader(journal))
    collected = Lives(replay.scheduler)
    for tick in replay.ticks():
        collected.take(tick)
    assert collected.differing == 0
    return collected.lives


def test_a_life_has_no_gap_and_ends_once(lives: dict[str, Life]) -> None:
    for life in lives.values():
        assert life.entries[0].kind is EntryKind.ARRIVED
        assert [entry.kind for entry in life.entries].count(EntryKind.ENDED) == 1
        spans = [entry for entry in life.entries if entry.kind in (EntryKind.RUNS, EntryKind.WAITS)]
        assert all(entry.until is not None for entry in spans)
        for before, after in pairwise(spans):
            assert before.until == after.at
        if life.end is not None and spans:
            assert (spans[0].at, spans[-1].until) == (life.request.arrival_ns, life.end.at)


def test_steps_and_degrees_are_those_that_ran(lives: dict[str, Life]) -> None:
    for life in lives.values():
        if life.end is not None and life.end.outcome is Outcome.COMPLETED:
            steps = [entry.steps for entry in life.entries if entry.text == "denoise"]
            assert sum(steps) == life.request.steps
            assert life.degrees == [2]


def test_what_was_taken_is_told_on_both_sides(lives: dict[str, Life]) -> None:
    (took,) = [entry for entry in lives["r003"].entries if entry.kind is EntryKind.TOOK]
    (taken,) = took.others
    assert (taken.before, taken.after) == (2, 0)
    victim = lives[taken.request]
    (gave,) = [entry for entry in victim.entries if entry.kind is EntryKind.CAPPED]
    assert (gave.degree, gave.others[0].request) == (0, "r003")
    assert gave.because is not None and (gave.because.clause, gave.because.line) == ("preempt", 13)
    assert victim.lines[("taking", 13)] == "preempt for ui from bulk do pause"
    (wait,) = [entry for entry in victim.entries if entry.kind is EntryKind.WAITS]
    assert wait.at > gave.at
    assert wait.others == (Taken("r003", 0, 1),)
    assert victim.waited_ns == (wait.until or 0) - wait.at > 0


def test_waits_have_reasons_of_the_closed_list(lives: dict[str, Life]) -> None:
    reasons = [entry.reason for life in lives.values() for entry in life.entries if entry.kind is EntryKind.WAITS]
    assert reasons and set(reasons) <= set(WaitReason)
    (first, *_) = [entry for entry in lives["r003"].entries if entry.kind is EntryKind.WAITS]
    assert first.reason is WaitReason.HOLDING


def test_a_refusal_names_its_rule(lives: dict[str, Life]) -> None:
    last = lives["r004"].entries[-1]
    assert last.text == "rejected: too large"
    assert last.because is not None and (last.because.clause, last.because.line) == ("admit, reject", 6)
    assert dict(last.because.values)["tokens"].startswith("9999")


def test_one_tick_in_full(journal: Path) -> None:
    replay = Replay(JournalReader(journal))
    *_, last = replay.ticks(until=0)
    shown = asked(last, replay.scheduler)
    assert [(one.place, one.request, one.gets) for one in shown] == [(1, "r001", 1), (2, "r002", 1)]
    assert [dict(one.keys)["rank"] for one in shown] == ["1", "1"]
    assert [item.degree for item in shown[0].degrees] == [1, 2, 4]
    assert all(item.slack_s is None for item in shown[0].degrees)
    assert shown[0].because is not None and shown[0].because.clause == "sp fixed"


def test_the_command_tells_it(journal: Path, capsys: Capture) -> None:
    assert main(["explain", str(journal)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["r001", "r002", "r003", "r004"]
    assert main(["explain", str(journal), "r003"]) == 0
    out = capsys.readouterr().out
    assert "waits: holding" in out and "takes from r00" in out and "(2 -> 0 gpu)" in out
    assert "taking:13   preempt for ui from bulk do pause" in out
    assert main(["explain", str(journal), "r001", "--at", "0ms"]) == 0
    out = capsys.readouterr().out
    assert "1 of 2 in order  rank 1" in out
    assert out.count("gpu, gets 1 gpu") == 1
    assert main(["explain", str(journal), "r003", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["requests"]
    assert [entry["kind"] for entry in told["entries"]][-1] == "ended"
    assert (told["outcome"], told["degrees"]) == ("completed", [2])


def test_what_is_wrong_is_said(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["explain", str(journal), "r03"]) == 2
    assert "did you mean `r003`?" in capsys.readouterr().err
    assert main(["explain", str(journal), "--at", "soon"]) == 2
    assert "such as 12.5s" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "none.sqlite")]) == 1
