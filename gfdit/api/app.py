"""The routes. A handler checks, submits, waits without blocking, and cancels when the client goes away."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from gfdit import __version__
from gfdit.api.errors import ApiError, install, not_completed, shutting_down
from gfdit.api.schema import Asked, Generation, ask, parse_body
from gfdit.api.service import Pending, Service
from gfdit.errors import InputError, ShuttingDown
from gfdit.units import NS_PER_S

MAX_BODY = 1 << 20
KEEPALIVE_S = 10.0
CLIENT_CLOSED = 499  # nobody reads it; servers log it
NS_PER_MS = NS_PER_S // 1000
EVENT_STREAM = "text/event-stream"


def create_app(service: Service) -> FastAPI:
    """The whole HTTP side of one system."""
    app = FastAPI(title="gfdit", version=__version__, docs_url=None, redoc_url=None)
    install(app)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """The server answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    @app.get("/health")
    async def readyz() -> dict[str, str]:
        """The server takes requests."""
        if not service.accepting:
            raise shutting_down()
        return {"status": "ok"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What the `model` of a request may be; the first is the default."""
        return {"object": "list", "data": [_model_object(name) for name in service.models]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in service.models:
            raise ApiError(404, "model_not_found", f"there is no model `{name}` here", param="model")
        return _model_object(name)

    body_schema = {"content": {"application/json": {"schema": Generation.model_json_schema()}}, "required": True}

    @app.post("/v1/images/generations", openapi_extra={"requestBody": body_schema})
    async def generate(request: Request) -> Response:
        """Make pictures from a prompt; with `stream`, report each step."""
        body = parse_body(await _read_body(request))
        if body.stream and body.n != 1:
            raise ApiError(400, "invalid_value", f"`n` is {body.n}: a stream carries one picture", param="n")
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        pending = _submit(service, ask(body, service, f"img-{secrets.token_hex(8)}", seed))
        if body.stream:
            return StreamingResponse(_stream(service, pending[0]), media_type=EVENT_STREAM)
        if not await _all_ended(service, pending, request):
            return Response(status_code=CLIENT_CLOSED)
        return JSONResponse(_completed(service, pending))

    return app


def _model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gfdit"}


async def _read_body(request: Request) -> bytes:
    """The body, refused as soon as it is known to be too long. Raises ApiError."""
    too_long = ApiError(413, "body_too_large", f"the body is longer than {MAX_BODY} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY:
        raise too_long
    chunks = bytearray()
    try:
        async for chunk in request.stream():
            chunks += chunk
            if len(chunks) > MAX_BODY:
                raise too_long
    except ClientDisconnect:
        raise ApiError(CLIENT_CLOSED, "cancelled", "the client closed the connection") from None
    return bytes(chunks)


def _submit(service: Service, asked: list[Asked]) -> list[Pending]:
    """All or none."""
    pending: list[Pending] = []
    try:
        for one in asked:
            pending.append(service.submit(one.request, one.inputs))
    except (InputError, ShuttingDown) as error:
        for accepted in pending:
            service.cancel(accepted.request.id)
        if isinstance(error, ShuttingDown):
            raise shutting_down() from None
        raise ApiError(400, "invalid_value", str(error)) from None
    return pending


async def _all_ended(service: Service, pending: list[Pending], request: Request) -> bool:
    """Wait for all; False, and cancelled, if the client went away before."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    left = len(pending)

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            ended.set()

    def ended_elsewhere(_: Pending) -> None:
        loop.call_soon_threadsafe(count)

    for one in pending:
        one.on_end(ended_elsewhere)
    waiting = {asyncio.create_task(ended.wait()), asyncio.create_task(_gone(request))}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        if not ended.is_set():
            for one in pending:
                service.cancel(one.request.id)
    return ended.is_set()


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection: after the body that is the only message to come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _completed(service: Service, pending: list[Pending]) -> dict[str, Any]:
    """The answer in OpenAI's words. `data[i].gfdit` tells how each picture fared, the top-level one is the first's."""
    for one in pending:
        if one.output is None:
            raise not_completed(one.progress.outcome, one.progress.code, one.progress.message)
    first = pending[0].request
    data = [_picture(service, one) for one in pending]
    return {
        "created": int(time.time()),
        "size": f"{first.width}x{first.height}",
        "output_format": "png",
        "data": data,
        "gfdit": data[0]["gfdit"],
    }


def _picture(service: Service, one: Pending) -> dict[str, Any]:
    assert one.output is not None
    encoded = base64.b64encode(one.output).decode("ascii")
    return {"b64_json": encoded, "revised_prompt": one.request.prompt, "gfdit": _how_it_went(service, one)}


def _how_it_went(service: Service, one: Pending) -> dict[str, Any]:
    progress, request = one.progress, one.request
    arrived, started, ended = progress.arrived_ns or 0, progress.started_ns or 0, progress.ended_ns or 0
    return {
        "id": request.id,
        "seed": request.seed,
        "queue_ms": max(0, started - arrived) / NS_PER_MS,
        "run_ms": max(0, ended - started) / NS_PER_MS,
        "steps": progress.steps_done,
        "degrees": [list(entry) for entry in progress.degrees],
        "resizes": progress.resizes,
        "preemptions": progress.preemptions,
        "migrations": progress.migrations,
        "attempts": progress.failures + 1,
        "deadline_met": None if progress.deadline_ns is None else progress.on_time,
        "policy": service.policy,
    }


async def _stream(service: Service, one: Pending) -> AsyncIterator[str]:
    """Steps as comments, which clients that do not know them skip; then the picture or the error as an event."""
    seen, told = 0, -1
    try:
        while not one.ended:
            newest = await anyio.to_thread.run_sync(one.wait_change, seen, KEEPALIVE_S, abandon_on_cancel=True)
            progress = one.progress
            if progress.steps_done != told:
                told = progress.steps_done
                yield f": step {told}/{progress.steps_total}\n\n"
            elif newest == seen:
                yield ": waiting\n\n"
            seen = newest
    finally:
        if not one.ended:
            service.cancel(one.request.id)
    try:
        answer = _completed(service, [one])
    except ApiError as error:
        yield _event("error", error.body)
        return
    picture = answer.pop("data")[0]
    kind = "image_generation.completed"
    yield _event(kind, {"type": kind, "created_at": answer.pop("created"), **answer, "b64_json": picture["b64_json"]})


def _event(kind: str, body: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(body)}\n\n"
