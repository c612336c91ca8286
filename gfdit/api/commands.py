"""What an operator may tell a running system about its requests; by the same right as about its policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Depends, FastAPI

from gfdit.api.errors import ApiError
from gfdit.api.policies import Guard
from gfdit.api.service import Service


def install(app: FastAPI, service: Service, tokens: Sequence[str]) -> None:
    """Give `app` the commands. `tokens`: as those of `Control`."""

    @app.post("/gfdit/requests/{request_id}/cancel", dependencies=[Depends(Guard(tokens))])
    def cancel(request_id: str) -> dict[str, Any]:
        """End a live request; its client is told that it was cancelled."""
        if all(request.id != request_id for request in service.status(detail=False).requests):
            raise ApiError(404, "request_not_found", f"no request `{request_id[:100]}` lives here", param="request_id")
        service.cancel(request_id)
        return {"id": request_id, "cancelled": True}
