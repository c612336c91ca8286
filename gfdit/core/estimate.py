"""What the scheduler believes work will take: the cost model, expanded once a request, corrected by finished steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.core.cost import CostModel
from gfdit.core.view import F8, I8, STAGE_CODE
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES, Request, Stage

CORRECTION_GAIN = 0.2  # weight of the newest measured step
CORRECTION_DEADBAND = 1e-3  # a table this close to the truth is left alone


@dataclass(frozen=True, slots=True, eq=False)
class RequestCost:
    """Costs of one request, D degrees; +inf where a degree is not offered.

    `step_s[D]`: one denoising step. `rest_s[6, D]`: seconds of every stage but the denoising steps from that stage on;
    `rest_gpu_s[6, D]`: the same in GPU-seconds. `stage_gpu_s[6]`: GPU-seconds of each stage at its cheapest degree, 0
    for denoising, whose steps have costs of their own. `alone_s`: the shortest latency that one fixed degree gives it.
    """

    step_s: F8
    rest_s: F8
    rest_gpu_s: F8
    stage_gpu_s: F8
    alone_s: float


class Estimator:
    """Expands requests into `RequestCost`, and learns how far the table is off from the steps that finish."""

    def __init__(self, cost: CostModel, gpus: int) -> None:
        self.cost = cost
        offered = {degree for model in cost.models for degree in cost.degrees(model) if degree <= gpus}
        self.degrees: tuple[int, ...] = tuple(sorted(offered))
        self._column = {degree: column for column, degree in enumerate(self.degrees)}
        self._models: dict[str, int] = {}
        self.correction = np.ones((0, len(self.degrees)))  # [models seen, D]: measured / table

    def model_code(self, model: str) -> int:
        if model not in self._models:
            self._models[model] = len(self._models)
            self.correction = np.vstack([self.correction, np.ones((1, len(self.degrees)))])
        return self._models[model]

    def offered(self, model: str) -> tuple[int, ...]:
        """Degrees that `model` can use on this cluster."""
        return tuple(degree for degree in self.cost.degrees(model) if degree in self._column)

    def expand(self, request: Request) -> RequestCost:
        """Raises CostModelError when a cost that the request needs is missing."""
        step = np.full(len(self.degrees), np.inf)
        rest = np.full((len(STAGES), len(self.degrees)), np.inf)
        rest_gpu = rest.copy()
        own_gpu = np.full(len(STAGES), np.inf)
        chain = self.cost.stages(request.model)
        for degree in self.offered(request.model):
            column = self._column[degree]
            step[column] = self.cost.seconds(request, Stage.DENOISE, degree)
            seconds = gpu_seconds = 0.0
            for stage in reversed(STAGES):
                if stage in chain and stage is not Stage.DENOISE:
                    one = self.cost.seconds(request, stage, degree) + self.cost.dispatch_s
                    one_gpu = one * (1 if stage in SINGLE_RANK_STAGES else degree)
                    seconds += one
                    gpu_seconds += one_gpu
                    own_gpu[STAGE_CODE[stage]] = min(own_gpu[STAGE_CODE[stage]], one_gpu)
                rest[STAGE_CODE[stage], column] = seconds
                rest_gpu[STAGE_CODE[stage], column] = gpu_seconds
        first = STAGE_CODE[chain[0]]
        alone = float(np.min(rest[first] + request.steps * (step + self.cost.dispatch_s)))
        own_gpu[np.isinf(own_gpu)] = 0.0  # denoising, and stages that this model does not have
        return RequestCost(step + self.cost.dispatch_s, rest, rest_gpu, own_gpu, alone)

    def learn(self, request: Request, stage: Stage, degree: int, seconds: float) -> None:
        """A denoising step took `seconds` on `degree` ranks; other stages are short and not corrected."""
        column = self._column.get(degree)
        if stage is not Stage.DENOISE or column is None:
            return
        table = self.cost.seconds(request, stage, degree)
        if table <= 0:
            return
        code = self.model_code(request.model)
        known = self.correction[code, column]
        if abs(seconds / table - known) > CORRECTION_DEADBAND * known:
            self.correction[code, column] = known + CORRECTION_GAIN * (seconds / table - known)

    def correct(self, model_codes: I8, step_s: F8) -> F8:
        """Step times [N, D] with what was learnt applied; the input itself when nothing was."""
        if self.correction.size == 0 or bool((self.correction == 1.0).all()):
            return step_s
        return np.asarray(step_s * self.correction[model_codes], dtype=np.float64)


def best_degree(degrees: Sequence[int], step_s: F8) -> int:
    """The degree with the shortest step; the narrowest of equals."""
    return degrees[int(np.argmin(step_s))]
