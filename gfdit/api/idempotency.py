"""`Idempotency-Key`: a request that is sent again joins the work of the first one instead of starting it anew."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gfdit.api.errors import ApiError
from gfdit.api.service import Pending
from gfdit.core.work import Outcome

HEADER = "idempotency-key"
MOST_KEYS = 256
MOST_BYTES = 256 << 20  # of pictures that are kept for a retry
MOST_LENGTH = 255


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    pending: list[Pending]

    @property
    def useless(self) -> bool:
        """It ended without a picture: to try again is what a retry is for."""
        return any(one.ended and one.progress.outcome is not Outcome.COMPLETED for one in self.pending)

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(len(one.output or b"") for one in self.pending)


class Idempotency:
    """The newest keys and the work behind them. Used by the event loop alone."""

    def __init__(self, most_keys: int = MOST_KEYS, most_bytes: int = MOST_BYTES) -> None:
        self._most_keys, self._most_bytes = most_keys, most_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def join(self, key: str, asked: bytes, submit: Callable[[], list[Pending]]) -> list[Pending]:
        """The work that `key` stands for, submitted if there is none. `asked`: what must be equal for a key to be
        used again. Raises ApiError when it is not, and what `submit` raises."""
        if not 1 <= len(key) <= MOST_LENGTH:
            message = f"`Idempotency-Key` has {len(key)} characters: 1 to {MOST_LENGTH}"
            raise ApiError(400, "invalid_value", message, param=HEADER)
        digest = hashlib.sha256(asked).digest()
        entry = self._entries.get(key)
        if entry is not None and entry.digest != digest:
            message = "this `Idempotency-Key` was used for another request; use a new one"
            raise ApiError(400, "idempotency_mismatch", message, param=HEADER)
        if entry is None or entry.useless:
            entry = self._entries[key] = _Entry(digest, submit())
        self._entries.move_to_end(key)
        self._forget()
        return entry.pending

    def _forget(self) -> None:
        """The oldest keys, over either limit; never the newest."""
        size = sum(entry.size for entry in self._entries.values())
        while len(self._entries) > 1 and (len(self._entries) > self._most_keys or size > self._most_bytes):
            _, oldest = self._entries.popitem(last=False)
            size -= oldest.size
