"""Take back: `preempt` frees ranks for requests that found no place.

For each unplaced winner, in plan order, victims are taken in the order that the clause gives until the winner would
fit; when all of them together do not make room, none is. A victim placed in this very plan gives way at once. A running
one is capped: it shrinks or pauses at its next boundary, and a `Claim` sets what it frees apart for the winner.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import assert_never

import numpy as np

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Because, Cap, WaitReason
from gfdit.core.view import B1, I8, STATE_CODE, Reservation, View
from gfdit.lang.program import Action, Preempt, Take
from gfdit.lang.schema import Level
from gfdit.policy.allocate import Draft
from gfdit.policy.columns import Fn, Frame, spread, symbols
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import Condition, quoting
from gfdit.policy.migrating import Migrations, needs_block
from gfdit.policy.ranking import Ranking

RUNNING = STATE_CODE[State.RUNNING]
SHORTEST_CLAIM_S = 1.0
STEPS_A_CLAIM_LASTS = 2.0  # victims reach a boundary within one step; twice that allows for a slow one


@dataclass(slots=True)
class Claim:
    """Ranks on their way to a winner. `victims`: request id -> the cap it was given, while it runs towards it.
    `arrivals`: when the winner and the victims arrived, by which a view finds them."""

    winner: str
    target: int
    until_s: float
    victims: dict[str, int]
    because: dict[str, Because]
    arrivals: dict[str, float]

    def row_of(self, request_id: str, view: View) -> int | None:
        """The row of its winner or of one of its victims; None when that is not live any more."""
        return view.row_of(request_id, self.arrivals[request_id])

    def still_running(self, view: View) -> dict[str, int]:
        """Rows of the victims that have not come to a boundary."""
        rows = {victim: self.row_of(victim, view) for victim in self.victims}
        return {victim: row for victim, row in rows.items() if row is not None and view.state[row] == RUNNING}


class Demoted:
    """Victims that stand behind everybody in the order while the one that they gave way for lives."""

    def __init__(self) -> None:
        self._winner: dict[str, tuple[float, str, float]] = {}  # victim -> its arrival, its winner, the arrival of that

    def put(self, view: View, victim: int, winner: int) -> None:
        arrivals = float(view.arrival_s[victim]), float(view.arrival_s[winner])
        self._winner[view.ids[victim]] = arrivals[0], view.ids[winner], arrivals[1]

    def copy(self) -> Demoted:
        other = Demoted()
        other._winner = dict(self._winner)
        return other

    def rows(self, view: View) -> list[int]:
        """Those that are live; whoever is not, or whose winner is not, is forgotten."""
        found: list[int] = []
        for victim, (arrival, winner, of_winner) in list(self._winner.items()):
            row = view.row_of(victim, arrival)
            if row is None or view.row_of(winner, of_winner) is None:
                del self._winner[victim]
            else:
                found.append(row)
        return found


@dataclass(slots=True)
class Claims:
    """All claims of one policy, carried from tick to tick; a replay rebuilds them."""

    by_winner: dict[str, Claim] = field(default_factory=dict)
    demoted: Demoted = field(default_factory=Demoted)
    migrations: Migrations = field(default_factory=Migrations)

    def copy(self) -> Claims:
        """For a policy that goes on where this one is."""
        claims = {
            winner: replace(claim, victims=dict(claim.victims), because=dict(claim.because))
            for winner, claim in self.by_winner.items()
        }
        return Claims(claims, self.demoted.copy())

    @property
    def taken(self) -> set[str]:
        """Victims of any claim, and those that make room for a block."""
        return {victim for claim in self.by_winner.values() for victim in claim.victims} | self.migrations.victims

    def enter(self, draft: Draft) -> None:
        """Forget what is over, and withhold in `draft` what each winner is still to get of the ranks free by now."""
        self.migrations.enter(draft)
        if not self.by_winner:
            return
        view = draft.view
        for winner, claim in list(self.by_winner.items()):
            row = claim.row_of(winner, view)
            if row is None or view.state[row] == RUNNING or view.now_s >= claim.until_s:
                del self.by_winner[winner]
                continue
            if not draft.plans(row):
                continue
            running = claim.still_running(view)
            claim.victims = {victim: claim.victims[victim] for victim in running}
            pending = sum(max(0, int(view.sp[row]) - claim.victims[victim]) for victim, row in running.items())
            draft.claims[row] = max(0, claim.target - pending)

    def leave(self, draft: Draft) -> tuple[tuple[Cap, ...], tuple[Reservation, ...]]:
        """The caps and reservations of the claims that stand after the plan."""
        caps: list[Cap] = list(self.migrations.leave(draft))
        if not self.by_winner:
            return tuple(caps), ()
        view = draft.view
        reservations: list[Reservation] = []
        for winner, claim in list(self.by_winner.items()):
            row = claim.row_of(winner, view)
            if row is None or not draft.plans(row):
                continue
            if row in draft.places:
                del self.by_winner[winner]
                continue
            draft.waits[row] = WaitReason.HOLDING
            for victim, running in claim.still_running(view).items():
                caps.append(Cap(running, claim.victims[victim], row, claim.because[victim]))
            if draft.claims.get(row, 0) > 0:
                reservations.append(Reservation(winner, draft.claims[row], claim.until_s))
        return tuple(caps), tuple(reservations)


class Bucket:
    """`limit n per t`: n victims at once, then one more every t / n. Asking changes nothing."""

    def __init__(self, limit: int | None, per: float | None) -> None:
        self._limit = limit
        self._per = per
        self._tokens = float(limit or 0)  # that were left when some were last taken
        self._at: float | None = None

    def left(self, now_s: float) -> int:
        """How many victims may be taken now. Without a limit: as many as there are."""
        return 1 << 30 if self._limit is None else int(self._filled(now_s) + 1e-9)

    def take(self, count: int, now_s: float) -> None:
        if self._limit is not None:
            self._tokens, self._at = self._filled(now_s) - count, now_s

    def _filled(self, now_s: float) -> float:
        if self._at is None or not self._per or self._limit is None:
            return self._tokens
        return min(float(self._limit), self._tokens + (now_s - self._at) * self._limit / self._per)

    def inherit(self, earlier: Bucket) -> None:
        """Go on with what an equal limit has left."""
        if (self._limit, self._per) == (earlier._limit, earlier._per):
            self._tokens, self._at = earlier._tokens, earlier._at


@dataclass(frozen=True, slots=True)
class Victim:
    """A row that may lose ranks: how many it has, and what each way of taking would leave it (None: it is not open).

    `survives_s`: the longest pause after which it is not late; `unpaused`: the same as `left` without pausing.
    """

    row: int
    has: int
    left: tuple[int | None, ...]
    unpaused: tuple[int | None, ...]
    survives_s: float
    gives: int
    gives_unpaused: int

    def ways(self, pause_s: float) -> tuple[int | None, ...]:
        return self.left if pause_s <= self.survives_s else self.unpaused

    def most(self, pause_s: float) -> int:
        """How many ranks it can give for so long a pause."""
        return self.gives if pause_s <= self.survives_s else self.gives_unpaused


@dataclass(frozen=True, slots=True)
class Takings:
    """What is taken so that a winner has `degree` ranks: row -> the degree that it is left with, and who is demoted."""

    degree: int
    caps: dict[int, int]
    demoted: frozenset[int]


def title_of(number: int) -> str:
    """How decisions name the `preempt` clause at this place of the policy, from 0."""
    return "preempt" if number == 0 else f"preempt, {number + 1}th"


class CompiledPreempt:
    """One `preempt` clause ready to run."""

    def __init__(self, preempt: Preempt, compiler: Compiler, number: int) -> None:
        self._preempt = preempt
        self._line = preempt.clause.line
        self._title = title_of(number)
        self._when = None if preempt.when is None else Condition(compiler, preempt.when, Level.REQUEST)
        self._where: Fn | None = None if preempt.where is None else compiler.expr(preempt.where, Level.REQUEST)
        self._by = tuple(compiler.key(key) for key in preempt.by)
        self._bucket = Bucket(preempt.limit, preempt.per)

    def inherit(self, earlier: CompiledPreempt) -> None:
        """The clause in the same place of the policy before: what its limit has left."""
        self._bucket.inherit(earlier._bucket)

    def run(self, draft: Draft, order: Ranking, claims: Claims) -> None:
        self._free(draft, order, claims)
        if any(take.action is Action.MIGRATE for take in self._preempt.takes):
            self._clear(draft, order, claims)

    def _clear(self, draft: Draft, order: Ranking, claims: Claims) -> None:
        """`migrate`: aligned blocks for winners that have ranks enough and no such block."""
        mine = np.array(sorted(set(draft.places).intersection(order.rows.tolist())), dtype=np.int64)
        mine = mine.compress(_in_classes(Frame(draft.tick, mine), self._preempt.winners))
        rows = np.array([row for row in mine.tolist() if needs_block(draft, row)], dtype=np.int64)
        if not len(rows):
            return
        truth, compared = (True, []) if self._when is None else self._when.evaluate(Frame(draft.tick, rows))
        holding = rows.compress(np.broadcast_to(truth, rows.shape))
        for row in order.sorted(holding).tolist():
            left = self._bucket.left(draft.view.now_s)
            because = quoting(self._title, self._line, compared, (int(rows.searchsorted(row)),))
            victims = self._eligible(draft, row, claims.taken)
            until = draft.view.now_s + max(SHORTEST_CLAIM_S, STEPS_A_CLAIM_LASTS * _longest_step(draft.view, victims))
            moved = claims.migrations.clear(draft, row, victims, left, until, because)
            if moved:
                self._bucket.take(moved, draft.view.now_s)
            if row not in draft.places:  # it waits for its block, and for nothing else
                claims.by_winner.pop(draft.view.ids[row], None)

    def _free(self, draft: Draft, order: Ranking, claims: Claims) -> None:
        """Ranks for winners that have none."""
        left = self._bucket.left(draft.view.now_s)
        if left < 1:
            return
        rows = self._unplaced(draft, order)
        if not len(rows):
            return
        truth, compared = (True, []) if self._when is None else self._when.evaluate(Frame(draft.tick, rows))
        holding = rows.compress(spread(truth, rows.shape))
        if not len(holding):
            return
        taken = claims.taken
        victims: list[Victim] | None = None  # the same for everybody until some are taken
        for row in order.sorted(holding).tolist():
            if draft.view.ids[row] in claims.by_winner or claims.migrations.waits_for(draft.view.ids[row]):
                continue
            victims = self._victims(draft, row, taken) if victims is None else victims
            takings = self._takings(draft, row, left, victims)
            if takings is None:
                continue
            because = quoting(self._title, self._line, compared, (int(rows.searchsorted(row)),))
            self._serve(draft, row, takings, taken, claims, because)
            victims, left = None, self._bucket.left(draft.view.now_s)
            if left < 1:
                return

    def _unplaced(self, draft: Draft, order: Ranking) -> I8:
        """Rows, ascending, that ranks might be taken for. Whoever triage set aside is served from what is left: nobody
        gives ranks up for a request that is lost."""
        open_to = order.mask()
        open_to[list(draft.places)] = False
        if draft.aside is not None and draft.aside.any:
            open_to &= ~draft.aside.mask
        rows = open_to.nonzero()[0]
        if not self._preempt.winners:
            return rows
        return rows.compress(_in_classes(Frame(draft.tick, rows), self._preempt.winners))

    def _takings(self, draft: Draft, row: int, left: int, victims: list[Victim]) -> Takings | None:
        """What would be taken for one winner; None when all that may be taken does not make room."""
        pause_s = min(draft.view.remaining_s[row].tolist(), default=0.0)
        able = [victim for victim in victims if victim.most(pause_s) > 0]
        available = draft.available(row)
        potential = available + sum(victim.most(pause_s) for victim in able[:left])
        choice = draft.pick(row, min(potential, draft.most(row)))
        if choice is None or choice.degree <= available:
            return None
        return self._enough(able, pause_s, choice.degree, choice.degree - available, left)

    def _serve(
        self, draft: Draft, row: int, takings: Takings, taken: set[str], claims: Claims, because: Because
    ) -> None:
        """Take them for one winner."""
        self._bucket.take(len(takings.caps), draft.view.now_s)
        self._take(draft, row, takings.degree, takings.caps, claims, because)
        taken.update(draft.view.ids[victim] for victim in takings.caps)
        for victim in takings.demoted:
            claims.demoted.put(draft.view, victim, row)

    def _victims(self, draft: Draft, winner: int, taken: set[str]) -> list[Victim]:
        """Who may be taken from, and how, in the clause's order."""
        return [_victim(draft, row, self._preempt.takes) for row in self._eligible(draft, winner, taken)]

    def _eligible(self, draft: Draft, winner: int, taken: set[str]) -> list[int]:
        """Rows with ranks that the clause is about, in its order; of equals the newest first."""
        view = draft.view
        placed = [row for row in draft.places if row != winner]
        rows = np.array(sorted(np.flatnonzero(view.state == RUNNING).tolist() + placed), dtype=np.int64)
        if not len(rows):
            return []
        rows = rows[::-1]
        if draft.stages is not None:  # ranks of another pool do not help
            rows = rows[draft.stages[view.stage[rows]]]
        frame = Frame(draft.tick, rows)
        mask = _in_classes(frame, self._preempt.victims)
        if self._where is not None:
            mask = mask & self._where(frame)
        if self._preempt.protect > 0:
            mask = mask & (view.now_s - view.group_since_s[rows] >= self._preempt.protect)
        keys = [np.broadcast_to(key(frame), rows.shape) for key in self._by]
        ranked = np.lexsort(keys[::-1]) if keys else np.arange(len(rows))
        ranked = ranked[mask[ranked]]
        return [row for row in rows[ranked].tolist() if view.ids[row] not in taken]

    def _enough(self, victims: list[Victim], pause_s: float, degree: int, need: int, left: int) -> Takings | None:
        """What frees `need` ranks: the first kind of taking for all victims, then the next."""
        caps: dict[int, int] = {}
        demoted: set[int] = set()
        freed = 0
        for number, take in enumerate(self._preempt.takes):
            for victim in victims:
                if freed >= need:
                    break
                to = victim.ways(pause_s)[number]
                before = caps.get(victim.row, victim.has)
                if to is None or to >= before or (victim.row not in caps and len(caps) == left):
                    continue
                caps[victim.row] = to
                freed += before - to
                if take.action is Action.DEMOTE:
                    demoted.add(victim.row)
        return Takings(degree, caps, frozenset(demoted)) if freed >= need else None

    def _take(
        self, draft: Draft, row: int, target: int, caps: dict[int, int], claims: Claims, because: Because
    ) -> None:
        view = draft.view
        pending = 0
        running: dict[str, int] = {}
        for victim, cap in caps.items():
            if victim not in draft.places:
                running[view.ids[victim]] = cap
                pending += int(view.sp[victim]) - cap
            elif cap == 0:
                draft.unplace(victim, WaitReason.RESERVED)
            else:
                draft.resize(victim, cap, because)
        if not pending:
            draft.place(row, target, because)
            return
        until = view.now_s + max(SHORTEST_CLAIM_S, STEPS_A_CLAIM_LASTS * _longest_step(view, list(caps)))
        reasons = dict.fromkeys(running, because)
        arrivals = {view.ids[one]: float(view.arrival_s[one]) for one in (row, *caps)}
        claims.by_winner[view.ids[row]] = Claim(view.ids[row], target, until, running, reasons, arrivals)
        draft.claims[row] = target - pending


