"""Modes and states: what a policy carries from tick to tick by name. Time comes from the view, so a replay rebuilds it.

Both move once an instant, when the policy plans; admission reads them as the last plan left them. May not decide
anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfdit.core.view import F8, I8, View
from gfdit.lang.program import Mode, Program, State
from gfdit.lang.schema import Level
from gfdit.policy.columns import Fn, Frame, Tick
from gfdit.policy.compile import Compiler

ARRIVAL_WEIGHT = 0.1  # of the newest gap in the mean
TOLERANCE_S = 1e-6  # a wake-up comes in whole nanoseconds


@dataclass(slots=True)
class _Mode:
    """`since`: from when on the condition for the other position has held without a break."""

    mode: Mode
    when: Fn
    until: Fn
    on: bool = False
    since: float | None = None

    def move(self, frame: Frame) -> None:
        now = frame.view.now_s
        if not bool((self.until if self.on else self.when)(frame)):
            self.since = None
            return
        self.since = now if self.since is None else self.since
        if now >= self.flips_at() - TOLERANCE_S:
            self.on, self.since = not self.on, None

    def flips_at(self) -> float:
        """When it changes if its condition goes on to hold; +inf while it does not."""
        if self.since is None:
            return float("inf")
        return self.since + (self.mode.until_for if self.on else self.mode.when_for)


@dataclass(slots=True)
class _State:
    """`values[C + 1]`: one a class, the last for requests of none; `[1]` when it is not per class."""

    state: State
    following: Fn
    values: F8
    moved_at: float | None = None

    def move(self, tick: Tick) -> None:
        now, every = tick.view.now_s, self.state.every
        if self.moved_at is None and every is not None:
            self.moved_at = now
        if self.moved_at is not None and now < self.moved_at + (every or 0.0) - TOLERANCE_S:
            return
        self.moved_at = now
        parts = range(len(self.values) - 1) if self.state.per_class else (None,)
        self.values = np.array([*(self._next(tick, part) for part in parts), *self.values[len(parts) :]])

    def _next(self, tick: Tick, part: int | None) -> float:
        """What is not a number leaves the value as it was."""
        value = self.following(tick.live() if part is None else _class_frame(tick, part, tick.scalars))
        found = float(np.asarray(value, dtype=np.float64).flat[0])
        low = -np.inf if self.state.low is None else self.state.low
        high = np.inf if self.state.high is None else self.state.high
        return float(self.values[part or 0]) if np.isnan(found) else min(max(found, low), high)

    def shown(self) -> F8 | float:
        return self.values if self.state.per_class else float(self.values[0])


def _class_frame(tick: Tick, number: int, carried: dict[str, object]) -> Frame:
    """One row that stands for a class: its attributes, and aggregates over its requests."""
    part = tick.of_class(number)
    part.scalars.update({key: value for key, value in carried.items() if key.startswith(("carried ", "pool "))})
    return Frame(part, np.zeros(1, dtype=np.int64), {"class": np.array([number])})


class Arrivals:
    """The moving mean of the times between arrivals, as admission sees them."""

    def __init__(self) -> None:
        self._latest: tuple[float, str] | None = None
        self._gap = np.inf

    def note(self, view: View, rows: I8) -> None:
        """New requests, in order of arrival; one that was deferred comes again and does not count."""
        for row in rows.tolist():
            arrival = float(view.arrival_s[row]), view.ids[row]
            if self._latest is not None and arrival <= self._latest:
                continue
            if self._latest is not None:
                gap = arrival[0] - self._latest[0]
                self._gap = gap if np.isinf(self._gap) else self._gap + ARRIVAL_WEIGHT * (gap - self._gap)
            self._latest = arrival

    def inherit(self, earlier: Arrivals) -> None:
        self._latest, self._gap = earlier._latest, earlier._gap

    def enter(self, tick: Tick) -> None:
        """Put both values where expressions read them. An arrival that is overdue counts already."""
        silence = 0.0 if self._latest is None else tick.view.now_s - self._latest[0]
        gap = max(self._gap, silence)
        tick.scalars["carried arrival_gap"] = gap
        tick.scalars["carried arrival_rate"] = 1 / gap if gap > 0 else np.inf


class Memory:
    """All modes and states of one policy."""

    def __init__(self, program: Program, compiler: Compiler) -> None:
        self._modes = {
            mode.name: _Mode(mode, compiler.expr(mode.when, Level.TICK), compiler.expr(mode.until, Level.TICK))
            for mode in program.modes
        }
        self._states = {}
        for state in program.states:
            size, level = (len(program.classes) + 1, Level.REQUEST) if state.per_class else (1, Level.TICK)
            self._states[state.name] = _State(state, compiler.expr(state.next, level), np.full(size, state.start))
        self._at = -np.inf

    def enter(self, tick: Tick, moves_on: bool) -> None:
        """Put every value where expressions read it, moved on to this instant unless `moves_on` is false.

        Conditions read modes above their own as they are now, and what is below as it was.
        """
        for name, found in self._states.items():
            tick.scalars[f"carried {name}"] = found.shown()
        for name, mode in self._modes.items():
            tick.scalars[f"carried {name}"] = mode.on
        if not moves_on or tick.view.now_s <= self._at:
            return
        self._at = tick.view.now_s
        frame = tick.live()
        for name, mode in self._modes.items():
            mode.move(frame)
            tick.scalars[f"carried {name}"] = mode.on
        for name, state in self._states.items():
            state.move(tick)
            tick.scalars[f"carried {name}"] = state.shown()

    def wakes(self, view: View) -> list[float]:
        """When time alone may change something: a mode flips, a period is over while requests are live."""
        times = [mode.flips_at() for mode in self._modes.values()]
        for state in self._states.values():
            if state.state.every is not None and state.moved_at is not None and view.size:
                times.append(state.moved_at + state.state.every)
        return [time for time in times if view.now_s < time < np.inf]

    def value(self, name: str) -> float | bool | None:
        """A mode, or a state that is not per class."""
        if name in self._modes:
            return self._modes[name].on
        state = self._states.get(name)
        return None if state is None or state.state.per_class else float(state.values[0])

    def moved(self) -> tuple[str, ...]:
        """The states that are not where they began."""
        return tuple(name for name, found in self._states.items() if bool((found.values != found.state.start).any()))

    def inherit(self, earlier: Memory) -> None:
        """Take over what has the same name, and for states the same type and number of values."""
        for name, mode in self._modes.items():
            if name in earlier._modes:
                mode.on, mode.since = earlier._modes[name].on, earlier._modes[name].since
        for name, state in self._states.items():
            before = earlier._states.get(name)
            if before and before.state.type == state.state.type and len(before.values) == len(state.values):
                state.values, state.moved_at = before.values.copy(), before.moved_at
