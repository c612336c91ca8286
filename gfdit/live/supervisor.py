"""Worker processes: start, watch through their sentinels, restart with a growing delay, and give up on a rank that
keeps dying.

Knows processes and nothing of messages. Each start of a rank is a new incarnation with an identity that nobody can
guess.
"""

from __future__ import annotations

import multiprocessing
import secrets
import select
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.process import BaseProcess
from pathlib import Path

from gfdit.live.reattach import AdoptedProcess, Survivor, adopt
from gfdit.units import NS_PER_S, to_ns
from gfdit.worker.main import WorkerSpec, run_worker

MINUTE_NS = 60 * NS_PER_S
UNTOLD_LIVES = 16  # that a rank may have begun after the roster was last written


@dataclass(frozen=True, slots=True)
class RestartRule:
    """The first restart within a minute is immediate, then `base_s`, doubled each time up to `most_s`; beyond
    `per_minute` restarts within a minute the rank is out.
    """

    per_minute: int = 6
    base_s: float = 0.25
    most_s: float = 10.0

    def delay_ns(self, recent: int) -> int | None:
        """The wait before a restart when `recent` deaths lie within the last minute, this one included; None: no
        restart.
        """
        if recent > self.per_minute:
            return None
        return 0 if recent <= 1 else to_ns(min(self.most_s, self.base_s * 2 ** (recent - 2)))


@dataclass(frozen=True, slots=True)
class Life:
    """One incarnation of one rank's worker."""

    rank: int
    incarnation: int
    identity: bytes
    process: BaseProcess | AdoptedProcess

    @property
    def pid(self) -> int:
        return self.process.pid or 0


@dataclass(slots=True)
class _Seat:
    """A rank: its present life, and the deaths that decide when it gets another. Times are monotonic ns."""

    life: Life | None = None
    incarnation: int = 0
    deaths: deque[int] = field(default_factory=deque)
    restart_at: int | None = None
    out: bool = False


class Supervisor:
    """`address`: where the workers dial in; `log_dir`: their output goes to `rank-<n>.log` there."""

    def __init__(self, spec: WorkerSpec, workers: int, address: str, log_dir: Path, rule: RestartRule) -> None:
        self._spec = spec
        self._address = address
        self._log_dir = log_dir
        self._rule = rule
        self._seats = {rank: _Seat() for rank in range(workers)}
        self.restarts = 0
        self._exits = select.epoll()
        self._by_sentinel: dict[int, Life] = {}
        method = "spawn" if spec.device == "cuda" else "forkserver"  # CUDA does not survive a fork
        self._context = multiprocessing.get_context(method)
        if method == "forkserver":
            multiprocessing.set_forkserver_preload(list(spec.preload))

    @property
    def out(self) -> tuple[int, ...]:
        """Ranks that are not restarted any more."""
        return tuple(rank for rank, seat in self._seats.items() if seat.out)

    @property
    def lives(self) -> Mapping[int, Life]:
        """The running worker of each rank that has one."""
        return {rank: seat.life for rank, seat in self._seats.items() if seat.life is not None}

    def start(self, rank: int) -> Life:
        seat = self._seats[rank]
        seat.incarnation += 1
        seat.restart_at = None
        identity = f"{rank}.{seat.incarnation}.{secrets.token_hex(8)}".encode()
        process = self._context.Process(  # type: ignore[attr-defined]
            target=run_worker,
            args=(self._spec, rank, seat.incarnation, identity, self._address, str(self.log_file(rank))),
            name=f"gfdit-worker-{rank}",
            daemon=True,
        )
        process.start()
        return self._seated(seat, Life(rank, seat.incarnation, identity, process))

    def adopt(self, one: Survivor) -> Life | None:
        """Watch over a worker of an earlier controller as over one of ours; None if it does not live any more."""
        seat, process = self._seats[one.rank], adopt(one)
        if process is None:  # the others may know it as dead: its successor must not look like it
            seat.incarnation = one.incarnation + UNTOLD_LIVES
            return None
        seat.incarnation = one.incarnation
        return self._seated(seat, Life(one.rank, one.incarnation, one.identity.encode(), process))

    def _seated(self, seat: _Seat, life: Life) -> Life:
        seat.life = life
        self._by_sentinel[life.process.sentinel] = life
        self._exits.register(life.process.sentinel, select.EPOLLIN)
        return life

    @property
    def exit_fd(self) -> int:
        """Readable while some worker has exited and was not buried."""
        return self._exits.fileno()

    def exited(self) -> list[Life]:
        """Lives whose process has ended and that were not buried yet."""
        return [self._by_sentinel[sentinel] for sentinel, _ in self._exits.poll(0)]

    def bury(self, life: Life, *, restart: bool) -> str:
        """Make sure that the process is gone, plan the next one; returns how it ended."""
        seat = self._seats[life.rank]
        self._exits.unregister(life.process.sentinel)
        del self._by_sentinel[life.process.sentinel]
        if life.process.is_alive():
            life.process.kill()  # works on a stopped process, too
        life.process.join()
        code = life.process.exitcode
        life.process.close()
        seat.life = None
        if restart:
            self._plan_restart(seat)
        if code is None:
            return "ended"
        return f"killed by signal {-code}" if code < 0 else f"exited with code {code}"

    def _plan_restart(self, seat: _Seat) -> None:
        now = time.monotonic_ns()
        seat.deaths.append(now)
        while seat.deaths[0] < now - MINUTE_NS:
            seat.deaths.popleft()
        delay = self._rule.delay_ns(len(seat.deaths))
        seat.out = delay is None
        seat.restart_at = None if delay is None else now + delay

    def next_restart(self) -> int | None:
        """When the next rank is due to be started again (monotonic ns)."""
        return min((seat.restart_at for seat in self._seats.values() if seat.restart_at is not None), default=None)

    def restart_due(self) -> list[Life]:
        """Start every rank whose delay is over."""
        now = time.monotonic_ns()
        due = [rank for rank, seat in self._seats.items() if seat.restart_at is not None and seat.restart_at <= now]
        self.restarts += len(due)
        return [self.start(rank) for rank in due]

    def log_file(self, rank: int) -> Path:
        return self._log_dir / f"rank-{rank}.log"

    def log_tail(self, rank: int, lines: int = 8) -> str:
        """The last lines that the rank's worker printed, "" when there are none."""
        path = self.log_file(rank)
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, timeout_s: float) -> None:
        """Wait for the workers to leave on their own (they were told), then end those that do not."""
        deadline = time.monotonic() + timeout_s
        for seat in self._seats.values():
            seat.restart_at = None
        while (alive := [life.process for life in self.lives.values() if life.process.is_alive()]) and (
            left := deadline - time.monotonic()
        ) > 0:
            wait_for_any([process.sentinel for process in alive], left)
        for life in self.lives.values():
            self.bury(life, restart=False)
        self._exits.close()
