"""What the scheduler believes work will take: the cost model, expanded once a request, corrected by finished steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.core.cost import CostModel
from gfdit.core.view import F8, I8, STAGE_CODE
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES, Request, Stage

CORRECTION_GAIN = 0.2  # weight of the newest measured step
SHAPES_KEPT = 4096
CORRECTION_DEADBAND = 1e-3  # a table this close to the truth is left alone


@dataclass(frozen=True, slots=True, eq=False)
class RequestCost:
    """Costs of one request, D degrees; +inf where a degree is not offered.

    `step_s[D]`: one denoising step. `rest_s[6, D]`: seconds of every stage but the denoising steps from that stage on;
    `rest_gpu_s[6, D]`: the same in GPU-seconds. `stage_gpu_s[6]`: GPU-seconds of each stage at its cheapest degree, 0
    for denoising, whose steps have costs of their own. `alone_s`: the shortest latency that one fixed degree gives it.
    `..._plain`: the same numbers, for whoever looks at one request alone; `table_s_plain`: steps without the dispatch.
    `memory_bytes[D]`: the most that a stage needs on one rank, -inf where the cost model does not say; None when it
    says nothing of any model.
    """

    step_s: F8
    rest_s: F8
    rest_gpu_s: F8
    stage_gpu_s: F8
    alone_s: float
    table_s_plain: tuple[float, ...]
    step_s_plain: tuple[float, ...]
    rest_s_plain: tuple[tuple[float, ...], ...]
    memory_bytes: F8 | None = None


class Estimator:
    """Expands requests into `RequestCost`, and learns how far the table is off from the steps that finish."""

    def __init__(self, cost: CostModel, gpus: int) -> None:
        self.cost = cost
        offered = {degree for model in cost.models for degree in cost.degrees(model) if degree <= gpus}
        self.degrees: tuple[int, ...] = tuple(sorted(offered))
        self._column = {degree: column for column, degree in enumerate(self.degrees)}
        self._models: dict[str, int] = {}
        # all that curves and stages ask of a request
        self._expanded: dict[tuple[str, bool, int, int, int, int], RequestCost] = {}
        self.correction = np.ones((0, len(self.degrees)))  # [models seen, D]: measured / table
        self._corrected: dict[str, tuple[float, ...]] = {}  # rows of it that are not all 1, by model

    def model_code(self, model: str) -> int:
        if model not in self._models:
            self._models[model] = len(self._models)
            self.correction = np.vstack([self.correction, np.ones((1, len(self.degrees)))])
        return self._models[model]

    def offered(self, model: str) -> tuple[int, ...]:
        """Degrees that `model` can use on this cluster."""
        return tuple(degree for degree in self.cost.degrees(model) if degree in self._column)

    def expand(self, request: Request) -> RequestCost:
        """The costs of a request; of those of one shape computed once. Raises CostModelError when a cost that it needs
        is missing."""
        shape = request.model, request.cfg, request.steps, request.tokens, request.text_tokens, request.pixels
        found = self._expanded.get(shape)
        if found is None:
            if len(self._expanded) >= SHAPES_KEPT:
                self._expanded.clear()
            found = self._expanded[shape] = self._expand(request)
        return found

    def _expand(self, request: Request) -> RequestCost:
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
        table = tuple(step.tolist())
        step += self.cost.dispatch_s
        plain = tuple(tuple(row) for row in rest.tolist())
        memory = self._memory(request)
        return RequestCost(step, rest, rest_gpu, own_gpu, alone, table, tuple(step.tolist()), plain, memory)

    def _memory(self, request: Request) -> F8 | None:
        if not self.cost.knows_memory:
            return None
        memory = np.full(len(self.degrees), -np.inf)
        for degree in self.offered(request.model):
            needs = self.cost.memory_bytes(request, degree)
            memory[self._column[degree]] = -np.inf if needs is None else needs
        return memory

    def learn(self, request: Request, cost: RequestCost, stage: Stage, degree: int, seconds: float) -> None:
        """A denoising step took `seconds` on `degree` ranks; other stages are short and not corrected."""
        column = self._column.get(degree)
        if stage is not Stage.DENOISE or column is None:
            return
        table = cost.table_s_plain[column]
        if table <= 0:
            return
        code = self.model_code(request.model)
        known = self.correction[code, column]
        if abs(seconds / table - known) > CORRECTION_DEADBAND * known:
            self.correction[code, column] = known + CORRECTION_GAIN * (seconds / table - known)
            self._corrected[request.model] = tuple(self.correction[code].tolist())

    def correct(self, model_codes: I8, step_s: F8) -> F8:
        """Step times [N, D] with what was learnt applied; the input itself when nothing was."""
        if not self._corrected:
            return step_s
        return np.asarray(step_s * self.correction[model_codes], dtype=np.float64)

    def correct_one(self, model: str, step_s: tuple[float, ...]) -> tuple[float, ...]:
        """The same for the step times of one request."""
        known = self._corrected.get(model)
        return step_s if known is None else tuple([step * factor for step, factor in zip(step_s, known, strict=True)])


def best_degree(degrees: Sequence[int], step_s: F8) -> int:
    """The degree with the shortest step; the narrowest of equals."""
    return degrees[int(np.argmin(step_s))]
