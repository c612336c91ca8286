"""What a policy asks for. The scheduler checks, places and keeps the books; a proposal changes nothing by itself.

Rows are indices into the view the proposal answers. `Because` names the clause that decided, so that `explain` can
quote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Protocol

import numpy as np

from gfdit.core.view import I1, I8, Reservation, View


@dataclass(frozen=True, slots=True)
class Because:
    """`clause`: its name as in the policy ("order", "sp, 1st alternative"); `line`: 1-based, 0 when there is none;
    `values`: up to four compared values, rendered."""

    clause: str
    line: int = 0
    values: tuple[tuple[str, str], ...] = ()


class WaitReason(StrEnum):
    """Why a live request has no ranks: the closed list, faults first."""

    NO_STAGE_CLAUSE = "no_stage_clause"
    NEVER_FITS = "never_fits"
    DEFERRED = "deferred"
    SET_ASIDE = "set_aside"
    LANE_FULL = "lane_full"
    BATCH_WINDOW = "batch_window"
    RESERVED = "reserved_for"
    POLICY_WAITS = "policy_waits"
    NO_FREE_GPU = "no_free_gpu"
    HOLDING = "holding"
    MIGRATING = "migrating"


WAIT_REASONS: tuple[WaitReason, ...] = tuple(WaitReason)
WAIT_CODE: dict[WaitReason, int] = {reason: code for code, reason in enumerate(WAIT_REASONS)}
NO_WAIT = -1


class Waits(Mapping[int, WaitReason]):
    """Row -> why it waits, over all rows of a view as one column: thousands wait, and few are ever asked about.

    `codes[N]`: WAIT_CODE, NO_WAIT for rows that do not wait for a reason of the policy's.
    """

    __slots__ = ("codes",)

    def __init__(self, codes: I1) -> None:
        self.codes = codes

    def __getitem__(self, row: int) -> WaitReason:
        code = int(self.codes[row]) if 0 <= row < len(self.codes) else NO_WAIT
        if code == NO_WAIT:
            raise KeyError(row)
        return WAIT_REASONS[code]

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self.codes != NO_WAIT).tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self.codes != NO_WAIT))

    def __repr__(self) -> str:
        return repr(dict(self))

    def reasons(self) -> frozenset[WaitReason]:
        """Those that some row waits for."""
        return frozenset(WAIT_REASONS[code] for code in np.unique(self.codes).tolist() if code != NO_WAIT)


class Fate(Enum):
    ADMIT = auto()
    REJECT = auto()
    DEFER = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The admission of one new row. `slo_s`: the class's budget, used when the request brings none. `steps`, `cache`:
    degraded values of these knobs. `message` answers the client on reject."""

    row: int
    fate: Fate
    class_name: str
    slo_s: float | None = None
    steps: int | None = None
    cache: float | None = None
    preemptible: bool | None = None
    message: str = ""
    because: Because | None = None


class Prefer(StrEnum):
    """How ranks are picked, in the order the policy lists them; `LAST_GPUS` (keep what it has) comes first by
    default."""

    LAST_GPUS = "last_gpus"
    SAME_NODE = "same_node"
    PACK = "pack"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Place:
    """Run the row's next task on `degree` ranks (those of its stage). Listed most important first.

    `within`: the only ranks that it may use; None: any.
    """

    row: int
    degree: int
    prefer: tuple[Prefer, ...] = (Prefer.LAST_GPUS, Prefer.SAME_NODE)
    because: Because | None = None
    within: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Cap:
    """A running victim may have at most `degree` ranks at its next boundary (0: pause), for `winner`'s sake."""

    row: int
    degree: int
    winner: int
    because: Because | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """Reject a live row that has not run (triage `then reject`)."""

    row: int
    message: str
    because: Because | None = None


class Occasion(StrEnum):
    """What a policy may ask to be evaluated on."""

    ARRIVAL = "arrival"
    STEP_END = "step_end"
    STAGE_END = "stage_end"
    CANCEL = "cancel"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Alarm:
    """A guard that does not hold. `eject`: the fallback is to take over."""

    guard: str
    eject: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that would share their tasks, the one that opened the batch first. `held`: it waits for more."""

    rows: tuple[int, ...]
    held: bool = False
    because: Because | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    places: tuple[Place, ...] = ()
    caps: tuple[Cap, ...] = ()
    turns: tuple[Turn, ...] = ()
    reservations: tuple[Reservation, ...] = ()  # the whole set from now on
    waits: Mapping[int, WaitReason] = field(default_factory=dict)  # row -> reason, for plannable rows left out
    wake_at_s: float | None = None  # ask again by then even if nothing happens
    alarms: tuple[Alarm, ...] = ()  # every guard that does not hold now
    notes: tuple[str, ...] = field(default=(), compare=False)  # what the policy has just seen: news, not plan
    batches: Sequence[Batch] = ()  # of two rows or more, or held
    reasons: Mapping[int, Because] = field(default_factory=dict)  # row -> why it waits, where one clause says so


@dataclass(frozen=True, slots=True)
class Limits:
    """When a policy is ejected in favour of its fallback: `errors` strikes within a minute (an exception, a tick over
    `tick_s`), or a request that could run on free ranks and is not planned for `stall_s`."""

    errors: int = 3
    tick_s: float | None = None
    stall_s: float | None = 30.0


class Policy(Protocol):
    """A total function of a frozen view. Implementations keep no state that a replay would not rebuild.

    It is evaluated on the occasions `tick_on` (`None`: whenever anything happened) and every `tick_every_s`; on other
    ticks whoever is between two tasks goes on with the ranks it has.
    """

    name: str
    version: int
    sha: str
    limits: Limits
    fallback: Policy | None
    tick_every_s: float | None
    tick_on: frozenset[Occasion] | None

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        """One verdict for each of `rows` (all new), in that order."""
        ...

    def plan(self, view: View) -> Proposal:
        """What should run from now on. New rows are not to be placed."""
        ...
