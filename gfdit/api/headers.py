"""Scheduling fields as headers, for gateways and clients that cannot change the body. A header wins over the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfdit.api.errors import ApiError

DAY_MS = 24 * 3600 * 1000
MOST_PRIORITY = 1_000_000
ClassName = Annotated[str, Field(min_length=1, max_length=100)]
DeadlineMs = Annotated[float, Field(gt=0, le=DAY_MS, allow_inf_nan=False, description="budget from now")]
Priority = Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="higher is sooner")]


class SchedulingHeaders(BaseModel):
    """None: not sent."""

    model_config = ConfigDict(extra="ignore")
    class_: Annotated[ClassName | None, Field(alias="x-gfdit-class")] = None
    deadline_ms: Annotated[DeadlineMs | None, Field(alias="x-gfdit-deadline-ms")] = None
    priority: Annotated[Priority | None, Field(alias="x-gfdit-priority")] = None


def scheduling_headers(headers: Mapping[str, str]) -> SchedulingHeaders:
    """Raises ApiError naming the header."""
    try:
        return SchedulingHeaders.model_validate(dict(headers))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        message = f"header `{name}` is `{first['input']}`: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise ApiError(400, "invalid_value", message, param=name) from None
