"""From the body of `POST /v1/images/generations` to requests for the scheduler and inputs for the model.

Strict: a field that is not known, of the wrong type or out of range is an error that names it, before any work begins.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gfdit.api.errors import ApiError
from gfdit.api.headers import DAY_MS, ClassName, DeadlineMs, Priority, SchedulingHeaders
from gfdit.api.pictures import BEST, Format
from gfdit.api.service import Served, Service, Value
from gfdit.core.work import Request
from gfdit.errors import InputError

MAX_SEED = 2**63 - 1
NS_PER_MS = 1_000_000


class ExtraArgs(BaseModel):
    """Scheduling fields as load generators for diffusion servers send them; keys that are not known are left alone.
    Times are milliseconds; with an arrival the deadline is a point in time, without one a budget."""

    model_config = ConfigDict(extra="ignore")
    class_: Annotated[ClassName | None, Field(alias="runtime_v2_request_class")] = None
    priority: Annotated[Priority | None, Field(alias="runtime_v2_priority")] = None
    deadline: Annotated[float | None, Field(alias="runtime_v2_deadline_ms", allow_inf_nan=False)] = None
    arrival: Annotated[float | None, Field(alias="runtime_v2_arrival_ms", allow_inf_nan=False)] = None

    @model_validator(mode="after")
    def _has_a_budget(self) -> Self:
        budget = self.deadline_ms
        if budget is not None and not 0 < budget <= DAY_MS:
            raise ValueError(f"the budget is {budget:g} ms: above 0 and at most a day")
        return self

    @property
    def deadline_ms(self) -> float | None:
        """The budget."""
        return None if self.deadline is None else self.deadline - (self.arrival or 0)

    def fields(self) -> dict[str, object]:
        """What it says, in our words."""
        said = {"class_": self.class_, "priority": self.priority, "deadline_ms": self.deadline_ms}
        return {name: value for name, value in said.items() if value is not None}


class Generation(BaseModel):
    """OpenAI's fields and gfdit's own. `quality`, `background`, `style` and `moderation` are taken for the sake of
    clients that send them, and change nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: Annotated[str, Field(max_length=16, description="`auto`, or `WxH` in pixels")] = "auto"
    width: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    height: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Format = "png"
    output_compression: Annotated[int, Field(ge=0, le=100, description="quality of jpeg and webp")] = BEST
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3, description="at most; none are sent")] = 0
    quality: Literal["auto", "standard", "hd", "low", "medium", "high"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["auto", "low"] = "auto"
    user: Annotated[str, Field(max_length=200)] | None = None
    negative_prompt: Annotated[str, Field(max_length=4000)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    class_: Annotated[ClassName, Field(alias="class")] = "standard"
    deadline_ms: DeadlineMs | None = None
    priority: Priority = 0
    tenant: Annotated[str, Field(max_length=200)] | None = None
    preemptible: bool = True
    extra_args: ExtraArgs | None = None


FIELDS = sorted(field.alias or name for name, field in Generation.model_fields.items())


@dataclass(frozen=True, slots=True)
class Asked:
    """One picture to make: what the scheduler and what the model gets to know of it."""

    request: Request
    inputs: Mapping[str, Value]


def parse_body(body: bytes, headers: SchedulingHeaders) -> Generation:
    """The body; what `headers` say goes before what it says, that before its `extra_args`. Raises ApiError naming the
    field."""
    try:
        parsed = Generation.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None
    extra = {} if parsed.extra_args is None else parsed.extra_args.fields()
    missing = {name: value for name, value in extra.items() if name not in parsed.model_fields_set}
    return parsed.model_copy(update={**missing, **headers.model_dump(exclude_none=True)})


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
    _check_format(body, served)
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


def _check_format(body: Generation, served: Served) -> None:
    """Raises ApiError for a combination that has no answer."""
    if body.output_format != "png" and not served.draws:
        message = f"`output_format` is `{body.output_format}`: `{served.name}` is emulated and makes no pictures"
        raise ApiError(400, "invalid_value", message, param="output_format")
    if body.stream and body.response_format == "url":
        message = "`response_format` is `url`: a stream carries the picture itself"
        raise ApiError(400, "invalid_value", message, param="response_format")


def _model(body: Generation, service: Service) -> Served:
    models = service.models
    name = next(iter(models)) if body.model is None else body.model
    if name not in models:
        known = ", ".join(f"`{known}`" for known in models)
        raise ApiError(404, "model_not_found", f"there is no model `{name}` here; it serves {known}", param="model")
    return models[name]


def _size(body: Generation, served: Served) -> tuple[int, int]:
    """(width, height) in pixels."""
    width, height, field = _asked_size(body, served)
    for side in (width, height):
        if side % served.multiple_of or side == 0:
            nearest = max(served.multiple_of, round(side / served.multiple_of) * served.multiple_of)
            message = f"`{field}` is `{width}x{height}`: {side} is not a multiple of {served.multiple_of}; {nearest} is"
            raise ApiError(400, "invalid_size", message, param=field)
        if not served.min_side <= side <= served.max_side:
            code = "size_too_large" if side > served.max_side else "invalid_size"
            sides = f"`{served.name}` makes {served.min_side} to {served.max_side} pixels a side"
            raise ApiError(400, code, f"`{field}` is `{width}x{height}`: {sides}", param=field)
    return width, height


def _asked_size(body: Generation, served: Served) -> tuple[int, int, str]:
    """(width, height, the field that says so), not checked yet."""
    if body.width is not None or body.height is not None:
        if body.width is None or body.height is None or body.size != "auto":
            missing = "width" if body.width is None else "height" if body.height is None else "size"
            message = "give `size`, or both `width` and `height`"
            raise ApiError(400, "invalid_size", message, param=missing)
        return body.width, body.height, "width"
    if body.size == "auto":
        return served.default_width, served.default_height, "size"
    width, cross, height = body.size.partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        message = f"`size` is `{body.size}`: give `auto` or `WxH`, like `128x128`"
        raise ApiError(400, "invalid_size", message, param="size")
    return int(width), int(height), "size"


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
