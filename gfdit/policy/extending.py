"""Finds what a policy `extends`, and gives the text of both together. Imports neither numpy nor the scheduler."""

from __future__ import annotations

from pathlib import Path

from gfdit.errors import UsageError
from gfdit.lang.extends import Find, expand
from gfdit.policy import library


def expanded(text: str, folder: Path | None) -> str:
    """The whole policy. Its base is looked for in `folder` first, then among the shipped policies."""

    def beside(name: str) -> str | None:
        path = None if folder is None else folder / f"{name}{library.SUFFIX}"
        try:
            return path.read_text(encoding="utf-8") if path is not None and path.is_file() else None
        except (OSError, UnicodeDecodeError):
            return None

    return expanded_with(text, beside)


def expanded_with(text: str, first: Find) -> str:
    """The whole policy. Its base is what `first` gives, else a shipped policy."""

    def find(name: str) -> str | None:
        found = first(name)
        if found is not None:
            return found
        try:
            return library.shipped_policy(name).read_text(encoding="utf-8")
        except (UsageError, OSError, UnicodeDecodeError):
            return None

    return expand(text, find)
