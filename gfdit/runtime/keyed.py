"""A client's own name for what it asks, with which it may ask again: what HTTP calls an `Idempotency-Key`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """`asked`: a digest of what was asked for, which must be the same whenever the key is used."""

    text: str
    asked: bytes
