"""Bodies of requests, read no further than they may be long."""

from __future__ import annotations

from fastapi import Request
from starlette.requests import ClientDisconnect

from gfdit.api.errors import ApiError

CLIENT_CLOSED = 499  # nobody reads it; servers log it


async def read_body(request: Request, most: int) -> bytes:
    """The body, refused as soon as it is known to be longer than `most` bytes. Raises ApiError."""
    too_long = ApiError(413, "body_too_large", f"the body is longer than {most} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_long
    chunks = bytearray()
    try:
        async for chunk in request.stream():
            chunks += chunk
            if len(chunks) > most:
                raise too_long
    except ClientDisconnect:
        raise ApiError(CLIENT_CLOSED, "cancelled", "the client closed the connection") from None
    return bytes(chunks)
