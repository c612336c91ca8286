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

    @model_validator(mode="after")
    def _one_form(self) -> _Degree:
        if (self.quadratic_s is None) == (self.points_s is None):
            raise ValueError("give either `quadratic_s` or `points_s`")
        if self.points_s is not None:
            xs = [x for x, _ in self.points_s]
            if any(left >= right for left, right in pairwise(xs)):
                raise ValueError("`points_s` must ascend in x")
        return self

    def curve(self) -> Curve:
        if self.quadratic_s is not None:
            return Quadratic(*self.quadratic_s)
        assert self.points_s is not None
        return Points(tuple(self.points_s))


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


class _File(BaseModel):
    """Top level: other keys (device, versions, fit error...) are kept as they are."""

    model_config = ConfigDict(extra="allow")
    format: Literal["gfdit-cost/1"]
    name: str
    models: Annotated[dict[str, _Model], Field(min_length=1)]
    overheads_s: _Overheads = _Overheads()
    device: str = ""
    source: str = ""


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
            name: StageCost(stage.x, {degree: entry.curve() for degree, entry in stage.degrees.items()})
            for name, stage in entry.stages.items()
        }
        for model, entry in file.models.items()
    }
    return CostModel(
        name=file.name,
        models=models,
        dispatch_s=file.overheads_s.dispatch,
        reshard_s=file.overheads_s.reshard,
        device=file.device,
        source=file.source,
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
    head = {"format": "gfdit-cost/1", "name": cost.name, "device": cost.device, "source": cost.source}
    overheads = {"dispatch": cost.dispatch_s, "reshard": cost.reshard_s}
    return json.dumps({**head, **cost.extra, "models": models, "overheads_s": overheads}, indent=1) + "\n"


def _stage_to_json(name: str, stage: StageCost) -> dict[str, object]:
    degrees: dict[str, object] = {}
    for degree, curve in stage.degrees.items():
        match curve:
            case Quadratic(a, b, c):
                degrees[str(degree)] = {"quadratic_s": [a, b, c]}
            case Points(points):
                degrees[str(degree)] = {"points_s": [list(point) for point in points]}
    return {"x": stage.x, "per": "step" if name.startswith("denoise") else "request", "degrees": degrees}
