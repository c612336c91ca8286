"""Bytes on disk under the names of their digests: what was made is written once, whole or not at all, and kept for a
while.

Knows nothing of requests. May be used from any thread; writing waits for the disk, so the controller's does not.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

MOST_BYTES = 4 << 30
PART = ".part"


class Blobs:
    """The files under `folder`, at most `most_bytes` of them: beyond that those that were put longest ago are
    deleted, never the newest."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """Raises OSError for a folder that cannot be made or read."""
        self._folder, self._most = folder, most_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # digest -> bytes, oldest first
        self._number = 0
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for path in folder.glob("??/*"):
            if path.suffix == PART:
                path.unlink(missing_ok=True)  # a write that a crash cut short
            else:
                about = path.stat()
                found.append((about.st_mtime_ns, path.name, about.st_size))
        for _, name, size in sorted(found):
            self._sizes[name] = size
        self.size = sum(self._sizes.values())

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, digest: str) -> bool:
        return digest in self._sizes

    def path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def put(self, content: bytes) -> str:
        """SHA-256 of `content` in hex, under which it is on disk when this returns. Raises OSError."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        with self._lock:
            self._number += 1
            part = path.with_name(f"{digest}-{self._number}{PART}")
        try:
            os.utime(path)  # it is there: as young as its latest use
        except FileNotFoundError:
            _write(path, part, content)
        with self._lock:
            self.size += len(content) - self._sizes.pop(digest, 0)
            self._sizes[digest] = len(content)
            self._forget()
        return digest

    def get(self, digest: str) -> bytes | None:
        """None for what is not kept (any more), and for a file that is not what it was."""
        if digest not in self._sizes:
            return None
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == digest else None

    def _forget(self) -> None:
        while self.size > self._most and len(self._sizes) > 1:
            digest, size = self._sizes.popitem(last=False)
            self.size -= size
            self.path(digest).unlink(missing_ok=True)


def _write(path: Path, part: Path, content: bytes) -> None:
    """The file, and its name in the folder, are on disk when this returns."""
    if not path.parent.is_dir():
        path.parent.mkdir(exist_ok=True)
        sync_folder(path.parent.parent)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """What was made, renamed or deleted in `folder` is on disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
