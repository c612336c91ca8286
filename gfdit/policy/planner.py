"""A checked program as the scheduler's `Policy`: fixed phases over one frozen view.

classify -> admit -> triage -> order -> choose and allocate -> take back -> grow. What is taken back goes to whoever it
was taken for before any surplus is handed out. The clauses fill the slots; they never drive control flow.
"""

from __future__ import annotations

import numpy as np

from gfdit.core.proposal import Alarm, Because, Limits, Occasion, Policy, Proposal, Turn, Verdict
from gfdit.core.view import F8, I8, Reservation, View
from gfdit.lang.program import GuardAction, Name, OrderKey, Program
from gfdit.lang.program import Tick as TickClause
from gfdit.lang.schema import Level
from gfdit.policy.admission import Admission
from gfdit.policy.allocate import Draft, Walk, grow, keep_held
from gfdit.policy.chooser import Rules
from gfdit.policy.columns import INSTANTS, NEW, PLANNABLE, SYMBOLS, ClassTable, Frame, Tick, symbols
from gfdit.policy.compile import Compiler
from gfdit.policy.takeback import Claims, CompiledPreempt
from gfdit.policy.triaging import CompiledTriage
from gfdit.units import human_s

RECHECK_S = 0.25  # how soon a policy that keeps somebody waiting of its own accord is asked again


