"""Messages to frames and back: `[JSON header, raw blob, ...]`, one direction at a time.

The header is `{"blobs": [[field, bytes], ...], "message": {"type": ..., ...}}`. Decoding trusts nothing: types are
strict, unknown fields are refused, sizes are bounded and have to match; whatever does not fit raises WireError and
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Generic, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gfdit.errors import WireError
from gfdit.wire import messages
from gfdit.wire.messages import Blob, ToController, ToWorker

MAX_HEADER = 256 * 1024
MAX_FRAME = 64 * 1024 * 1024
MAX_BLOBS = 4

Message = TypeVar("Message")
Frame = bytes | memoryview


class Codec(Generic[Message]):
    """One direction's union of messages, compiled once."""

    def __init__(self, union: object) -> None:
        self._adapter: TypeAdapter[_Envelope[Message]] = TypeAdapter(
            _Envelope[Annotated[union, Field(discriminator="type")]]  # type: ignore[valid-type]
        )

    def encode(self, message: Message) -> list[bytes]:
        """Raises WireError for a message that its reader would refuse for its size."""
        names = _BLOB_FIELDS[type(message)]
        blobs = [(name, blob) for name in names if (blob := getattr(message, name)) is not None]
        bare = replace(message, **dict.fromkeys(names)) if blobs else message  # type: ignore[type-var]
        header = self._adapter.dump_json(_Envelope(bare, tuple((name, len(blob)) for name, blob in blobs)))
        frames = [header, *(blob for _, blob in blobs)]
        _check_sizes(frames)
        return frames

    def decode(self, frames: Sequence[Frame]) -> Message:
        """Raises WireError for frames that are not exactly one message of this direction."""
        _check_sizes(frames)
        try:
            envelope = self._adapter.validate_json(bytes(frames[0]))
        except (ValidationError, RecursionError) as error:
            raise WireError(f"a message does not decode: {_first_problem(error)}") from None
        message, blobs = envelope.message, frames[1:]
        allowed = _BLOB_FIELDS[type(message)]
        names = [name for name, _ in envelope.blobs]
        if len(set(names)) != len(names) or not set(names) <= set(allowed):
            raise WireError(f"`{type(message).__name__}` cannot carry the blobs {names}")
        if [size for _, size in envelope.blobs] != [len(blob) for blob in blobs]:
            raise WireError(f"`{type(message).__name__}` announces other blobs than the frames that follow it")
        values = {name: bytes(blob) for name, blob in zip(names, blobs, strict=True)}
        return replace(message, **values) if values else message  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class _Envelope(Generic[Message]):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    message: Message
    blobs: Annotated[tuple[tuple[str, int], ...], Field(max_length=MAX_BLOBS)] = ()


def _check_sizes(frames: Sequence[Frame]) -> None:
    if not 1 <= len(frames) <= 1 + MAX_BLOBS:
        raise WireError(f"a message has 1 to {1 + MAX_BLOBS} frames, not {len(frames)}")
    if len(frames[0]) > MAX_HEADER:
        raise WireError(f"a header of {len(frames[0])} bytes exceeds {MAX_HEADER}")
    for frame in frames[1:]:
        if len(frame) > MAX_FRAME:
            raise WireError(f"a blob of {len(frame)} bytes exceeds {MAX_FRAME}")


def _first_problem(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:200] or 'header'}: {first['msg'][:200]}"


def _blob_fields(kind: type) -> tuple[str, ...]:
    hints: Mapping[str, object] = get_type_hints(kind, vars(messages), include_extras=True)
    return tuple(field.name for field in fields(kind) if hints[field.name] == Blob)


_BLOB_FIELDS = {kind: _blob_fields(kind) for union in (ToWorker, ToController) for kind in union.__args__}

TO_WORKER: Codec[ToWorker] = Codec(ToWorker)
TO_CONTROLLER: Codec[ToController] = Codec(ToController)
