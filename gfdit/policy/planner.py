"""A checked program as the scheduler's `Policy`: fixed phases over one frozen view.

classify -> admit -> triage -> order -> choose and allocate -> take back -> grow. What is taken back goes to whoever it
was taken for before any surplus is handed out. The clauses fill the slots; they never drive control flow.
"""

from __future__ import annotations

import numpy as np

from gfdit.core.glance import Foresight
from gfdit.core.proposal import (
    NO_WAIT,
    WAIT_CODE,
    Alarm,
    Because,
    Limits,
    Occasion,
    Policy,
    Proposal,
    Turn,
    Verdict,
    WaitReason,
    Waits,
)
from gfdit.core.view import F8, I8, Reservation, View
from gfdit.lang.program import Allocate, AllocateKind, GuardAction, Name, OrderKey, Program
from gfdit.lang.program import Tick as TickClause
from gfdit.lang.schema import Level
from gfdit.policy.admission import Admission
from gfdit.policy.allocate import Draft, Reserving, Walk, grow, keep_held
from gfdit.policy.batching import CompiledBatch
from gfdit.policy.chooser import Choices, Rules
from gfdit.policy.columns import ARRIVALS, INSTANTS, NEW, PLANNABLE, SYMBOLS, ClassTable, Frame, Tick, symbols
from gfdit.policy.compile import Compiler, Share, Watch
from gfdit.policy.explain import Ranked, pick, render, show
from gfdit.policy.extras import Extra
from gfdit.policy.knapsack import CompiledKnapsack
from gfdit.policy.memory import Arrivals, Memory
from gfdit.policy.outcomes import BlindSpots, MissRates
from gfdit.policy.pools import CompiledPools
from gfdit.policy.ranking import Hint, Ranking, sort
from gfdit.policy.reacting import Reactions
from gfdit.policy.rollout import CompiledRollout
from gfdit.policy.steady import steady_test
from gfdit.policy.takeback import Claims, CompiledPreempt
from gfdit.policy.triaging import CompiledTriage, SetAside
from gfdit.units import human_s

_NO_ROOM = (WaitReason.NO_FREE_GPU, WaitReason.RESERVED)
RECHECK_S = 0.25  # how soon a policy that keeps somebody waiting of its own accord is asked again


