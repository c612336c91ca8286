"""A real system behind a real server: emulated workers in processes of their own, HTTP over the loopback interface."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gfdit.api.server import HttpServer
from gfdit.cli.service import LiveService
from gfdit.cli.shipped import find_cost
from gfdit.core.events import Event, RequestArrived
from gfdit.core.scheduler import Decision
from gfdit.live.results import Ticket
from gfdit.live.system import LiveConfig, LiveSystem, start_live
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import load_cost_model

WAIT_S = 60


@dataclass
class Running:
    """A served system. `arrived`: the tickets of requests as the controller takes them in; an observer feeds it."""

    system: LiveSystem
    url: str = ""
    arrived: queue.Queue[Ticket] = field(default_factory=queue.Queue)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        for event in events:
            if isinstance(event, RequestArrived):
                ticket = self.system.fleet.tickets.get(event.request.id)
                assert ticket is not None
                self.arrived.put(ticket)

    def next_arrival(self) -> Ticket:
        return self.arrived.get(timeout=WAIT_S)


def serve(
    time_scale: float,
    max_queue: int | None = None,
    keys: Sequence[str] = (),
    videos: Path | None = None,
    cost: str = "qwen-h20",
) -> Iterator[Running]:
    """Two emulated workers."""
    table = load_cost_model(find_cost(cost))
    config = LiveConfig(load_policy("slo"), table, "emulated", workers=2, time_scale=time_scale)
    yield from serve_config(config, max_queue, keys, videos)


def serve_config(
    config: LiveConfig, max_queue: int | None = None, keys: Sequence[str] = (), videos: Path | None = None
) -> Iterator[Running]:
    with start_live(config) as system:
        running = Running(system)
        service = LiveService(system, config.model, max_queue)
        loop = threading.Thread(target=system.run, args=([running, *service.observers],), name="loop")
        loop.start()
        try:
            with HttpServer(service, "127.0.0.1", 0, keys, videos=videos) as server:
                running.url = server.url
                yield running
        finally:
            system.drain(cancel=True)
            loop.join(WAIT_S)
    assert not loop.is_alive()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from serve(time_scale=50.0)


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=WAIT_S) as client:
        yield client
    while not running.arrived.empty():  # the next test waits for its own
        running.arrived.get_nowait()
