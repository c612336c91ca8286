"""The HTTP server in a thread of its own, so that the controller's loop keeps the main one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import uvicorn

from gfdit.api.access import AccessKeys
from gfdit.api.app import create_app
from gfdit.api.feed import StatusFeed
from gfdit.api.policies import Control
from gfdit.api.request_ids import RequestIds
from gfdit.api.service import Service
from gfdit.api.video_store import VideoStore
from gfdit.api.videos import Videos
from gfdit.errors import UsageError
from gfdit.runtime.blobs import Blobs

STOP_S = 10.0


class HttpServer:
    """Listens from construction on; port 0 takes a free one. `keys`: API keys, none: everybody may ask.
    `control`: takes commands about the policy, None: nobody does. `videos`: the folder for video jobs, None:
    none are taken. `results`: where pictures that are fetched by URL outlive it, None: they do not.
    Raises UsageError when the port is taken."""

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        keys: Sequence[str] = (),
        control: Control | None = None,
        videos: Path | None = None,
        results: Blobs | None = None,
    ) -> None:
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"cannot listen on {host}:{port}: {reason.lower()}", hint="choose another `--port`"
            ) from None
        self._host, self._port = host, self._socket.getsockname()[1]
        self._feed = StatusFeed(service)
        self._videos = None if videos is None else Videos(service, VideoStore(videos))
        config = uvicorn.Config(
            RequestIds(AccessKeys(create_app(service, self._feed, control, self._videos, results), keys)),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=round(STOP_S),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let answers that are under way go out, then stop."""
        self._feed.close()  # an answer without an end
        self._server.should_exit = True
        self._thread.join(2 * STOP_S)
        if self._videos is not None:
            self._videos.close()
        self._socket.close()
