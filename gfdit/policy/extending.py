"""Finds what a policy `extends`, and gives the text of both together. Imports neither numpy nor the scheduler."""

from __future__ import annotations

from pathlib import Path

from gfdit.errors import UsageError
from gfdit.lang.extends import expand
from gfdit.policy import library


def expanded(text: str, folder: Path | None) -> str:
    """The whole policy. Its base is looked for in `folder` first, then among the shipped policies."""

    def find(name: str) -> str | None:
        beside = None if folder is None else folder / f"{name}{library.SUFFIX}"
        try:
            path = beside if beside is not None and beside.is_file() else library.shipped_policy(name)
            return path.read_text(encoding="utf-8")
        except (UsageError, OSError, UnicodeDecodeError):
            return None

    return expand(text, find)
