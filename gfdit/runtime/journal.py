"""The journal: every event and every tick of a run, in one SQLite file. Replaying it gives the same decisions.

It is the bridge between production and test: determinism, the simulator's fidelity and incident debugging all read it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gfdit.core.events import Event
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.errors import JournalError
from gfdit.runtime.records import TickRecord, event_from_json, event_to_json, tick_from_json, tick_to_json

FORMAT = "gfdit-journal/1"
VERSION = 1  # of the tables; files from before it was told have 0, and the same tables
MOST_OWED = 100_000  # records that wait for room on the disk
_BESIDE = ("-wal", "-shm")  # what SQLite keeps next to a file that was not closed


def set_aside(path: Path) -> Path | None:
    """Keep the journal of a run that did not close it, under the next free name: `journal-1.sqlite`, ... None: there
    is none, or it was closed, and a new run may replace it."""
    if not path.exists() or not path.with_name(path.name + "-wal").exists():
        return None
    number = 1
    while (aside := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    for end in ("", *_BESIDE):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    with suppress(sqlite3.DatabaseError):  # one self-contained file, unless it is past that
        base = sqlite3.connect(aside)
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        base.close()
    return aside


class Journal:
    """An observer that appends. One transaction a tick, committed before the tick's commands are sent.

    It outlives the process, and up to the last checkpoint a loss of power. A disk that is full stops no run: what
    cannot be written waits for room, and when too much waits the journal ends there (`problem` says why).
    """

    def __init__(self, path: Path, header: Mapping[str, object], scheduler: Scheduler) -> None:
        """`header`: what a replay needs to build the same scheduler (policy sources, cost model, topology, seed)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for end in ("", *_BESIDE):
            path.with_name(path.name + end).unlink(missing_ok=True)
        self.problem = ""
        self._owed: list[tuple[int, str, str]] = []
        self._cut = False
        self._scheduler = scheduler
        # written by the driver's thread alone; read-only connections of others are their own
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA user_version={VERSION}")
        self._db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._db.execute(
            "CREATE TABLE records (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, "
            "body TEXT NOT NULL)"
        )
        rows = [(key, json.dumps(value)) for key, value in {"format": FORMAT, **header}.items()]
        self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        if self._cut:
            return
        rows = [(event.at, "event", json.dumps(event_to_json(event))) for event in events]
        rows.append((now, "tick", json.dumps(tick_to_json(decision, self._scheduler.policy, tick_seconds))))
        self._owed += rows
        try:
            self._append()
        except sqlite3.OperationalError as error:
            self.problem = f"the journal cannot be written: {error}"
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if len(self._owed) > MOST_OWED:  # a journal with a hole would not replay: it ends here
                self._cut, self._owed = True, []

    def _append(self) -> None:
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO records (at, kind, body) VALUES (?, ?, ?)", self._owed)
        self._db.execute("COMMIT")
        self._owed = []
        self.problem = ""

    def close(self) -> None:
        """Leave one self-contained file behind; on a full disk its log stays beside it, to be read with it."""
        with suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


class JournalReader:
    """A journal on disk, read in order. Raises JournalError when the file is not one."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise JournalError(f"no journal at `{path}`", hint="`gfdit run --out DIR` writes DIR/journal.sqlite")
        try:
            # a closed journal is one file and stays so: without `immutable` a reader leaves -wal and -shm beside it
            closed = not path.with_name(path.name + "-wal").exists()
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' * closed}", uri=True)
            self.meta = {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM meta")}
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise JournalError(f"`{path}` is not a gfdit journal: {error}") from None
        if self.meta.get("format") != FORMAT:
            raise JournalError(f"`{path}` has format `{self.meta.get('format')}`, this version reads `{FORMAT}`")
        ((version,),) = self._db.execute("PRAGMA user_version")
        if version > VERSION:
            raise JournalError(f"`{path}` has version {version}, this gfdit reads up to {VERSION}")

    def records(self) -> Iterator[Event | TickRecord]:
        for at, kind, body in self._db.execute("SELECT at, kind, body FROM records ORDER BY seq"):
            decoded = json.loads(body)
            yield event_from_json(decoded) if kind == "event" else tick_from_json(at, decoded)

    def close(self) -> None:
        self._db.close()


def replay(reader: JournalReader, scheduler: Scheduler) -> tuple[int, list[str]]:
    """Feed the journal's events to a fresh scheduler: how many ticks there were, and how each that differs does so."""
    ticks = 0
    differences: list[str] = []
    for record in reader.records():
        if not isinstance(record, TickRecord):
            scheduler.observe(record)
            continue
        ticks += 1
        decision = scheduler.tick(record.now)
        if not record.same_decision(decision):
            differences.append(f"tick {ticks} at {record.now} ns: {_first_difference(record, decision)}")
    return ticks, differences


def _first_difference(record: TickRecord, decision: Decision) -> str:
    for then, now in zip(record.commands, decision.commands, strict=False):
        if then != now:
            return f"journalled {then}, replayed {now}"
    if len(record.commands) != len(decision.commands):
        return f"journalled {len(record.commands)} commands, replayed {len(decision.commands)}"
    if record.moves != decision.moves:
        return f"journalled moves {record.moves}, replayed {decision.moves}"
    return f"journalled next tick at {record.next_tick_at}, replayed {decision.next_tick_at}"
