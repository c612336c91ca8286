"""What is scheduled: requests, the stages of their trajectories, and what the scheduler knows about a model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Stages of a trajectory, in the order they run. `DENOISE` repeats once a step."""

    ENCODE = "encode"
    PREPARE = "prepare"
    TIMESTEPS = "timesteps"
    DENOISE = "denoise"
    DECODE = "decode"
    FINALIZE = "finalize"


STAGES: tuple[Stage, ...] = tuple(Stage)

# These occupy one rank of the group; the others use all of it.
SINGLE_RANK_STAGES = frozenset({Stage.ENCODE, Stage.DECODE, Stage.FINALIZE})


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for. Times are nanoseconds; `priority`: higher is sooner.

    `class_name` is the class the client (or the workload file) named; a policy with `class` clauses may assign another.
    `slo_ns` is the relative budget: deadline = arrival + slo. `None` means no budget of its own.
    """

    id: str
    model: str
    class_name: str
    arrival_ns: int
    height: int
    width: int
    steps: int
    tokens: int
    frames: int = 1
    text_tokens: int = 0
    cfg: bool = False
    priority: int = 0
    slo_ns: int | None = None
    tag: str = ""
    tenant: str = ""
    preemptible: bool = True
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0

    @property
    def pixels(self) -> int:
        """Pixels of the whole output: height x width x frames."""
        return self.height * self.width * self.frames


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the scheduler needs to know of a model: never the model itself.

    `stages` is the chain a trajectory runs, `degrees` the legal group sizes of its denoising steps (ascending).
    """

    name: str
    stages: tuple[Stage, ...]
    degrees: tuple[int, ...]
    heads: int = 1
    cfg_parallel: bool = False


class Outcome(StrEnum):
    """The terminal states of a request; every accepted request ends in exactly one."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
