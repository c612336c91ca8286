"""A whole live system on emulated devices: real processes, sockets, collectives; real faults."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import zmq

from gfdit.core.events import Event
from gfdit.core.scheduler import Decision, MoveKind
from gfdit.core.work import Outcome
from gfdit.errors import FleetError, InputError, ShuttingDown, UsageError
from gfdit.live.fleet import FleetSettings
from gfdit.live.results import Status
from gfdit.live.supervisor import RestartRule
from gfdit.live.system import LiveConfig, LiveSystem, start_live
from gfdit.units import NS_PER_S, to_ns
from gfdit.wire.codec import TO_CONTROLLER
from gfdit.wire.messages import Goodbye, Heartbeat, TaskDone
from gfdit.worker.emulated import LATENT_BYTES
from tests.live.emulation import Log, Restless, assert_all_complete_and_equal, cost_model, requests

COST = cost_model()
SCALE = 20.0


def config(workers: int = 4, **changes: object) -> LiveConfig:
    return LiveConfig(Restless(), COST, device="emulated", workers=workers, time_scale=SCALE, **changes)  # type: ignore[arg-type]


@pytest.fixture
def system() -> Iterator[LiveSystem]:
    with start_live(config()) as system:
        yield system


@dataclass
class When:
    """An observer that acts once: on the first tick for which `ready` holds."""

    ready: Callable[[], bool]
    act: Callable[[], None]
    ticks: int = 0
    acted: bool = field(default=False)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.ticks += 1
        if not self.acted and self.ready():
            self.acted = True
            self.act()


def gone(pid: int, within_s: float = 0.0) -> bool:
    """Whether the process has ended, waiting for it at most that long."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def in_flight(system: LiveSystem, least: int) -> tuple[int, ...]:
    """Ranks of a task on at least that many ranks which is being carried out."""
    groups = [flight.command.ranks for flight in system.scheduler.flights.values()]
    return next((ranks for ranks in groups if len(ranks) >= least), ())


def test_serves_a_workload_and_every_result_equals_the_uninterrupted_chain(system: LiveSystem) -> None:
    log = Log()
    tickets = system.feed(requests(8))
    system.close_intake()
    system.run([log])
    assert_all_complete_and_equal(tickets, COST)
    assert {move.request_id for move in log.moves if move.kind is MoveKind.START} == {t.request.id for t in tickets}
    assert len(log.joined) == 4
    assert not log.lost and not log.failed
    assert system.fleet.counters["bad_messages"] == system.fleet.counters["unknown_identity"] == 0


