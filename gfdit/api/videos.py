"""`/v1/videos`: jobs that are asked for, looked after and fetched, and that go on after a restart of the server."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from gfdit.api.body import read_body
from gfdit.api.errors import ApiError, not_completed
from gfdit.api.headers import scheduling_headers
from gfdit.api.schema import Asked, Filming, ask_video, body_schema, parse_filming
from gfdit.api.service import Pending, Service
from gfdit.api.submitting import accepted_now, how_it_went, submit
from gfdit.api.video_store import Video, VideoStore
from gfdit.core.work import Outcome
from gfdit.errors import GfditError

PATH = "/v1/videos"
MAX_BODY = 1 << 20
MOST_LISTED = 100
MP4 = "video/mp4"


class Videos:
    """The handler. `store`: where jobs are kept; the unfinished ones of the server before go on at once."""

    def __init__(self, service: Service, store: VideoStore) -> None:
        self._service = service
        self._store = store
        self._pending: dict[str, Pending] = {}
        self._ends = ThreadPoolExecutor(1, thread_name_prefix="videos")  # files are not written by the controller
        for video in store.unfinished():
            self._resume(video)

    def close(self) -> None:
        """Wait until what has ended is on disk."""
        self._ends.shutdown(wait=True)
        self._store.close()

    async def create(self, request: Request) -> Response:
        """Raises ApiError."""
        body = await _body_of(request)
        self._store.forget_expired()
        return JSONResponse(self._shown(self._accept(body)))

    async def make(self, request: Request) -> Response:
        """The same, answered with the file once it is there; a client that goes away cancels. Raises ApiError."""
        video = self._accept(await _body_of(request))
        pending = self._pending.get(video.id)
        try:
            while pending is not None and not pending.ended:
                if await request.is_disconnected():
                    return Response(status_code=499)
                await asyncio.sleep(0.05)
        finally:
            if pending is not None and not pending.ended:
                self._service.cancel(video.id)
        await asyncio.wrap_future(self._ends.submit(lambda: None))  # what ended before is on disk now
        ended = self._known(video.id)
        if ended.status == "failed":
            assert pending is not None
            raise not_completed(pending.progress.outcome, ended.error_code, ended.error_message)
        return self._file(ended)

    def get(self, video_id: str) -> dict[str, Any]:
        """Raises ApiError."""
        return self._shown(self._known(video_id))

    def page(self, after: str | None, limit: int, order: Literal["asc", "desc"]) -> dict[str, Any]:
        """Raises ApiError."""
        number = None if after is None else self._known(after, "after").number
        found = self._store.page(after=number, limit=limit + 1, newest_first=order == "desc")
        shown = [self._shown(video) for video in found[:limit]]
        ids = [video["id"] for video in shown]
        ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return {"object": "list", "data": shown, **ends, "has_more": len(found) > limit}

    def content(self, video_id: str) -> Response:
        """Raises ApiError."""
        video = self._known(video_id)
        if video.status != "completed":
            message = f"video `{video_id}` is {video.status}: it has no content"
            raise ApiError(409, "not_completed", message, param="video_id", retry=False)
        return self._file(video)

    def delete(self, video_id: str) -> dict[str, Any]:
        """Raises ApiError."""
        video = self._known(video_id)
        if not video.ended:
            self._service.cancel(video_id)
        self._pending.pop(video_id, None)
        self._store.delete(video_id)
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _accept(self, body: Filming) -> Video:
        """On disk before anybody is told."""
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        asked = ask_video(body, self._service, f"video_{secrets.token_hex(12)}", seed)
        request, inputs = asked.request, asked.inputs
        video = Video(
            id=request.id,
            number=self._store.next_number(),
            asked=body.model_copy(update={"seed": seed}).model_dump_json(by_alias=True, exclude_unset=False),
            model=request.model,
            prompt=request.prompt,
            size=f"{request.width}x{request.height}",
            seconds=request.frames / int(inputs["fps"] or 1),
            seed=seed,
            status="queued",
            created_at=time.time(),
        )
        self._store.put(video)
        try:
            self._begin(video, asked)
        except ApiError:
            self._store.delete(video.id)
            raise
        return video

    def _begin(self, video: Video, asked: Asked) -> None:
        (pending,) = accepted_now(submit(self._service, [asked]))
        self._pending[video.id] = pending
        pending.on_end(self._note_end)

    def _note_end(self, one: Pending) -> None:
        """From the controller's thread: the rest is done in ours."""
        self._ends.submit(self._ended, one)

    def _resume(self, video: Video) -> None:
        """The same request once more, with the same seed. What cannot be made any more has failed."""
        try:
            body = Filming.model_validate_json(video.asked)
            self._begin(video, ask_video(body, self._service, video.id, video.seed))
        except (ApiError, GfditError, ValueError) as error:
            self._store.put(_failed(video, "not_resumed", f"cannot go on after the restart: {error}"))

    def _ended(self, one: Pending) -> None:
        """One at a time, in a thread of ours. A job that was deleted stays so."""
        video = self._store.get(one.request.id)
        self._pending.pop(one.request.id, None)
        if video is None:
            return
        progress, output = one.progress, one.output
        if progress.outcome is Outcome.COMPLETED and output is not None:
            try:
                self._store.write(video.id, output)
            except OSError as error:
                self._store.put(_failed(video, "not_written", f"cannot write the video: {error.strerror}"))
                return
            went = json.dumps(how_it_went(self._service, one))
            kind = MP4 if output[4:8] == b"ftyp" else "application/octet-stream"
            self._store.put(replace(video, status="completed", completed_at=time.time(), media_type=kind, went=went))
        elif progress.code != "shutting_down" and self._service.accepting:
            why = not_completed(progress.outcome, progress.code, progress.message)
            self._store.put(_failed(video, why.code, why.message))
        # else: this server goes down; the next one makes it

    def _known(self, video_id: str, param: str = "video_id") -> Video:
        video = self._store.get(video_id)
        if video is None:
            raise ApiError(404, "video_not_found", f"there is no video `{video_id}` here (any more)", param=param)
        return video

    def _shown(self, video: Video) -> dict[str, Any]:
        """In OpenAI's words. Progress is in real steps."""
        pending = self._pending.get(video.id)
        status, progress = video.status, 100 if video.status == "completed" else 0
        if pending is not None and not video.ended and pending.progress.started_ns is not None:
            status = "in_progress"
            progress = min(99, 100 * pending.progress.steps_done // max(1, pending.progress.steps_total))
        expires = video.expires_at
        failed = {"code": video.error_code, "message": video.error_message}
        return {
            "id": video.id,
            "object": "video",
            "model": video.model,
            "status": status,
            "progress": progress,
            "created_at": int(video.created_at),
            "completed_at": None if video.completed_at is None else int(video.completed_at),
            "expires_at": None if expires is None else int(expires),
            "prompt": video.prompt,
            "size": video.size,
            "seconds": f"{video.seconds:g}",
            "error": failed if video.status == "failed" else None,
            "gfdit": json.loads(video.went) if video.went else {"id": video.id, "seed": video.seed},
        }

    def _file(self, video: Video) -> Response:
        path = self._store.path(video.id)
        if not path.is_file():
            raise ApiError(404, "video_not_found", f"the file of video `{video.id}` is gone", param="video_id")
        suffix = ".mp4" if video.media_type == MP4 else ".bin"
        return FileResponse(path, media_type=video.media_type, filename=f"{video.id}{suffix}")


def _failed(video: Video, code: str, message: str) -> Video:
    return replace(video, status="failed", completed_at=time.time(), error_code=code, error_message=message)


async def _body_of(request: Request) -> Filming:
    """JSON or a form, as clients like. Raises ApiError."""
    headers = scheduling_headers(request.headers)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return parse_filming(await read_body(request, MAX_BODY), headers)
    announced = request.headers.get("content-length", "")
    if not announced.isdigit() or int(announced) > MAX_BODY:
        raise ApiError(413, "body_too_large", f"a form must say its length, of at most {MAX_BODY} bytes")
    async with request.form(max_files=1, max_fields=64, max_part_size=MAX_BODY) as form:
        return parse_filming(_texts(form), headers)


def _texts(form: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    for name in form.keys() - texts.keys():
        message = f"`{name}` is a file: no model here starts from a picture"
        raise ApiError(400, "unknown_parameter", message, param=name)
    return texts


def install(app: FastAPI, videos: Videos) -> None:
    """Give `app` the routes."""
    schema = {"schema": body_schema(Filming)}
    body = {"content": {"application/json": schema, "multipart/form-data": schema}, "required": True}

    @app.post(PATH, openapi_extra={"requestBody": body})
    async def create(request: Request) -> Response:
        """Ask for a video: a job to look after."""
        return await videos.create(request)

    file: dict[int | str, dict[str, Any]] = {200: {"content": {MP4: {}, "application/octet-stream": {}}}}

    @app.post(f"{PATH}/sync", openapi_extra={"requestBody": body}, response_class=Response, responses=file)
    async def make(request: Request) -> Response:
        """Ask for a video and wait for its file."""
        return await videos.make(request)

    @app.get(PATH)
    def page(
        after: Annotated[str | None, Query(description="id of the last one seen")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """Jobs, newest first."""
        return videos.page(after, limit, order)

    @app.get(PATH + "/{video_id}")
    def get(video_id: str) -> dict[str, Any]:
        """How a job stands."""
        return videos.get(video_id)

    @app.get(PATH + "/{video_id}/content", response_class=Response, responses={**file, 206: file[200]})
    def content(
        video_id: str, variant: Annotated[Literal["video"], Query(description="only the video itself")] = "video"
    ) -> Response:
        """The file, or the part of it that a `Range` header asks for."""
        return videos.content(video_id)

    @app.delete(PATH + "/{video_id}")
    def delete(video_id: str) -> dict[str, Any]:
        """Forget a job; one that is not done is cancelled."""
        return videos.delete(video_id)
