"""A journal replays to the same decisions; a tampered one does not."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from literal_policies import EdfBestFit
from small_worlds import make_cost, make_workload

from gfdit.core.scheduler import Scheduler
from gfdit.errors import JournalError
from gfdit.runtime.journal import Journal, JournalReader, replay
from gfdit.sim.run import SimConfig, build_scheduler, simulate


def record(path: Path) -> None:
    journals: list[Journal] = []

    def observers(scheduler: Scheduler) -> list[Journal]:
        journals.append(Journal(path, {"seed": 5}, scheduler))
        return journals

    simulate(SimConfig(EdfBestFit(), make_workload(5), "made", make_cost(), 4, noise=0.1, seed=5), observers)
    journals[0].close()


def test_replaying_a_journal_gives_equal_decisions(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    record(path)
    assert [p.name for p in tmp_path.iterdir()] == ["journal.sqlite"]
    reader = JournalReader(path)
    assert reader.meta["seed"] == 5
    ticks, differences = replay(reader, build_scheduler(EdfBestFit(), make_cost(), 4))
    assert ticks > 100 and differences == []
    reader.close()
    assert [p.name for p in tmp_path.iterdir()] == ["journal.sqlite"]


def test_a_changed_event_shows_as_the_first_tick_that_differs(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    record(path)
    db = sqlite3.connect(path)
    rows = db.execute("SELECT seq, body FROM records WHERE kind = 'event' ORDER BY seq").fetchall()
    seq, body = next((seq, json.loads(body)) for seq, body in rows if "RequestArrived" in body)
    body["request"]["steps"] += 1
    db.execute("UPDATE records SET body = ? WHERE seq = ?", (json.dumps(body), seq))
    db.commit()
    db.close()
    _, differences = replay(JournalReader(path), build_scheduler(EdfBestFit(), make_cost(), 4))
    assert differences and "journalled" in differences[0]


@pytest.mark.parametrize("content", [b"", b"not a database at all", None])
def test_what_is_not_a_journal_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "j.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalError, match="journal"):
        JournalReader(path)
