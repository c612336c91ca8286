"""What goes wrong in a simulated cluster: workers that crash, ranks that are slow, links that are slow.

All of it is drawn from the seed, per rank and by time alone, so that two policies meet the same slow ranks at the same
moments, whatever they run there. Crashes come at the same moments too, and take the same ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gfdit.errors import UsageError
from gfdit.units import NS_PER_S, to_ns

RESTART_S = 20.0
LASTING_S = 60.0
NEVER = 1 << 62
_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_SYNTAX = "such as `crash 2/h`, `crash rank 3 at 90s`, `straggler 1.5x 10% for 60s`, `slow_link 3x 5%`"

_TIME = r"(\d+(?:\.\d+)?) ?(ms|s|min|h)"
_CRASH = re.compile(rf"crash (\d+(?:\.\d+)?) ?/ ?(min|h)(?: restart {_TIME})?")
_CRASH_AT = re.compile(rf"crash rank (\d+) at {_TIME}(?: restart {_TIME})?")
_SLOW = re.compile(rf"(straggler|slow_link) (\d+(?:\.\d+)?)x (\d+(?:\.\d+)?)%(?: for {_TIME})?")


@dataclass(frozen=True, slots=True)
class Crashes:
    """`per_hour` of the whole cluster, at random moments, each of a random live rank. It is back after `restart_s`."""

    per_hour: float
    restart_s: float = RESTART_S


@dataclass(frozen=True, slots=True)
class CrashAt:
    rank: int
    at_s: float
    restart_s: float = RESTART_S


@dataclass(frozen=True, slots=True)
class Slowness:
    """On average `share` of the ranks take `factor` times as long; each spell lasts `lasting_s` on average."""

    factor: float
    share: float
    lasting_s: float = LASTING_S


@dataclass(frozen=True, slots=True)
class Faults:
    """`stragglers` compute slowly; over `slow_links` state moves slowly. `text`: as it was asked for."""

    crashes: tuple[Crashes, ...] = ()
    crashes_at: tuple[CrashAt, ...] = ()
    stragglers: tuple[Slowness, ...] = ()
    slow_links: tuple[Slowness, ...] = ()
    text: str = ""


def parse_faults(text: str) -> Faults:
    """`crash 2/h, straggler 1.5x 10% for 60s, ...` Raises UsageError naming the part that is not understood."""
    crashes: list[Crashes] = []
    crashes_at: list[CrashAt] = []
    slow: dict[str, list[Slowness]] = {"straggler": [], "slow_link": []}
    for part in (" ".join(part.split()) for part in text.split(",") if part.strip()):
        if found := _CRASH.fullmatch(part):
            rate, per, *restart = found.groups()
            crashes.append(Crashes(float(rate) * (60 if per == "min" else 1), _seconds(restart, RESTART_S)))
        elif found := _CRASH_AT.fullmatch(part):
            rank, number, unit, *restart = found.groups()
            crashes_at.append(CrashAt(int(rank), _seconds([number, unit], 0.0), _seconds(restart, RESTART_S)))
        elif (found := _SLOW.fullmatch(part)) and float(found[2]) >= 1 and 0 < float(found[3]) <= 100:
            kind, factor, percent, *lasting = found.groups()
            slow[kind].append(Slowness(float(factor), float(percent) / 100, _seconds(lasting, LASTING_S)))
        else:
            raise UsageError(f"fault `{part}` is not understood", hint=_SYNTAX)
    return Faults(tuple(crashes), tuple(crashes_at), tuple(slow["straggler"]), tuple(slow["slow_link"]), text)


def _seconds(number_and_unit: list[str | None], default: float) -> float:
    number, unit = number_and_unit
    return default if number is None or unit is None else float(number) * _UNITS[unit]


@dataclass(frozen=True, slots=True)
class Crash:
    """`draw` in 0..1 picks the rank among those that live, unless `rank` is given."""

    at: int
    draw: float
    rank: int | None
    restart_ns: int


class FaultPlan:
    """The faults of one run, drawn as time goes on."""

    def __init__(self, faults: Faults, gpus: int, seed: int) -> None:
        streams = iter(np.random.SeedSequence([seed, 0xFA]).spawn(len(faults.crashes) + 2))
        self._sources = [_poisson(one, np.random.default_rng(next(streams))) for one in faults.crashes]
        fixed = sorted(faults.crashes_at, key=lambda crash: (crash.at_s, crash.rank))
        self._sources.append(Crash(to_ns(f.at_s), 0.0, f.rank, to_ns(f.restart_s)) for f in fixed)
        self._next: list[Crash | None] = [next(source, None) for source in self._sources]
        self.slow_ranks = _Slow(faults.stragglers, gpus, next(streams))
        self.slow_links = _Slow(faults.slow_links, gpus, next(streams))

    @property
    def crash_at(self) -> int:
        """When the next crash comes; NEVER if none does."""
        return min((crash.at for crash in self._next if crash is not None), default=NEVER)

    def pop_crash(self) -> Crash:
        """The next crash. Only when there is one."""
        at = self.crash_at
        for number, crash in enumerate(self._next):
            if crash is not None and crash.at == at:
                self._next[number] = next(self._sources[number], None)
                return crash
        raise ValueError("no crash is to come")


def _poisson(crashes: Crashes, random: np.random.Generator) -> Iterator[Crash]:
    at = 0.0
    while crashes.per_hour > 0:
        at += float(random.exponential(3600 / crashes.per_hour))
        yield Crash(to_ns(at), float(random.random()), None, to_ns(crashes.restart_s))


@dataclass(slots=True)
class _Spells:
    """The slow spells of one rank by one cause, drawn up to `until`; later ones follow."""

    random: np.random.Generator
    slowness: Slowness
    slow: bool
    until: int = 0
    spells: list[tuple[int, int]] = field(default_factory=list)  # recent ones, (start, end)

    def is_slow(self, at: int) -> bool:
        while self.until <= at:
            begin, lasting = self.until, self.slowness.lasting_s
            quiet = lasting * (1 - self.slowness.share) / self.slowness.share
            mean = lasting if self.slow else quiet
            self.until = begin + max(1, round(float(self.random.exponential(mean)) * NS_PER_S)) if mean else begin
            if self.slow:
                self.spells = [*self.spells[-16:], (begin, self.until)]
            self.slow = not self.slow
        return any(begin <= at < end for begin, end in self.spells)


class _Slow:
    """How much slower each rank is at an instant; instants come nearly in order."""

    def __init__(self, causes: tuple[Slowness, ...], gpus: int, seed: np.random.SeedSequence) -> None:
        self._factors = [cause.factor for cause in causes]
        self._ranks: list[list[_Spells]] = []
        if not causes:
            return
        for rank_seed in seed.spawn(gpus):
            random = np.random.default_rng(rank_seed)
            self._ranks.append([_Spells(random, cause, bool(random.random() < cause.share)) for cause in causes])

    def factor(self, ranks: tuple[int, ...], at: int) -> float:
        """Of the slowest of `ranks`: everybody waits for it."""
        if not self._factors:
            return 1.0
        return max(
            (
                factor
                for rank in ranks
                for factor, spells in zip(self._factors, self._ranks[rank], strict=True)
                if spells.is_slow(at)
            ),
            default=1.0,
        )
