"""Workload files: JSON Lines, one request a line. Read and checked as a whole before anything runs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfdit.core.work import Request
from gfdit.errors import WorkloadError
from gfdit.units import to_ns, to_s

TokensOf = Callable[[str, int, int, int], int | None]  # model, height, width, frames -> tokens


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: Annotated[str, Field(min_length=1, max_length=200)]
    arrival_s: Annotated[float, Field(ge=0)]
    model: str
    class_: Annotated[str, Field(alias="class")]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)] = 1
    steps: Annotated[int, Field(ge=1, le=10_000)]
    tokens: Annotated[int, Field(ge=1)] | None = None
    text_tokens: Annotated[int, Field(ge=0)] = 0
    cfg: bool = False
    priority: int = 0
    slo_s: Annotated[float, Field(gt=0)] | None = None
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    tenant: str = ""
    tag: str | None = None
    preemptible: bool = True


_FIELDS = sorted("class" if name == "class_" else name for name in _Line.model_fields)


def parse_workload(lines: Iterable[str], where: str, tokens_of: TokensOf | None = None) -> list[Request]:
    """Requests by (arrival, id). `tokens_of` fills in missing token counts. Raises WorkloadError: line, field, value,
    fix."""
    requests: dict[str, Request] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request = _parse_line(line, f"{where}:{number}", tokens_of)
        if request.id in requests:
            raise WorkloadError(f"{where}:{number}: id `{request.id}` is used twice")
        requests[request.id] = request
    if not requests:
        raise WorkloadError(f"{where}: no requests")
    return sorted(requests.values(), key=lambda request: (request.arrival_ns, request.id))


def _parse_line(line: str, where: str, tokens_of: TokensOf | None) -> Request:
    try:
        entry = _Line.model_validate_json(line)
    except ValidationError as error:
        raise WorkloadError(f"{where}: {_explain(error)}", hint=_hint(error)) from None
    tokens = entry.tokens
    if tokens is None and tokens_of is not None:
        tokens = tokens_of(entry.model, entry.height, entry.width, entry.frames)
    if tokens is None:
        raise WorkloadError(
            f"{where}: `tokens` is missing and the geometry of model `{entry.model}` is not known here",
            hint="add `tokens` to the line",
        )
    return Request(
        id=entry.id,
        model=entry.model,
        class_name=entry.class_,
        arrival_ns=to_ns(entry.arrival_s),
        height=entry.height,
        width=entry.width,
        frames=entry.frames,
        steps=entry.steps,
        tokens=tokens,
        text_tokens=entry.text_tokens,
        cfg=entry.cfg,
        priority=entry.priority,
        slo_ns=None if entry.slo_s is None else to_ns(entry.slo_s),
        tag=entry.class_ if entry.tag is None else entry.tag,
        tenant=entry.tenant,
        preemptible=entry.preemptible,
        prompt=entry.prompt,
        negative_prompt=entry.negative_prompt,
        seed=entry.seed,
    )


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    match first["type"]:
        case "extra_forbidden":
            return f"unknown field `{field}`"
        case "missing":
            return f"field `{field}` is missing"
        case "json_invalid":
            return f"not JSON: {first['ctx']['error']}"
        case _:
            return f"field `{field}` is `{first['input']}`: {first['msg'].lower()}"


def _hint(error: ValidationError) -> str | None:
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return None
    near = difflib.get_close_matches(str(first["loc"][-1]), _FIELDS, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known fields: {', '.join(_FIELDS)}"


def load_workload(path: Path, tokens_of: TokensOf | None = None) -> list[Request]:
    """Raises WorkloadError when the file is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"cannot read workload `{path}`: {error}") from None
    return parse_workload(text.splitlines(), str(path), tokens_of)


def workload_line(request: Request) -> str:
    """The line that reads back as `request`."""
    entry: dict[str, object] = {
        "id": request.id,
        "arrival_s": to_s(request.arrival_ns),
        "model": request.model,
        "class": request.class_name,
        "height": request.height,
        "width": request.width,
        "frames": request.frames,
        "steps": request.steps,
        "tokens": request.tokens,
        "text_tokens": request.text_tokens,
        "cfg": request.cfg,
        "priority": request.priority,
    }
    if request.slo_ns is not None:
        entry["slo_s"] = to_s(request.slo_ns)
    for name in ("prompt", "negative_prompt", "tenant"):
        if value := getattr(request, name):
            entry[name] = value
    if request.seed:
        entry["seed"] = request.seed
    if request.tag != request.class_name:
        entry["tag"] = request.tag
    if not request.preemptible:
        entry["preemptible"] = False
    return json.dumps(entry)