class CompiledPolicy:
    """See the module. `sha` names the text and its params; `program` is what it was compiled from.

    Two things are carried from tick to tick, both rebuilt by a replay: the claims of preemptions, and the ends of
    `reserve`s.
    """

    def __init__(self, program: Program, fallback: Policy | None = None) -> None:
        compiler = Compiler(program.lets)
        self.program = program
        self.name = program.name
        self.version = program.version
        self.sha = program.sha
        self.fallback = fallback
        self.limits = Limits(program.fallback.errors, program.fallback.tick)
        self.tick_every_s = program.tick.every
        self.tick_on = _occasions(program.tick)
        self._classes = ClassTable(program.classes)
        self._classes.when = tuple(
            None if rule.when is None else compiler.expr(rule.when, Level.REQUEST) for rule in program.classes
        )
        self._admission = Admission(program.admit, compiler)
        self._keys = tuple(compiler.key(key) for key in _deciding(program.order.keys))
        self._triage = None if program.triage is None else CompiledTriage(program.triage, compiler)
        self._rules = Rules(program.stages, compiler)
        self._preempts = tuple(CompiledPreempt(item, compiler, n) for n, item in enumerate(program.preempts))
        self._guards = tuple(
            (Alarm(guard.name, guard.action is GuardAction.FALLBACK), compiler.expr(guard.condition, Level.TICK))
            for guard in program.guards
        )
        self._claims = Claims()
        self._reserving: dict[str, float] = {}

    # ---- the two verbs ----------------------------------------------------------------------------------------------

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        """One verdict for each of `rows`, in that order."""
        with np.errstate(all="ignore"):
            return self._admission.judge(self._tick(view), np.asarray(rows, dtype=np.int64))

    def plan(self, view: View) -> Proposal:
        """What should run from now on."""
        with np.errstate(all="ignore"):
            return self._plan(self._tick(view))

    def attribute(self, view: View, row: int, name: str) -> float | bool | str:
        """One attribute of one request in base units (instants on the driver's clock), as clauses read it."""
        with np.errstate(all="ignore"):
            frame = Frame(self._tick(view), np.array([row]))
            if name in SYMBOLS:
                codes, names = symbols(frame, name)
                known: list[str] = [*names, view.names["class"][view.class_code[row]]]
                return known[int(codes[0])]
            value = float(frame.column(name)[0])
            return value + view.now_s if name in INSTANTS else value

    # ---- phases -----------------------------------------------------------------------------------------------------

    def _tick(self, view: View) -> Tick:
        return Tick(view, self._classes, self.program.aging)

    def _plan(self, tick: Tick) -> Proposal:
        view = tick.view
        draft = Draft(tick, self._rules, view.free)
        rows = np.flatnonzero(PLANNABLE[view.state])
        self._claims.enter(draft)
        self._forget_reserves(view)
        turns: tuple[Turn, ...] = ()
        if self._triage is not None:
            draft.aside = self._triage.evaluate(tick).over
            rows, turns = self._turned_away(view, rows, draft.aside)
        order = self._order(tick, rows, draft.aside)
        keep_held(draft, order)
        Walk(draft, self.program.allocate, self._reserving).run(order)
        for preempt in self._preempts:
            preempt.run(draft, order, self._claims)
        grow(draft)
        caps, claimed = self._claims.leave(draft)
        gathered = tuple(Reservation(view.ids[row], *kept) for row, kept in draft.gathering.items())
        return Proposal(
            places=draft.listed(),
            caps=caps,
            turns=turns,
            reservations=claimed + gathered,
            waits=draft.waits,
            wake_at_s=self._wake(draft),
            alarms=self._alarms(tick),
        )

    def _alarms(self, tick: Tick) -> tuple[Alarm, ...]:
        """The guards whose condition does not hold."""
        if not self._guards:
            return ()
        frame = tick.live()
        return tuple(alarm for alarm, condition in self._guards if not condition(frame))

    def _turned_away(self, view: View, rows: I8, aside: dict[int, float]) -> tuple[I8, tuple[Turn, ...]]:
        """Triage `then reject`: those set aside that have not begun are answered at once."""
        assert self._triage is not None
        if self._triage.message is None or not aside:
            return rows, ()
        message, line = self._triage.message, self._triage.clause.line
        gone = [row for row in rows.tolist() if row in aside and not view.started[row] and view.sp[row] == 0]
        turns = tuple(Turn(row, message, Because("triage", line, _over(aside[row]))) for row in gone)
        return rows[~np.isin(rows, gone)], turns

    def _order(self, tick: Tick, rows: I8, aside: dict[int, float]) -> I8:
        """Plan order of `rows`: by the keys, then (arrival, id); those set aside last."""
        if not aside:
            return self._by_keys(tick, rows)
        late = np.isin(rows, list(aside))
        return np.concatenate([self._by_keys(tick, rows[~late]), self._leftovers(tick, rows[late])])

    def _by_keys(self, tick: Tick, rows: I8) -> I8:
        if not self._keys or len(rows) < 2:
            return rows
        frame = Frame(tick, rows)
        if len(self._keys) == 1:
            return rows[np.argsort(self._keys[0](frame), kind="stable")]
        return rows[np.lexsort([key(frame) for key in reversed(self._keys)])]

    def _leftovers(self, tick: Tick, rows: I8) -> I8:
        """Of those set aside, the most aged first, then the least work first."""
        frame = Frame(tick, rows)
        work = frame.column("#gpu").min(axis=1)
        aging = self.program.aging
        if aging is None:
            return rows[np.argsort(work, kind="stable")]
        aged: F8 = -np.floor(frame.column("waited") / aging.every)
        return rows[np.lexsort([work, aged])]

    def _forget_reserves(self, view: View) -> None:
        if self._reserving:
            live = set(view.ids)
            self._reserving = {key: until for key, until in self._reserving.items() if key in live}

    def _wake(self, draft: Draft) -> float | None:
        """Waiting that only time can end must be looked at again."""
        view = draft.view
        return view.now_s + RECHECK_S if draft.recheck or bool(NEW[view.state].any()) else None


def _occasions(tick: TickClause) -> frozenset[Occasion] | None:
    """No clause: on everything. A bare period: on nothing else."""
    return None if tick.clause is None else frozenset(Occasion(name) for name in tick.on)


def _deciding(keys: tuple[OrderKey, ...]) -> tuple[OrderKey, ...]:
    """What a stable sort of rows in (arrival, id) order needs: constants and a closing `arrival` decide nothing."""
    kept = [key for key in keys if key.value.level > Level.TICK]
    while kept and isinstance(kept[-1].value, Name) and kept[-1].value.name == "arrival" and not kept[-1].descending:
        kept.pop()
    return tuple(kept)


def _over(gpu_s: float) -> tuple[tuple[str, str], ...]:
    if not np.isfinite(gpu_s):
        return (("on time at", "no degree"),)
    return (("over budget by", f"{human_s(gpu_s)} x gpu"),)
