"""From the bodies of image and video requests to what the scheduler and the model are given.

Strict: a field that is not known, of the wrong type or out of range is an error that names it, before any work begins.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gfdit.api.errors import ApiError
from gfdit.api.headers import DAY_MS, ClassName, DeadlineMs, Priority, SchedulingHeaders
from gfdit.api.pictures import BEST, Format
from gfdit.api.service import Served, Service, Value
from gfdit.core.work import Request
from gfdit.errors import InputError
from gfdit.units import NS_PER_S

MAX_SEED = 2**63 - 1
NS_PER_MS = NS_PER_S // 1000


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


class Asking(BaseModel):
    """What pictures and videos have in common: what to draw, how, and how soon."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    model: str | None = None
    size: Annotated[str, Field(max_length=16, description="`auto`, or `WxH` in pixels")] = "auto"
    width: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    height: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
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

    @classmethod
    def fields(cls) -> list[str]:
        """Their names as clients write them."""
        return sorted(field.alias or name for name, field in cls.model_fields.items())


class Generation(Asking):
    """OpenAI's fields of a picture and gfdit's own. `quality`, `background`, `style` and `moderation` are taken for the
    sake of clients that send them, and change nothing."""

    n: Annotated[int, Field(ge=1, le=10)] = 1
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Format = "png"
    output_compression: Annotated[int, Field(ge=0, le=100, description="quality of jpeg and webp")] = BEST
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3, description="at most; none are sent")] = 0
    quality: Literal["auto", "standard", "hd", "low", "medium", "high"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["auto", "low"] = "auto"


class Filming(Asking):
    """The fields of a video. Its length is `num_frames`, or `seconds` at `fps`, or what the model makes by itself."""

    seconds: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False, strict=False)] | None = None
    num_frames: Annotated[int, Field(ge=1, le=10_000)] | None = None
    fps: Annotated[int, Field(ge=1, le=120)] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One picture or video to make: what the scheduler and what the model gets to know of it."""

    request: Request
    inputs: Mapping[str, Value]


def parse_body(body: bytes, headers: SchedulingHeaders) -> Generation:
    """The body of a picture; what `headers` say goes before what it says, that before its `extra_args`. Raises
    ApiError naming the field."""
    try:
        return _completed(Generation.model_validate_json(body), headers)
    except ValidationError as error:
        raise explain(error, Generation) from None


def parse_filming(fields: bytes | Mapping[str, str], headers: SchedulingHeaders) -> Filming:
    """As `parse_body`, of a video. The fields of a form are texts, and become numbers where numbers are meant."""
    try:
        if isinstance(fields, bytes):
            return _completed(Filming.model_validate_json(fields), headers)
        written: dict[str, object] = dict(fields)
        if isinstance(extra := fields.get("extra_args"), str):
            written["extra_args"] = json.loads(extra)
        return _completed(Filming.model_validate(written, strict=False), headers)
    except ValidationError as error:
        raise explain(error, Filming) from None
    except json.JSONDecodeError as error:
        message = f"`extra_args` is not JSON: {error}"
        raise ApiError(400, "invalid_value", message, param="extra_args") from None


Body = TypeVar("Body", bound=Asking)


def _completed(parsed: Body, headers: SchedulingHeaders) -> Body:
    extra = {} if parsed.extra_args is None else parsed.extra_args.fields()
    missing = {name: value for name, value in extra.items() if name not in parsed.model_fields_set}
    return parsed.model_copy(update={**missing, **headers.model_dump(exclude_none=True)})


def explain(error: ValidationError, body: type[Asking]) -> ApiError:
    """The first thing that is wrong with a body."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or None
    match first["type"]:
        case "json_invalid":
            return ApiError(400, "invalid_json", f"the body is not JSON: {first['ctx']['error']}")
        case "extra_forbidden":
            near = difflib.get_close_matches(str(field), body.fields(), n=1)
            fix = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(body.fields())}"
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
    if served.video:
        message = f"`model` is `{served.name}`: it makes videos, which are asked for at /v1/videos"
        raise ApiError(400, "invalid_value", message, param="model")
    _check_format(body, served)
    names = [f"{name}-{index}" if body.n > 1 else name for index in range(body.n)]
    return [_asked(body, service, served, one, (seed + n) % (MAX_SEED + 1)) for n, one in enumerate(names)]


