"""The ledger: every accepted request and how it ended, in one SQLite file that outlives the controller.

    accept --fsync--> the client is told ... end --fsync--> the client is told
    after a crash: what was accepted and has not ended is `unfinished`

Knows tables and files, no threads and no tickets (see durable.py). Written by one thread; read by any.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gfdit.core.recent import IDS_REMEMBERED
from gfdit.core.work import Request
from gfdit.errors import InputError, JournalError, StorageFull
from gfdit.live.results import Progress
from gfdit.runtime.blobs import Blobs
from gfdit.runtime.keyed import Key
from gfdit.wire.messages import Value

KEEP_S = 24 * 3600.0
# One entry a version: what makes a file of the version before one of this. Append; never change.
_STEPS = (
    """
    CREATE TABLE requests (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, request TEXT NOT NULL, inputs TEXT NOT NULL,
        boot TEXT NOT NULL, accepted_ns INTEGER NOT NULL, accepted_at REAL NOT NULL,
        ended_at REAL, progress TEXT, digest TEXT
    ) STRICT;
    CREATE INDEX unfinished ON requests (number) WHERE ended_at IS NULL;
    CREATE INDEX ended ON requests (ended_at) WHERE ended_at IS NOT NULL;
    CREATE TABLE keys (key TEXT PRIMARY KEY, asked BLOB NOT NULL, ids TEXT NOT NULL, accepted_at REAL NOT NULL) STRICT;
    """,
)
VERSION = len(_STEPS)

_REQUEST = TypeAdapter(Request)
_PROGRESS = TypeAdapter(Progress)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Requests that are taken together, with what the workers are given of each. `at_ns`, `at`: when they came, on the
    monotonic clock and on the wall's (seconds)."""

    requests: Sequence[tuple[Request, Mapping[str, Value]]]
    key: Key | None
    at_ns: int
    at: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How one request ended. `digest`: of its output, which is on disk already."""

    request_id: str
    progress: Progress
    digest: str | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A request that was accepted `age_s` ago (on the wall) and has not ended."""

    request: Request
    inputs: Mapping[str, Value]
    age_s: float


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a request. `progress` None: it has not ended. `output` None: it has none, or none any more."""

    request: Request
    progress: Progress | None = None
    output: bytes | None = None


class Ledger:
    """See the module. `blobs`: where outputs are kept. `most_pages`: a limit of the file, for tests of full disks."""

    def __init__(self, path: Path, blobs: Blobs, most_pages: int | None = None) -> None:
        """Raises JournalError for a file that is no ledger, or one of a newer gfdit."""
        self.blobs = blobs
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            _prepare(self._db, path)
            self._readers = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.DatabaseError as error:
            raise JournalError(f"`{path}` is not a gfdit ledger: {error}") from None
        if most_pages is not None:
            self._db.execute(f"PRAGMA max_page_count={most_pages}")
        self._reading = threading.Lock()

    def close(self) -> None:
        """Leave one self-contained file behind. Nothing is lost if that fails: the log beside it is read next time."""
        with suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._readers.close()
        self._db.close()

    # ---- writing: one thread --------------------------------------------------------------------------------------

    def write(self, accepted: Sequence[Acceptance], ended: Sequence[Ending]) -> list[InputError | None]:
        """All of it in one transaction, on disk when this returns: for each acceptance, why it is refused (an id that
        is taken). Raises StorageFull when it cannot be written; then nothing is.
        """
        refused: list[InputError | None] = []
        with self._transaction():
            for one in accepted:
                refused.append(self._accept(one))
            for ending in ended:
                self._end(ending)
        return refused

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:  # some errors roll back by themselves
                self._db.execute("ROLLBACK")
            raise StorageFull(f"cannot write to disk: {error}") from None

    def _accept(self, acceptance: Acceptance) -> InputError | None:
        at_ns, at = acceptance.at_ns, acceptance.at
        self._db.execute("SAVEPOINT one")
        try:
            for request, inputs in acceptance.requests:
                self._db.execute(
                    "INSERT INTO requests (id, request, inputs, boot, accepted_ns, accepted_at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (request.id, _REQUEST.dump_json(request).decode(), json.dumps(dict(inputs)), self._boot, at_ns, at),
                )
        except sqlite3.IntegrityError:
            self._db.execute("ROLLBACK TO one")
            self._db.execute("RELEASE one")
            return InputError(f"request id `{request.id}` is taken", hint="give every request an id of its own")
        if acceptance.key is not None:
            ids = json.dumps([request.id for request, _ in acceptance.requests])
            row = (acceptance.key.text, acceptance.key.asked, ids, at)
            self._db.execute("INSERT OR REPLACE INTO keys (key, asked, ids, accepted_at) VALUES (?, ?, ?, ?)", row)
        self._db.execute("RELEASE one")
        return None

    def _end(self, ending: Ending) -> None:
        """An end is final: one that was written stays."""
        self._db.execute(
            "UPDATE requests SET ended_at = ?, progress = ?, digest = ? WHERE id = ? AND ended_at IS NULL",
            (time.time(), _PROGRESS.dump_json(ending.progress).decode(), ending.digest, ending.request_id),
        )

    def forget_expired(self, keep_s: float = KEEP_S, most: int = 2 * IDS_REMEMBERED) -> None:
        """Delete what ended longer ago than `keep_s`, and all but the latest `most` that ended. Raises StorageFull."""
        too_old = time.time() - keep_s
        with self._transaction():
            self._db.execute("DELETE FROM requests WHERE ended_at < ?", (too_old,))
            self._db.execute(
                "DELETE FROM requests WHERE number IN (SELECT number FROM requests WHERE ended_at IS NOT NULL "
                "ORDER BY ended_at DESC LIMIT -1 OFFSET ?)",
                (most,),
            )
            self._db.execute("DELETE FROM keys WHERE accepted_at < ?", (too_old,))

    # ---- reading: any thread --------------------------------------------------------------------------------------

    def unfinished(self) -> list[Unfinished]:
        """In the order of acceptance."""
        columns = "request, inputs, boot, accepted_ns, accepted_at"
        query = f"SELECT {columns} FROM requests WHERE ended_at IS NULL ORDER BY number"
        found = []
        for request, inputs, boot, accepted_ns, accepted_at in self._read(query):
            # the monotonic clock goes on while the machine does, and no one sets it; the wall's is the second best
            age_s = (time.monotonic_ns() - accepted_ns) / 1e9 if boot == self._boot else time.time() - accepted_at
            found.append(Unfinished(_REQUEST.validate_json(request), json.loads(inputs), max(0.0, age_s)))
        return found

    def ended_ids(self) -> list[str]:
        """Of the requests that are known to have ended, in the order they did."""
        query = "SELECT id FROM requests WHERE ended_at IS NOT NULL ORDER BY ended_at"
        return [request_id for (request_id,) in self._read(query)]

    def entry(self, request_id: str) -> Entry | None:
        """What is known of a request; None for one that is not (any more)."""
        for request, progress, digest in self._read(
            "SELECT request, progress, digest FROM requests WHERE id = ?", request_id
        ):
            return Entry(
                _REQUEST.validate_json(request),
                None if progress is None else _PROGRESS.validate_json(progress),
                None if digest is None else self.blobs.get(digest),
            )
        return None

    def keyed(self, key: str) -> tuple[bytes, list[str]] | None:
        """What was asked for under the key, as a digest, and the ids that were given to it."""
        for asked, ids in self._read("SELECT asked, ids FROM keys WHERE key = ?", key):
            return asked, json.loads(ids)
        return None

    def _read(self, query: str, *values: object) -> list[Any]:
        with self._reading:
            return self._readers.execute(query, values).fetchall()


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Settings, and the tables of this version."""
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    ((version,),) = db.execute("PRAGMA user_version")
    if version > VERSION:
        raise JournalError(
            f"`{path}` has version {version}, this gfdit writes {VERSION}",
            hint="use the newer gfdit, or another `--out`",
        )
    for number, step in enumerate(_STEPS[version:], version + 1):
        db.executescript(f"BEGIN; {step} PRAGMA user_version={number}; COMMIT;")
