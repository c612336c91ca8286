"""The live Fleet: one ROUTER socket, one worker process a rank, and the clients' door, as one source of events.

    ROUTER frames -> codec -> session rules -> epoch book -> events
    commands -> state to hand over -> sessions -> frames -> ROUTER

All of it runs in the thread that calls `poll` and `send`; other threads use `intake` only. Frames from unknown or
stale identities, frames that do not decode and messages out of turn are counted and change nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

import zmq

from gfdit.core.commands import AbortTask, Command, EndRequest, RunTask
from gfdit.core.events import (
    Event,
    RequestArrived,
    RequestCancelled,
    WorkerJoined,
    WorkerLost,
)
from gfdit.core.events import TaskFailed as TaskFailedEvent
from gfdit.core.events import TaskFinished as TaskFinishedEvent
from gfdit.core.work import Outcome
from gfdit.errors import FleetError, WireError
from gfdit.live.checkpoints import Checkpoint, Checkpoints
from gfdit.live.clock import LiveClock
from gfdit.live.durable import Durable
from gfdit.live.epochs import EpochBook, Failed, Finished, Settled
from gfdit.live.intake import Intake
from gfdit.live.reattach import PREFIX, Roster, Survivor, digest_of, started_at, survivors
from gfdit.live.results import Tickets
from gfdit.live.supervisor import Life, RestartRule, Supervisor
from gfdit.units import to_ns, to_s
from gfdit.wire.codec import MAX_FRAME, TO_CONTROLLER, TO_WORKER
from gfdit.wire.messages import (
    Abort,
    Facts,
    Forget,
    Goodbye,
    Heartbeat,
    Hello,
    Ready,
    Run,
    Shutdown,
    TaskDone,
    TaskFailed,
    ToController,
    ToWorker,
    Unfit,
    Value,
)
from gfdit.wire.session import PeerSession
from gfdit.worker.main import WorkerSpec

STEP_INPUTS = ("num_inference_steps", "steps")  # a pipeline's word for it, and an emulated device's
MAX_BATCH = 1024  # messages taken in one go: a flood must not keep the loop from its other duties
MOST_WAIT_S = 60.0
STARTING_PATIENCE = 10  # a worker that loads its model may be silent this many times longer than a ready one


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Workers send word every `heartbeat_s`; after `liveness_s` of silence one is lost. `stop_s`: patience at the end.
    `log_dir`: where workers' output goes, by default into the private directory that goes with the fleet.
    `roster`: a file that tells the controller after this one who lives, None: nobody is to outlive it.
    `grace_s`: how long workers wait for that one.
    """

    heartbeat_s: float = 1.0
    liveness_s: float = 3.0
    stop_s: float = 5.0
    restart: RestartRule = field(default_factory=RestartRule)
    log_dir: Path | None = None
    roster: Path | None = None
    grace_s: float = 30.0


