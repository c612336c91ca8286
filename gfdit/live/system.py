"""A whole live system from one small config: workers, fleet, scheduler, and the loop that runs in the caller's thread.

with start_live(config, progress=print) as system:
    tickets = system.feed(requests)
    system.close_intake()
    system.run(observers)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from gfdit.core.commands import EndRequest
from gfdit.core.cost import CostModel
from gfdit.core.estimate import Estimator
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import Scheduler
from gfdit.core.topology import Topology
from gfdit.core.work import ModelFacts as SchedulerFacts
from gfdit.core.work import Outcome, Request, Stage
from gfdit.errors import InputError, UsageError, WireError
from gfdit.live.clock import LiveClock
from gfdit.live.durable import Durable, resumed
from gfdit.live.durable_ledger import Ledger
from gfdit.live.fleet import FleetSettings, ZmqFleet
from gfdit.live.results import Ticket
from gfdit.policy.planner import CompiledPolicy
from gfdit.runtime.costfile import cost_model_to_json
from gfdit.runtime.driver import drive
from gfdit.runtime.keyed import Key
from gfdit.runtime.ports import Observer
from gfdit.runtime.rollout.control import Ports, Rollout
from gfdit.runtime.rollout.loading import Loader
from gfdit.runtime.rollout.vetting import as_started
from gfdit.wire.codec import TO_WORKER
from gfdit.wire.messages import Run, Value
from gfdit.worker.devices import cuda_devices
from gfdit.worker.emulated import inputs_of as emulated_inputs
from gfdit.worker.main import WorkerSpec
from gfdit.worker.tasks import ModelFacts
from gfdit.worker.translate import facts_from_wire

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: Guidance of a guided request that names no scale, where the model's own is off.
GUIDED_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """`cost`: what the scheduler estimates with, and the time that emulated devices take. `model`: a pipeline's
    folder, needed unless the device is `emulated`. `workers` None: one a core (at least two) on a CPU, one a GPU on
    `cuda`, eight emulated. `time_scale`: how many seconds of the table, the journal and all deadlines pass in one of
    ours; emulated devices only. `dtype`: what the model computes in, None: its default.
    """

    policy: Policy
    cost: CostModel
    device: str = "cpu"
    model: Path | None = None
    workers: int | None = None
    time_scale: float = 1.0
    gpus_per_node: int = 8
    threads: int = 1
    fleet: FleetSettings = field(default_factory=FleetSettings)
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise UsageError(f"workers must be from 1 to 1024, not {self.workers}")
        if self.time_scale != 1.0 and self.device != "emulated":
            raise UsageError(f"time scale {self.time_scale:g} needs emulated devices", hint="add --device emulated")


def default_workers(device: str) -> int:
    """See `LiveConfig.workers`."""
    match device:
        case "cuda":
            return max(1, cuda_devices())
        case "emulated":
            return 8
        case _:
            return max(2, len(os.sched_getaffinity(0)))


class LiveSystem:
    """`scheduler`, `clock` and `fleet` are for observers to look at. `submit` and `cancel` may be called from any
    thread, and so may what a `rollout` offers.
    """

    def __init__(self, config: LiveConfig, fleet: ZmqFleet, clock: LiveClock, workers: int) -> None:
        self.config = config
        self.fleet = fleet
        self.clock = clock
        self.workers = workers
        self.facts = None if fleet.facts is None else facts_from_wire(fleet.facts)
        self.models = _scheduler_facts(config.cost, self.facts)
        self._estimator = Estimator(config.cost, workers)
        self.loader = Loader()
        self.scheduler = Scheduler(
            config.policy,
            Topology.uniform(workers, config.gpus_per_node),
            self._estimator,
            self.models,
            load=self.loader,
        )
        self._ended = threading.Event()

    def inputs_of(self, request: Request) -> Mapping[str, Value]:
        """What the workers are given of a request that comes without inputs of its own."""
        return emulated_inputs(request) if self.facts is None else pipeline_inputs(request, self.facts)

    def submit(self, request: Request, inputs: Mapping[str, Value] | None = None) -> Ticket:
        """The request arrives now. Raises InputError (unknown model, taken id), ShuttingDown, or StorageFull."""
        return self.accept([(request, inputs)]).result()[0]

    def keep(self, ledger: Ledger) -> int:
        """From here on accepted requests and their ends are in `ledger`, which is closed with the system. What it says
        an earlier controller accepted and did not end arrives again; returns how many that are. Call before `run`."""
        durable = self.fleet.durable = Durable(ledger, self.fleet.tickets)
        unfinished = durable.unfinished()
        for one in unfinished:
            now = self.clock.now()
            request = resumed(one, now, self.clock.scale)
            try:
                self._check(request, one.inputs)
            except InputError as error:  # of a model that is not served any more
                self.fleet.tickets.open(request)
                why = f"it cannot go on after the restart: {error.message}"
                durable.end(EndRequest(request.id, Outcome.FAILED, now, code="not_resumed", message=why), None)
            else:
                self.fleet.intake.readmit(request, one.inputs)
        return len(unfinished)

    def accept(
        self, requests: Sequence[tuple[Request, Mapping[str, Value] | None]], key: Key | None = None
    ) -> Future[list[Ticket]]:
        """All arrive now, or none does: done when they are accepted for good, which `keep` makes true beyond the life
        of this process. Inputs None: of the request. Raises as `submit` does; the future fails with StorageFull."""
        given = [(one, self.inputs_of(one) if inputs is None else inputs) for one, inputs in requests]
        for request, inputs in given:
            self._check(request, inputs)
        intake, durable = self.fleet.intake, self.fleet.durable
        reserved = intake.reserve(given)
        accepted: Future[list[Ticket]] = Future()
        accepted.set_running_or_notify_cancel()  # nobody can take it back

        def settle(written: Future[None]) -> None:
            error = written.exception()
            if error is None:
                intake.admit(reserved)
                accepted.set_result(reserved.tickets)
            else:
                intake.refuse(reserved)
                accepted.set_exception(error)

        if durable is None:
            intake.admit(reserved)
            accepted.set_result(reserved.tickets)
        else:
            durable.accept([(one.request, one.inputs) for one in reserved.arrivals], key).add_done_callback(settle)
        return accepted

    def recall(self, request_id: str) -> Ticket | None:
        """The ticket of a request that lives, or that `keep` knows the end of."""
        durable = self.fleet.durable
        return self.fleet.tickets.get(request_id) if durable is None else durable.recall(request_id)

    def keyed(self, key: str) -> tuple[bytes, list[Ticket]] | None:
        """What `keep` knows to have been asked for under the key, and its tickets."""
        return None if self.fleet.durable is None else self.fleet.durable.keyed(key)

    def feed(self, requests: Iterable[Request]) -> list[Ticket]:
        """Replay a workload from now on, by arrival times. Raises as `submit` does, before anything arrives."""
        checked = list(requests)
        for request in checked:
            self._check(request, self.inputs_of(request))
        return self.fleet.intake.feed(checked, self.inputs_of)

    def cancel(self, request_id: str) -> None:
        """The client gave up."""
        self.fleet.intake.cancel(request_id)

    def rollout(
        self, params: Mapping[str, str], folder: Path | None = None, key: Ed25519PublicKey | None = None
    ) -> Rollout:
        """Commands about the policy; it is to look on `afterwards`. `params`: of the policy that the system was started
        with, as text; the rest as for `Rollout`."""
        if not isinstance(self.config.policy, CompiledPolicy):
            raise UsageError(f"policy `{self.config.policy.name}` has no text that another could replace")
        intake = self.fleet.intake
        ports = Ports(self.scheduler, self.loader, self.clock.now, intake.order, intake.revoke_orders, self.workers)
        return Rollout(ports, as_started(self.config.policy, params), folder, key)

    def close_intake(self) -> None:
        """Take no new requests; `run` returns when all have ended."""
        self.fleet.intake.close()

    def drain(self, *, cancel: bool = False) -> None:
        """As `close_intake`, and forget fed requests that have not arrived; `cancel` ends the live ones, too.
        Signal-safe.
        """
        self.fleet.intake.drain(cancel=cancel)

    def run(self, observers: Sequence[Observer] = (), afterwards: Sequence[Observer] = ()) -> None:
        """The loop, until `close_intake` or `drain` was called and every request has ended. `afterwards`: look on after
        the commands of a tick were sent. Raises FleetError if no worker is left.
        """
        try:
            drive(self.scheduler, self.clock, self.fleet, (*observers, self.fleet.tickets), afterwards)
        finally:
            self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """From another thread: wait until `run` has returned."""
        return self._ended.wait(timeout)

    def close(self) -> None:
        """Stop the workers and leave nothing behind."""
        self.fleet.close()

    def __enter__(self) -> LiveSystem:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, request: Request, inputs: Mapping[str, Value]) -> None:
        """A request that cannot be costed must not reach the scheduler, nor inputs the workers that they would
        refuse.
        """
        if request.model not in self.models:
            raise InputError(f"there is no model `{request.model}` here", hint=f"it serves {', '.join(self.models)}")
        self._estimator.expand(request)
        probe = Run(1, request.id, Stage.ENCODE, (0,), 0, 1, (), (1, 1, 1), inputs=inputs)
        try:
            TO_WORKER.decode(TO_WORKER.encode(probe))
        except WireError as error:
            raise InputError(f"request `{request.id}` cannot be sent to a worker: {error}") from None


def start_live(config: LiveConfig, progress: Callable[[int, int], None] | None = None) -> LiveSystem:
    """Start the workers and wait until all are ready; `progress(ready, workers)` after every change.

    Raises FleetError if a worker cannot start, UsageError or InputError if the config does not fit together.
    """
    workers = default_workers(config.device) if config.workers is None else config.workers
    spec = WorkerSpec(
        device=config.device,
        model="" if config.model is None else str(config.model),
        cost_model=cost_model_to_json(config.cost) if config.device == "emulated" else "",
        time_scale=config.time_scale,
        heartbeat_s=config.fleet.heartbeat_s,
        threads=config.threads,
        dtype=config.dtype or "",
        grace_s=0.0 if config.fleet.roster is None else config.fleet.grace_s,
    )
    clock = LiveClock(config.time_scale)
    fleet = ZmqFleet(spec, workers, clock, config.fleet)
    try:
        fleet.start(progress)
        return LiveSystem(config, fleet, clock, workers)
    except BaseException:
        fleet.close()
        raise


def pipeline_inputs(request: Request, facts: ModelFacts) -> dict[str, Value]:
    """A workload's request in the pipeline's words. A request without guidance turns the model's own off, one with it
    turns it on."""
    inputs: dict[str, Value] = {
        "prompt": request.prompt,
        "height": request.height,
        "width": request.width,
        "num_inference_steps": request.steps,
        "seed": request.seed,
    }
    if request.negative_prompt:
        inputs["negative_prompt"] = request.negative_prompt
    if facts.video:
        inputs["num_frames"] = request.frames
    if facts.supports_cfg and not request.cfg:
        inputs["true_cfg_scale"] = 1.0
    elif facts.supports_cfg and facts.defaults.get("true_cfg_scale", 1.0) in (0, 1):
        inputs["true_cfg_scale"] = GUIDED_SCALE
    return inputs


def _scheduler_facts(cost: CostModel, facts: ModelFacts | None) -> dict[str, SchedulerFacts]:
    """Emulated: all models of the table. Otherwise the one that the workers loaded, which the table must know."""
    if facts is None:
        return {
            name: SchedulerFacts(name, cost.stages(name), cost.degrees(name), heads=max(cost.degrees(name)))
            for name in cost.models
        }
    illegal = set(cost.degrees(facts.name)) - set(facts.degrees)
    if illegal:
        raise UsageError(
            f"cost model `{cost.name}` has degree {min(illegal)}, which model `{facts.name}` cannot run at",
            hint="measure this model with `gfdit profile`",
        )
    return {facts.name: facts.for_scheduler()}
