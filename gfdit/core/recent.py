"""The latest of an endless stream of ids, so that a server that never stops does not remember for ever."""

from __future__ import annotations

from collections.abc import Iterator

IDS_REMEMBERED = 1 << 16  # of requests that ended: an id may be used again after so many others


class Recent:
    """A set of the latest `most` ids that were added; older ones are forgotten, first come first."""

    def __init__(self, most: int = IDS_REMEMBERED) -> None:
        self._most = most
        self._ids: dict[str, None] = {}  # in the order they came

    def add(self, request_id: str) -> None:
        self._ids.pop(request_id, None)
        self._ids[request_id] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)
