"""Never two controllers on one folder: an advisory lock, which the kernel gives back however its holder ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from gfdit.errors import UsageError


class FolderLock:
    """Held from construction on. The file stays: to delete it would let two hold locks of two files of one name."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError when another process holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip() or "another process"
            os.close(self._fd)
            raise UsageError(
                f"`{folder}` is in use by a `gfdit run` (process {holder})", hint="give every run an `--out` of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
