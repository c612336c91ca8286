"""A canary by switchback: two policies take turns in windows of equal length, and which of them did better.

Both share the ranks and the queue, so a split by request would blur both; a split by time blurs the edges only. A
request counts for the policy that was in charge when it arrived, wherever it ended: leaving out those that cross an
edge would hide exactly the late ones. `crossed` says how many did, which is how far to trust short windows.

Told of everything in the driver's thread; decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from math import comb
from random import Random

from gfdit.core.commands import EndRequest
from gfdit.core.events import Event, RequestArrived
from gfdit.core.work import Outcome
from gfdit.units import to_s

LEAST_WINDOWS = 3  # of each policy: below that, nothing can be told from chance
LEVEL = 0.1  # how often two equal policies may be called different
MOST_SPLITS = 5000


class Arm(StrEnum):
    LIVE = "live"
    CANARY = "canary"


class Verdict(StrEnum):
    TOO_EARLY = "too_early"
    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no_difference"


@dataclass(slots=True)
class Window:
    """One turn, in ns; `end` None while it lasts. Of the requests that came in it: how many ended, on time, in another
    window (`crossed`); `latency_ns`: of the completed ones, together."""

    arm: Arm
    begin: int
    end: int | None = None
    arrived: int = 0
    ended: int = 0
    on_time: int = 0
    crossed: int = 0
    completed: int = 0
    latency_ns: int = 0

    @property
    def settled(self) -> bool:
        return self.end is not None and self.ended == self.arrived


@dataclass(frozen=True, slots=True)
class WindowReport:
    """Times are seconds of the system's clock; shares and means None without requests."""

    arm: Arm
    begin_s: float
    end_s: float | None
    arrived: int
    ended: int
    attainment: float | None
    mean_latency_s: float | None
    crossed: int


@dataclass(frozen=True, slots=True)
class ArmReport:
    """Over the windows of one policy whose requests have all ended."""

    windows: int
    requests: int
    attainment: float | None
    mean_latency_s: float | None
    crossed: int


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """`arm`: whose turn it is. `done`: the turns are over; `ended`: why, if not all were taken. `text`: the verdict in
    words."""

    window_s: float
    turns: int
    arm: Arm
    done: bool
    ended: str
    live: ArmReport
    canary: ArmReport
    verdict: Verdict
    text: str
    windows: tuple[WindowReport, ...]


