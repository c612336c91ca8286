"""Journals as crashes and disks leave them: torn, unclosed, full, and of other versions."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from gfdit.core.estimate import Estimator
from gfdit.core.events import WorkerJoined
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.core.topology import Topology
from gfdit.errors import JournalError
from gfdit.runtime.journal import VERSION, Journal, JournalReader, set_aside
from tests.live.emulation import Restless, cost_model

COST = cost_model()


def journal_at(path: Path) -> Journal:
    return Journal(path, {"recipe": None}, Scheduler(Restless(), Topology.uniform(2, 8), Estimator(COST, 2)))


def tick(journal: Journal, now: int) -> None:
    journal.record(now, [WorkerJoined(now, 0, 1)], Decision((), None), 0.001)


def ticks(path: Path) -> list[int]:
    reader = JournalReader(path)
    found = [record.now for record in reader.records() if not isinstance(record, WorkerJoined)]  # type: ignore[union-attr]
    reader.close()
    return found


def test_a_torn_journal_is_one_of_whole_ticks(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    journal = journal_at(tmp_path / "live" / "journal.sqlite")
    for now in range(5):
        tick(journal, now)
    wal = tmp_path / "live" / "journal.sqlite-wal"
    before = wal.stat().st_size
    tick(journal, 5)
    log = wal.read_bytes()
    path = tmp_path / "journal.sqlite"
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    for cut in [before, len(log) - 1, len(log), *random.Random(seed).sample(range(before, len(log)), 30)]:
        shutil.copy(tmp_path / "live" / "journal.sqlite", path)
        path.with_name("journal.sqlite-wal").write_bytes(log[:cut])
        aside = set_aside(path)
        assert aside is not None and not path.exists() and not aside.with_name(aside.name + "-wal").exists()
        assert ticks(aside) == list(range(6 if cut == len(log) else 5)), cut
        aside.unlink()
    journal.close()


def test_only_what_was_not_closed_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    assert set_aside(path) is None
    journal = journal_at(path)
    journal.close()
    assert set_aside(path) is None and path.exists()
    for number in (1, 2):
        killed = journal_at(path)
        tick(killed, number)
        assert set_aside(path) == tmp_path / f"journal-{number}.sqlite"
        killed._db.close()


def test_ticks_that_find_no_room_wait_for_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = journal_at(path)
    tick(journal, 0)
    ((pages,),) = journal._db.execute("PRAGMA page_count")
    journal._db.execute(f"PRAGMA max_page_count={pages}")
    for now in range(1, 200):
        tick(journal, now)
    assert "database or disk is full" in journal.problem
    journal._db.execute("PRAGMA max_page_count=100000")
    tick(journal, 200)
    assert journal.problem == ""
    journal.close()
    assert ticks(path) == list(range(201))


def test_a_journal_of_before_versions_were_told_is_read_and_a_later_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = journal_at(path)
    tick(journal, 0)
    journal.close()

    def become(version: int) -> None:
        base = sqlite3.connect(path)
        base.execute(f"PRAGMA user_version={version}")
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        base.close()

    assert ticks(path) == [0]
    become(0)
    assert ticks(path) == [0]
    become(VERSION + 1)
    with pytest.raises(JournalError, match=f"has version {VERSION + 1}, this gfdit reads up to {VERSION}"):
        JournalReader(path)
