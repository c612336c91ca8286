"""Take back: `preempt` frees ranks for requests that found no place.

For each unplaced winner, in plan order, victims are taken in the order that the clause gives until the winner would
fit; when all of them together do not make room, none is. A victim placed in this very plan gives way at once. A running
one is capped: it shrinks or pauses at its next boundary, and a `Claim` sets what it frees apart for the winner.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Because, Cap, WaitReason
from gfdit.core.view import I8, STATE_CODE, Reservation, View
from gfdit.lang.program import Action, Preempt, Take
from gfdit.lang.schema import Level
from gfdit.policy.allocate import Draft
from gfdit.policy.columns import Fn, Frame, symbols
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import Condition, quote

RUNNING = STATE_CODE[State.RUNNING]
SHORTEST_CLAIM_S = 1.0
STEPS_A_CLAIM_LASTS = 2.0  # victims reach a boundary within one step; twice that allows for a slow one


@dataclass(slots=True)
class Claim:
    """Ranks on their way to a winner. `victims`: request id -> the cap it was given, while it runs towards it."""

    winner: str
    target: int
    until_s: float
    victims: dict[str, int]
    because: dict[str, Because]


@dataclass(slots=True)
class Claims:
    """All claims of one policy, carried from tick to tick; a replay rebuilds them."""

    by_winner: dict[str, Claim] = field(default_factory=dict)

    def enter(self, draft: Draft) -> None:
        """Forget what is over, and withhold in `draft` what each winner is still to get of the ranks free by now."""
        if not self.by_winner:
            return
        view = draft.view
        row_of = {request_id: row for row, request_id in enumerate(view.ids)}
        for winner, claim in list(self.by_winner.items()):
            row = row_of.get(winner)
            if row is None or view.state[row] == RUNNING or view.now_s >= claim.until_s:
                del self.by_winner[winner]
                continue
            if not draft.plans(row):
                continue
            running = {v: cap for v, cap in claim.victims.items() if v in row_of and view.state[row_of[v]] == RUNNING}
            pending = sum(max(0, int(view.sp[row_of[v]]) - cap) for v, cap in running.items())
            claim.victims = running
            draft.claims[row] = max(0, claim.target - pending)

    def leave(self, draft: Draft) -> tuple[tuple[Cap, ...], tuple[Reservation, ...]]:
        """The caps and reservations of the claims that stand after the plan."""
        if not self.by_winner:
            return (), ()
        view = draft.view
        row_of = {request_id: row for row, request_id in enumerate(view.ids)}
        caps: list[Cap] = []
        reservations: list[Reservation] = []
        for winner, claim in list(self.by_winner.items()):
            row = row_of[winner]
            if not draft.plans(row):
                continue
            if row in draft.places:
                del self.by_winner[winner]
                continue
            draft.waits[row] = WaitReason.HOLDING
            for victim, cap in claim.victims.items():
                caps.append(Cap(row_of[victim], cap, row, claim.because[victim]))
            if draft.claims.get(row, 0) > 0:
                reservations.append(Reservation(winner, draft.claims[row], claim.until_s))
        return tuple(caps), tuple(reservations)


class Bucket:
    """`limit n per t`: n victims at once, then one more every t / n."""

    def __init__(self, limit: int | None, per: float | None) -> None:
        self._limit = limit
        self._per = per
        self._tokens = float(limit or 0)
        self._at: float | None = None

    def left(self, now_s: float) -> int:
        """How many victims may be taken now. Without a limit: as many as there are."""
        if self._limit is None:
            return 1 << 30
        if self._at is not None and self._per:
            refill = (now_s - self._at) * self._limit / self._per
            self._tokens = min(float(self._limit), self._tokens + refill)
        self._at = now_s
        return int(self._tokens + 1e-9)

    def take(self, count: int) -> None:
        self._tokens -= count


@dataclass(frozen=True, slots=True)
class Victim:
    """A row that may lose ranks: how many it has, where it may be shrunk to (None: not), whether it may be paused."""

    row: int
    has: int
    shrink_to: int | None
    may_pause: bool


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

    def run(self, draft: Draft, order: I8, claims: Claims) -> None:
        # whoever triage set aside is served from what is left: nobody gives ranks up for a request that is lost
        winners = [row for row in order.tolist() if row not in draft.places and row not in draft.aside]
        if not winners:
            return
        rows = np.array(winners)
        rows = rows[_in_classes(Frame(draft.tick, rows), self._preempt.winners)]
        if not len(rows):
            return
        truth, compared = (True, []) if self._when is None else self._when.evaluate(Frame(draft.tick, rows))
        holds = np.broadcast_to(truth, rows.shape)
        taken: set[str] = {victim for claim in claims.by_winner.values() for victim in claim.victims}
        for k, row in enumerate(rows.tolist()):
            left = self._bucket.left(draft.view.now_s)
            if left < 1:
                return
            if holds[k] and draft.view.ids[row] not in claims.by_winner:
                self._serve(draft, row, left, taken, claims, Because(self._title, self._line, quote(compared, (k,))))

    def _serve(self, draft: Draft, row: int, left: int, taken: set[str], claims: Claims, because: Because) -> None:
        """Take victims for one winner, or none."""
        victims = self._victims(draft, row, taken)
        available = draft.available(row)
        potential = available + sum(v.has if v.may_pause else v.has - (v.shrink_to or v.has) for v in victims[:left])
        choice = draft.pick(row, min(potential, draft.view.gpus))
        if choice is None or choice.degree <= available:
            return
        caps = self._enough(victims, choice.degree - available, left)
        if caps is None:
            return
        self._bucket.take(len(caps))
        self._take(draft, row, choice.degree, caps, claims, because)
        taken.update(draft.view.ids[victim] for victim in caps)

    def _victims(self, draft: Draft, winner: int, taken: set[str]) -> list[Victim]:
        """Who may be taken from, in the clause's order; of equals the newest first."""
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
        pause_s = min(view.remaining_s[winner].tolist(), default=0.0)
        found = [
            _victim(draft, int(row), self._preempt.takes, pause_s) for row in rows[ranked] if view.ids[row] not in taken
        ]
        return [victim for victim in found if victim.shrink_to is not None or victim.may_pause]

    def _enough(self, victims: list[Victim], need: int, left: int) -> dict[int, int] | None:
        """Caps (row -> degree) that free `need` ranks: the first kind of taking for all victims, then the next."""
        caps: dict[int, int] = {}
        freed = 0
        for take in self._preempt.takes:
            for victim in victims:
                if freed >= need:
                    return caps
                to = victim.shrink_to if take.action is Action.SHRINK else 0 if victim.may_pause else None
                before = caps.get(victim.row, victim.has)
                if to is None or to >= before or (victim.row not in caps and len(caps) == left):
                    continue
                caps[victim.row] = to
                freed += before - to
        return caps if freed >= need else None

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
        claims.by_winner[view.ids[row]] = Claim(view.ids[row], target, until, running, reasons)
        draft.claims[row] = target - pending


