"""How many ranks a request gets: one stage's clause, evaluated over rows x degrees at once, then asked row by row; of a
few rows, one by one.

`Choices.pick(k, limit)` gives the degree that the clause prefers among those up to `limit`: the same chooser, evaluated
again over the degrees that still fit. A degree that the cluster does not offer to the row's model is never chosen; when
it offers none of those that the clause names, the nearest one stands in, so that one policy file serves any cluster.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from gfdit.core.proposal import Because, Prefer
from gfdit.core.view import B1, F8, I8, STAGE_CODE
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES, Stage
from gfdit.lang.program import Alternative, ChosenDegree, FixedDegree, HoldKind, Pick, StageClause
from gfdit.lang.schema import Level
from gfdit.policy.columns import Fn, Frame
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import Compared, Condition, quoting
from gfdit.policy.rows import Row, RowCompiler, RowCondition, RowFn
from gfdit.policy.scalars import INF, Unsupported

_ORDINAL = ("1st", "2nd", "3rd")


@dataclass(frozen=True, slots=True)
class Choice:
    """A degree, and the alternative that chose it (-1: `sp fixed`)."""

    degree: int
    alternative: int


class Choices:
    """One clause evaluated over the rows of a frame; `most`: ranks of the cluster, or of the pool they are in."""

    def __init__(self, rule: StageRule, frame: Frame, most: int) -> None:
        self.rule = rule
        self._degrees = frame.view.degrees
        self._size = frame.size
        self._allowed: list[list[bool]] | None = None
        self._frame = frame
        self._feasible: B1 | None = None  # what the clause knows, before any alternative
        self._masks: list[list[list[bool]]] = []  # these three: of the alternatives that were looked at so far
        self._keys: list[list[list[float]] | None] = []
        self._compared: list[Compared] = []
        self._offered: B1 | list[list[bool]] | None = None
        if rule.single and rule.fixed is not None:
            return  # one rank whatever the tables say
        offered = self._offered = np.isfinite(frame.column("#step")) & (frame.tick.degrees <= most)
        if isinstance(rule.clause.degree, FixedDegree):
            self._fixed(frame, offered)
        else:
            self._chosen(rule.clause.degree, frame, offered)

    def _fixed(self, frame: Frame, offered: B1) -> None:
        """The widest offered degree up to the fixed one: normally that one itself."""
        assert self.rule.fixed is not None
        wanted = np.broadcast_to(self.rule.fixed(frame), (frame.size,))[:, None]
        allowed = offered & (frame.tick.degrees == wanted)
        self._masks.append(_stand_in(allowed, offered, frame.tick.degrees < wanted).tolist())

    def _chosen(self, degree: ChosenDegree, frame: Frame, offered: B1) -> None:
        named, any_other = self.rule.named(frame.view.degrees)
        allowed = offered
        if any_other:
            allowed = _stand_in(offered & named, offered, frame.tick.degrees < degree.degrees[0])
        self._feasible = allowed
        self._allowed = allowed.tolist()
        if self.rule.watched:  # coverage counts every condition
            self._mask(len(self.rule.alternatives) - 1)

    def _mask(self, number: int) -> list[list[bool]]:
        """`[K][D]`: what an alternative admits. It and those before it are evaluated when they are first asked for."""
        while len(self._masks) <= number:
            assert self._feasible is not None
            alternative = self.rule.alternatives[len(self._masks)]
            mask, compared = alternative.feasible(self._frame, self._feasible)
            self._masks.append(mask.tolist())
            self._compared.append(compared)
            self._keys.append(alternative.keys(self._frame, self._feasible.shape))
        return self._masks[number]

    def admitted(self) -> B1:
        """`[K, D]`: the degrees that some alternative admits, whatever it prefers. `[K, 1]` of one-rank stages."""
        if self.rule.single:
            if self.rule.fixed is not None:
                return np.ones((self._size, 1), dtype=bool)
            able = [self._pick_single(k) is not None for k in range(self._size)]
            return np.array(able, dtype=bool)[:, None]
        if self.rule.admits_all and self._feasible is not None:
            return self._feasible
        masks = [np.array(mask, dtype=bool) for mask in self._masks_before_wait()]
        return np.logical_or.reduce(masks) if masks else np.zeros((self._size, len(self._degrees)), dtype=bool)

    def _masks_before_wait(self) -> list[list[list[bool]]]:
        picks = [alternative.pick for alternative in self.rule.alternatives]
        if not picks:
            return self._masks
        before = picks.index(Pick.WAIT) if Pick.WAIT in picks else len(picks)
        return [self._mask(number) for number in range(before)]

    def any_offered(self, k: int) -> bool:
        """Whether this row could ever run under the clause on this cluster."""
        return self.rule.single or (self._offered is not None and any(self._offered[k]))

    def allows(self, k: int, degree: int) -> bool:
        """Whether the clause knows `degree` for this row, whatever it prefers."""
        if self.rule.single or self._offered is None:
            return degree == 1
        if degree not in self._degrees:
            return False
        column = self._degrees.index(degree)
        return bool((self._offered if self._allowed is None else self._allowed)[k][column])

    def pick(self, k: int, limit: int) -> Choice | None:
        """The preferred degree of row `k` (of the frame) up to `limit`; None: it waits."""
        if limit < 1:
            return None
        if self.rule.single:
            return self._pick_single(k)
        if self.rule.fixed is not None:
            column = self._best(Pick.SMALLEST, self._masks[0][k], None, k, limit)
            return None if column is None else Choice(self._degrees[column], -1)
        for number, alternative in enumerate(self.rule.alternatives):
            if alternative.pick is Pick.WAIT:
                return None
            mask = self._mask(number)[k]
            column = self._best(alternative.pick, mask, self._keys[number], k, limit)
            if column is not None:
                return Choice(self._degrees[column], number)
        return None

    def _pick_single(self, k: int) -> Choice | None:
        """These stages run on one rank; a clause may still say `wait`."""
        if self.rule.fixed is not None:
            return Choice(1, -1)
        for number, alternative in enumerate(self.rule.alternatives):
            if alternative.pick is Pick.WAIT:
                return None
            if any(self._mask(number)[k]):
                return Choice(1, number)
        return None

    def _best(self, pick: Pick, mask: list[bool], keys: list[list[float]] | None, k: int, limit: int) -> int | None:
        """The column that `pick` prefers among the feasible ones up to `limit`; of equal keys the narrower degree."""
        best: int | None = None
        for column, degree in enumerate(self._degrees):
            if degree > limit:
                break
            if not mask[column]:
                continue
            if pick is Pick.SMALLEST:
                return column
            if best is None or pick is Pick.LARGEST or (keys is not None and keys[k][column] < keys[k][best]):
                best = column
        return best

    def because(self, k: int, choice: Choice) -> Because:
        """The clause, the alternative and what it compared at the chosen degree."""
        rule = self.rule
        if choice.alternative < 0:
            return rule.because_fixed
        alternative = rule.alternatives[choice.alternative]
        compared = self._compared[choice.alternative]
        if not compared or choice.degree not in self._degrees:
            return Because(alternative.title, alternative.line)
        at = (k, self._degrees.index(choice.degree))
        return quoting(alternative.title, alternative.line, compared, at, choice.degree)


class RowChoices(Choices):
    """The same for one row, in plain floats."""

    def __init__(self, rule: StageRule, row: Row, most: int) -> None:
        assert rule.by_row is not None
        self.rule = rule
        self._degrees = row.degrees
        self._row = row
        self._size = 1
        self._feasible = None
        self._allowed = None
        self._offered = None
        self._masks = []
        self._keys = []
        if rule.single and rule.fixed is not None:
            return
        degrees = row.degrees
        offered = [step < INF and degree <= most for step, degree in zip(row.table("#step"), degrees, strict=True)]
        self._offered = [offered]
        if isinstance(rule.clause.degree, FixedDegree):
            wanted = rule.by_row.fixed(row, -1, -1)
            allowed = [able and degree == wanted for able, degree in zip(offered, degrees, strict=True)]
            self._masks.append([_stand_in_of_row(allowed, offered, [degree < wanted for degree in degrees])])
            return
        named, any_other = rule.named(degrees)
        allowed = offered
        if any_other:
            first = rule.clause.degree.degrees[0]
            allowed = [able and name for able, name in zip(offered, named.tolist(), strict=True)]
            allowed = _stand_in_of_row(allowed, offered, [degree < first for degree in degrees])
        self._allowed = [allowed]

    def _mask(self, number: int) -> list[list[bool]]:
        while len(self._masks) <= number:
            assert self._allowed is not None and self.rule.by_row is not None
            where, key = self.rule.by_row.alternatives[len(self._masks)]
            row, mask = self._row, self._allowed[0]
            if where is not None:
                mask = [able and bool(where.holds(row, here, -1)) for here, able in enumerate(mask)]
            keys = None if key is None else [float(key(row, here, -1)) for here in range(len(mask))]
            self._masks.append([mask])
            self._keys.append(None if keys is None else [[INF if k != k else k for k in keys]])
        return self._masks[number]

    def because(self, k: int, choice: Choice) -> Because:
        rule = self.rule
        if choice.alternative < 0:
            return rule.because_fixed
        alternative = rule.alternatives[choice.alternative]
        where = None if rule.by_row is None else rule.by_row.alternatives[choice.alternative][0]
        if where is None or choice.degree not in self._degrees:
            return Because(alternative.title, alternative.line)
        here = self._degrees.index(choice.degree)
        return quoting(alternative.title, alternative.line, where.compared(self._row, here), (), choice.degree)


def _stand_in_of_row(allowed: list[bool], offered: list[bool], below: list[bool]) -> list[bool]:
    """As `_stand_in`."""
    if any(allowed) or not any(offered):
        return allowed
    narrower = [column for column, able in enumerate(offered) if able and below[column]]
    chosen = narrower[-1] if narrower else offered.index(True)
    return [column == chosen for column in range(len(offered))]


def _stand_in(allowed: B1, offered: B1, below: B1) -> B1:
    """`allowed`, where it has something; else the widest offered degree below it, or the narrowest that there is."""
    some = allowed.any(axis=1)
    if some.all():
        return allowed
    without = np.flatnonzero(~some)
    narrower = (offered & below)[without]
    widest = narrower.shape[1] - 1 - np.argmax(narrower[:, ::-1], axis=1)
    chosen = np.where(narrower.any(axis=1), widest, np.argmax(offered[without], axis=1))
    allowed[without, chosen] = offered[without].any(axis=1)
    return allowed


def title_of(number: int) -> str:
    """How decisions name the alternative at this place of the chain, from 0."""
    return f"sp, {_ORDINAL[number] if number < len(_ORDINAL) else f'{number + 1}th'} alternative"


class CompiledAlternative:
    """One link of a chooser's chain."""

    def __init__(self, number: int, alternative: Alternative, compiler: Compiler) -> None:
        self.pick = alternative.pick
        self._alternative = alternative
        self.line = alternative.clause.line
        self.title = title_of(number)
        self.where = None if alternative.where is None else Condition(compiler, alternative.where, Level.DEGREE)
        self.takes_all = alternative.where is None
        self._key = None if alternative.key is None else compiler.expr(alternative.key, Level.DEGREE)

    def by_row(self, compiler: RowCompiler) -> tuple[RowCondition | None, RowFn | None]:
        """What it tests, and what it minimizes, for one row. Raises Unsupported."""
        where = None if self.where is None else RowCondition(self.where, compiler)
        if self._alternative.key is None:
            return where, None
        key, sign = compiler.expr(self._alternative.key), -1.0 if self.pick is Pick.MAXIMIZING else 1.0
        return where, lambda row, here, wider: sign * key(row, here, wider)

    def feasible(self, frame: Frame, allowed: B1) -> tuple[B1, Compared]:
        """`[K, D]`: allowed and `where` holds; with what was compared."""
        if self.where is None:
            return allowed, []
        truth, compared = self.where.evaluate(frame)
        return np.logical_and(allowed, truth), compared

    def keys(self, frame: Frame, shape: tuple[int, ...]) -> list[list[float]] | None:
        """`[K, D]`, smaller is better, for MINIMIZING and MAXIMIZING; what is not a number comes last."""
        if self._key is None:
            return None
        keys: F8 = np.broadcast_to(np.asarray(self._key(frame), dtype=np.float64), shape)
        if self.pick is Pick.MAXIMIZING:
            keys = -keys
        rows: list[list[float]] = np.where(np.isnan(keys), np.inf, keys).tolist()
        return rows


