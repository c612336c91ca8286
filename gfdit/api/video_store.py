"""Video jobs on disk: what was asked for, how it went, and the files. Outlives the server.

One SQLite table and a folder. A job is written before it is answered; a file is there before its job says completed.
May be used from any thread.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from gfdit.errors import StorageFull

JobStatus = Literal["queued", "in_progress", "completed", "failed"]
KEEP_S = 24 * 3600.0
_TABLE = """
CREATE TABLE IF NOT EXISTS videos (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, asked TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    size TEXT NOT NULL, seconds REAL NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL,
    completed_at REAL, media_type TEXT NOT NULL DEFAULT '', error_code TEXT NOT NULL DEFAULT '',
    error_message TEXT NOT NULL DEFAULT '', went TEXT NOT NULL DEFAULT ''
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Video:
    """One job. `asked`: the body that asked for it, as JSON; `number`: jobs in order of acceptance; `seconds`: how long
    it plays; times are Unix seconds. `went`: how it went, as JSON, at its end."""

    id: str
    number: int
    asked: str
    model: str
    prompt: str
    size: str
    seconds: float
    seed: int
    status: JobStatus
    created_at: float
    completed_at: float | None = None
    media_type: str = ""
    error_code: str = ""
    error_message: str = ""
    went: str = ""

    @property
    def expires_at(self) -> float | None:
        return None if self.completed_at is None else self.completed_at + KEEP_S

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed")


_COLUMNS = ", ".join(field.name for field in fields(Video))
_MARKS = ", ".join("?" for _ in fields(Video))


class VideoStore:
    """The jobs under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(folder / "videos.sqlite", check_same_thread=False, isolation_level=None)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=FULL")
        self._base.execute(_TABLE)

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def next_number(self) -> int:
        with self._lock:
            ((most,),) = self._base.execute("SELECT coalesce(max(number), 0) FROM videos")
        return int(most) + 1

    def put(self, video: Video) -> None:
        """Add it, or replace what is known of it. On disk when this returns. Raises StorageFull."""
        values = [getattr(video, field.name) for field in fields(Video)]
        try:
            self._put(values)
        except sqlite3.OperationalError as error:
            raise StorageFull(f"cannot write to disk: {error}") from None

    def _put(self, values: list[object]) -> None:
        with self._lock:
            self._base.execute(f"INSERT OR REPLACE INTO videos ({_COLUMNS}) VALUES ({_MARKS})", values)

    def get(self, video_id: str) -> Video | None:
        with self._lock:
            row = self._base.execute(f"SELECT {_COLUMNS} FROM videos WHERE id = ?", (video_id,)).fetchone()
        return None if row is None else Video(*row)

    def page(self, *, after: int | None, limit: int, newest_first: bool) -> list[Video]:
        """Up to `limit` jobs beyond the one of number `after`."""
        way, sign = ("DESC", "<") if newest_first else ("ASC", ">")
        beyond = "" if after is None else f"WHERE number {sign} ?"
        values = [] if after is None else [after]
        query = f"SELECT {_COLUMNS} FROM videos {beyond} ORDER BY number {way} LIMIT ?"
        with self._lock:
            rows = self._base.execute(query, (*values, limit)).fetchall()
        return [Video(*row) for row in rows]

    def unfinished(self) -> list[Video]:
        """In the order of acceptance."""
        query = f"SELECT {_COLUMNS} FROM videos WHERE status IN ('queued', 'in_progress') ORDER BY number"
        with self._lock:
            return [Video(*row) for row in self._base.execute(query)]

    def path(self, video_id: str) -> Path:
        """Where its file is, or will be. Ids are the server's own and safe as names."""
        return self._folder / f"{video_id}.bin"

    def write(self, video_id: str, content: bytes) -> None:
        """The file, whole or not at all."""
        path = self.path(video_id)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def delete(self, video_id: str) -> None:
        """The job and its file."""
        with self._lock:
            self._base.execute("DELETE FROM videos WHERE id = ?", (video_id,))
        self.path(video_id).unlink(missing_ok=True)

    def forget_expired(self) -> None:
        """Delete what ended longer ago than it is kept."""
        with self._lock:
            too_old = (time.time() - KEEP_S,)
            rows = self._base.execute("SELECT id FROM videos WHERE completed_at < ?", too_old).fetchall()
        for (video_id,) in rows:
            self.delete(video_id)
