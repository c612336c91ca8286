"""`POST /v1/images/generations`: check, submit, wait without blocking, and cancel when the client goes away."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from gfdit.api import idempotency
from gfdit.api.body import CLIENT_CLOSED, read_body
from gfdit.api.errors import ApiError, not_completed
from gfdit.api.headers import scheduling_headers
from gfdit.api.pictures import PicturesOnDisk, PictureStore, encode
from gfdit.api.schema import Generation, ask, parse_body
from gfdit.api.service import Pending, Service
from gfdit.api.submitting import accepted, how_it_went, submit
from gfdit.runtime.blobs import Blobs

PATH = "/v1/images/generations"
MAX_BODY = 1 << 20
KEEPALIVE_S = 10.0
EVENT_STREAM = "text/event-stream"
OWN_ID = "x-gfdit-request-id"
POLICY = "x-gfdit-policy"


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted call. `keep`: go on without the client, since it may come back for it with the same key."""

    body: Generation
    pending: Sequence[Pending]
    keep: bool
    base_url: str
    policy: str

    @property
    def headers(self) -> dict[str, str]:
        """The name under which consoles and journals know it, and the policy that was in charge when it came."""
        return {OWN_ID: self.pending[0].request.id, POLICY: self.policy}


class Images:
    """The handler. `store`: pictures that clients fetch by URL; in `results`, where they outlive the server, or in
    memory."""

    def __init__(self, service: Service, results: Blobs | None = None) -> None:
        self.store = PictureStore() if results is None else PicturesOnDisk(results)
        self._service = service
        self._keys = idempotency.Idempotency(recall=service.keyed)

    async def generate(self, request: Request) -> Response:
        """Raises ApiError."""
        job = await self._accept(await read_body(request, MAX_BODY), request)
        if job.body.stream:
            return StreamingResponse(self._stream(job), media_type=EVENT_STREAM, headers=job.headers)
        if not await self._all_ended(job, request):
            return Response(status_code=CLIENT_CLOSED)
        return JSONResponse(await self._completed(job), headers=job.headers)

    async def _accept(self, content: bytes, request: Request) -> Job:
        """Accepted for good when this returns."""
        scheduling = scheduling_headers(request.headers)
        body = parse_body(content, scheduling)
        if body.stream and body.n != 1:
            raise ApiError(400, "invalid_value", f"`n` is {body.n}: a stream carries one picture", param="n")
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        asked = ask(body, self._service, f"img-{secrets.token_hex(8)}", seed)
        key = request.headers.get(idempotency.HEADER)
        if key is None:
            work = submit(self._service, asked)
        else:
            same = content + scheduling.model_dump_json().encode()
            work = self._keys.join(key, same, lambda key: submit(self._service, asked, key))
        pending = await accepted(work)
        service = self._service
        policy = f"{service.policy}@{service.policy_version} {service.policy_sha[:12]}"
        return Job(body, pending, key is not None, str(request.base_url), policy)

    def _cancel(self, job: Job) -> None:
        if not job.keep:
            for one in job.pending:
                if not one.ended:
                    self._service.cancel(one.request.id)

    async def _all_ended(self, job: Job, request: Request) -> bool:
        """Wait for all; False, and cancelled, if the client went away before."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        left = len(job.pending)

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                ended.set()

        def ended_elsewhere(_: Pending) -> None:
            loop.call_soon_threadsafe(count)

        for one in job.pending:
            one.on_end(ended_elsewhere)
        waiting = {asyncio.create_task(ended.wait()), asyncio.create_task(_gone(request))}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            if not ended.is_set():
                self._cancel(job)
        return ended.is_set()

    async def _completed(self, job: Job) -> dict[str, Any]:
        """The answer in OpenAI's words. `data[i].gfdit` tells how each picture fared, the top-level one is the
        first's. Raises ApiError when one of them has no picture."""
        for one in job.pending:
            if one.output is None:
                raise not_completed(one.progress.outcome, one.progress.code, one.progress.message)
        first = job.pending[0].request
        data = [await self._picture(job, one) for one in job.pending]
        return {
            "created": int(time.time()),
            "size": f"{first.width}x{first.height}",
            "output_format": job.body.output_format,
            "data": data,
            "gfdit": data[0]["gfdit"],
        }

    async def _picture(self, job: Job, one: Pending) -> dict[str, Any]:
        assert one.output is not None
        wanted = job.body
        content = one.output
        if wanted.output_format != "png":
            content = await anyio.to_thread.run_sync(encode, content, wanted.output_format, wanted.output_compression)
        about = {"revised_prompt": one.request.prompt, "gfdit": how_it_went(self._service, one)}
        if wanted.response_format == "url":
            name = await anyio.to_thread.run_sync(self.store.put, content, wanted.output_format)
            return {"url": f"{job.base_url}v1/images/files/{name}", **about}
        return {"b64_json": base64.b64encode(content).decode("ascii"), **about}

    async def _stream(self, job: Job) -> AsyncIterator[str]:
        """Steps as comments, which clients that do not know them skip; then the picture or the error as an event."""
        (one,) = job.pending
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
            self._cancel(job)
        try:
            answer = await self._completed(job)
        except ApiError as error:
            yield _event("error", error.body)
            return
        (picture,) = answer.pop("data")
        kind = "image_generation.completed"
        answer["created_at"] = answer.pop("created")
        yield _event(kind, {"type": kind, **answer, "b64_json": picture["b64_json"]})


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection: after the body that is the only message to come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(kind: str, body: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(body)}\n\n"
