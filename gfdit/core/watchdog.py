"""What is held against a policy, and the record of its ejection. Data and counting; the scheduler acts on it.

A policy loses its place to its fallback by one of:
* strikes: an exception, or a tick over its limit; `Limits.errors` of them within a minute
* a guard whose action is `fallback` and that does not hold
* a stall: a request that could run on ranks that are free, unplanned for `Limits.stall_s`
* an operator

An `Ejection` is final: the fallback stays until somebody arms the policy again. It carries what the policy last saw and
last said, so that whoever keeps files can write them down before the fallback acts. No clock and no I/O in here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gfdit.core.proposal import Limits, Policy, Proposal, WaitReason
from gfdit.core.view import STAGE_CODE, View
from gfdit.core.work import SINGLE_RANK_STAGES
from gfdit.units import NS_PER_S, human_s, to_ns, to_s

WINDOW_NS = 60 * NS_PER_S  # how long a strike, or the loss of a worker, is remembered
SAMPLE_NS = NS_PER_S  # how often the waiting are looked at
MOST_FRAMES = 12  # of a traceback

# "There is no room for it" is believed as long as anything runs at all: only the policy knows how wide it must be.
_NO_ROOM = frozenset(
    {
        WaitReason.NO_FREE_GPU,
        WaitReason.RESERVED,
        WaitReason.HOLDING,
        WaitReason.LANE_FULL,
        WaitReason.SET_ASIDE,
        WaitReason.MIGRATING,
    }
)
_ONE_RANK = [STAGE_CODE[stage] for stage in SINGLE_RANK_STAGES]


class EjectCause(StrEnum):
    ERRORS = "errors"
    OVERRUNS = "overruns"
    GUARD = "guard"
    STALL = "stall"
    OPERATOR = "operator"


class Blame(StrEnum):
    POLICY = "policy"
    INFRASTRUCTURE = "infrastructure"


class StrikeKind(StrEnum):
    ERROR = "error"
    OVERRUN = "overrun"


@dataclass(frozen=True, slots=True)
class Strike:
    """`trace`: where an error was raised, outermost call first. `seconds`, `cpu_s`: wall and processor time of an
    overrun; `cpu_s` None where nobody measured it."""

    kind: StrikeKind
    at: int
    text: str
    trace: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ejection:
    """`policy` lost its place to `successor` (a name) at `at` (ns). `text` says why, `blame_text` why `blame` is what
    it is. `view`, `proposal`: what it was last shown and last proposed; None when it never got that far."""

    at: int
    policy: Policy
    successor: str
    cause: EjectCause
    text: str
    blame: Blame
    blame_text: str
    strikes: tuple[Strike, ...]
    view: View | None
    proposal: Proposal | None


class Watchdog:
    """The record of the policy that is in force; `reset` when another one is."""

    def __init__(self) -> None:
        self.strikes: list[Strike] = []
        self.view: View | None = None
        self.proposal: Proposal | None = None
        self._losses: list[int] = []  # when workers were lost
        self._could_run: dict[str, int] = {}  # request -> since when it could run and is not planned
        self._sample_at = 0

    def reset(self) -> None:
        """A clean slate for the next policy. What happened to the machines is remembered."""
        self.strikes, self.view, self.proposal = [], None, None
        self._could_run = {}
        self._sample_at = 0

    def saw(self, view: View) -> None:
        self.view = view

    def said(self, proposal: Proposal) -> None:
        self.proposal = proposal

    def lost_worker(self, at: int) -> None:
        self._losses = [loss for loss in self._losses if at - loss < WINDOW_NS] + [at]

    def strike(self, strike: Strike, limits: Limits) -> EjectCause | None:
        """Note a strike. The cause of an ejection when it was one too many within a minute."""
        self.strikes = [old for old in self.strikes if strike.at - old.at < WINDOW_NS] + [strike]
        if len(self.strikes) < limits.errors:
            return None
        return EjectCause.ERRORS if strike.kind is StrikeKind.ERROR else EjectCause.OVERRUNS

    # ---- stalls -----------------------------------------------------------------------------------------------------

    def wants_sample(self, now: int, fresh: bool) -> bool:
        """Whether to look at the waiting now; `fresh`: the policy was just asked, so its reasons are its latest."""
        return now >= self._sample_at or (fresh and bool(self._could_run))

    def sample(
        self, view: View, waits: Mapping[int, WaitReason], unplanned: Sequence[int], idle: int, busy: bool, now: int
    ) -> None:
        """Look at the rows that nothing was planned for while `idle` ranks are free; `busy`: something runs at all.

        `waits`: the reasons that the policy gave. A row with none, or one that the policy makes wait by its own choice,
        could run if its narrowest group fits. O(rows), once a second.
        """
        self._sample_at = now + SAMPLE_NS
        before, self._could_run = self._could_run, {}
        if not len(unplanned) or not idle:
            return
        reserved = {r.request_id: r.gpus for r in view.reservations}
        withheld = sum(reserved.values())
        rows = np.asarray(unplanned)
        offered = np.isfinite(view.step_s[rows])
        narrowest = np.where(np.isin(view.stage[rows], _ONE_RANK), 1, np.asarray(view.degrees)[offered.argmax(axis=1)])
        fitting = offered.any(axis=1) & (narrowest <= idle)
        for row, need in zip(rows[fitting].tolist(), narrowest[fitting].tolist(), strict=True):
            reason, request_id = waits.get(row), view.ids[row]
            if (reason in _NO_ROOM and busy) or reason is WaitReason.NEVER_FITS:
                continue
            if need > idle - withheld + reserved.get(request_id, 0):
                continue
            waiting_s = view.paused_for_s[row] if view.started[row] else view.now_s - view.arrival_s[row]
            since = max(before.get(request_id, now), now - to_ns(float(waiting_s)))
            self._could_run[request_id] = since

    def nobody_stalls(self, now: int, fresh: bool) -> None:
        """As `sample` with nobody unplanned."""
        if self.wants_sample(now, fresh):
            self._sample_at, self._could_run = now + SAMPLE_NS, {}

    def stalled(self, limits: Limits, now: int) -> str | None:
        """Why the policy is stalled; None while it is not."""
        if limits.stall_s is None or not self._could_run:
            return None
        request_id = min(self._could_run, key=lambda key: (self._could_run[key], key))
        for_s = to_s(now - self._could_run[request_id])
        if for_s < limits.stall_s:
            return None
        others = len(self._could_run) - 1
        more = f" (and {others} more)" if others else ""
        return (
            f"request `{request_id}`{more} was left waiting for {human_s(for_s)} while GPUs that it fits on were free"
        )

    def stall_due(self, limits: Limits) -> int | None:
        """When the longest wait becomes a stall if nothing changes."""
        if limits.stall_s is None or not self._could_run:
            return None
        return min(self._could_run.values()) + to_ns(limits.stall_s)

    # ---- the record -------------------------------------------------------------------------------------------------

    def ejection(self, policy: Policy, successor: str, cause: EjectCause, text: str, at: int) -> Ejection:
        blame, why = self._blame(policy.limits, cause, at)
        strikes = tuple(self.strikes)
        return Ejection(at, policy, successor, cause, text, blame, why, strikes, self.view, self.proposal)

    def _blame(self, limits: Limits, cause: EjectCause, at: int) -> tuple[Blame, str]:
        lost = sum(at - loss < WINDOW_NS for loss in self._losses)
        match cause:
            case EjectCause.OVERRUNS:
                starved = [s for s in self.strikes if s.cpu_s is not None and s.cpu_s <= (limits.tick_s or 0.0)]
                overruns = [strike for strike in self.strikes if strike.kind is StrikeKind.OVERRUN]
                if len(starved) == len(overruns):
                    last = overruns[-1]
                    had = human_s(last.cpu_s or 0.0)
                    return Blame.INFRASTRUCTURE, f"the tick had a processor for {had} of {human_s(last.seconds)}"
                return Blame.POLICY, "its ticks spent the time computing"
            case EjectCause.GUARD | EjectCause.STALL if lost:
                return Blame.INFRASTRUCTURE, f"{lost} worker{'s' * (lost > 1)} lost in the last minute"
            case EjectCause.OPERATOR:
                return Blame.POLICY, "an operator decided so"
            case _:
                return Blame.POLICY, "no worker was lost in the last minute" if not lost else "its own code failed"


def error_strike(error: Exception, at: int) -> Strike:
    """What an exception says, and where it was raised. Reads no source: that would be I/O."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} in {code.co_qualname}")
        trace = trace.tb_next
    return Strike(StrikeKind.ERROR, at, f"{type(error).__name__}: {error}", tuple(frames[-MOST_FRAMES:]))
