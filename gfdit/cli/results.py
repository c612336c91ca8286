"""What a run leaves behind: pictures as they are finished and `summary.json`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from gfdit.live.results import Ticket

PNG = b"\x89PNG\r\n\x1a\n"
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Figures = Mapping[str, object]


class Pictures:
    """Writes `<folder>/<id>.png` when a request has completed; `problems`: those that could not be written. Ids
    become safe file names, so that no request can write outside the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self.problems: list[str] = []
        self.written = 0

    def take(self, ticket: Ticket) -> None:
        """For `Ticket.on_end`. Output that is no picture (of an emulated device) is not written."""
        if ticket.output is None or not ticket.output.startswith(PNG):
            return
        with self._lock:
            path = self._folder / f"{self._name(ticket.request.id)}.png"
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
