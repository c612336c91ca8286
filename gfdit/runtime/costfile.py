"""Cost model files (`gfdit-cost/1`): read, checked, written. A cost that is missing is an error here, never 0 later."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gfdit.core.cost import CostModel, Curve, Points, Quadratic, StageCost
from gfdit.core.work import STAGES, Stage
from gfdit.errors import CostModelError

KNOWN_STAGES = frozenset({*map(str, STAGES), "denoise_cfg"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Degree(_Strict):
    quadratic_s: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    points_s: Annotated[list[tuple[float, float]], Field(min_length=1)] | None = None
    quadratic_bytes: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    points_bytes: Annotated[list[tuple[float, float]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> _Degree:
        if (self.quadratic_s is None) == (self.points_s is None):
            raise ValueError("give either `quadratic_s` or `points_s`")
        if self.quadratic_bytes is not None and self.points_bytes is not None:
            raise ValueError("give either `quadratic_bytes` or `points_bytes`, or none")
        for name, points in (("points_s", self.points_s), ("points_bytes", self.points_bytes)):
            if any(left >= right for (left, _), (right, _) in pairwise(points or ())):
                raise ValueError(f"`{name}` must ascend in x")
        return self

    def curve(self) -> Curve:
        curve = _curve(self.quadratic_s, self.points_s)
        assert curve is not None
        return curve

    def memory(self) -> Curve | None:
        return _curve(self.quadratic_bytes, self.points_bytes)


def _curve(quadratic: list[float] | None, points: list[tuple[float, float]] | None) -> Curve | None:
    if quadratic is not None:
        return Quadratic(*quadratic)
    return None if points is None else Points(tuple(points))


class _Stage(_Strict):
    x: Literal["tokens", "text_tokens", "steps", "pixels", "one"]
    per: Literal["step", "request"]
    degrees: Annotated[dict[Annotated[int, Field(ge=1)], _Degree], Field(min_length=1)]


class _Model(_Strict):
    stages: dict[str, _Stage]

    @model_validator(mode="after")
    def _stages(self) -> _Model:
        if unknown := sorted(set(self.stages) - KNOWN_STAGES):
            raise ValueError(f"unknown stage `{unknown[0]}`; known: {', '.join(sorted(KNOWN_STAGES))}")
        if Stage.DENOISE not in self.stages:
            raise ValueError("stage `denoise` is missing")
        wide = set(self.stages[Stage.DENOISE].degrees)
        for name, stage in self.stages.items():
            missing = wide - set(stage.degrees)
            if set(stage.degrees) != {1} and missing:
                raise ValueError(f"stage `{name}` has no cost for degree {min(missing)}, which `denoise` has")
            if stage.per != ("step" if name.startswith("denoise") else "request"):
                raise ValueError(f"stage `{name}` is per `{stage.per}`")
        return self


class _Overheads(_Strict):
    dispatch: Annotated[float, Field(ge=0)] = 0.0
    reshard: Annotated[float, Field(ge=0)] = 0.0
    reshard_across_nodes: Annotated[float, Field(ge=0)] | None = None


class _File(BaseModel):
    """Top level: other keys (device, versions, fit error...) are kept as they are."""

    model_config = ConfigDict(extra="allow")
    format: Literal["gfdit-cost/1"]
    name: str
    models: Annotated[dict[str, _Model], Field(min_length=1)]
    overheads_s: _Overheads = _Overheads()
    device: str = ""
    source: str = ""
    gpu_memory_bytes: Annotated[float, Field(gt=0)] | None = None


def parse_cost_model(text: str, where: str = "cost model") -> CostModel:
    """Raises CostModelError naming the field and what is wrong with it."""
    try:
        file = _File.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise CostModelError(
            f"{where}: `{field}`: {reason}", hint="the format is `gfdit-cost/1`, see docs/reference/files.md"
        ) from None
    models = {
        model: {
            name: StageCost(
                stage.x,
                {degree: entry.curve() for degree, entry in stage.degrees.items()},
                {degree: curve for degree, entry in stage.degrees.items() if (curve := entry.memory()) is not None},
            )
            for name, stage in entry.stages.items()
        }
        for model, entry in file.models.items()
    }
    return CostModel(
        name=file.name,
        models=models,
        dispatch_s=file.overheads_s.dispatch,
        reshard_s=file.overheads_s.reshard,
        reshard_across_s=file.overheads_s.reshard_across_nodes,
        device=file.device,
        source=file.source,
        gpu_memory_bytes=file.gpu_memory_bytes,
        extra=dict(file.model_extra or {}),
    )


def load_cost_model(path: Path) -> CostModel:
    """Raises CostModelError when the file is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CostModelError(f"cannot read cost model `{path}`: {error}") from None
    return parse_cost_model(text, str(path))


def cost_model_to_json(cost: CostModel) -> str:
    """The file that `load_cost_model` reads back as the same model."""
    models: dict[str, object] = {}
    for model, stages in cost.models.items():
        models[model] = {"stages": {name: _stage_to_json(name, stage) for name, stage in stages.items()}}
    head: dict[str, object] = {
        "format": "gfdit-cost/1",
        "name": cost.name,
        "device": cost.device,
        "source": cost.source,
    }
    if cost.gpu_memory_bytes is not None:
        head["gpu_memory_bytes"] = cost.gpu_memory_bytes
    overheads = {"dispatch": cost.dispatch_s, "reshard": cost.reshard_s}
    if cost.reshard_across_s is not None:
        overheads["reshard_across_nodes"] = cost.reshard_across_s
    return json.dumps({**head, **cost.extra, "models": models, "overheads_s": overheads}, indent=1) + "\n"


def _stage_to_json(name: str, stage: StageCost) -> dict[str, object]:
    degrees: dict[str, object] = {}
    for degree, curve in stage.degrees.items():
        memory = stage.memory.get(degree)
        degrees[str(degree)] = _curve_to_json(curve, "s") | ({} if memory is None else _curve_to_json(memory, "bytes"))
    return {"x": stage.x, "per": "step" if name.startswith("denoise") else "request", "degrees": degrees}


def _curve_to_json(curve: Curve, unit: str) -> dict[str, object]:
    match curve:
        case Quadratic(a, b, c):
            return {f"quadratic_{unit}": [a, b, c]}
        case Points(points):
            return {f"points_{unit}": [list(point) for point in points]}
