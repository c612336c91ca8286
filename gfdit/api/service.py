"""What the HTTP side needs of a system: a handful of methods that the live system's adapter satisfies. Types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from gfdit.core.work import Outcome, Request
from gfdit.runtime.keyed import Key
from gfdit.runtime.status import Status

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Served:
    """One model as clients see it. Sizes are pixels; `defaults`: its inputs when a client leaves them out; `draws`:
    whether its outputs are pictures or videos (those of emulated devices are not). `video`: they have frames, one more
    than a multiple of `frame_factor`."""

    name: str
    default_width: int
    default_height: int
    default_steps: int
    multiple_of: int
    min_side: int
    max_side: int
    guided: bool
    defaults: Mapping[str, Value] = field(default_factory=dict)
    max_steps: int = 1000
    draws: bool = True
    video: bool = False
    default_frames: int = 1
    frame_factor: int = 1
    max_frames: int = 1
    fps: int = 1


class ProgressView(Protocol):
    """How far a request is. Times are nanoseconds of the system's clock."""

    @property
    def steps_done(self) -> int: ...
    @property
    def steps_total(self) -> int: ...
    @property
    def degrees(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def cache(self) -> float:
        """The share of the work that cached features may replace, as admission set it; known at its end."""
        ...

    @property
    def resizes(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def migrations(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def arrived_ns(self) -> int | None: ...
    @property
    def started_ns(self) -> int | None: ...
    @property
    def ended_ns(self) -> int | None: ...
    @property
    def deadline_ns(self) -> int | None:
        """The deadline that it was held to, its class's if it brought none; known at its end."""
        ...

    @property
    def on_time(self) -> bool: ...
    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...


class Pending(Protocol):
    """A request that was accepted: its progress and, at its end, its output. Safe to use from any thread."""

    @property
    def request(self) -> Request: ...
    @property
    def progress(self) -> ProgressView: ...
    @property
    def output(self) -> bytes | None: ...
    @property
    def ended(self) -> bool: ...

    def wait_change(self, seen: int, timeout: float | None = None) -> int:
        """Wait until the progress is newer than version `seen` (start with 0); returns its version, or `seen`."""
        ...

    def on_end(self, callback: Callable[[Pending], None]) -> None:
        """Call back once it has ended, from any thread; at once if it has."""
        ...


class Service(Protocol):
    """The system behind the API. All of it may be called from any thread."""

    @property
    def models(self) -> Mapping[str, Served]:
        """Models that requests may name; the first is the default."""
        ...

    @property
    def policy(self) -> str:
        """Name of the policy in charge."""
        ...

    @property
    def policy_version(self) -> int: ...
    @property
    def policy_sha(self) -> str:
        """SHA-256 of its text and of params that were changed."""
        ...

    @property
    def policy_text(self) -> str:
        """Its text."""
        ...

    @property
    def ranks(self) -> int:
        """How many it was started with."""
        ...

    @property
    def accepting(self) -> bool:
        """False once the system drains."""
        ...

    def tokens(self, model: str, width: int, height: int, frames: int = 1) -> int:
        """Latent tokens of a picture or a video. Raises InputError when they are not known."""
        ...

    def submit(
        self, requests: Sequence[tuple[Request, Mapping[str, Value]]], key: Key | None = None
    ) -> Future[Sequence[Pending]]:
        """Accept all or none; done once they are accepted for good. An id that the system knows from before a restart
        stands for what it knows. Raises InputError for a request that cannot be served, QueueFull when too many wait,
        ShuttingDown after the end of service; the future fails with StorageFull when they cannot be written down."""
        ...

    def keyed(self, key: str) -> tuple[bytes, Sequence[Pending]] | None:
        """What was asked for under the key before a restart, as a digest, and what became of it."""
        ...

    def cancel(self, request_id: str) -> None:
        """The client gave up."""
        ...

    def status(self, *, detail: bool) -> Status:
        """How the system is; `detail`: with what the last minute looked like."""
        ...

    def simulate(self, policy_text: str) -> Mapping[str, Any]:
        """The last hour's requests under another policy and under the present one, simulated: `{"requests",
        "seconds", "tried", "present"}`, the last two as `gfdit sim --json` prints them. Takes seconds. Raises
        GfditError for a text that does not check, when nothing arrived, or when one runs already."""
        ...

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Metrics for a scraper that sent this `Accept` header, and their content type."""
        ...
