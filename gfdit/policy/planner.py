"""A checked program as the scheduler's `Policy`: fixed phases over one frozen view.

classify -> admit -> triage -> order -> choose and allocate -> take back -> grow. What is taken back goes to whoever it
was taken for before any surplus is handed out. The clauses fill the slots; they never drive control flow.
"""

from __future__ import annotations

import numpy as np

from gfdit.core.proposal import Alarm, Because, Limits, Occasion, Policy, Proposal, Turn, Verdict, WaitReason
from gfdit.core.view import F8, I8, Reservation, View
from gfdit.lang.program import GuardAction, Name, OrderKey, Program
from gfdit.lang.program import Tick as TickClause
from gfdit.lang.schema import Level
from gfdit.policy.admission import Admission
from gfdit.policy.allocate import Draft, Walk, grow, keep_held
from gfdit.policy.chooser import Rules
from gfdit.policy.columns import ARRIVALS, INSTANTS, NEW, PLANNABLE, SYMBOLS, ClassTable, Frame, Tick, symbols
from gfdit.policy.compile import Compiler, Share, Watch
from gfdit.policy.explain import Ranked, pick, render, show
from gfdit.policy.knapsack import CompiledKnapsack
from gfdit.policy.memory import Arrivals, Memory
from gfdit.policy.pools import CompiledPools
from gfdit.policy.takeback import Claims, CompiledPreempt
from gfdit.policy.triaging import CompiledTriage
from gfdit.units import human_s

_NO_ROOM = (WaitReason.NO_FREE_GPU, WaitReason.RESERVED)
RECHECK_S = 0.25  # how soon a policy that keeps somebody waiting of its own accord is asked again


