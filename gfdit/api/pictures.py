"""Pictures on their way to clients: in the format that was asked for, and under a URL for a while."""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from gfdit.errors import StorageFull
from gfdit.runtime.blobs import Blobs

Format = Literal["png", "jpeg", "webp"]
MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
BEST = 100


def encode(png: bytes, to: Format, compression: int = BEST) -> bytes:
    """`png` as `to`; `compression` 0 (smallest) to 100 (best), which PNG, being lossless, has no use for."""
    if to == "png":
        return png
    out = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=["png"]) as picture:
        picture.convert("RGB").save(out, to, quality=max(1, compression))
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Kept:
    """One picture."""

    content: bytes
    media_type: str


class PicturesOnDisk:
    """Pictures among the results on disk, under the names of their digests, which nobody can guess who has not seen
    the picture."""

    def __init__(self, results: Blobs) -> None:
        self._results = results

    def put(self, content: bytes, kind: Format) -> str:
        """The name under which it is kept until newer results need the room. Raises StorageFull."""
        try:
            return f"{self._results.put(content)}.{kind}"
        except OSError as error:
            raise StorageFull(f"cannot write the picture: {error.strerror}") from None

    def get(self, name: str) -> Kept | None:
        digest, _, kind = name.partition(".")
        content = self._results.get(digest)
        known = next((media for one, media in MEDIA_TYPES.items() if one == kind), None)
        return None if content is None or known is None else Kept(content, known)


class PictureStore:
    """The newest pictures that clients may fetch by name, `most_bytes` of them in all. Names cannot be guessed."""

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self._most = most_bytes
        self._size = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, content: bytes, kind: Format) -> str:
        """The name under which it is kept until newer ones need the room."""
        name = f"{secrets.token_urlsafe(18)}.{kind}"
        with self._lock:
            self._kept[name] = Kept(content, MEDIA_TYPES[kind])
            self._size += len(content)
            while self._size > self._most and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._size -= len(oldest.content)
        return name

    def get(self, name: str) -> Kept | None:
        with self._lock:
            return self._kept.get(name)