def _victim(draft: Draft, row: int, takes: tuple[Take, ...], pause_s: float) -> Victim:
    """What may be done to `row`. One that would be late because of it is left alone, unless it is preemptible."""
    view = draft.view
    has = draft.places[row][0] if row in draft.places else int(view.sp[row])
    deadline_s = float(view.deadline_s[row]) - view.now_s
    remaining = draft.remaining(row, has)
    spare = bool(view.preemptible[row]) or remaining > deadline_s  # late as it is: nothing more to lose
    to: int | None = None
    for take in takes:
        if take.action is Action.SHRINK and take.to is not None:
            offered = [d for c, d in enumerate(view.degrees) if d <= take.to and np.isfinite(view.step_s[row, c])]
            if offered and offered[-1] < has and (spare or draft.remaining(row, offered[-1]) <= deadline_s):
                to = offered[-1]
    pausing = any(take.action is Action.PAUSE for take in takes)
    return Victim(row, has, to, pausing and (spare or remaining + pause_s <= deadline_s))


def _in_classes(frame: Frame, names: tuple[str, ...]) -> np.ndarray:
    """Which rows are of one of the classes; no names: all."""
    if not names:
        return np.ones(frame.size, dtype=bool)
    codes, known = symbols(frame, "class")
    return np.isin(codes, [code for code, name in enumerate(known) if name in names])


def _longest_step(view: View, rows: list[int]) -> float:
    steps = view.step_s[rows]
    return float(np.max(steps, where=np.isfinite(steps), initial=0.0))