class Canary:
    """Keeps the books of one canary. `turns`: windows of both policies together; `window_ns` each."""

    def __init__(self, window_ns: int, turns: int) -> None:
        self.window_ns, self.turns = window_ns, turns
        self.windows: list[Window] = []
        self.done, self.ended = False, ""
        self._came_in: dict[str, tuple[int, int]] = {}  # live request -> its window, and when it came

    @property
    def arm(self) -> Arm:
        return self.windows[-1].arm if self.windows else Arm.LIVE

    def begin(self, arm: Arm, at: int) -> None:
        """It is this policy's turn."""
        self._close(at)
        self.windows.append(Window(arm, at))

    def finish(self, at: int, why: str = "") -> None:
        """No more turns. What is still under way is waited for."""
        self._close(at)
        self.done, self.ended = True, why

    def _close(self, at: int) -> None:
        if self.windows and self.windows[-1].end is None:
            self.windows[-1].end = at

    def record(self, events: Sequence[Event], ends: Sequence[EndRequest]) -> None:
        """Who came and who went on one tick."""
        present = len(self.windows) - 1
        for event in events:
            if isinstance(event, RequestArrived) and present >= 0 and not self.done:
                self._came_in[event.request.id] = present, event.request.arrival_ns
                self.windows[present].arrived += 1
        for end in ends:
            came_in = self._came_in.pop(end.request_id, None)
            if came_in is None:
                continue
            number, arrival = came_in
            window = self.windows[number]
            if end.outcome is Outcome.CANCELLED:  # the client's doing
                window.arrived -= 1
                continue
            window.ended += 1
            window.on_time += end.on_time
            window.crossed += number != present or self.done
            if end.outcome is Outcome.COMPLETED:
                window.completed += 1
                window.latency_ns += end.at - arrival

    def report(self) -> CanaryReport:
        live, canary = (self._arm(arm) for arm in Arm)
        verdict, text = self._verdict()
        return CanaryReport(
            window_s=to_s(self.window_ns), turns=self.turns, arm=self.arm, done=self.done, ended=self.ended,
            live=live, canary=canary, verdict=verdict, text=text, windows=tuple(map(_reported, self.windows)),
        )  # fmt: skip

    def _settled(self, arm: Arm) -> list[Window]:
        return [window for window in self.windows if window.arm is arm and window.settled and window.arrived]

    def _arm(self, arm: Arm) -> ArmReport:
        windows = self._settled(arm)
        ended, completed = sum(window.ended for window in windows), sum(window.completed for window in windows)
        return ArmReport(
            windows=len(windows),
            requests=ended,
            attainment=sum(window.on_time for window in windows) / ended if ended else None,
            mean_latency_s=to_s(sum(w.latency_ns for w in windows)) / completed if completed else None,
            crossed=sum(window.crossed for window in windows),
        )

    def _verdict(self) -> tuple[Verdict, str]:
        """By attainment; where that is a tie, by latency."""
        live, canary = self._settled(Arm.LIVE), self._settled(Arm.CANARY)
        if min(len(live), len(canary)) < LEAST_WINDOWS:
            text = f"{LEAST_WINDOWS} windows of each whose requests have ended are needed"
            return Verdict.TOO_EARLY, f"{text}; so far there are {len(live)} and {len(canary)}"
        before, now = ([w.on_time / w.ended for w in windows] for windows in (live, canary))
        chance, by = chance_of(before, now), _mean(now) - _mean(before)
        if chance <= LEVEL:
            verdict = Verdict.BETTER if by > 0 else Verdict.WORSE
            return verdict, f"{by:+.1%} on time a window (p = {chance:.2f})"
        before, now = ([to_s(w.latency_ns) / w.completed for w in ws if w.completed] for ws in (live, canary))
        if before and now:
            later, slower = chance_of(before, now), _mean(now) - _mean(before)
            if later <= LEVEL:
                verdict = Verdict.BETTER if slower < 0 else Verdict.WORSE
                return verdict, f"as often on time, {slower:+.2f} s mean latency a window (p = {later:.2f})"
        return Verdict.NO_DIFFERENCE, f"{by:+.1%} on time a window may be chance (p = {chance:.2f})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def chance_of(before: Sequence[float], now: Sequence[float]) -> float:
    """How often means would lie as far apart if the windows were dealt to the two policies at random: a two-sided
    permutation test, exact up to `MOST_SPLITS` ways to deal them, sampled (the same way each time) above."""
    pooled, size = [*before, *now], len(before)
    total, apart = sum(pooled), abs(_mean(before) - _mean(now)) - 1e-12
    if comb(len(pooled), size) <= MOST_SPLITS:
        splits = list(combinations(pooled, size))
    else:
        random = Random(0)
        splits = [tuple(random.sample(pooled, size)) for _ in range(MOST_SPLITS)]
    other = len(pooled) - size
    return sum(abs(sum(one) / size - (total - sum(one)) / other) >= apart for one in splits) / len(splits)


def _reported(window: Window) -> WindowReport:
    return WindowReport(
        arm=window.arm,
        begin_s=to_s(window.begin),
        end_s=None if window.end is None else to_s(window.end),
        arrived=window.arrived,
        ended=window.ended,
        attainment=window.on_time / window.ended if window.ended else None,
        mean_latency_s=to_s(window.latency_ns) / window.completed if window.completed else None,
        crossed=window.crossed,
    )