@dataclass(frozen=True, slots=True)
class ByRow:
    """What a clause asks of one row: the fixed degree, or the condition and the key of each alternative."""

    fixed: RowFn
    alternatives: tuple[tuple[RowCondition | None, RowFn | None], ...]


class StageRule:
    """The clause of one or several stages, compiled. `single`: its stages occupy one rank."""

    def __init__(self, clause: StageClause, compiler: Compiler) -> None:
        self.clause = clause
        self.single = Stage(clause.stage) in SINGLE_RANK_STAGES
        self.stage_code = STAGE_CODE[Stage(clause.stage)]
        self.prefer = tuple(Prefer(name) for name in clause.prefer) or (Prefer.LAST_GPUS, Prefer.SAME_NODE)
        self.watched = compiler.watch is not None
        self._named: dict[tuple[int, ...], tuple[B1, bool]] = {}
        self.fixed: Fn | None = None
        self.alternatives: tuple[CompiledAlternative, ...] = ()
        if isinstance(clause.degree, FixedDegree):
            self.fixed = compiler.expr(clause.degree.value, Level.REQUEST)
        else:
            links = clause.degree.alternatives
            self.alternatives = tuple(CompiledAlternative(n, link, compiler) for n, link in enumerate(links))
        # some alternative takes whatever the clause knows: what the others test does not matter to what is admitted
        asked = itertools.takewhile(lambda one: one.pick is not Pick.WAIT, self.alternatives)
        self.admits_all = not self.watched and any(one.takes_all for one in asked)
        self.because_fixed = Because("sp fixed", clause.degree.clause.line)
        self.because_hold = Because("hold", clause.hold.clause.line if clause.hold else 0)
        self.sticky = clause.sticky
        self.reserve_s = clause.reserve
        self.lanes = clause.lanes
        self.by_row = None if self.watched else self._by_row(RowCompiler(compiler))
        grow = None if self.single else clause.grow
        self.grow_line = grow.clause.line if grow else 0
        self.grows = grow is not None
        self.grow_by = () if grow is None else tuple(compiler.key(key, Level.PAIR) for key in grow.by)
        self.grow_where = None if grow is None or grow.where is None else Condition(compiler, grow.where, Level.PAIR)
        self.grow_most = None if grow is None or grow.most is None else compiler.expr(grow.most, Level.TICK)

    def _by_row(self, compiler: RowCompiler) -> ByRow | None:
        """None where it is not about one row alone."""
        try:
            degree = self.clause.degree
            if isinstance(degree, FixedDegree):
                return ByRow(compiler.expr(degree.value), ())
            return ByRow(lambda row, here, wider: 0, tuple(one.by_row(compiler) for one in self.alternatives))
        except Unsupported:
            return None

    def named(self, degrees: tuple[int, ...]) -> tuple[B1, bool]:
        """`[D]`: which of the cluster's degrees the clause names; whether there are others."""
        found = self._named.get(degrees)
        if found is None:
            assert isinstance(self.clause.degree, ChosenDegree)
            named = np.isin(degrees, self.clause.degree.degrees)
            found = self._named[degrees] = named, not bool(named.all())
        return found

    def holds_until(self) -> float | None:
        """Seconds from forming a group for which it is kept: +inf until done, None without `hold`."""
        hold = self.clause.hold
        if hold is None:
            return None
        return np.inf if hold.kind is HoldKind.UNTIL_DONE else hold.seconds


class Rules:
    """The rules of all stages: `of(stage code)`, each distinct one once in `distinct`."""

    def __init__(self, clauses: tuple[StageClause, ...], compiler: Compiler) -> None:
        by_stage: dict[str, StageRule] = {}
        for clause in clauses:
            if not clause.follows:
                by_stage[clause.stage] = StageRule(clause, compiler)
        for clause in clauses:
            if clause.follows:
                by_stage[clause.stage] = by_stage[clause.follows]
        self.distinct = tuple(dict.fromkeys(by_stage.values()))
        numbers = [self.distinct.index(by_stage[stage]) for stage in STAGES]
        self.number_of_stage: I8 = np.array(numbers, dtype=np.int64)
        self._of = tuple(by_stage[stage] for stage in STAGES)
        self.single_of_stage: B1 = np.array([rule.single for rule in self._of])
        self.any_hold = any(rule.clause.hold is not None for rule in self.distinct)
        self.any_grow = any(rule.grows for rule in self.distinct)

    def of(self, stage_code: int) -> StageRule:
        return self._of[stage_code]
