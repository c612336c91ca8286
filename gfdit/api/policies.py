"""Commands about the policy in charge: `/gfdit/policy/*`, for operators and not for clients.

Without an admin token they are taken from the machine itself only; with one, from whoever sends it. Policies come as
texts of the language, never as code. What is refused is answered with the findings that `gfdit check` gives.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gfdit.api.access import Secrets
from gfdit.api.body import read_body
from gfdit.api.errors import ApiError
from gfdit.config import LOOPBACK
from gfdit.errors import GfditError, InputError
from gfdit.lang.render import record
from gfdit.policy.bundle import MOST_BYTES, Bundle, BundleError, Fault
from gfdit.runtime.rollout.control import Conflict, Rollout
from gfdit.runtime.rollout.status import RolloutStatus
from gfdit.runtime.rollout.vetting import Refused

MOST_BODY = 2 * MOST_BYTES  # texts as JSON, or a bundle in base64
TOKEN = "x-gfdit-admin-token"
# a proxy on this machine makes every client look like this machine
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_STATUS = TypeAdapter(RolloutStatus)
Asked = TypeVar("Asked", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Control:
    """`tokens`: of which a caller must send one; none: callers must be on this machine."""

    rollout: Rollout
    tokens: Sequence[str] = ()


class Nothing(BaseModel):
    """An empty object."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Pushed(BaseModel):
    """Either `bundle`, a `.polb` in base64, or `main` and `sources` (file name -> text) with `params`. `now`: it takes
    over without a shadow first."""

    model_config = ConfigDict(extra="forbid", strict=True)
    bundle: str | None = None
    main: str | None = None
    sources: dict[str, str] | None = None
    params: dict[str, str] = Field(default_factory=dict)
    now: bool = False


class Switchback(BaseModel):
    """`window_s`: length of a turn, by the system's clock. `windows`: turns of both policies together."""

    model_config = ConfigDict(extra="forbid", strict=True)
    window_s: Annotated[float, Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False)]
    windows: int = 12


def install(app: FastAPI, control: Control) -> None:
    """Give `app` the commands."""
    rollout = control.rollout
    guard = [Depends(Guard(control.tokens))]

    async def told(command: Callable[[], object]) -> Response:
        """Carry it out in a thread of its own; the answer is how things are then."""
        try:
            await anyio.to_thread.run_sync(command)
        except GfditError as error:
            return _refusal(error)
        return JSONResponse(_STATUS.dump_python(rollout.status(), mode="json"))

    @app.get("/gfdit/policy/status")
    def status() -> RolloutStatus:
        """What is in charge since when, the candidate, the canary, and what was in charge before."""
        return rollout.status()

    @app.post("/gfdit/policy/push", dependencies=guard, openapi_extra=_described(Pushed))
    async def push(request: Request) -> Response:
        """Check, compile and test a policy; it becomes the candidate or, with `now`, takes over."""
        asked = await _body(request, Pushed)
        return await told(lambda: rollout.push(_bundle(asked, rollout), now=asked.now))

    @app.post("/gfdit/policy/canary", dependencies=guard, openapi_extra=_described(Switchback))
    async def canary(request: Request) -> Response:
        """Let the candidate and the policy in charge take turns."""
        asked = await _body(request, Switchback)
        return await told(lambda: rollout.canary(asked.window_s, asked.windows))

    for name, command, text in (
        ("arm", rollout.arm, "Put the candidate in charge; without one, the policy that was ejected."),
        ("rollback", rollout.rollback, "Put the last good version in charge."),
        ("eject", rollout.eject, "Put the fallback in charge until a policy is armed."),
        ("stop", rollout.stop, "End the canary; without one, forget the candidate."),
    ):
        app.post(f"/gfdit/policy/{name}", dependencies=guard, description=text, openapi_extra=_described(Nothing))(
            _plain(told, command)
        )


def _plain(told: Callable[[Callable[[], object]], Any], command: Callable[[], None]) -> Callable[[Request], Any]:
    async def plain(request: Request) -> Response:
        await _body(request, Nothing)
        answer: Response = await told(command)
        return answer

    return plain


def _described(model: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"content": content, "required": True}}


class Guard:
    """Lets operators through. Raises ApiError for everybody else."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = Secrets(tokens)

    async def __call__(self, request: Request) -> None:
        if self._tokens:
            self._check_token(request.headers.get(TOKEN, ""))
        else:
            self._check_origin(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a page of another site cannot send without being allowed to
            raise ApiError(415, "unsupported_media_type", "send `content-type: application/json`", retry=False)

    def _check_token(self, given: str) -> None:
        if not self._tokens.known(given):
            message = "this is not an admin token of this server" if given else "this wants the server's admin token"
            raise ApiError(401, "invalid_admin_token", f"{message}: send `{TOKEN}`", retry=False)

    @staticmethod
    def _check_origin(request: Request) -> None:
        why = None
        if not _is_loopback("" if request.client is None else request.client.host):
            why = "from another machine"
        elif any(name in request.headers for name in FORWARDED):
            why = "through a proxy"
        elif _host_of(request.headers.get("host", "")) not in LOOPBACK:
            why = "under another machine's name"
        if why is not None:
            text = f"commands are taken from this machine only, and this one came {why}"
            raise ApiError(403, "forbidden", f"{text}; `gfdit run --admin-token-file` lets others in", retry=False)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _host_of(header: str) -> str:
    """The name in a `Host` header, without its port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


async def _body(request: Request, model: type[Asked]) -> Asked:
    content = await read_body(request, MOST_BODY)
    try:
        return model.model_validate_json(content or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ApiError(400, "invalid_value", f"`{where[:100]}`: {first['msg']}", param=where[:100]) from None


def _bundle(asked: Pushed, rollout: Rollout) -> Bundle:
    if asked.bundle is not None:
        if asked.main is not None or asked.sources is not None or asked.params:
            raise InputError("`bundle` carries its own main file, sources and params")
        try:
            return rollout.unpack(base64.b64decode(asked.bundle, validate=True))
        except binascii.Error:
            raise InputError("`bundle` is not base64") from None
    if asked.main is None or asked.sources is None:
        raise InputError("neither a `bundle` nor `main` and `sources` were sent")
    return rollout.unsigned(Bundle(asked.main, asked.sources, asked.params))


def _refusal(error: GfditError) -> Response:
    """The one error shape; beside it what the checker and the tests found, if that is why."""
    match error:
        case Refused():
            answer = ApiError(422, error.code, str(error), param="sources", retry=False)
            findings = [record(item) for item in error.diagnostics]
            return JSONResponse({**answer.body, "diagnostics": findings, "failures": list(error.failures)}, 422)
        case BundleError():
            status = 400 if error.fault is Fault.DAMAGED else 403
            return ApiError(status, error.fault.value, str(error), param="bundle", retry=False).response()
        case Conflict():
            return ApiError(409, "conflict", str(error), retry=False).response()
        case InputError():
            return ApiError(400, "invalid_value", str(error), retry=False).response()
        case _:
            return ApiError(503, "not_taken", str(error), retry=False).response()
