"""The OpenAPI document, made true: every route may answer with the one error object, and none with FastAPI's own."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

_TEXT = {"type": ["string", "null"]}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": _TEXT, "code": _TEXT},
        }
    },
}
_ANSWER = {"description": "What is wrong", "content": {"application/json": {"schema": ERROR}}}
_KEYS = {
    "key": {"type": "http", "scheme": "bearer", "description": "an API key, where the server wants one"},
    "password": {"type": "http", "scheme": "basic", "description": "the API key as password, any user name"},
}


def describe(app: FastAPI) -> None:
    """Call when all routes are there."""
    document = app.openapi()
    for path in document["paths"].values():
        for operation in path.values():
            responses: dict[str, Any] = operation["responses"]
            responses.pop("422", None)
            responses["default"] = _ANSWER
    parts = document.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    parts["securitySchemes"] = _KEYS
    document["security"] = [{}, {"key": []}, {"password": []}]
