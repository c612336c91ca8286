"""The live system as the service that the HTTP side knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gfdit.api.service import Pending, Served, Value
from gfdit.cli.prepare import model_settings
from gfdit.core.work import Request
from gfdit.errors import InputError, QueueFull
from gfdit.live.results import Status as TicketStatus
from gfdit.live.system import LiveSystem
from gfdit.runtime.geometry import tokens_of
from gfdit.runtime.metrics import Metrics
from gfdit.runtime.ports import Observer
from gfdit.runtime.status import About, Status, StatusBoard

EMULATED = Served("", 1024, 1024, 28, multiple_of=16, min_side=64, max_side=4096, guided=False, draws=False)
WINDOW_S = 60.0
LONGEST_RETRY_S = 60.0


class LiveService:
    """See `gfdit.api.service.Service`. `folder`: the model's, for its limits; `max_queue`: how many requests may wait
    for their first task, None: any number. What the loop is to be watched by is in `observers`."""

    def __init__(self, system: LiveSystem, folder: Path | None, max_queue: int | None = None) -> None:
        self._system = system
        self._max_queue = max_queue
        self._next_room = 0.0  # when the latest one that was turned away may come, on the monotonic clock
        self._lock = threading.Lock()
        cost = system.config.cost
        self._metrics = Metrics(system.scheduler, system.workers, cost)
        window_s = WINDOW_S * system.config.time_scale
        about = About(", ".join(system.models), system.config.device, system.workers, window_s)
        self._board = StatusBoard(about, system.scheduler, system.clock.now)
        self.models = _served_models(system, folder)

    @property
    def observers(self) -> tuple[Observer, ...]:
        """To be handed to the loop."""
        return self._metrics, self._board

    def journal_committed(self, seconds: float) -> None:
        """A tick was written to the journal."""
        self._metrics.journal_committed(seconds)

    @property
    def policy(self) -> str:
        return self._system.scheduler.policy.name

    @property
    def accepting(self) -> bool:
        return self._system.fleet.intake.open

    def tokens(self, model: str, width: int, height: int) -> int:
        facts = self._system.facts
        tokens = tokens_of(model, height, width, 1) if facts is None else facts.tokens(height, width)
        if tokens is None:
            raise InputError(f"the geometry of model `{model}` is not known, so no size can be turned into tokens")
        return tokens

    def submit(self, request: Request, inputs: Mapping[str, Value]) -> Pending:
        """Emulated workers read the request itself, not a pipeline's inputs."""
        self._check_room(request)
        return self._system.submit(request, None if self._system.facts is None else inputs)

    def cancel(self, request_id: str) -> None:
        self._system.cancel(request_id)

    def status(self, *, detail: bool) -> Status:
        return self._board.status(accepting=self.accepting, detail=detail)

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return self._metrics.exposition(accept)

    def _check_room(self, request: Request) -> None:
        """Raises QueueFull over the limit. Those turned away are told times one after the other, at the pace at which
        requests end, so that they do not come back all at once."""
        if self._max_queue is None:
            return
        queued = sum(ticket.progress.status is TicketStatus.QUEUED for ticket in self._system.fleet.tickets.live())
        if queued < self._max_queue:
            return
        self._metrics.refused("queue_full")
        pace = self._seconds_a_request(request) / self._system.clock.scale
        with self._lock:
            now = time.monotonic()
            self._next_room = min(max(now, self._next_room) + pace, now + LONGEST_RETRY_S)
            retry_after_s = self._next_room - now
        raise QueueFull(f"{queued} requests wait already; at most {self._max_queue} may", retry_after_s)

    def _seconds_a_request(self, request: Request) -> float:
        """How often one ends: as in the last minute; before the first has ended, as the cost model says, alone."""
        rate = self._board.rate()
        return 1 / rate if rate is not None else self._system.scheduler.estimator.expand(request).alone_s


def _served_models(system: LiveSystem, folder: Path | None) -> Mapping[str, Served]:
    facts = system.facts
    if facts is None:
        return {name: replace(EMULATED, name=name) for name in system.models}
    settings = model_settings(folder)

    def number(name: str, otherwise: int) -> int:
        value = facts.defaults.get(name, settings.get(name))
        return value if isinstance(value, int) else otherwise

    served = Served(
        facts.name,
        default_width=number("width", 1024),
        default_height=number("height", 1024),
        default_steps=number("num_inference_steps", 28),
        multiple_of=max(facts.token_height, facts.token_width, number("multiple_of", 1)),
        min_side=number("min_side", 1),
        max_side=number("max_side", 1 << 14),
        guided=facts.supports_cfg,
        defaults=facts.defaults,
    )
    return {facts.name: served}
