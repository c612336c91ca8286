"""One error shape for everything that goes wrong: `{"error": {"message", "type", "param", "code"}}`.

OpenAI's clients read these fields, retry 408, 409, 429 and 5xx, and obey `x-should-retry`.
"""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from gfdit.core.work import Outcome
from gfdit.errors import QueueFull, StorageFull

INVALID = "invalid_request_error"
SERVER = "server_error"
STORAGE_RETRY_S = 5.0


class ApiError(Exception):
    """An answer other than success. `param`: the field to blame; `retry`: whether a client's second try may help;
    `retry_after_s`: when, in wall seconds."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry = retry
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        kind = SERVER if self.status >= 500 else INVALID
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {} if self.retry is None else {"x-should-retry": "true" if self.retry else "false"}
        if self.retry_after_s is not None:
            headers["retry-after-ms"] = str(math.ceil(self.retry_after_s * 1000))
            headers["retry-after"] = str(math.ceil(self.retry_after_s))
        return JSONResponse(self.body, self.status, headers)


def shutting_down() -> ApiError:
    return ApiError(503, "shutting_down", "the server is shutting down and takes no new requests", retry=False)


def queue_full(error: QueueFull) -> ApiError:
    return ApiError(429, "queue_full", error.message, retry=True, retry_after_s=error.retry_after_s)


def storage_full(error: StorageFull) -> ApiError:
    """Nothing was accepted, so the client may send it again when there is room."""
    return ApiError(503, "storage_full", error.message, retry=True, retry_after_s=STORAGE_RETRY_S)


def not_completed(outcome: Outcome | None, code: str, message: str) -> ApiError:
    """The answer to a request that ended without a picture. Work has begun, so the client is not to send it again."""
    match outcome:
        case Outcome.REJECTED:
            return ApiError(429, "rejected", message or "the policy does not admit this request now", retry=False)
        case Outcome.CANCELLED:
            return ApiError(503, "cancelled", message or "the request was cancelled", retry=False)
        case _ if code == "shutting_down":
            return shutting_down()
        case _:
            return ApiError(500, code or "failed", message or "the request failed", retry=False)


def _methods(request: Request) -> list[str]:
    """Those that some route takes at this path."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    routes = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    exact = [route for route in routes if route.path == request.url.path]
    return sorted({method for route in exact or routes for method in route.methods or ()})


def install(app: FastAPI) -> None:
    """Give every error of `app` the one shape, those that FastAPI raises by itself included."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        match error.status_code:
            case 404:
                return ApiError(404, "unknown_route", f"there is no `{request.method} {request.url.path}`").response()
            case 405:
                message = f"`{request.url.path}` does not take {request.method}"
                answer = ApiError(405, "method_not_allowed", message).response()
                answer.headers["allow"] = ", ".join(_methods(request))
                return answer
            case status:
                return ApiError(status, "http_error", str(error.detail)).response()

    async def not_valid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = [str(part) for part in first["loc"][1:]]
        field = ".".join(where) or None
        reason = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        message = f"`{field}`: {reason}" if field else f"the {first['loc'][0]}: {reason}"
        return ApiError(400, "invalid_value", message, param=field).response()

    async def no_storage(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StorageFull)
        return storage_full(error).response()

    async def internal_error(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "internal_error", f"internal error: {type(error).__name__}", retry=False).response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(StorageFull, no_storage)
    app.add_exception_handler(Exception, internal_error)