def ask_video(body: Filming, service: Service, name: str, seed: int) -> Asked:
    """The same for a video. Raises ApiError."""
    served = _model(body, service)
    if not served.video:
        message = f"`model` is `{served.name}`: it makes pictures, which are asked for at /v1/images/generations"
        raise ApiError(400, "invalid_value", message, param="model")
    fps = served.fps if body.fps is None else body.fps
    frames = _frames(body, served, fps)
    asked = _asked(body, service, served, name, seed, frames)
    return replace(asked, inputs={**asked.inputs, "num_frames": frames, "fps": fps})


def _asked(body: Asking, service: Service, served: Served, name: str, seed: int, frames: int = 1) -> Asked:
    width, height = _size(body, served)
    steps = served.default_steps if body.num_inference_steps is None else body.num_inference_steps
    if steps > served.max_steps:
        message = f"`num_inference_steps` is {steps}: at most {served.max_steps}"
        raise ApiError(400, "invalid_value", message, param="num_inference_steps")
    try:
        tokens = service.tokens(served.name, width, height, frames)
    except InputError as error:
        raise ApiError(400, "invalid_size", str(error), param="size") from None
    inputs = _inputs(body, served)
    request = Request(
        id=name,
        model=served.name,
        class_name=body.class_,
        arrival_ns=0,  # set where it arrives
        height=height,
        width=width,
        frames=frames,
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
        seed=seed,
    )
    sizes = {"height": height, "width": width, "num_inference_steps": steps}
    return Asked(request, {**inputs, **sizes, "seed": seed})


def _frames(body: Filming, served: Served, fps: int) -> int:
    """How many frames: whole groups of the model's and one. A number of frames must fit; a length is rounded."""
    if body.num_frames is not None and body.seconds is not None:
        raise ApiError(400, "invalid_value", "give `num_frames` or `seconds`, not both", param="seconds")
    factor = served.frame_factor
    wanted = served.default_frames if body.seconds is None else body.seconds * fps
    fitting = factor * max(0, round(((wanted if body.num_frames is None else body.num_frames) - 1) / factor)) + 1
    if body.num_frames is not None and body.num_frames != fitting:
        message = f"`num_frames` is {body.num_frames}: one more than a multiple of {factor}, such as {fitting}"
        raise ApiError(400, "invalid_value", message, param="num_frames")
    if fitting > served.max_frames:
        name = "seconds" if body.num_frames is None else "num_frames"
        message = f"`{name}` asks for {fitting} frames: at most {served.max_frames}"
        raise ApiError(400, "invalid_value", message, param=name)
    return fitting


def _check_format(body: Generation, served: Served) -> None:
    """Raises ApiError for a combination that has no answer."""
    if body.output_format != "png" and not served.draws:
        message = f"`output_format` is `{body.output_format}`: `{served.name}` is emulated and makes no pictures"
        raise ApiError(400, "invalid_value", message, param="output_format")
    if body.stream and body.response_format == "url":
        message = "`response_format` is `url`: a stream carries the picture itself"
        raise ApiError(400, "invalid_value", message, param="response_format")


def _model(body: Asking, service: Service) -> Served:
    models = service.models
    name = next(iter(models)) if body.model is None else body.model
    if name not in models:
        known = ", ".join(f"`{known}`" for known in models)
        raise ApiError(404, "model_not_found", f"there is no model `{name}` here; it serves {known}", param="model")
    return models[name]


def _size(body: Asking, served: Served) -> tuple[int, int]:
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


def _asked_size(body: Asking, served: Served) -> tuple[int, int, str]:
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


def _inputs(body: Asking, served: Served) -> dict[str, Value]:
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


def body_schema(body: type[Asking]) -> dict[str, Any]:
    """The JSON schema of a body with its parts inside, since an OpenAPI document keeps parts elsewhere."""
    schema = body.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        match node:
            case {"$ref": str(name)}:
                return inlined(parts[name.rpartition("/")[2]])
            case dict():
                return {key: inlined(value) for key, value in node.items()}
            case list():
                return [inlined(item) for item in node]
            case _:
                return node

    whole: dict[str, Any] = inlined(schema)
    return whole
