"""What work costs: seconds by model, stage, degree and size, as data (format `gfdit-cost/1`, read in
runtime/costfile.py).

The same object feeds the scheduler's estimates, the simulator's durations and emulated workers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gfdit.core.work import SINGLE_RANK_STAGES, STAGES, Request, Stage
from gfdit.errors import CostModelError


@dataclass(frozen=True, slots=True)
class Quadratic:
    """max(0, a x^2 + b x + c)"""

    a: float
    b: float
    c: float

    def at(self, x: float) -> float:
        return max(0.0, (self.a * x + self.b) * x + self.c)


@dataclass(frozen=True, slots=True)
class Points:
    """Linear between measured points (ascending in x), continued by the end slopes, never below 0."""

    points: tuple[tuple[float, float], ...]

    def at(self, x: float) -> float:
        if len(self.points) == 1:
            return max(0.0, self.points[0][1])
        right = min(max(bisect_right(self.points, (x, float("inf"))), 1), len(self.points) - 1)
        (x0, y0), (x1, y1) = self.points[right - 1], self.points[right]
        return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


Curve = Quadratic | Points

X_OF: dict[str, Callable[[Request], int]] = {
    "tokens": lambda request: request.tokens,
    "text_tokens": lambda request: request.text_tokens,
    "steps": lambda request: request.steps,
    "pixels": lambda request: request.pixels,
    "one": lambda request: 1,
}


@dataclass(frozen=True, slots=True)
class StageCost:
    """`x`: what the curves read (tokens, text_tokens, steps, pixels, one). A stage known for degree 1 alone runs on
    one rank. `memory`: bytes on each rank of a group, by degree; where there is no curve, nobody knows."""

    x: str
    degrees: Mapping[int, Curve]
    memory: Mapping[int, Curve] = field(default_factory=dict)

    def seconds(self, request: Request, degree: int) -> float | None:
        curve = self.degrees.get(degree)
        return None if curve is None else curve.at(X_OF[self.x](request))

    def memory_bytes(self, request: Request, degree: int) -> float | None:
        curve = self.memory.get(degree)
        return None if curve is None else curve.at(X_OF[self.x](request))


@dataclass(frozen=True, slots=True)
class CostModel:
    """Costs of all stages of all models, and the overheads of a dispatch and a reshard, in seconds.

    `reshard_across_s`: of a reshard that takes the state to another node; None: as any other.
    `gpu_memory_bytes`: what one GPU has for a task beside what is resident; None: not known.
    """

    name: str
    models: Mapping[str, Mapping[str, StageCost]]
    dispatch_s: float = 0.0
    reshard_s: float = 0.0
    reshard_across_s: float | None = None
    device: str = ""
    source: str = ""
    gpu_memory_bytes: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def stages(self, model: str) -> tuple[Stage, ...]:
        """The chain of a trajectory of `model`: the stages that the table has, in running order."""
        known = self._model(model)
        return tuple(stage for stage in STAGES if stage in known)

    def degrees(self, model: str) -> tuple[int, ...]:
        """Degrees that the denoising step is known for, ascending."""
        return tuple(sorted(self._model(model)[Stage.DENOISE].degrees))

    def seconds(self, request: Request, stage: Stage, degree: int) -> float:
        """One task (one step, for `denoise`) of `request` on a group of `degree`. Raises CostModelError for a missing
        cost."""
        cost = self._stage(request, stage)
        if cost is None:
            raise CostModelError(f"cost model `{self.name}` has no stage `{stage}` for model `{request.model}`")
        single = stage in SINGLE_RANK_STAGES or (stage is not Stage.DENOISE and tuple(cost.degrees) == (1,))
        seconds = cost.seconds(request, 1 if single else degree)
        if seconds is None:
            raise CostModelError(
                f"cost model `{self.name}` has no cost for `{stage}` of `{request.model}` at degree {degree}",
                hint=f"known degrees: {', '.join(map(str, sorted(cost.degrees)))}",
            )
        return seconds

    @property
    def knows_memory(self) -> bool:
        return any(stage.memory for stages in self.models.values() for stage in stages.values())

    def memory_bytes(self, request: Request, degree: int) -> float | None:
        """The most that a stage of `request` needs on one rank of a group of `degree`; None when no stage says."""
        needs: list[float] = []
        for stage in self.stages(request.model):
            cost = self._stage(request, stage)
            need = None if cost is None else cost.memory_bytes(request, 1 if stage in SINGLE_RANK_STAGES else degree)
            needs += [] if need is None else [need]
        return max(needs, default=None)

    def _stage(self, request: Request, stage: Stage) -> StageCost | None:
        """The table of a stage; guided denoising steps may have one of their own."""
        stages = self._model(request.model)
        return stages.get(
            "denoise_cfg" if stage is Stage.DENOISE and request.cfg and "denoise_cfg" in stages else stage
        )

    def _model(self, model: str) -> Mapping[str, StageCost]:
        stages = self.models.get(model)
        if stages is None:
            raise CostModelError(
                f"cost model `{self.name}` has no model `{model}`", hint=f"it knows: {', '.join(sorted(self.models))}"
            )
        return stages
