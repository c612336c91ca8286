"""Small worlds for policies to be tried on: requests by their attributes, frozen into a `View` by the core's own table.

Used by the `test` blocks of policies and by the tests of the language. Decides nothing, simulates nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from gfdit.core.cost import CostModel, Quadratic, StageCost
from gfdit.core.estimate import Estimator
from gfdit.core.lifecycle import State
from gfdit.core.table import Table
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import Reservation, View
from gfdit.core.work import Request, Stage
from gfdit.errors import UsageError
from gfdit.units import to_ns

DEFAULT_MODEL = "dit"


def default_cost() -> CostModel:
    """One model, `dit`, shaped like Qwen-Image on H20: 4096 tok take 605, 350 and 207 ms a step on 1, 2 and 4 GPUs."""
    everywhere = (1, 2, 4)
    denoise = {
        1: Quadratic(4.816055297851562e-09, 1.21826171875e-04, 0.0252),
        2: Quadratic(5.125999450683593e-09, 3.527832031250e-05, 0.1195),
        4: Quadratic(4.736582438151040e-09, -1.285807291667e-05, 0.1802),
    }
    stages = {
        "encode": StageCost("text_tokens", {1: Quadratic(0.0, 0.0, 0.060)}),
        "prepare": StageCost("tokens", {degree: Quadratic(0.0, 0.0, 0.005) for degree in everywhere}),
        "timesteps": StageCost("steps", {degree: Quadratic(0.0, 0.0, 0.001) for degree in everywhere}),
        "denoise": StageCost("tokens", denoise),
        "decode": StageCost("pixels", {1: Quadratic(0.0, 1.4e-07, 0.010)}),
        "finalize": StageCost("one", {1: Quadratic(0.0, 0.0, 0.005)}),
    }
    return CostModel("built-in", {DEFAULT_MODEL: stages}, dispatch_s=5e-05, reshard_s=0.003, device="NVIDIA H20")


@dataclass(slots=True)
class Actor:
    """One request of a world. Times are seconds; `arrival_s` and `deadline_s` on the world's clock.

    `state` None follows from the rest: READY with GPUs, PAUSED or WAITING without. `waited_s` None: since arrival if it
    has no GPUs, else 0. `group_since_s` None: since now.
    """

    id: str
    model: str = DEFAULT_MODEL
    class_name: str = ""
    tag: str = ""
    tenant: str = ""
    priority: float = 0.0
    arrival_s: float = 0.0
    deadline_s: float | None = None
    tokens: float = 4096.0
    text_tokens: float = 64.0
    width: float = 1024.0
    height: float = 1024.0
    frames: float = 1.0
    pixels: float | None = None
    steps_total: float = 20.0
    steps_done: float = 0.0
    stage: Stage = Stage.ENCODE
    state: State | None = None
    sp: int = 0
    last_sp: int | None = None
    cap: int | None = None
    waited_s: float | None = None
    paused_for_s: float | None = None
    group_since_s: float | None = None
    preemptions: float = 0.0
    preemptible: bool = True
    alone_s: float | None = None
    cache: float = 0.0

    @property
    def present_state(self) -> State:
        if self.state is not None:
            return self.state
        if self.sp > 0:
            return State.READY
        return State.WAITING if self.stage is Stage.ENCODE else State.PAUSED


@dataclass(slots=True)
class World:
    """A cluster, its cost model and the requests in it. `estimator`: one of that model and cluster to share among many
    worlds; None: its own."""

    gpus: int
    actors: list[Actor] = field(default_factory=list)
    now_s: float = 0.0
    cost: CostModel = field(default_factory=default_cost)
    reservations: tuple[Reservation, ...] = ()
    estimator: Estimator | None = None
    ends: tuple[tuple[str, bool], ...] = ()

    def add(self, actors: Iterable[Actor]) -> World:
        self.actors.extend(actors)
        return self

    def actor(self, request_id: str) -> Actor:
        for actor in self.actors:
            if actor.id == request_id:
                return actor
        raise UsageError(f"this world has no request `{request_id}`")

    def view(self) -> View:
        """The frozen view of this instant; rows in (arrival, id) order. `free`: all GPUs but those of running rows."""
        estimator = self.estimator or Estimator(self.cost, self.gpus)
        table = Table(estimator)
        for actor in self.actors:
            self._insert(table, estimator, actor)
        busy = sum(actor.sp for actor in self.actors if actor.present_state is State.RUNNING)
        if busy > self.gpus:
            raise UsageError(f"running requests use {busy} gpu, the cluster has {self.gpus}")
        # tasks in flight hold the highest ranks
        ranks, idle = tuple(range(self.gpus)), tuple(range(self.gpus - busy))
        return self._overridden(table.freeze(self.now_s, ranks, idle, self.reservations, self._groups, self.ends))

    def _groups(self) -> dict[str, tuple[int, ...]]:
        """Who has which ranks: running requests from the highest down, those between two steps from the lowest up."""
        groups: dict[str, tuple[int, ...]] = {}
        low, high = 0, self.gpus
        for actor in self.actors:
            if actor.sp and actor.present_state is State.RUNNING:
                high -= actor.sp
                groups[actor.id] = tuple(range(high, high + actor.sp))
            elif actor.sp:
                groups[actor.id] = tuple(range(low, low + actor.sp))
                low += actor.sp
        return groups

    def _insert(self, table: Table, estimator: Estimator, actor: Actor) -> None:
        arrival = to_ns(actor.arrival_s)
        request = Request(
            id=actor.id,
            model=actor.model,
            class_name=actor.class_name,
            arrival_ns=arrival,
            height=int(actor.height),
            width=int(actor.width),
            frames=int(actor.frames),
            steps=int(actor.steps_total),
            tokens=int(actor.tokens),
            text_tokens=int(actor.text_tokens),
            tag=actor.tag,
            tenant=actor.tenant,
            preemptible=actor.preemptible,
        )
        chain = self.cost.stages(actor.model)
        trajectory = Trajectory(
            request=request,
            cost=estimator.expand(request),
            chain=chain,
            slot=table.reserve_slot(),
            steps_total=int(actor.steps_total),
            class_name=actor.class_name,
            state=actor.present_state,
            at_stage=chain.index(actor.stage),
            steps_done=int(actor.steps_done),
            group=tuple(range(actor.sp)),
            started=actor.stage is not chain[0],
            preemptions=int(actor.preemptions),
            preemptible=actor.preemptible,
            deadline_ns=None if actor.deadline_s is None else to_ns(actor.deadline_s),
            cap=actor.cap,
        )
        table.insert(trajectory)
        last = actor.sp or actor.last_sp or 0
        if last:
            trajectory.group = tuple(range(last))
            table.took_ranks(trajectory, self.now_s, regrouped=True)
            if not actor.sp:
                table.lost_ranks(trajectory, self.now_s)

    def _overridden(self, view: View) -> View:
        """Columns that no table knows: what the actors say of their past and of themselves."""
        by_id = {actor.id: actor for actor in self.actors}
        actors = [by_id[request_id] for request_id in view.ids]

        def column(default: np.ndarray, values: list[float | None]) -> np.ndarray:
            known = [own if value is None else value for own, value in zip(default.tolist(), values, strict=True)]
            return np.array(known, dtype=default.dtype)

        waited = [
            actor.waited_s if actor.waited_s is not None else 0.0 if actor.sp else self.now_s - actor.arrival_s
            for actor in actors
        ]
        return replace(
            view,
            priority=np.array([actor.priority for actor in actors], dtype=float),
            pixels=column(view.pixels, [actor.pixels for actor in actors]),
            alone_s=column(view.alone_s, [actor.alone_s for actor in actors]),
            waited_s=np.array(waited, dtype=float),
            paused_for_s=column(view.paused_for_s, [actor.paused_for_s for actor in actors]),
            group_since_s=column(view.group_since_s, [actor.group_since_s for actor in actors]),
        )
