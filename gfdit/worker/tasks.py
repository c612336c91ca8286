"""What a worker is asked and what it answers: plain frozen data, free of torch, so that any part may import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gfdit.core.parallel import Parallel, split_degree
from gfdit.core.work import SINGLE_RANK_STAGES, Stage
from gfdit.core.work import ModelFacts as SchedulerFacts
from gfdit.errors import StateError

Input = str | int | float | bool | None

#: The stages that a worker knows, in order.
WORKER_STAGES = (Stage.ENCODE, Stage.PREPARE, Stage.DENOISE, Stage.DECODE, Stage.FINALIZE)

#: Groups beyond this are legal for no model: a lease's membership is bounded by the data plane.
MAX_DEGREE = 16


@dataclass(frozen=True, slots=True)
class Task:
    """One stage of one trajectory, or `steps` denoising steps from `first_step`, on the ordered group `ranks`.

    `sources`: ranks that hold the newest state, in any order; () when every member already does. `inputs` are the
    client's (prompt, height, seed, ...), read by `encode` only. `restore`: a state kept outside the workers (see
    `join_state`), given to every member when no rank can give it. `parallel.degree` equals the number of ranks for
    `denoise`. `encode`, `decode` and `finalize` use the first rank alone; `prepare` is repeated on every rank, as
    cheap.
    """

    epoch: int
    request_id: str
    stage: Stage
    ranks: tuple[int, ...]
    first_step: int = 0
    steps: int = 1
    sources: tuple[int, ...] = ()
    parallel: Parallel = field(default_factory=Parallel)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    restore: bytes | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", Stage(self.stage))

    @property
    def members(self) -> tuple[int, ...]:
        """Ranks that do the work."""
        return self.ranks[:1] if self.stage in SINGLE_RANK_STAGES else self.ranks

    @property
    def has_handover(self) -> bool:
        """Whether some member has to be given the state by another rank."""
        return bool(self.sources) and not set(self.members) <= set(self.sources)

    @property
    def participants(self) -> tuple[int, ...]:
        """Ranks that take part, members first. A source outside the group serves only when no member holds the state;
        on all other ranks the task returns at once."""
        if not self.has_handover or set(self.members) & set(self.sources):
            return self.members
        return self.members + tuple(rank for rank in self.sources if rank not in self.members)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a rank did. States and output come from the group's first rank only.

    `cold` (after `encode` and `prepare`) replaces whatever the controller kept of the request before; `hot` (after
    `denoise`) changes with every step and belongs to the newest cold one. `done`: denoising steps completed so far,
    `total`: steps of the trajectory, known from `prepare` on. `output`: a PNG or MP4 file, after `finalize`.
    `collectives` and `bytes_moved` count this rank's calls and what it received.
    """

    epoch: int
    request_id: str
    done: int = 0
    total: int | None = None
    cold: bytes | None = None
    hot: bytes | None = None
    output: bytes | None = None
    handover_s: float = 0.0
    compute_s: float = 0.0
    collectives: int = 0
    bytes_moved: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Heights and widths that a model was made for, in pixels."""

    multiple_of: int = 1
    min_side: int = 1
    max_side: int = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What others need to know of a loaded model; the model itself stays in the worker.

    `token_height`, `token_width`: pixels that one latent token covers. `frame_factor`: frames that one latent frame
    covers (1 for images). `degrees`: legal group sizes of a denoising step, ascending. `branches`: passes of the
    transformer a guided step takes. `defaults`: inputs used when the client leaves them out. `video`: whether what it
    makes has frames.
    """

    name: str
    family: str
    heads: int
    degrees: tuple[int, ...]
    branches: int
    token_height: int
    token_width: int
    frame_factor: int
    defaults: Mapping[str, Input]
    video: bool = False

    @property
    def supports_cfg(self) -> bool:
        return self.branches > 1

    def tokens(self, height: int, width: int, frames: int = 1) -> int:
        """Latent tokens of a picture of `height` x `width` pixels, or of a video of `frames` such pictures."""
        latent_frames = (frames - 1) // self.frame_factor + 1
        return (height // self.token_height) * (width // self.token_width) * latent_frames

    def parallel(self, degree: int, *, guided: bool) -> Parallel:
        """The split of `degree` ranks that this model runs best; guided: whether the request uses both branches."""
        return split_degree(degree, heads=self.heads, cfg_branches=self.branches if guided else 1)

    def for_scheduler(self) -> SchedulerFacts:
        """The same, as far as scheduling is concerned."""
        return SchedulerFacts(self.name, WORKER_STAGES, self.degrees, self.heads, self.supports_cfg)


def join_state(cold: bytes, hot: bytes | None = None) -> bytes:
    """One `Task.restore` from the newest cold state and the newest hot one that belongs to it (None before step 0)."""
    return len(cold).to_bytes(8, "little") + cold + (hot or b"")


def split_state(restore: bytes) -> tuple[bytes, bytes | None]:
    """The inverse of `join_state`. Raises StateError when the lengths do not add up."""
    length = int.from_bytes(restore[:8], "little")
    if len(restore) < 8 or length > len(restore) - 8:
        raise StateError(f"a stored state of {len(restore)} bytes says that its cold part has {length} bytes")
    return restore[8 : 8 + length], restore[8 + length :] or None
