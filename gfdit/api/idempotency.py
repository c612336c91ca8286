"""`Idempotency-Key`: a request that is sent again joins the work of the first one instead of starting it anew."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from gfdit.api.errors import ApiError
from gfdit.api.service import Pending
from gfdit.api.submitting import Work
from gfdit.core.work import Outcome
from gfdit.runtime.keyed import Key

HEADER = "idempotency-key"
MOST_KEYS = 256
MOST_BYTES = 256 << 20  # of pictures that are kept for a retry
MOST_LENGTH = 255

Recall = Callable[[str], tuple[bytes, Sequence[Pending]] | None]


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    work: Work

    @property
    def pending(self) -> Sequence[Pending]:
        """None while it is not accepted."""
        return self.work.result() if self.work.done() and self.work.exception() is None else ()

    @property
    def useless(self) -> bool:
        """It was not accepted, or ended without a picture: to try again is what a retry is for."""
        if self.work.done() and self.work.exception() is not None:
            return True
        return any(one.ended and one.progress.outcome is not Outcome.COMPLETED for one in self.pending)

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(len(one.output or b"") for one in self.pending)


class Idempotency:
    """The newest keys and the work behind them. Used by the event loop alone. `recall`: knows older keys, those of
    before a restart among them."""

    def __init__(
        self, most_keys: int = MOST_KEYS, most_bytes: int = MOST_BYTES, recall: Recall = lambda key: None
    ) -> None:
        self._most_keys, self._most_bytes = most_keys, most_bytes
        self._recall = recall
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def join(self, key: str, asked: bytes, submit: Callable[[Key], Work]) -> Work:
        """The work that `key` stands for, submitted if there is none. `asked`: what must be equal for a key to be
        used again. Raises ApiError when it is not, and what `submit` raises."""
        if not 1 <= len(key) <= MOST_LENGTH:
            message = f"`Idempotency-Key` has {len(key)} characters: 1 to {MOST_LENGTH}"
            raise ApiError(400, "invalid_value", message, param=HEADER)
        digest = hashlib.sha256(asked).digest()
        entry = self._entries.get(key) or self._recalled(key)
        if entry is not None and entry.digest != digest:
            message = "this `Idempotency-Key` was used for another request; use a new one"
            raise ApiError(400, "idempotency_mismatch", message, param=HEADER)
        if entry is None or entry.useless:
            entry = _Entry(digest, submit(Key(key, digest)))
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self._forget()
        return entry.work

    def _recalled(self, key: str) -> _Entry | None:
        known = self._recall(key)
        if known is None:
            return None
        digest, pending = known
        work: Work = Future()
        work.set_result(pending)
        return _Entry(digest, work)

    def _forget(self) -> None:
        """The oldest keys, over either limit; never the newest."""
        size = sum(entry.size for entry in self._entries.values())
        while len(self._entries) > 1 and (len(self._entries) > self._most_keys or size > self._most_bytes):
            _, oldest = self._entries.popitem(last=False)
            size -= oldest.size