class ZmqFleet:
    """See the module. `counters`: what was dropped and why, restarts, bytes; for metrics and tests."""

    def __init__(self, spec: WorkerSpec, workers: int, clock: LiveClock, settings: FleetSettings | None = None) -> None:
        settings = settings or FleetSettings()
        self.tickets = Tickets()
        self.durable: Durable | None = None  # set before the first request: ends are on disk before they are told
        self.intake = Intake(clock, self.tickets)
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._settings = settings
        self._checkpoints = Checkpoints()
        self._epochs = EpochBook()
        self._sessions: dict[bytes, PeerSession] = {}
        self._by_rank: dict[int, PeerSession] = {}
        self._events: list[Event] = []
        self._roster = self._find_roster(spec)
        self._base = self._roster.first_epoch  # of all epochs on the wire
        self._directory = Path(self._roster.directory)
        self.address = f"ipc://{self._directory / 'controller'}"
        self._context = zmq.Context()
        self._router = _bound_router(self._context, self.address)
        log_dir = settings.log_dir or self._directory
        log_dir.mkdir(parents=True, exist_ok=True)
        self.supervisor = Supervisor(spec, workers, self.address, log_dir, settings.restart)
        self._poller = zmq.Poller()
        for source in (self._router, self.intake.wake_fd, self.supervisor.exit_fd):
            self._poller.register(source, zmq.POLLIN)
        self._encoded: tuple[ToWorker, list[bytes]] | None = None  # the latest message: a group gets the same one
        self._workers = workers
        self._unfit = ""  # the last words of a worker that could not start
        self._closed = False

    # ---- life ---------------------------------------------------------------------------------------------------

    def start(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Start all workers and wait until each is ready; `progress(ready, workers)` after every change.

        Raises FleetError with the worker's own words when one cannot start.
        """
        left = {one.rank: one for one in self._roster.workers}
        for rank in range(self._workers):
            life = self.supervisor.adopt(left[rank]) if rank in left else None
            self.counters["adopted"] += life is not None
            self._greet(life or self.supervisor.start(rank))
        self._save_roster()
        told = -1
        while True:
            self._turn()
            self._check_start()
            ready = sum(session.ready for session in self._by_rank.values())
            if ready != told and progress is not None:
                progress(ready, self._workers)
            told = ready
            if ready == self._workers:
                self._clock.start()
                return
            self._wait(None)

    def _find_roster(self, spec: WorkerSpec) -> Roster:
        """Of the controller before, if its workers may go on under this one."""
        path, digest = self._settings.roster, digest_of(spec)
        left = None if path is None else survivors(path, digest)
        if left is not None:
            return left
        directory = tempfile.mkdtemp(prefix=PREFIX)  # mode 0700: nobody else can dial in
        return Roster(digest, 0, directory, ())

    def _save_roster(self) -> None:
        if self._settings.roster is None:
            return
        lives = self.supervisor.lives.values()
        known = tuple(
            Survivor(life.rank, life.incarnation, life.identity.decode(), life.pid, started_at(life.pid))
            for life in lives
            if life.process.is_alive()
        )
        replace(self._roster, workers=known).write(self._settings.roster)

    def _check_start(self) -> None:
        if self.supervisor.out or self._unfit:
            rank = next(iter(self.supervisor.out), 0)
            said = self._unfit or self.supervisor.log_tail(rank) or "it printed nothing"
            raise FleetError(f"worker {rank} cannot start: {said}")

    @property
    def facts(self) -> Facts | None:
        """What the workers know of their model; None for emulated devices."""
        return next((session.facts for session in self._by_rank.values() if session.facts is not None), None)

    def close(self) -> None:
        """Stop the workers, answer whoever still waits, leave nothing behind. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.intake.release()
        for session in self._by_rank.values():
            self._transmit(session, Shutdown())
        self.supervisor.stop(self._settings.stop_s)
        self._router.close(linger=0)
        self._context.term()
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._settings.roster is not None:
            self._settings.roster.unlink(missing_ok=True)
        if self.durable is not None:
            self.durable.close()
        for ticket in self.tickets.live():
            self._give_up(ticket.request.id, Outcome.FAILED, "shutting_down", "the system was stopped")

    # ---- the Fleet port -----------------------------------------------------------------------------------------

    def send(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case RunTask():
                    self._run(command)
                case AbortTask():
                    self._abort(self._base + command.epoch, command.reason)
                case EndRequest():
                    self._end(command)
                case _:
                    assert_never(command)

    def poll(self, until: int | None) -> list[Event]:
        while True:
            self._turn()
            if self._events:
                events, self._events = self._events, []
                return events
            if self.done or (until is not None and self._clock.now() >= until):
                return []
            self._wait(until)

    def processor_s(self) -> float:
        return time.thread_time()

    def too_slow(self, seconds: float, limit: float | None) -> bool:
        return limit is not None and seconds > limit

    @property
    def done(self) -> bool:
        return not self.intake.open and self.intake.empty and not self._events and len(self._checkpoints) == 0

    # ---- one turn: everything that has happened becomes events ----------------------------------------------------

    def _turn(self) -> None:
        self._receive()
        for life in self.supervisor.exited():
            self._lose(life, "its process ended")
        self._check_liveness()
        if restarted := self.supervisor.restart_due():
            for life in restarted:
                self._greet(life)
            self._save_roster()
        if len(self.supervisor.out) == self._workers:
            raise FleetError(f"no worker is left: {self._unfit or self.supervisor.log_tail(0)}")
        self._take_requests()

    def _take_requests(self) -> None:
        self.intake.acknowledge_wake()
        now = self._clock.now()
        taken = self.intake.take(now)
        for arrival in taken.arrivals:
            self._checkpoints.begin(arrival.request.id, arrival.inputs)
            self.tickets.arrived(arrival.request.id, arrival.request.arrival_ns)
            self._events.append(RequestArrived(now, arrival.request))
        for request_id in taken.cancelled:
            if request_id in self._checkpoints:
                self._events.append(RequestCancelled(now, request_id))
        self._events.extend(taken.orders)
        for request_id in taken.dropped:
            self._give_up(request_id, Outcome.CANCELLED, "cancelled", "it had not arrived yet")

    def _receive(self) -> None:
        for _ in range(MAX_BATCH):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.take_frames(identity, frames)

    def take_frames(self, identity: bytes, frames: Sequence[bytes]) -> None:
        """What one peer said; counted and dropped if the peer or the message is not what it should be."""
        session = self._sessions.get(identity)
        if session is None:
            self.counters["unknown_identity"] += 1
            return
        try:
            message = TO_CONTROLLER.decode(frames)
            released = session.receive(message, time.monotonic_ns())
        except WireError:
            self.counters["bad_messages"] += 1
            return
        for run in released:
            self._write(session, run)
        self._heard(session, message)

    def _heard(self, session: PeerSession, message: ToController) -> None:
        match message:
            case TaskDone():
                self.counters["collectives"] += message.collectives
                self.counters["bytes_moved"] += message.bytes_moved
                self._settle(self._epochs.done(session.rank, message))
            case TaskFailed():
                self._settle(self._epochs.failed(session.rank, message))
                self._abort(message.epoch, f"rank {session.rank} failed")
            case Ready():
                self._events.append(WorkerJoined(self._clock.now(), session.rank, session.incarnation))
            case Unfit():
                self.counters["unfit"] += 1
                self._unfit = message.message
            case Hello() | Heartbeat() | Goodbye():
                pass
            case _:
                assert_never(message)

    # ---- workers that come and go ---------------------------------------------------------------------------------

    def _greet(self, life: Life) -> None:
        session = PeerSession(life.rank, life.incarnation, life.identity, time.monotonic_ns())
        self._sessions[life.identity] = session
        self._by_rank[life.rank] = session

    def _check_liveness(self) -> None:
        now = time.monotonic_ns()
        for rank, life in self.supervisor.lives.items():
            if now >= self._silent_after(self._by_rank[rank]):
                self._lose(life, "it stopped answering")

    def _silent_after(self, session: PeerSession) -> int:
        patience = self._settings.liveness_s * (1 if session.ready else STARTING_PATIENCE)
        return session.heard_ns + to_ns(patience)

    def _lose(self, life: Life, cause: str) -> None:
        """The worker is dead or taken for dead: fence it, tell the scheduler, settle what it owes, plan its
        successor.
        """
        session = self._by_rank.pop(life.rank)
        del self._sessions[life.identity]
        announced, unanswered = session.endpoint is not None, session.lost()
        how = self.supervisor.bury(life, restart=True)
        if life.rank in self.supervisor.out:
            how += "; it died too often and is not started again"
        self.counters["workers_lost"] += 1
        if announced:
            self._events.append(WorkerLost(self._clock.now(), life.rank, life.incarnation, f"{cause}: {how}"))
        for epoch in unanswered:
            self._settle(self._epochs.failed(life.rank, TaskFailed(epoch, "worker_lost", f"{cause}: {how}")))
            self._abort(epoch, f"rank {life.rank} is lost")

    # ---- commands ---------------------------------------------------------------------------------------------------

    def _run(self, command: RunTask) -> None:
        command = replace(command, epoch=self._base + command.epoch)
        kept = self._checkpoints.get(command.request_id)
        if kept is None:
            raise FleetError(f"a task for request `{command.request_id}`, which never arrived or has ended")
        sources, restore = self._state_for(command, kept)
        givers = () if set(sources) & set(command.ranks) else sources
        participants = command.ranks + givers
        kept.touched.update(participants)
        self._epochs.open(command, participants)
        endpoints = tuple(
            session.endpoint
            for rank in participants
            if (session := self._by_rank.get(rank)) is not None and session.endpoint is not None
        )
        run = Run(
            epoch=command.epoch,
            request_id=command.request_id,
            stage=command.stage,
            ranks=command.ranks,
            first_step=command.first_step,
            steps=command.steps,
            sources=sources,
            parallel=(command.parallel.cfg, command.parallel.ulysses, command.parallel.ring),
            endpoints=endpoints,
            inputs=self._inputs(kept, command.steps_total) if kept.cold is None else {},
            restore=restore,
        )
        for rank in participants:
            self._dispatch(rank, run)

    @staticmethod
    def _inputs(kept: Checkpoint, steps_total: int) -> dict[str, Value]:
        """What the client sent, with the number of steps that admission settled on."""
        return {name: steps_total if name in STEP_INPUTS else value for name, value in kept.inputs.items()}

    def _state_for(self, command: RunTask, kept: Checkpoint) -> tuple[tuple[int, ...], bytes | None]:
        """Where the members get the newest state: (ranks that give it, bytes from here); both empty when all hold it.

        After a failure some ranks may be a step ahead, so the checkpoint counts. A holder in the group gives to the
        others; a giver outside it is asked only if it is idle, as the checkpoint is at hand and a step may take
        seconds.
        """
        if command.restore or kept.doubtful:
            return (), kept.state()
        inside = tuple(rank for rank in command.sources if rank in command.ranks)
        if not command.sources or set(command.ranks) <= set(inside):
            return (), None
        if inside:
            return inside, None
        idle = [rank for rank in command.sources if self._is_idle(rank)]
        if idle:
            return (idle[0],), None
        return ((), kept.state()) if kept.cold is not None else (command.sources, None)

    def _is_idle(self, rank: int) -> bool:
        session = self._by_rank.get(rank)
        return session is not None and session.ready and not session.outstanding

    def _dispatch(self, rank: int, run: Run) -> None:
        """One participant's part. One that is not there, or cannot be told, has failed already."""
        session = self._by_rank.get(rank)
        if session is None or not session.ready:
            self._settle(self._epochs.failed(rank, TaskFailed(run.epoch, "aborted", "it is not there")))
            self._abort(run.epoch, f"rank {rank} is not there")
            return
        self._transmit(session, run)

    def _abort(self, epoch: int, reason: str) -> None:
        for rank in self._epochs.waiting_on(epoch):
            session = self._by_rank.get(rank)
            if session is not None:
                self._transmit(session, Abort(epoch, reason))

    def _end(self, command: EndRequest) -> None:
        kept = self._checkpoints.end(command.request_id)
        for rank in sorted(kept.touched) if kept is not None else ():
            session = self._by_rank.get(rank)
            if session is not None:
                self._transmit(session, Forget(command.request_id))
        output = kept.output if kept is not None and command.outcome is Outcome.COMPLETED else None
        if self.durable is None:
            self.tickets.end(command, output)
        else:
            self.durable.end(command, output)

    def _give_up(self, request_id: str, outcome: Outcome, code: str, message: str) -> None:
        """Answer a client whose request the scheduler does not know, or will not hear of any more."""
        end = EndRequest(request_id, outcome, self._clock.now(), code=code, message=message)
        self.tickets.end(end, None)

    def _settle(self, settled: Settled | None) -> None:
        now = self._clock.now()
        match settled:
            case Finished(command=command, result=result):
                safe = self._checkpoints.commit(command.request_id, result)
                busy, handover = (
                    to_ns(seconds * self._clock.scale) for seconds in (settled.compute_s, settled.handover_s)
                )
                self._events.append(
                    TaskFinishedEvent(now, command.epoch - self._base, busy, handover, checkpointed=safe)
                )
            case Failed(command=command, code=code, message=message, blame=blame):
                self._checkpoints.doubt(command.request_id)
                self._events.append(TaskFailedEvent(now, command.epoch - self._base, code, message, blame))
            case None:
                pass
            case _:
                assert_never(settled)

    # ---- the socket -------------------------------------------------------------------------------------------------

    def _transmit(self, session: PeerSession, message: ToWorker) -> None:
        for released in session.send(message):
            self._write(session, released)

    def _write(self, session: PeerSession, message: ToWorker) -> None:
        """ROUTER_MANDATORY makes a vanished peer an error here; its exit or silence will be noticed on its own."""
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, TO_WORKER.encode(message))
        try:
            self._router.send_multipart([session.identity, *self._encoded[1]], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.counters["undeliverable"] += 1
            if session.ready:
                session.heard_ns = 0  # what was not delivered is never answered: have it replaced

    def _wait(self, until: int | None) -> None:
        """Sleep until a message, a wake-up, an exit, or the next thing that is due."""
        self._poller.poll(1 + int(self._patience_s(until) * 1000))

    def _patience_s(self, until: int | None) -> float:
        scaled = [at for at in (until, self.intake.next_due()) if at is not None]
        now = time.monotonic_ns()
        real = [self._silent_after(session) for session in self._by_rank.values()]
        restart = self.supervisor.next_restart()
        if restart is not None:
            real.append(restart)
        waits = [self._clock.real_seconds(at - self._clock.now()) for at in scaled]
        waits += [max(0.0, to_s(at - now)) for at in real]
        return min(waits, default=MOST_WAIT_S)


def _bound_router(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
    router.setsockopt(zmq.HEARTBEAT_IVL, 5_000)  # drops connections of peers long given up
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    router.bind(address)
    return router
