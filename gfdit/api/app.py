"""The routes, and who serves them: pictures are made in `images.py`; what tells about the system is here."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response

from gfdit import __version__
from gfdit.api import commands, policies, site, videos
from gfdit.api.document import describe
from gfdit.api.errors import ApiError, install, shutting_down
from gfdit.api.feed import StatusFeed
from gfdit.api.images import EVENT_STREAM, PATH, Images
from gfdit.api.pictures import MEDIA_TYPES
from gfdit.api.schema import Generation, body_schema
from gfdit.api.service import Service
from gfdit.runtime.blobs import Blobs
from gfdit.runtime.status import Status


def create_app(
    service: Service,
    feed: StatusFeed,
    control: policies.Control | None = None,
    films: videos.Videos | None = None,
    results: Blobs | None = None,
) -> FastAPI:
    """The whole HTTP side of one system, without `RequestIds`, which goes around it. `feed`: what the page lives on;
    `control`: takes commands about the policy, None: nobody does; `films`: makes videos, None: nobody does;
    `results`: where pictures that are fetched by URL are kept, None: in memory."""
    app = FastAPI(title="gfdit", version=__version__, docs_url=None, redoc_url=None)
    install(app)
    _health_routes(app, service)
    _model_routes(app, service)
    _system_routes(app, service)
    _image_routes(app, Images(service, results))
    site.install(app, service, feed)
    if films is not None:
        videos.install(app, films)
    if control is not None:
        policies.install(app, control)
        commands.install(app, service, control.tokens)
    describe(app)
    return app


def _health_routes(app: FastAPI, service: Service) -> None:
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


def _model_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What the `model` of a request may be; the first is the default."""
        return {"object": "list", "data": [_model_object(name) for name in service.models]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in service.models:
            raise ApiError(404, "model_not_found", f"there is no model `{name}` here", param="model")
        return _model_object(name)


def _model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gfdit"}


def _system_routes(app: FastAPI, service: Service) -> None:
    @app.get("/gfdit/status")
    def status(detail: Annotated[bool, Query(description="with what the last minute looked like")] = False) -> Status:
        """Workers, policy, queue, attainment and every live request."""
        return service.status(detail=detail)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics(request: Request) -> Response:
        """For Prometheus."""
        content, media_type = service.metrics(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": media_type})


def _image_routes(app: FastAPI, images: Images) -> None:
    body = {"content": {"application/json": {"schema": body_schema(Generation)}}, "required": True}

    @app.post(PATH, openapi_extra={"requestBody": body}, responses={200: {"content": {EVENT_STREAM: {}}}})
    async def generate(request: Request) -> Response:
        """Make pictures from a prompt; with `stream`, report each step."""
        return await images.generate(request)

    kinds: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}}

    @app.get("/v1/images/files/{name}", response_class=Response, responses=kinds)
    def picture(name: str) -> Response:
        """A picture that was asked for as a `url`, as long as it is kept."""
        kept = images.store.get(name)
        if kept is None:
            raise ApiError(404, "picture_not_found", f"there is no picture `{name}` here (any more)", param="name")
        return Response(kept.content, media_type=kept.media_type)
