"""The page at `/`: its three files, the events it lives on, and what it may ask about policies.

The page is a client like any other: everything that it shows and does goes through the routes that are documented.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from gfdit.api.errors import ApiError
from gfdit.api.feed import StatusFeed
from gfdit.api.service import Service
from gfdit.errors import GfditError
from gfdit.lang.check import check as check_source
from gfdit.lang.render import record
from gfdit.lang.source import Source
from gfdit.policy import library
from gfdit.policy.extending import expanded
from gfdit.policy.vocabulary import schema

MOST_TEXT = 64 << 10
EVENT_STREAM = "text/event-stream"
_FILES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; form-action 'none'",
}


class PolicyText(BaseModel):
    """A policy in the language."""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: Annotated[str, Field(max_length=MOST_TEXT)]


def install(app: FastAPI, service: Service, feed: StatusFeed) -> None:
    """Give `app` the page and its routes."""

    @app.get("/", response_class=Response, include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", response_class=Response, include_in_schema=False)
    async def part(name: str) -> Response:
        return _file(name)

    @app.get("/gfdit/events", response_class=StreamingResponse, responses={200: {"content": {EVENT_STREAM: {}}}})
    async def events() -> StreamingResponse:
        """The detailed status as server-sent events, about twice a second."""
        return StreamingResponse(feed.events(), media_type=EVENT_STREAM, headers={"cache-control": "no-store"})

    @app.get("/gfdit/policy")
    def policy() -> dict[str, str]:
        """The text of the policy in charge."""
        return {"name": service.policy, "text": service.policy_text}

    @app.post("/gfdit/policy/check")
    def check(body: PolicyText) -> dict[str, Any]:
        """What `gfdit check --format json` says of a text. Changes nothing."""
        source = Source(expanded(body.text, None), "policy.pol")  # only shipped policies can be extended from here
        checked = check_source(source, schema(), gpus=service.ranks, policies=library.names())
        return {"ok": checked.ok, "diagnostics": [record(item) for item in checked.diagnostics]}

    @app.post("/gfdit/policy/simulate")
    async def simulate(body: PolicyText) -> dict[str, Any]:
        """How the requests of the last hour would have fared, under this policy and under the one in charge."""
        try:
            return dict(await anyio.to_thread.run_sync(service.simulate, body.text))
        except GfditError as error:
            raise ApiError(400, "cannot_simulate", str(error), param="text") from None


def _file(name: str) -> Response:
    if name not in _FILES:
        raise ApiError(404, "unknown_route", f"there is no `/page/{name}`")
    content = files("gfdit.api").joinpath("page", name).read_bytes()
    return Response(content, media_type=_FILES[name], headers=_HEADERS)