class CompiledPolicy:
    """See the module. `sha` names the text and its params; `program` is what it was compiled from.

    Carried from tick to tick, and rebuilt by a replay: modes and states, sizes of pools, the claims of preemptions, and
    the ends of `reserve`s.
    """

    def __init__(self, program: Program, fallback: Policy | None = None, watch: Watch | None = None) -> None:
        compiler = Compiler(program.lets, watch, program.modes, program.states)
        self._compiler = compiler
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
        self._memory = Memory(program, compiler) if program.modes or program.states else None
        self._arrivals = Arrivals() if ARRIVALS & program.uses else None
        self._pools = CompiledPools(program, compiler) if program.pools else None
        self._knapsack = None if program.allocate.value is None else CompiledKnapsack(program.allocate, compiler)
        self._claims = Claims()
        self._reserving: dict[str, float] = {}

    # ---- the two verbs ----------------------------------------------------------------------------------------------

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        """One verdict for each of `rows`, in that order."""
        if self._arrivals is not None:
            self._arrivals.note(view, rows)
        with np.errstate(all="ignore"):
            return self._admission.judge(self._tick(view), np.asarray(rows, dtype=np.int64))

    def plan(self, view: View) -> Proposal:
        """What should run from now on."""
        with np.errstate(all="ignore"):
            return self._plan(self._tick(view, moves_on=True))

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

    def order(self, view: View) -> list[int]:
        """Rows in the order in which a plan for this view asks them. Changes nothing."""
        with np.errstate(all="ignore"):
            rows: list[int] = self._present_order(self._tick(view))[0].tolist()
            return rows

    def _present_order(self, tick: Tick) -> tuple[I8, dict[int, float]]:
        aside = {} if self._triage is None else self._triage.evaluate(tick).over
        return self._order(tick, np.flatnonzero(PLANNABLE[tick.view.state]), aside), aside

    def ranking(self, view: View) -> list[Ranked]:
        """Whom a plan for this view asks first, and the keys that say so: for explanations. Changes nothing."""
        with np.errstate(all="ignore"):
            tick = self._tick(view)
            order, aside = self._present_order(tick)
            frame = Frame(tick, order)
            keys = [
                (show(key.value), key.value.type, self._compiler.expr(key.value, Level.REQUEST)(frame))
                for key in self.program.order.keys
            ]
            ranked: list[Ranked] = []
            for k, row in enumerate(order.tolist()):
                values = tuple((text, render(kind, pick(column, (k,)))) for text, kind, column in keys)
                ranked.append(Ranked(row, values, row in aside))
            return ranked

    def carried(self, name: str) -> float | bool | None:
        """The value of a mode or of a state that is not per class; None when there is none of that name."""
        return None if self._memory is None else self._memory.value(name)

    def inherit(self, earlier: CompiledPolicy) -> None:
        """Take over modes, states and sizes of pools from the policy that this one replaces, by name and type."""
        if self._memory is not None and earlier._memory is not None:
            self._memory.inherit(earlier._memory)
        if self._pools is not None and earlier._pools is not None:
            self._pools.inherit(earlier._pools)

    def _tick(self, view: View, moves_on: bool = False) -> Tick:
        tick = Tick(view, self._classes, self.program.aging)
        if self._arrivals is not None:
            self._arrivals.enter(tick)
        if self._pools is not None:
            self._pools.enter(tick)
        if self._memory is not None:
            self._memory.enter(tick, moves_on)
        if self._pools is not None and moves_on:
            self._pools.resize(tick)
        return tick

    def _plan(self, tick: Tick) -> Proposal:
        view = tick.view
        rows = np.flatnonzero(PLANNABLE[view.state])
        self._forget_reserves(view)
        turns: tuple[Turn, ...] = ()
        aside: dict[int, float] = {}
        if self._triage is not None:
            aside = self._triage.evaluate(tick).over
            rows, turns = self._turned_away(view, rows, aside)
        order = self._order(tick, rows, aside)
        shares = [] if self._pools is None else self._pools.in_order(tick)
        if shares:
            drafts = self._by_pool(tick, shares, order, aside)
        else:
            drafts = [Draft(tick, self._rules, view.free, view.gpus, aside=aside)]
            self._fill(drafts[0], order, order)
        left = [self._claims.leave(draft) for draft in drafts]
        gathered = tuple(Reservation(view.ids[row], *kept) for d in drafts for row, kept in d.gathering.items())
        return Proposal(
            places=tuple(place for draft in drafts for place in draft.listed()),
            caps=tuple(cap for caps, _ in left for cap in caps),
            turns=turns,
            reservations=tuple(claim for _, claimed in left for claim in claimed) + gathered,
            waits={row: reason for draft in drafts for row, reason in draft.waits.items()},
            wake_at_s=self._wake(view, any(draft.recheck for draft in drafts)),
            alarms=self._alarms(tick),
        )

    def _fill(self, draft: Draft, order: I8, own: I8) -> None:
        """Hand out the ranks of a draft to `order`; `own` of those may be preempted for."""
        self._claims.enter(draft)
        keep_held(draft, order)
        if self._knapsack is not None:
            self._knapsack.run(draft, order)
        Walk(draft, self.program.allocate, self._reserving).run(order)
        for preempt in self._preempts:
            preempt.run(draft, own, self._claims)
        grow(draft)

    def _by_pool(self, tick: Tick, shares: list[Share], order: I8, aside: dict[int, float]) -> list[Draft]:
        """One draft a pool. Whoever found no place in a pool that spills is asked again in the other one."""
        assert self._pools is not None
        view = tick.view
        guests: dict[str, list[int]] = {share.name: [] for share in shares}
        drafts = []
        for share in shares:
            home = share.stages[view.stage[order]]
            draft = Draft(tick, self._rules, share.idle, share.size, share.ranks, share.stages, aside=aside)
            self._fill(draft, order[home | np.isin(order, guests.pop(share.name))], order[home])
            for pool, stages in self._pools.spills(tick, share):
                for row in [row for row, why in draft.waits.items() if why in _NO_ROOM and stages[view.stage[row]]]:
                    if pool in guests:
                        del draft.waits[row]
                        guests[pool].append(row)
            drafts.append(draft)
        return drafts

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

    def _wake(self, view: View, recheck: bool) -> float | None:
        """Waiting that only time can end must be looked at again."""
        times = [view.now_s + RECHECK_S] if recheck or bool(NEW[view.state].any()) else []
        if self._memory is not None:
            times += self._memory.wakes(view)
        if self._pools is not None:
            times += self._pools.wakes(view)
        return min(times, default=None)


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
