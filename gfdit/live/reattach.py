"""Workers that outlive their controller: who they are, on disk, and how the next controller takes them over.

    controller dies --> a worker drops its task and all state, keeps its weights, and waits for a while
    the next one    --> reads the roster, listens where they dial, greets those that still live

It fences what is old by itself: a worker that waits says `Ready` again and nothing else is believed before that, and
every controller numbers its epochs beyond those of the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gfdit import __version__
from gfdit.worker.main import WorkerSpec

EPOCHS_A_LIFE = 1 << 30
MOST_LIVES = 1 << 10  # epochs have 40 bits
PREFIX = "gfdit-"  # of the directory that a fleet makes for itself


@dataclass(frozen=True, slots=True)
class Survivor:
    """A worker as the roster knows it. `started`: when its process began, in the kernel's ticks, so that another
    process of the same number is not taken for it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=False)

    rank: int
    incarnation: int
    identity: str
    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Roster:
    """The workers of one controller. `spec`: a digest of what they are; `life`: how many controllers they had before;
    `directory`: where they dial in."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=False)

    spec: str
    life: int
    directory: str
    workers: tuple[Survivor, ...]

    @property
    def first_epoch(self) -> int:
        """What this controller adds to the numbers of its epochs."""
        return self.life * EPOCHS_A_LIFE

    def write(self, path: Path) -> None:
        """Whole or not at all, for its owner's eyes: who knows an identity can speak for a worker."""
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(self), file)
        part.replace(path)


_ROSTER = TypeAdapter(Roster)


def survivors(path: Path, spec: str) -> Roster | None:
    """The roster that a controller left behind when it died, `life` counted up; None when there is none, or its
    workers are not what is wanted now: those are ended."""
    try:
        left = _ROSTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        path.unlink(missing_ok=True)
        return None
    private = _is_private(Path(left.directory))
    if private and left.spec == spec and left.life + 1 < MOST_LIVES:
        return replace(left, life=left.life + 1)
    for one in left.workers:
        process = adopt(one)
        if process is not None:
            process.kill()
            process.close()
    if private:
        shutil.rmtree(left.directory, ignore_errors=True)
    path.unlink(missing_ok=True)
    return None


def _is_private(directory: Path) -> bool:
    """Whether it is what a fleet made for itself: nothing else is listened in, or deleted."""
    try:
        about = directory.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and stat.S_IMODE(about.st_mode) == 0o700
    return mine and directory.is_absolute() and directory.name.startswith(PREFIX)


def digest_of(spec: WorkerSpec) -> str:
    """Equal for workers that can stand in for each other: same program, same settings, same model files."""
    about: list[object] = [__version__, asdict(spec)]
    if spec.model:
        files = sorted(path for path in Path(spec.model).rglob("*") if path.is_file())
        about += [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class AdoptedProcess:
    """A process that is not our child, by its pidfd: the part of `multiprocessing.Process` that a supervisor needs.
    How it ended only its parent learns."""

    exitcode = None

    def __init__(self, pid: int, started: int) -> None:
        """Raises OSError when there is no such process any more."""
        self.pid = pid
        self.sentinel = os.pidfd_open(pid)
        if started_at(pid) != started:
            os.close(self.sentinel)
            raise ProcessLookupError(f"process {pid} is another one")

    def is_alive(self) -> bool:
        return not select.select([self.sentinel], [], [], 0)[0]

    def kill(self) -> None:
        if self.is_alive():
            signal.pidfd_send_signal(self.sentinel, signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        select.select([self.sentinel], [], [], timeout)

    def close(self) -> None:
        os.close(self.sentinel)


def adopt(one: Survivor) -> AdoptedProcess | None:
    """Its process, if it still lives."""
    try:
        process = AdoptedProcess(one.pid, one.started)
    except OSError:
        return None
    if process.is_alive():
        return process
    process.close()
    return None


def started_at(pid: int) -> int:
    """When the process began, in the kernel's ticks since the boot. Raises OSError for one that is gone."""
    # the name in brackets may hold anything; the fields after it are numbers, the 22nd of the line is this one
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
