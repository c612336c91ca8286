"""A simulated system with the operator's desk: orders are observed at once, time passes when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gfdit.cli.shipped import find_cost
from gfdit.core import invariants
from gfdit.core.estimate import Estimator
from gfdit.core.events import Event, PolicyEjected, PolicySwapped
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.core.topology import Topology
from gfdit.core.work import Request
from gfdit.policy.bundle import Bundle
from gfdit.policy.library import shipped_policy
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.ports import Observer
from gfdit.runtime.rollout.control import Ports, Rollout
from gfdit.runtime.rollout.loading import Loader
from gfdit.runtime.rollout.vetting import Vetted, as_started, vet
from gfdit.sim.fleet import SimFleet, VirtualClock
from gfdit.units import to_ns

GPUS = 4
COST = load_cost_model(find_cost("qwen-h20"))
PLAIN = """policy {name} version {version} "for tests"
order by {order}
stage encode, decode {{ sp fixed 1 gpu }}
stage denoise {{ sp fixed {sp} gpu }}
allocate greedy
{more}
"""


def text_of(name: str, version: int = 1, order: str = "arrival", sp: int = 1, more: str = "") -> str:
    return PLAIN.format(name=name, version=version, order=order, sp=sp, more=more)


def bundle_of(text: str, name: str | None = None) -> Bundle:
    file = f"{name or text.split()[1]}.pol"
    return Bundle(file, {file: text})


def shipped(name: str) -> Bundle:
    return bundle_of(shipped_policy(name).read_text("utf-8"), name)


def vetted(text: str, gpus: int = GPUS) -> Vetted:
    return vet(bundle_of(text), gpus)


def request(number: int, at_s: float = 0.0, steps: int = 4, side: int = 512, slo_s: float | None = None) -> Request:
    return Request(
        f"r{number:03}", "qwen-image", "standard", to_ns(at_s), side, side, steps, tokens=side * side // 256,
        slo_ns=None if slo_s is None else to_ns(slo_s),
    )  # fmt: skip


@dataclass
class Seen:
    """One tick."""

    now: int
    events: Sequence[Event]
    decision: Decision


class Desk:
    """`rollout` is the real one; `seen` every tick so far. Invariants are checked on each."""

    def __init__(
        self,
        policy: str | CompiledPolicy = "slo",
        folder: Path | None = None,
        key: Ed25519PublicKey | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        started = load_policy(policy) if isinstance(policy, str) else policy
        self.clock, self.loader = VirtualClock(), Loader()
        self.fleet = SimFleet(self.clock, COST, GPUS, ())
        estimator = Estimator(COST, GPUS)
        self.scheduler = Scheduler(started, Topology.uniform(GPUS), estimator, load=self.loader)
        self.observers = list(observers)
        self.seen: list[Seen] = []
        self._orders: list[PolicySwapped | PolicyEjected] = []
        ports = Ports(self.scheduler, self.loader, self.clock.now, self._order, self._orders.clear, GPUS)
        self.rollout = Rollout(ports, as_started(started, {}), folder, key)
        self._wake: int | None = None
        self.run(0.0)

    def _order(self, order: PolicySwapped | PolicyEjected) -> None:
        if order.at > self.clock.time:
            self._orders.append(order)
        else:
            self._tick([replace(order, at=self.clock.time)])

    def _tick(self, events: Sequence[Event]) -> None:
        now = self.clock.time
        for event in events:
            self.scheduler.observe(event)
        decision = self.scheduler.tick(now)
        self._wake = decision.next_tick_at
        invariants.check(self.scheduler)
        self.seen.append(Seen(now, events, decision))
        for observer in self.observers:
            observer.record(now, events, decision, 0.0)
        self.fleet.send(decision.commands)
        self.rollout.record(now, events, decision, 0.0)

    def submit(self, *requests: Request) -> None:
        for one in requests:
            self.fleet.submit(one)

    def run(self, until_s: float) -> None:
        """Everything that happens by then."""
        until = to_ns(until_s)
        while True:
            due = min((order.at for order in self._orders), default=None)
            stops = [at for at in (self._wake, due, until) if at is not None]
            events = list(self.fleet.poll(min(stops)))
            for order in [order for order in self._orders if order.at <= self.clock.time]:
                self._orders.remove(order)
                events.append(replace(order, at=self.clock.time))
            if not events and self.clock.time >= until and (self._wake is None or self._wake > until):
                return
            self._tick(events)

    def commands(self, kind: type) -> list:
        return [command for seen in self.seen for command in seen.decision.commands if isinstance(command, kind)]
