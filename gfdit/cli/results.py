"""What a run leaves behind: pictures as they are finished and `summary.json`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from gfdit.live.results import Ticket

PNG = b"\x89PNG\r\n\x1a\n"
MP4 = b"ftyp"  # after the four bytes of a length
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Figures = Mapping[str, object]


def suffix_of(output: bytes) -> str | None:
    """`.png` or `.mp4`; None for what is neither, such as an emulated device's output."""
    if output.startswith(PNG):
        return ".png"
    return ".mp4" if output[4:8] == MP4 else None


class Pictures:
    """Writes `<folder>/<id>.png` (of a video `.mp4`) when a request has completed; `problems`: those that could not be
    written. Ids become safe file names, so that no request can write outside the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self.problems: list[str] = []
        self.written = 0

    def take(self, ticket: Ticket) -> None:
        """For `Ticket.on_end`. Output that is no picture (of an emulated device) is not written."""
        suffix = None if ticket.output is None else suffix_of(ticket.output)
        if ticket.output is None or suffix is None:
            return
        with self._lock:
            path = self._folder / f"{self._name(ticket.request.id)}{suffix}"
            try:
                path.write_bytes(ticket.output)
                self.written += 1
            except OSError as error:  # a full disk must not stop the service
                self.problems.append(f"cannot write `{path}`: {error.strerror}")

    def _name(self, request_id: str) -> str:
        base = UNSAFE.sub("_", request_id).lstrip(".") or "picture"
        name, number = base, 1
        while name.lower() in self._names:
            number += 1
            name = f"{base}-{number}"
        self._names.add(name.lower())
        return name


def write_summary(path: Path, figures: Figures) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