def test_a_request_alone_changes_its_degree_on_every_step_and_moves_no_byte_too_many(system: LiveSystem) -> None:
    log = Log()
    tickets = system.feed(requests(1, steps=6))
    system.close_intake()
    system.run([log])
    assert_all_complete_and_equal(tickets, COST)
    assert tickets[0].progress.degrees == ((0, 1), (1, 2), (2, 4), (3, 1), (4, 2), (5, 4))
    grow, shrink = MoveKind.GROW, MoveKind.SHRINK
    assert [move.kind for move in log.moves] == [MoveKind.START, grow, grow, shrink, grow, grow]
    # every step: each member gathers what it lacks of the latent (rows of 2: half, of 4: three quarters)
    assert system.fleet.counters["bytes_moved"] == 2 * (2 * LATENT_BYTES // 2 + 4 * LATENT_BYTES * 3 // 4)
    # a gather and a barrier on every member of a shared step, and a hand-over on every member of a group that grew
    assert system.fleet.counters["collectives"] == 2 * (2 * 2 + 4 * 2) + 2 * (2 + 4)


@pytest.mark.parametrize("member", [0, -1])
def test_kill_9_of_a_member_loses_nothing(system: LiveSystem, member: int) -> None:
    killed: list[int] = []

    def kill() -> None:
        rank = in_flight(system, 2)[member]
        killed.append(rank)
        os.kill(system.fleet.supervisor.lives[rank].pid, signal.SIGKILL)

    log = Log()
    tickets = system.feed(requests(8))
    system.close_intake()
    system.run([log, When(lambda: len(in_flight(system, 2)) > 0, kill)])
    assert_all_complete_and_equal(tickets, COST)
    assert [(lost.rank, lost.incarnation) for lost in log.lost] == [(killed[0], 1)]
    assert "signal 9" in log.lost[0].cause
    assert {failed.code for failed in log.failed} == {"worker_lost"}
    assert system.fleet.supervisor.restarts == 1


def test_all_workers_killed_at_once_resume_from_the_checkpoint(system: LiveSystem) -> None:
    def kill_all() -> None:
        for life in system.fleet.supervisor.lives.values():
            os.kill(life.pid, signal.SIGKILL)

    steps_done = lambda: max((t.progress.steps_done for t in system.fleet.tickets.live()), default=0)  # noqa: E731
    log, seen = Log(), {}
    tickets = system.feed(requests(3))
    system.close_intake()

    def act() -> None:
        seen.update({t.request.id: t.progress.steps_done for t in system.fleet.tickets.live()})
        kill_all()

    system.run([log, When(lambda: steps_done() >= 3, act)])
    assert_all_complete_and_equal(tickets, COST)
    assert len(log.lost) == 4
    assert [joined.incarnation for joined in log.joined] == [1] * 4 + [2] * 4
    resumed = [move for move in log.moves if move.kind is MoveKind.RESUME]
    assert {move.request_id for move in resumed} >= {name for name, done in seen.items() if done > 0}


def test_a_stopped_worker_is_found_by_its_silence_and_replaced() -> None:
    settings = FleetSettings(heartbeat_s=0.2, liveness_s=2.0)
    with start_live(config(fleet=settings)) as system:
        stopped: list[int] = []

        def stop() -> None:
            rank = in_flight(system, 2)[0]
            stopped.append(system.fleet.supervisor.lives[rank].pid)
            os.kill(stopped[0], signal.SIGSTOP)

        log = Log()
        tickets = system.feed(requests(6))
        system.close_intake()
        system.run([log, When(lambda: len(in_flight(system, 2)) > 0, stop)])
        assert_all_complete_and_equal(tickets, COST)
        assert len(log.lost) == 1
        assert "stopped answering" in log.lost[0].cause
        assert gone(stopped[0])


def test_a_zombies_messages_and_garbage_change_nothing(system: LiveSystem) -> None:
    """Frames under a dead worker's identity, under no known identity, and damaged ones under a live one."""
    context = zmq.Context()
    address = system.fleet.address
    old = system.fleet.supervisor.lives[0].identity
    sent = threading.Event()

    def dial(identity: bytes) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.LINGER, 5000)
        socket.connect(address)
        return socket

    def shout() -> None:
        for socket in (dial(old), dial(b"nobody")):
            for epoch in range(1, 60):
                socket.send_multipart(TO_CONTROLLER.encode(TaskDone(epoch, done=99, hot=b"poison")))
            for frames in ([b""], [b"\xff" * 1000], [b"{}"] * 9, TO_CONTROLLER.encode(Goodbye()), [os.urandom(100)]):
                socket.send_multipart(frames)
            socket.send_multipart([b"x" * 2_000_000, b"y" * 2_000_000])
            socket.close()
        sent.set()

    def kill_then_shout() -> None:
        os.kill(system.fleet.supervisor.lives[0].pid, signal.SIGKILL)

    log = Log()
    dead = When(lambda: bool(in_flight(system, 2)), kill_then_shout)
    shouting = When(lambda: bool(log.lost), shout)
    tickets = system.feed(requests(8))
    system.close_intake()
    system.run([log, dead, shouting])
    assert sent.is_set()
    assert_all_complete_and_equal(tickets, COST)
    assert system.fleet.counters["unknown_identity"] > 0
    assert len(log.lost) == 1
    context.term()


def test_a_live_workers_out_of_turn_messages_are_counted_and_dropped(system: LiveSystem) -> None:
    life = system.fleet.supervisor.lives[1]
    frames = [TO_CONTROLLER.encode(TaskDone(10**9, done=3)), [b"not json"], TO_CONTROLLER.encode(Heartbeat(5))]
    for frame in frames:
        system.fleet.take_frames(life.identity, frame)
    assert system.fleet.counters["bad_messages"] == 2
    tickets = system.feed(requests(2))
    system.close_intake()
    system.run()
    assert_all_complete_and_equal(tickets, COST)


def test_clients_in_other_threads_submit_watch_cancel_and_drain(system: LiveSystem) -> None:
    seen: list[int] = []
    outcomes: dict[str, Outcome | None] = {}

    def client() -> None:
        first, second, third = requests(3, steps=8)
        ticket = system.submit(first)
        version = 0
        while not ticket.ended:
            version = ticket.wait_change(version, timeout=30)
            seen.append(ticket.progress.steps_done)
        cancelled = system.submit(second)
        version = 0
        while cancelled.progress.status is Status.QUEUED:
            version = cancelled.wait_change(version, timeout=30)
        system.cancel(second.id)
        assert cancelled.wait(30)
        last = system.submit(third)
        last.on_end(lambda t: outcomes.update({t.request.id: t.progress.outcome}))
        system.drain()
        assert last.wait(30)
        with pytest.raises(ShuttingDown):
            system.submit(requests(4)[3])
        outcomes.update({first.id: ticket.progress.outcome, second.id: cancelled.progress.outcome})

    thread = threading.Thread(target=client)
    thread.start()
    system.run()
    thread.join(30)
    assert outcomes == {"r0": Outcome.COMPLETED, "r1": Outcome.CANCELLED, "r2": Outcome.COMPLETED}
    assert seen == sorted(seen)
    assert set(range(9)) <= set(seen) | {0}


