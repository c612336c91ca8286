"""From the body of `POST /v1/images/generations` to requests for the scheduler and inputs for the model.

Strict: a field that is not known, of the wrong type or out of range is an error that names it, before any work begins.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfdit.api.errors import ApiError
from gfdit.api.service import Served, Service, Value
from gfdit.core.work import Request
from gfdit.errors import InputError

MAX_SEED = 2**63 - 1
DAY_MS = 24 * 3600 * 1000
NS_PER_MS = 1_000_000


class Generation(BaseModel):
    """The fields of OpenAI's that have a meaning here, and gfdit's own."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: Annotated[str, Field(max_length=16, description="`auto`, or `WxH` in pixels")] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    stream: bool = False
    user: Annotated[str, Field(max_length=200)] | None = None
    negative_prompt: Annotated[str, Field(max_length=4000)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    class_: Annotated[str, Field(alias="class", min_length=1, max_length=100)] = "standard"
    deadline_ms: Annotated[float, Field(gt=0, le=DAY_MS, allow_inf_nan=False, description="budget from now")] | None = (
        None
    )
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000, description="higher is sooner")] = 0
    tenant: Annotated[str, Field(max_length=200)] | None = None
    preemptible: bool = True


FIELDS = sorted(field.alias or name for name, field in Generation.model_fields.items())


@dataclass(frozen=True, slots=True)
class Asked:
    """One picture to make: what the scheduler and what the model gets to know of it."""

    request: Request
    inputs: Mapping[str, Value]


def parse_body(body: bytes) -> Generation:
    """Raises ApiError naming the field."""
    try:
        return Generation.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> ApiError:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or None
    match first["type"]:
        case "json_invalid":
            return ApiError(400, "invalid_json", f"the body is not JSON: {first['ctx']['error']}")
        case "extra_forbidden":
            near = difflib.get_close_matches(str(field), FIELDS, n=1)
            fix = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(FIELDS)}"
            return ApiError(400, "unknown_parameter", f"unknown parameter `{field}`; {fix}", param=field)
        case "missing":
            return ApiError(400, "missing_parameter", f"`{field}` is missing", param=field)
        case _ if field is None:
            return ApiError(400, "invalid_body", "the body must be a JSON object")
        case _:
            message = f"`{field}` is {_shown(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"
            return ApiError(400, "invalid_value", message, param=field)


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def ask(body: Generation, service: Service, name: str, seed: int) -> list[Asked]:
    """One `Asked` a picture, ids `name-0`, `name-1`, ..., seeds counted up from `seed`. Raises ApiError."""
    served = _model(body, service)
    width, height = _size(body, served)
    steps = served.default_steps if body.num_inference_steps is None else body.num_inference_steps
    if steps > served.max_steps:
        message = f"`num_inference_steps` is {steps}: at most {served.max_steps}"
        raise ApiError(400, "invalid_value", message, param="num_inference_steps")
    try:
        tokens = service.tokens(served.name, width, height)
    except InputError as error:
        raise ApiError(400, "invalid_size", str(error), param="size") from None
    inputs = _inputs(body, served)
    asked = []
    for index in range(body.n):
        request = Request(
            id=f"{name}-{index}" if body.n > 1 else name,
            model=served.name,
            class_name=body.class_,
            arrival_ns=0,  # set where it arrives
            height=height,
            width=width,
            steps=steps,
            tokens=tokens,
            cfg=served.guided and inputs.get("true_cfg_scale", 0.0) not in (0, 1),
            priority=body.priority,
            slo_ns=None if body.deadline_ms is None else round(body.deadline_ms * NS_PER_MS),
            tag=body.class_,
            tenant=body.tenant or body.user or "",
            preemptible=body.preemptible,
            prompt=body.prompt,
            negative_prompt=body.negative_prompt or "",
            seed=(seed + index) % (MAX_SEED + 1),
        )
        sizes = {"height": height, "width": width, "num_inference_steps": steps}
        asked.append(Asked(request, {**inputs, **sizes, "seed": request.seed}))
    return asked


def _model(body: Generation, service: Service) -> Served:
    models = service.models
    name = next(iter(models)) if body.model is None else body.model
    if name not in models:
        known = ", ".join(f"`{known}`" for known in models)
        raise ApiError(404, "model_not_found", f"there is no model `{name}` here; it serves {known}", param="model")
    return models[name]


def _size(body: Generation, served: Served) -> tuple[int, int]:
    """(width, height) in pixels."""
    if body.size == "auto":
        return served.default_width, served.default_height
    width, cross, height = body.size.partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise ApiError(
            400, "invalid_size", f"`size` is `{body.size}`: give `auto` or `WxH`, like `128x128`", param="size"
        )
    for side in (int(width), int(height)):
        if side % served.multiple_of or side == 0:
            nearest = max(served.multiple_of, round(side / served.multiple_of) * served.multiple_of)
            message = f"`size` is `{body.size}`: {side} is not a multiple of {served.multiple_of}; {nearest} is"
            raise ApiError(400, "invalid_size", message, param="size")
        if not served.min_side <= side <= served.max_side:
            code = "size_too_large" if side > served.max_side else "invalid_size"
            message = (
                f"`size` is `{body.size}`: `{served.name}` makes {served.min_side} to {served.max_side} pixels a side"
            )
            raise ApiError(400, code, message, param="size")
    return int(width), int(height)


def _inputs(body: Generation, served: Served) -> dict[str, Value]:
    """What the model is given besides sizes, steps and seed. Of the two guidance scales `true_cfg_scale` wins."""
    inputs: dict[str, Value] = {"prompt": body.prompt}
    if body.negative_prompt:
        inputs["negative_prompt"] = body.negative_prompt
    if not served.guided:
        for name in ("true_cfg_scale", "guidance_scale"):
            if getattr(body, name) is not None:
                message = f"`{served.name}` takes no guidance: leave out `{name}`"
                raise ApiError(400, "unknown_parameter", message, param=name)
        return inputs
    asked = body.guidance_scale if body.true_cfg_scale is None else body.true_cfg_scale
    scale = served.defaults.get("true_cfg_scale", 1.0) if asked is None else asked
    assert isinstance(scale, int | float)
    inputs["true_cfg_scale"] = max(1.0, float(scale))
    return inputs