def _victim(draft: Draft, row: int, takes: tuple[Take, ...]) -> Victim:
    """What may be done to `row`. One that would be late because of it is left alone, unless it is preemptible."""
    view = draft.view
    has = draft.places[row][0] if row in draft.places else int(view.sp[row])
    deadline_s = float(view.deadline_s[row]) - view.now_s
    remaining = draft.remaining(row, has)
    spare = bool(view.preemptible[row]) or remaining > deadline_s  # late as it is: nothing more to lose
    offered = [degree for c, degree in enumerate(view.degrees) if np.isfinite(view.step_s[row, c])]

    def shrunk(degrees: list[int]) -> int | None:
        """The widest of them, if that is less and early enough."""
        if not degrees or degrees[-1] >= has:
            return None
        return degrees[-1] if spare or draft.remaining(row, degrees[-1]) <= deadline_s else None

    def left(take: Take) -> int | None:
        match take.action:
            case Action.SHRINK:
                return shrunk([degree for degree in offered if degree <= (take.to or 0)])
            case Action.DEMOTE:
                return shrunk(offered[:1])
            case Action.PAUSE:
                return 0
            case Action.MIGRATE:
                return None
            case _:
                assert_never(take.action)

    ways = tuple(left(take) for take in takes)
    unpaused = tuple(None if take.action is Action.PAUSE else to for take, to in zip(takes, ways, strict=True))
    gives = [has - min((to for to in each if to is not None), default=has) for each in (ways, unpaused)]
    return Victim(row, has, ways, unpaused, np.inf if spare or np.isinf(deadline_s) else deadline_s - remaining, *gives)


def _in_classes(frame: Frame, names: tuple[str, ...]) -> np.ndarray:
    """Which rows are of one of the classes; no names: all."""
    if not names:
        return np.ones(frame.size, dtype=bool)
    codes, known = symbols(frame, "class")
    return _membership(names, known).take(codes)


@cache
def _membership(names: tuple[str, ...], known: tuple[str, ...]) -> B1:
    """Which of the known names are among `names`; last, that of a class which is not the policy's."""
    return np.array([name in names for name in (*known, None)])


def _longest_step(view: View, rows: list[int]) -> float:
    steps = view.step_s[rows]
    return float(np.max(steps, where=np.isfinite(steps), initial=0.0))
