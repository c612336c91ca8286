"""Which epochs are to be given up: written by the thread that hears the controller, read by the one that works."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gfdit.errors import TaskAborted

KEPT = 4096  # an abort may come before its task, or after its end


class AbortBoard:
    """Epochs to be given up. Remembers the latest ones, as an abort may come before its task."""

    def __init__(self) -> None:
        self._reasons: dict[int, str] = {}
        self._changed = threading.Condition()
        self._listener: Callable[[int, str], object] | None = None

    def listen(self, listener: Callable[[int, str], object]) -> None:
        """Call this, from the adding thread, for every abort from now on."""
        self._listener = listener

    def add(self, epoch: int, reason: str) -> None:
        with self._changed:
            self._reasons[epoch] = reason
            while len(self._reasons) > KEPT:
                del self._reasons[next(iter(self._reasons))]
            self._changed.notify_all()
        if self._listener is not None:
            self._listener(epoch, reason)

    def __contains__(self, epoch: int) -> bool:
        return epoch in self._reasons

    def check(self, epoch: int) -> None:
        """Raises TaskAborted if this epoch is to be given up."""
        reason = self._reasons.get(epoch)
        if reason is not None:
            raise TaskAborted(reason)

    def sleep(self, epoch: int, seconds: float) -> None:
        """Raises TaskAborted as soon as this epoch is to be given up."""
        with self._changed:
            self._changed.wait_for(lambda: epoch in self._reasons, max(0.0, seconds))
        self.check(epoch)
