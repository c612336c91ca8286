"""`react`: what happens when something happens. Events are told from the difference to the latest plan.

What a reaction does to a request ends by itself: with the request, or after its time. All of it comes from the views,
so that a replay rebuilds it. May not place anything: it lowers tiers, limits degrees, holds rows back, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gfdit.core.proposal import Because
from gfdit.core.view import B1, F8, I8, View
from gfdit.lang.program import React, ReactAction
from gfdit.lang.schema import Level
from gfdit.policy.columns import LIVE, Fn, Frame, Tick
from gfdit.policy.compile import Compiler
from gfdit.policy.memory import TOLERANCE_S
from gfdit.units import human_s

MOST_NAMED = 3  # requests that a note names
WORKER_EVENTS = frozenset({"worker_lost", "worker_joined"})


@dataclass(frozen=True, slots=True)
class Effect:
    """What was done to one request: `amount` tiers or ranks, until then; +inf: as long as it lives."""

    arrival_s: float
    amount: float
    until_s: float
    because: Because


@dataclass(frozen=True, slots=True)
class _Clause:
    react: React
    when: Fn | None


class Reactions:
    """All `react` clauses of a policy, and what they have done that still holds."""

    def __init__(self, reacts: tuple[React, ...], compiler: Compiler) -> None:
        self._clauses = tuple(
            _Clause(react, None if react.when is None else compiler.expr(react.when, Level.REQUEST)) for react in reacts
        )
        self._events = {react.event for react in reacts}
        self._ranks: frozenset[int] | None = None
        self._late: frozenset[str] = frozenset()
        self._taken: dict[str, int] = {}
        self._on: dict[str, bool] = {}
        self._raised: dict[str, Effect] = {}
        self._limited: dict[str, Effect] = {}

    # ---- between plans ----------------------------------------------------------------------------------------------

    def enter(self, tick: Tick) -> None:
        """Put the raised tiers where expressions read them."""
        found = _present(self._raised, tick.view)
        if found:
            raised: F8 = np.zeros(tick.view.size)
            for row, effect in found:
                raised[row] += effect.amount
            tick.columns["raised"] = raised

    def inherit(self, earlier: Reactions) -> None:
        """A swap of policies is no event, and undoes nothing."""
        self._ranks, self._late, self._taken = earlier._ranks, earlier._late, dict(earlier._taken)
        self._on = dict(earlier._on)
        self._raised, self._limited = dict(earlier._raised), dict(earlier._limited)

    # ---- when planning ----------------------------------------------------------------------------------------------

    def react(self, tick: Tick) -> tuple[str, ...]:
        """Look for events, do what the clauses say, and tell it in a line each."""
        now = tick.view.now_s
        for effects in (self._raised, self._limited):
            rows = {tick.view.ids[row] for row, _ in _present(effects, tick.view)}
            for gone in [key for key in effects if key not in rows]:
                del effects[gone]
        happened = self._happened(tick)
        notes = [note for clause in self._clauses if (note := self._apply(tick, clause, happened, now))]
        tick.columns.pop("raised", None)
        self.enter(tick)
        return tuple(notes)

    def limits(self, view: View) -> dict[int, tuple[int, Because]]:
        """Row -> the most ranks that it may have now (0: none), and why."""
        return {row: (int(effect.amount), effect.because) for row, effect in _present(self._limited, view)}

    def wakes(self, view: View) -> list[float]:
        """When something ends by itself."""
        effects = (*self._raised.values(), *self._limited.values())
        return [effect.until_s for effect in effects if view.now_s < effect.until_s < np.inf]

    # ---- events -----------------------------------------------------------------------------------------------------

    def _happened(self, tick: Tick) -> dict[str, I8 | None]:
        """Event -> the rows that it happened to; None: to the system. Those that did not happen are left out."""
        view, found = tick.view, dict[str, I8 | None]()
        if self._events & WORKER_EVENTS:
            ranks = frozenset(view.ranks)
            before = ranks if self._ranks is None else self._ranks
            found |= {"worker_lost": None} if before - ranks else {}
            found |= {"worker_joined": None} if ranks - before else {}
            self._ranks = ranks
        admitted: B1 = LIVE.take(view.state)
        if "late" in self._events:
            late = np.flatnonzero(admitted & (view.deadline_s < view.now_s))
            newly = [row for row in late.tolist() if view.ids[row] not in self._late]
            self._late = frozenset(view.ids[row] for row in late.tolist())
            found |= {"late": np.array(newly, dtype=np.int64)} if newly else {}
        if "preempted" in self._events:
            taken = np.flatnonzero(admitted & (view.preemptions > 0)).tolist()
            newly = [row for row in taken if view.preemptions[row] > self._taken.get(view.ids[row], 0)]
            self._taken = {view.ids[row]: int(view.preemptions[row]) for row in taken}
            found |= {"preempted": np.array(newly, dtype=np.int64)} if newly else {}
        return found | dict.fromkeys(self._turned_on(tick), None)

    def _turned_on(self, tick: Tick) -> list[str]:
        """Modes that are on and were off at the latest plan."""
        modes = {clause.react.event for clause in self._clauses if clause.react.is_mode}
        now = {name: bool(tick.scalars[f"carried {name}"]) for name in sorted(modes)}
        before, self._on = self._on, now
        return [name for name, on in now.items() if on and not before.get(name, False)]

    # ---- actions ----------------------------------------------------------------------------------------------------

    def _apply(self, tick: Tick, clause: _Clause, happened: dict[str, I8 | None], now: float) -> str:
        """Do what one clause says; the line that tells it, empty when it was not about this."""
        react, view = clause.react, tick.view
        if react.event not in happened:
            return ""
        rows = happened[react.event]
        of_system = rows is None
        rows = np.flatnonzero(LIVE.take(view.state)) if rows is None else rows
        if clause.when is not None and len(rows):
            rows = rows.compress(np.broadcast_to(clause.when(Frame(tick, rows)), rows.shape))
        alert = react.action is ReactAction.ALERT
        if not len(rows) and not (alert and of_system and clause.when is None):
            return ""
        until = np.inf if react.seconds is None else now + react.seconds
        because = Because("react", react.clause.line, (("event", react.event),))
        for row in rows.tolist():
            amount = self._amount(view, row, react)
            self._put(view, row, react, Effect(float(view.arrival_s[row]), amount, until, because))
        about = rows.tolist() if clause.when is not None or not of_system or not alert else []
        return _note(react, [view.ids[row] for row in about])

    def _put(self, view: View, row: int, react: React, effect: Effect) -> None:
        match react.action:
            case ReactAction.RAISE:
                self._raised[view.ids[row]] = effect
            case ReactAction.SHRINK | ReactAction.PAUSE:
                self._limited[view.ids[row]] = effect
            case ReactAction.ALERT:
                pass

    @staticmethod
    def _amount(view: View, row: int, react: React) -> float:
        """Tiers, or ranks: at least the narrowest degree that there is, so that nobody is shrunk to nothing."""
        if react.action is not ReactAction.SHRINK:
            return react.amount
        offered = [degree for c, degree in enumerate(view.degrees) if np.isfinite(view.step_s[row, c])]
        return max(react.amount, float(min(offered, default=1)))


def _present(effects: dict[str, Effect], view: View) -> list[tuple[int, Effect]]:
    """Those that hold now, with their rows."""
    if not effects:
        return []
    found = ((view.row_of(key, effect.arrival_s), effect) for key, effect in effects.items())
    return [(row, effect) for row, effect in found if row is not None and view.now_s < effect.until_s - TOLERANCE_S]


def _note(react: React, ids: Iterable[str]) -> str:
    names = list(ids)
    others = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    about = f" ({', '.join(names[:MOST_NAMED])}{others})" if names else ""
    time = "" if react.seconds is None else f" for {human_s(react.seconds)}"
    match react.action:
        case ReactAction.ALERT:
            done = react.text or "alert"
        case ReactAction.RAISE:
            done = f"raised by {react.amount:g}{time}"
        case ReactAction.SHRINK:
            done = f"at most {react.amount:g} gpu{time}"
        case ReactAction.PAUSE:
            done = f"paused{time}"
    return f"react {react.event}, line {react.clause.line}: {done}{about}"
