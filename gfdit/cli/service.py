"""The live system as the service that the HTTP side knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from gfdit.api.service import Pending, Served, Value
from gfdit.cli.prepare import model_settings
from gfdit.cli.what_if import WhatIf
from gfdit.core.work import Request
from gfdit.errors import InputError, QueueFull
from gfdit.live.results import Status as TicketStatus
from gfdit.live.system import LiveSystem
from gfdit.policy.planner import CompiledPolicy
from gfdit.runtime.costfile import cost_model_to_json
from gfdit.runtime.geometry import DEFAULT_FPS, KNOWN, tokens_of
from gfdit.runtime.keyed import Key
from gfdit.runtime.metrics import Metrics
from gfdit.runtime.ports import Observer
from gfdit.runtime.recent import RecentRequests
from gfdit.runtime.status import About, Status, StatusBoard

EMULATED = Served("", 1024, 1024, 28, multiple_of=16, min_side=64, max_side=4096, guided=False, draws=False)
WINDOW_S = 60.0
LONGEST_RETRY_S = 60.0
MOST_FRAMES = 481


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
        if system.fleet.durable is not None:
            system.fleet.durable.committed = self._metrics.ledger_committed
        window_s = WINDOW_S * system.config.time_scale
        about = About(", ".join(system.models), system.config.device, system.workers, window_s)
        self._board = StatusBoard(about, system.scheduler, system.clock.now)
        self._recent = RecentRequests()
        self._what_if = WhatIf(cost_model_to_json(cost), system.workers, system.config.gpus_per_node)
        self.models = _served_models(system, folder)

    @property
    def observers(self) -> tuple[Observer, ...]:
        """To be handed to the loop."""
        return self._metrics, self._board, self._recent

    def journal_committed(self, seconds: float) -> None:
        """A tick was written to the journal."""
        self._metrics.journal_committed(seconds)

    @property
    def policy(self) -> str:
        return self._system.scheduler.policy.name

    @property
    def policy_version(self) -> int:
        return self._system.scheduler.policy.version

    @property
    def policy_sha(self) -> str:
        return self._system.scheduler.policy.sha

    @property
    def policy_text(self) -> str:
        policy = self._system.scheduler.policy
        return policy.program.source.text if isinstance(policy, CompiledPolicy) else ""

    @property
    def ranks(self) -> int:
        return self._system.workers

    @property
    def accepting(self) -> bool:
        return self._system.fleet.intake.open

    def tokens(self, model: str, width: int, height: int, frames: int = 1) -> int:
        facts = self._system.facts
        tokens = tokens_of(model, height, width, frames) if facts is None else facts.tokens(height, width, frames)
        if tokens is None:
            raise InputError(f"the geometry of model `{model}` is not known, so no size can be turned into tokens")
        return tokens

    def submit(
        self, requests: Sequence[tuple[Request, Mapping[str, Value]]], key: Key | None = None
    ) -> Future[Sequence[Pending]]:
        """Emulated workers read the request itself, not a pipeline's inputs."""
        known = [ticket for request, _ in requests if (ticket := self._system.recall(request.id)) is not None]
        if known and len(known) == len(requests):
            return _done(known)
        self._check_room([request for request, _ in requests])
        emulated = self._system.facts is None
        work = self._system.accept([(request, None if emulated else inputs) for request, inputs in requests], key)
        return cast(Future[Sequence[Pending]], work)  # nobody sets its result but the system

    def keyed(self, key: str) -> tuple[bytes, Sequence[Pending]] | None:
        return self._system.keyed(key)

    def cancel(self, request_id: str) -> None:
        self._system.cancel(request_id)

    def status(self, *, detail: bool) -> Status:
        return self._board.status(accepting=self.accepting, detail=detail)

    def simulate(self, policy_text: str) -> Mapping[str, Any]:
        requests = self._recent.workload(self._system.clock.now())
        return self._what_if.compare(requests, policy_text, self.policy_text)

    def metrics(self, accept: str) -> tuple[bytes, str]:
        fleet = self._system.fleet
        failing = fleet.durable is not None and bool(fleet.durable.problem)
        self._metrics.stands(ranks_out=len(fleet.supervisor.out), storage_failing=failing)
        return self._metrics.exposition(accept)

    def _check_room(self, requests: Sequence[Request]) -> None:
        """Raises QueueFull when not all have room. Those turned away are told times one after the other, at the
        pace at which requests end, so that they do not come back all at once."""
        if self._max_queue is None:
            return
        queued = sum(ticket.progress.status is TicketStatus.QUEUED for ticket in self._system.fleet.tickets.live())
        if queued + len(requests) <= self._max_queue:
            return
        self._metrics.refused("queue_full")
        pace = self._seconds_a_request(requests[0]) / self._system.clock.scale
        with self._lock:
            now = time.monotonic()
            self._next_room = min(max(now, self._next_room) + pace, now + LONGEST_RETRY_S)
            retry_after_s = self._next_room - now
        raise QueueFull(f"{queued} requests wait already; at most {self._max_queue} may", retry_after_s)

    def _seconds_a_request(self, request: Request) -> float:
        """How often one ends: as in the last minute; before the first has ended, as the cost model says, alone."""
        rate = self._board.rate()
        return 1 / rate if rate is not None else self._system.scheduler.estimator.expand(request).alone_s


def _done(tickets: Sequence[Pending]) -> Future[Sequence[Pending]]:
    done: Future[Sequence[Pending]] = Future()
    done.set_result(tickets)
    return done


def _served_models(system: LiveSystem, folder: Path | None) -> Mapping[str, Served]:
    facts = system.facts
    if facts is None:
        return {name: _emulated(name) for name in system.models}
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
        video=facts.video,
        default_frames=number("num_frames", 81 if facts.video else 1),
        frame_factor=facts.frame_factor,
        max_frames=number("max_frames", MOST_FRAMES),
        fps=number("fps", DEFAULT_FPS),
    )
    return {facts.name: served}


def _emulated(name: str) -> Served:
    geometry = KNOWN.get(name)
    if geometry is None or geometry.frame_factor == 1:
        return replace(EMULATED, name=name)
    return replace(
        EMULATED,
        name=name,
        multiple_of=geometry.token_height,
        video=True,
        default_frames=81,
        frame_factor=geometry.frame_factor,
        max_frames=MOST_FRAMES,
        fps=DEFAULT_FPS,
    )