def test_what_cannot_be_served_reaches_neither_scheduler_nor_workers(system: LiveSystem) -> None:
    (request,) = requests(1)
    with pytest.raises(InputError, match="no model `other`"):
        system.submit(replace(request, model="other"))
    with pytest.raises(InputError, match=r"cannot be sent to a worker: .*inputs\.prompt"):
        system.submit(replace(request, prompt="x" * 100_000))
    with pytest.raises(InputError, match="cannot be sent to a worker"):
        system.submit(replace(request, id="x" * 1000))
    system.close_intake()
    system.run()


def test_drain_with_cancel_ends_everything_at_once(system: LiveSystem) -> None:
    tickets = system.feed([*requests(3, steps=1000), replace(requests(4)[3], arrival_ns=3600 * NS_PER_S)])
    system.run([When(lambda: len(in_flight(system, 1)) > 0, lambda: system.drain(cancel=True))])
    assert [ticket.progress.outcome for ticket in tickets] == [Outcome.CANCELLED] * 4


def test_close_leaves_no_process_no_folder_and_answers_who_waits() -> None:
    system = start_live(config(workers=2))
    pids = [life.pid for life in system.fleet.supervisor.lives.values()]
    folder = Path(system.fleet.address.removeprefix("ipc://")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    (ticket,) = system.feed(requests(1))
    system.close()
    system.close()
    assert all(gone(pid) for pid in pids)
    assert not folder.exists()
    assert (ticket.progress.outcome, ticket.progress.code) == (Outcome.FAILED, "shutting_down")
    with pytest.raises(ShuttingDown):
        system.submit(requests(1)[0])


CONTROLLER = """
import signal, sys
from gfdit.live.system import start_live
from tests.live.emulation import assert_all_complete_and_equal, requests
from tests.live.test_system import COST, config

class Announce:
    said = False
    def record(self, now, events, decision, tick_seconds):
        if decision.commands and not self.said:
            self.said = True
            print(*(life.pid for life in system.fleet.supervisor.lives.values()), flush=True)

if __name__ == "__main__":
    with start_live(config(workers=2)) as system:
        signal.signal(signal.SIGINT, lambda *_: system.drain())
        tickets = system.feed(requests(2, steps=100, every_s=0))
        system.feed([r for r in requests(5, every_s=1000) if r.arrival_ns > 1e12])
        system.run([Announce()])
        assert_all_complete_and_equal(tickets, COST)
        print(system.fleet.counters["workers_lost"])
"""


@contextmanager
def controller(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A controller in a process group of its own with two busy workers, whose pids come with it."""
    path = folder / "controller.py"
    path.write_text(CONTROLLER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
    with subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        yield process, pids


def test_workers_die_with_a_controller_that_is_killed(tmp_path: Path) -> None:
    with controller(tmp_path) as (process, pids):
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert all(gone(pid, within_s=10) for pid in pids)


def test_ctrl_c_in_the_terminal_drains_and_no_worker_hears_of_it(tmp_path: Path) -> None:
    with controller(tmp_path) as (process, pids):
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert (process.returncode, rest) == (0, "0\n")
        assert all(gone(pid) for pid in pids)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("gfdit-")] == []


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(FleetError, match=r"cannot start: .*nowhere"):
        start_live(LiveConfig(Restless(), COST, device="cpu", model=Path("nowhere"), workers=1))


def test_a_rank_that_keeps_dying_is_taken_out() -> None:
    rule = RestartRule(per_minute=1, base_s=0.0)
    with start_live(config(workers=2, fleet=FleetSettings(restart=rule))) as system:
        log = Log()

        def kill() -> None:
            os.kill(system.fleet.supervisor.lives[1].pid, signal.SIGKILL)

        first = When(lambda: True, kill)
        second = When(lambda: [j.incarnation for j in log.joined if j.rank == 1] == [1, 2], kill)
        tickets = system.feed(requests(2, steps=40))
        system.close_intake()
        system.run([log, first, second])
        assert_all_complete_and_equal(tickets, COST)
        assert system.fleet.supervisor.out == (1,)
        assert len(log.lost) == 2 and log.lost[1].cause.endswith("died too often and is not started again")


def test_restart_rule() -> None:
    rule = RestartRule(per_minute=5, base_s=0.5, most_s=3.0)
    assert [rule.delay_ns(recent) for recent in range(1, 7)] == [0, to_ns(0.5), to_ns(1), to_ns(2), to_ns(3), None]


def test_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="time scale 2 needs emulated devices"):
        LiveConfig(Restless(), COST, time_scale=2)
    with pytest.raises(UsageError, match="workers must be from 1 to 1024"):
        config(workers=0)
