"""`gfdit explain`: who waits because one clause says so is told which, and what it compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from small_worlds import make_request

from gfdit.core.proposal import WaitReason
from gfdit.runtime.explaining import Entry, EntryKind, Lives, Replay
from gfdit.runtime.journal import JournalReader
from tests.policy_tools.journals import record

TEXT = """policy waiting version 1
batch by tokens max 3 window 50ms
order by arrival
stage encode, denoise, decode { sp fixed 1 gpu }
react late do pause for 20ms
"""


def waits(path: Path) -> dict[str, list[Entry]]:
    replay = Replay(JournalReader(path))
    lives = Lives(replay.scheduler)
    for tick in replay.ticks():
        lives.take(tick)
    assert lives.differing == 0
    return {name: [e for e in life.entries if e.kind is EntryKind.WAITS] for name, life in lives.lives.items()}


def test_batch_and_reaction_are_named(tmp_path: Path) -> None:
    requests = [make_request(0, tokens=256), make_request(1, 0.01, tokens=256), make_request(2, tokens=4096, slo_s=0.4)]
    requests[2] = replace(requests[2], steps=6)
    found = waits(record(tmp_path / "run.sqlite", TEXT, requests))
    first = found["r000"][0]
    assert first.reason is WaitReason.BATCH_WINDOW and first.because is not None
    assert (first.because.clause, first.because.line) == ("batch", 2)
    assert dict(first.because.values)["members"] in ("1 of 3", "2 of 3")
    paused = [entry for entry in found["r002"] if entry.reason is WaitReason.POLICY_WAITS]
    assert paused and paused[0].because is not None
    assert (paused[0].because.clause, paused[0].because.line) == ("react", 5)
