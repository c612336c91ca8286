"""The controller's side of the conversation with one life of one worker: no sockets, no clock, only the rules.

    STARTING --Hello/Heartbeat--> STARTING --Ready--> READY --Goodbye/Unfit/lost--> GONE

A session belongs to one incarnation and starts anew with the next. It holds back tasks beyond `CREDIT` outstanding
ones, so that no queue towards a worker can fill; what is not urgent keeps its place behind them. It refuses whatever
the worker may not say in its state: such messages change nothing.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import assert_never

from gfdit.errors import WireError
from gfdit.wire.messages import (
    Abort,
    Endpoint,
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
)

CREDIT = 2


class Phase(Enum):
    STARTING = auto()
    READY = auto()
    GONE = auto()


class PeerSession:
    """`outstanding`: epochs that the worker owes an answer for, held-back ones included, oldest first."""

    def __init__(self, rank: int, incarnation: int, identity: bytes, now_ns: int) -> None:
        self.rank = rank
        self.incarnation = incarnation
        self.identity = identity
        self.heard_ns = now_ns
        self.phase = Phase.STARTING
        self.endpoint: Endpoint | None = None
        self.facts: Facts | None = None
        self._sent: list[int] = []
        self._held: deque[Run | Forget] = deque()

    @property
    def outstanding(self) -> list[int]:
        return [*self._sent, *(held.epoch for held in self._held if isinstance(held, Run))]

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY

    def send(self, message: ToWorker) -> list[ToWorker]:
        """What may go out now because of `message`; a task without credit waits for `receive`. A worker that is not
        ready has no state to forget and no task to give up: it is told nothing but to leave.
        """
        if self.phase is Phase.GONE or (self.phase is Phase.STARTING and not isinstance(message, Shutdown)):
            return []
        match message:
            case Run() | Forget():
                self._held.append(message)
                return self._release()
            case Abort() | Shutdown():
                return [message]
            case _:
                assert_never(message)

    def receive(self, message: ToController, now_ns: int) -> list[ToWorker]:
        """Book what the worker said; returns tasks that its answer makes room for. Raises WireError for a message out
        of turn.
        """
        self._check(message)
        self.heard_ns = now_ns
        match message:
            case Ready():
                self.phase, self.endpoint, self.facts = Phase.READY, message.endpoint, message.facts
            case TaskDone() | TaskFailed():
                self._sent.remove(message.epoch)
                return self._release()
            case Unfit() | Goodbye():
                self.phase = Phase.GONE
            case Hello() | Heartbeat():
                pass
            case _:
                assert_never(message)
        return []

    def lost(self) -> list[int]:
        """The process is gone. Returns the epochs that it will never answer."""
        unanswered = self.outstanding
        self.phase = Phase.GONE
        self._sent.clear()
        self._held.clear()
        return unanswered

    def _release(self) -> list[ToWorker]:
        released: list[ToWorker] = []
        while self._held and (len(self._sent) < CREDIT or isinstance(self._held[0], Forget)):
            message = self._held.popleft()
            if isinstance(message, Run):
                self._sent.append(message.epoch)
            released.append(message)
        return released

    def _check(self, message: ToController) -> None:
        match message:
            case Hello() | Ready() | Unfit():
                legal = self.phase is Phase.STARTING
            case Heartbeat() | Goodbye():
                legal = self.phase is not Phase.GONE
            case TaskDone() | TaskFailed():
                legal = self.phase is Phase.READY and message.epoch in self._sent
            case _:
                assert_never(message)
        if isinstance(message, Ready):
            legal = legal and (message.endpoint.rank, message.endpoint.incarnation) == (self.rank, self.incarnation)
        if not legal:
            raise WireError(f"rank {self.rank} may not say `{message.type}` while {self.phase.name.lower()}")