class CompiledPolicy:
    """See the module. `sha` names the text and its params; `program` is what it was compiled from. `native`: its plan
    is somebody's Python (see `native.py`), which is in no text.

    Carried from tick to tick, and rebuilt by a replay: modes and states, sizes of pools, the claims of preemptions, and
    the ends of `reserve`s.
    """

    native = False

    def __init__(self, program: Program, fallback: Policy | None = None, watch: Watch | None = None) -> None:
        window = 0.0 if program.batch is None else program.batch.window
        compiler = Compiler(program.lets, watch, program.modes, program.states, window)
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
        self._solver = _solver(program.allocate, compiler)
        self._batch = None if program.batch is None else CompiledBatch(program.batch, compiler)
        self._reactions = Reactions(program.reacts, compiler) if program.reacts else None
        self._misses = MissRates(self._classes.names) if "miss_rate" in program.uses else None
        self._blind_spots = BlindSpots() if {"mem", "gpu_mem"} & program.uses else None
        self._claims = Claims()
        self._reserving: Reserving = {}
        self._hint = Hint()
        # whether a plan would certainly leave everything as it is; None: never known without making it
        self.keeps: Foresight | None = None
        if watch is None and type(self).plan is CompiledPolicy.plan:  # a plan of another kind is not in the clauses
            steady = steady_test(program, self._classes, _deciding(program.order.keys))
            self.keeps = None if steady is None else steady.keeps

    def afresh(self, watch: Watch | None = None) -> CompiledPolicy:
        """The same policy with nothing carried yet."""
        return CompiledPolicy(self.program, self.fallback, watch)

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
            rows: list[int] = self._present_order(self._tick(view))[0].all().tolist()
            return rows

    def _present_order(self, tick: Tick) -> tuple[Ranking, SetAside | None]:
        aside = None if self._triage is None else self._triage.evaluate(tick)
        return self._order(tick, np.flatnonzero(PLANNABLE.take(tick.view.state)), aside), aside

    def ranking(self, view: View) -> list[Ranked]:
        """Whom a plan for this view asks first, and the keys that say so: for explanations. Changes nothing."""
        with np.errstate(all="ignore"):
            tick = self._tick(view)
            ranking, aside = self._present_order(tick)
            order = ranking.all()
            frame = Frame(tick, order)
            keys = [
                (show(key.value), key.value.type, self._compiler.expr(key.value, Level.REQUEST)(frame))
                for key in self.program.order.keys
            ]
            ranked: list[Ranked] = []
            for k, row in enumerate(order.tolist()):
                values = tuple((text, render(kind, pick(column, (k,)))) for text, kind, column in keys)
                ranked.append(Ranked(row, values, aside is not None and row in aside))
            return ranked

    def admitted(self, view: View, row: int) -> tuple[int, ...]:
        """The degrees that the clause of a row's stage admits, whatever it prefers; () when it waits. Changes
        nothing."""
        with np.errstate(all="ignore"):
            rule = self._rules.of(int(view.stage[row]))
            choices = Choices(rule, Frame(self._tick(view), np.array([row])), view.gpus)
            degrees = (1,) if rule.single else view.degrees
            return tuple(degree for degree, ok in zip(degrees, choices.admitted()[0], strict=True) if ok)

    def carried(self, name: str) -> float | bool | None:
        """The value of a mode or of a state that is not per class; None when there is none of that name."""
        return None if self._memory is None else self._memory.value(name)

    def moved_states(self) -> tuple[str, ...]:
        """The states that are not where they began."""
        return () if self._memory is None else self._memory.moved()

    def inherit(self, earlier: CompiledPolicy) -> None:
        """Take over what the policy that this one replaces has carried: modes, states and sizes of pools by name and
        type; ranks on their way to a winner, reserves and what limits have left; the times between arrivals."""
        if self._memory is not None and earlier._memory is not None:
            self._memory.inherit(earlier._memory)
        if self._pools is not None and earlier._pools is not None:
            self._pools.inherit(earlier._pools)
        if self._reactions is not None and earlier._reactions is not None:
            self._reactions.inherit(earlier._reactions)
        if self._misses is not None and earlier._misses is not None:
            self._misses.inherit(earlier._misses)
        if self._arrivals is not None and earlier._arrivals is not None:
            self._arrivals.inherit(earlier._arrivals)
        self._claims, self._reserving = earlier._claims.copy(), dict(earlier._reserving)
        for preempt, before in zip(self._preempts, earlier._preempts, strict=False):
            preempt.inherit(before)

    def _tick(self, view: View, moves_on: bool = False) -> Tick:
        tick = Tick(view, self._classes, self.program.aging)
        tick.watched = self._compiler.watch is not None
        if self._arrivals is not None:
            self._arrivals.enter(tick)
        if self._misses is not None:
            if moves_on:
                self._misses.note(view)
            self._misses.enter(tick)
        if self._reactions is not None:
            self._reactions.enter(tick)
        if self._pools is not None:
            self._pools.enter(tick)
        if self._memory is not None:
            self._memory.enter(tick, moves_on)
        if self._pools is not None and moves_on:
            self._pools.resize(tick)
        return tick

    def _plan(self, tick: Tick) -> Proposal:
        view = tick.view
        rows = PLANNABLE.take(view.state).nonzero()[0]
        self._forget_reserves(view)
        extra = Extra(notes=() if self._blind_spots is None else self._blind_spots.noticed(view))
        if self._reactions is not None:
            extra.notes += self._reactions.react(tick)
        turns: tuple[Turn, ...] = ()
        aside: SetAside | None = None
        if self._triage is not None:
            aside = self._triage.evaluate(tick)
            rows, turns = self._turned_away(view, rows, aside)
        order = self._order(tick, rows, aside)
        if self._reactions is not None:
            order = extra.limit(self._reactions, order, view)
        if self._batch is not None:
            order = extra.group(self._batch, tick, order, aside)
        shares = [] if self._pools is None else self._pools.in_order(tick)
        if shares:
            drafts = self._by_pool(tick, shares, order, aside, extra)
        else:
            drafts = [Draft(tick, self._rules, view.free, view.gpus, aside=aside, limits=extra.limits())]
            self._fill(drafts[0], order, order)
        left = [self._claims.leave(draft) for draft in drafts]
        gathered = tuple(Reservation(view.ids[row], *kept) for d in drafts for row, kept in d.gathering.items())
        return Proposal(
            places=extra.told(tuple(place for draft in drafts for place in draft.listed()), view),
            caps=tuple(cap for caps, _ in left for cap in caps),
            turns=turns,
            reservations=tuple(claim for _, claimed in left for claim in claimed) + gathered,
            waits=_waits(view, drafts, extra.held),
            wake_at_s=self._wake(view, any(draft.recheck for draft in drafts), extra.until_s),
            alarms=self._alarms(tick),
            notes=extra.notes,
            batches=extra.batches,
            reasons=extra.reasons(self._claims.migrations.reasons(view)),
        )

    def _fill(self, draft: Draft, order: Ranking, own: Ranking) -> None:
        """Hand out the ranks of a draft to `order`; `own` of those may be preempted for."""
        self._claims.enter(draft)
        keep_held(draft, order)
        if self._solver is not None:
            self._solver.run(draft, order)
        Walk(draft, self.program.allocate, self._reserving).run(order)
        for preempt in self._preempts:
            preempt.run(draft, own, self._claims)
        grow(draft)

    def _by_pool(
        self, tick: Tick, shares: list[Share], order: Ranking, aside: SetAside | None, extra: Extra
    ) -> list[Draft]:
        """One draft a pool. Whoever found no place in a pool that spills is asked again in the other one."""
        assert self._pools is not None
        view = tick.view
        guests: dict[str, list[int]] = {share.name: [] for share in shares}
        drafts = []
        for share in shares:
            home = share.stages.take(view.stage)
            asked = home.copy()
            asked[guests.pop(share.name)] = True
            draft = Draft(tick, self._rules, share.idle, share.size, share.ranks, share.stages)
            draft.aside, draft.limits = aside, extra.limits()
            self._fill(draft, order.part(asked), order.part(home))
            for pool, stages in self._pools.spills(tick, share):
                draft.name_unasked()
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

    def _turned_away(self, view: View, rows: I8, aside: SetAside) -> tuple[I8, tuple[Turn, ...]]:
        """Triage `then reject`: those set aside that have not begun are answered at once."""
        assert self._triage is not None
        if self._triage.message is None or not aside.any:
            return rows, ()
        message, line = self._triage.message, self._triage.clause.line
        gone = (aside.mask & ~view.started & (view.sp == 0)).take(rows)
        turned = rows.compress(gone).tolist()
        turns = tuple(Turn(row, message, Because("triage", line, _over(float(aside.over[row])))) for row in turned)
        return rows.compress(~gone), turns

    def _order(self, tick: Tick, rows: I8, aside: SetAside | None) -> Ranking:
        """Plan order of `rows`: by the keys, then (arrival, id); the demoted behind them; those set aside last."""
        demoted = self._claims.demoted.rows(tick.view)
        if demoted:
            return self._with_demoted(tick, rows, aside, demoted)
        if aside is None or not aside.any:
            return Ranking(tick, rows, self._keys, self._hint)
        return Ranking(tick, rows, self._keys, self._hint, aside.mask, lambda some: self._leftovers(tick, some))

    def _with_demoted(self, tick: Tick, rows: I8, aside: SetAside | None, demoted: list[int]) -> Ranking:
        last = np.zeros(tick.view.size, dtype=bool) if aside is None else aside.mask.copy()
        lower = np.zeros(tick.view.size, dtype=bool)
        lower[demoted] = True

        def sort_behind(some: I8) -> I8:
            late = last.take(some)
            return np.concatenate([sort(tick, some[~late], self._keys), self._leftovers(tick, some[late])])

        return Ranking(tick, rows, self._keys, self._hint, last | lower, sort_behind)

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
            kept = ((key, kept) for key, kept in self._reserving.items() if view.row_of(key, kept[1]) is not None)
            self._reserving = dict(kept)

    def _wake(self, view: View, recheck: bool, held_until_s: float = np.inf) -> float | None:
        """Waiting that only time can end must be looked at again."""
        times = [view.now_s + RECHECK_S] if recheck or np.count_nonzero(NEW.take(view.state)) else []
        if held_until_s < np.inf:
            times.append(held_until_s)
        if self._reactions is not None:
            times += self._reactions.wakes(view)
        if self._memory is not None:
            times += self._memory.wakes(view)
        if self._pools is not None:
            times += self._pools.wakes(view)
        return min(times, default=None)


def _solver(allocate: Allocate, compiler: Compiler) -> CompiledKnapsack | CompiledRollout | None:
    """What chooses degrees for several requests together, before the walk."""
    match allocate.kind:
        case AllocateKind.KNAPSACK:
            return CompiledKnapsack(allocate, compiler)
        case AllocateKind.ROLLOUT:
            return CompiledRollout(allocate, compiler)
        case _:
            return None


def _occasions(tick: TickClause) -> frozenset[Occasion] | None:
    """No clause: on everything. A bare period: on nothing else."""
    return None if tick.clause is None else frozenset(Occasion(name) for name in tick.on)


def _deciding(keys: tuple[OrderKey, ...]) -> tuple[OrderKey, ...]:
    """What a stable sort of rows in (arrival, id) order needs: constants and a closing `arrival` decide nothing."""
    kept = [key for key in keys if key.value.level > Level.TICK]
    while kept and isinstance(kept[-1].value, Name) and kept[-1].value.name == "arrival" and not kept[-1].descending:
        kept.pop()
    return tuple(kept)


def _waits(view: View, drafts: list[Draft], held: dict[int, WaitReason]) -> Waits:
    codes = np.empty(view.size, dtype=np.int8)
    codes.fill(NO_WAIT)
    for draft in drafts:
        draft.write_waits(codes)
    for row, reason in held.items():
        codes[row] = WAIT_CODE[reason]
    return Waits(codes)


def _over(gpu_s: float) -> tuple[tuple[str, str], ...]:
    if not np.isfinite(gpu_s):
        return (("on time at", "no degree"),)
    return (("over budget by", f"{human_s(gpu_s)} x gpu"),)
