"""Expressions of a checked program, each compiled once to a closure over columns.

A closure takes a `Frame` and gives a scalar (level CONST, TICK), `[K]` (REQUEST), `[K, D]` (DEGREE) or `[K, D, D]`
(PAIR: axis 1 is `sp`, axis 2 is `next`). Lifting from one level to the next is decided here, once, by the levels of
the program; no value is inspected. Infinities mean what the language says: no deadline is later than every instant, a
degree that is not offered never ends.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, assert_never

import numpy as np

from gfdit.core.view import B1, STAGE_CODE
from gfdit.core.work import Stage
from gfdit.lang.program import (
    Aggregate,
    AggregateKind,
    Binary,
    BinaryOp,
    BoolOp,
    Call,
    Compare,
    CompareOp,
    Const,
    Expr,
    If,
    Let,
    LetRef,
    Member,
    Mode,
    Name,
    OrderKey,
    State,
    Unary,
    UnaryOp,
)
from gfdit.lang.schema import Level
from gfdit.lang.types import Kind
from gfdit.policy.columns import ARRIVALS, PLANNABLE, SYSTEM, WITHOUT_GPUS, Fn, Frame, Tick, gather, spread, symbols

_BINARY: dict[BinaryOp, Callable[[Any, Any], Any]] = {
    BinaryOp.ADD: operator.add,
    BinaryOp.SUB: operator.sub,
    BinaryOp.MUL: operator.mul,
    BinaryOp.DIV: np.true_divide,  # of scalars too: x / 0 is infinite, as in columns
}
COMPARE: dict[CompareOp, Callable[[Any, Any], Any]] = {
    CompareOp.EQ: operator.eq,
    CompareOp.NE: operator.ne,
    CompareOp.LT: operator.lt,
    CompareOp.LE: operator.le,
    CompareOp.GT: operator.gt,
    CompareOp.GE: operator.ge,
}
_OF_SCALARS: dict[Any, Callable[[Any, Any], Any]] = {np.logical_and: operator.and_, np.logical_or: operator.or_}
_DENOISE = STAGE_CODE[Stage.DENOISE]
TABLES = {
    "step_time": "#step",
    "remaining": "#remaining",
    "finish": "#remaining",
    "slack": "#slack",
    "gain": "#gain",
    "mem": "#mem",
}
# at a degree that is not offered, or of a request without GPUs
MISSING = {"slack": -np.inf, "gain": 0.0, "mem": -np.inf}


def lift(fn: Fn, level: Level, to: Level) -> Fn:
    """`fn` of `level` in the shape of level `to`. Scalars fit everywhere."""
    if level <= Level.TICK or level == to:
        return fn
    if level is Level.REQUEST and to is Level.DEGREE:
        return lambda frame: fn(frame)[:, None]
    if level is Level.REQUEST and to is Level.PAIR:
        return lambda frame: fn(frame)[:, None, None]
    if level is Level.DEGREE and to is Level.PAIR:
        return lambda frame: fn(frame)[:, :, None]
    raise ValueError(f"a value of level {level.name} does not fit level {to.name}")


Watch = Callable[[Expr, Any], None]
"""Told of every condition that was evaluated, with the truth it had."""


class Compiler:
    """Compiles the expressions of one program; `let`s are computed once a frame, aggregates once a tick.

    `window`: seconds of the `batch` clause. `watch` sees what each condition came to, for coverage; without one,
    watching costs nothing.
    """

    def __init__(
        self,
        lets: tuple[Let, ...],
        watch: Watch | None = None,
        modes: tuple[Mode, ...] = (),
        states: tuple[State, ...] = (),
        window: float = 0.0,
    ) -> None:
        self.watch = watch
        self.let_values = lets
        self._window = window
        self._lets: dict[str, tuple[Fn, Level]] = {}
        self._aggregates = 0
        for mode in modes:
            self._lets[mode.name] = _carried(mode.name), Level.TICK
        for state in states:
            found = _carried(state.name)
            self._lets[state.name] = (_of_class(found), Level.REQUEST) if state.per_class else (found, Level.TICK)
        for let in lets:
            self._lets[let.name] = self._expr(let.value), let.value.level

    def expr(self, expr: Expr, level: Level) -> Fn:
        """`expr` in the shape of `level`, which must not be below its own."""
        fn = lift(self._expr(expr), expr.level, level)
        return fn if self.watch is None or expr.type.kind is not Kind.BOOL else _watched(fn, expr, self.watch)

    def key(self, key: OrderKey, level: Level | None = None) -> Fn:
        """A sort key `[K]` or a scalar, smaller first; or in the shape of `level`."""
        fn = self._expr(key.value) if level is None else self.expr(key.value, level)
        if key.value.type.kind is Kind.BOOL:
            inner, fn = fn, lambda frame: np.asarray(inner(frame), dtype=np.float64)
        return (lambda frame: np.negative(fn(frame))) if key.descending else fn

    def _expr(self, expr: Expr) -> Fn:
        match expr:
            case Const(value=value):
                return lambda frame: value
            case Name():
                return self._name(expr)
            case LetRef(name=name):
                return self._let_ref(name)
            case Unary(op=op, operand=operand):
                fn = self._expr(operand)
                return (lambda frame: -fn(frame)) if op is UnaryOp.NEG else (lambda frame: np.logical_not(fn(frame)))
            case Binary():
                return self._two(_BINARY[expr.op], expr.left, expr.right, expr.level)
            case Compare():
                if expr.left.type.kind in (Kind.ENUM, Kind.STR):
                    return self._compare_names(expr)
                return self._two(COMPARE[expr.op], expr.left, expr.right, expr.level)
            case Member():
                return self._member(expr)
            case BoolOp(conjunction=conjunction, operands=operands):
                return self._fold(np.logical_and if conjunction else np.logical_or, operands, expr.level)
            case If():
                parts = [self.expr(part, expr.level) for part in (expr.condition, expr.then, expr.other)]
                return lambda frame: np.where(parts[0](frame), parts[1](frame), parts[2](frame))
            case Call():
                return self._call(expr)
            case Aggregate():
                return self._aggregate(expr)
            case _:
                assert_never(expr)

    def _two(self, op: Callable[[Any, Any], Any], left: Expr, right: Expr, level: Level) -> Fn:
        a, b = self.expr(left, level), self.expr(right, level)
        if isinstance(right, Const):
            constant = right.value
            return lambda frame: op(a(frame), constant)
        return lambda frame: op(a(frame), b(frame))

    def _fold(self, op: Callable[[Any, Any], Any], operands: tuple[Expr, ...], level: Level) -> Fn:
        parts = [self.expr(operand, level) for operand in operands]
        if level <= Level.TICK:
            op = _OF_SCALARS.get(op, op)
        if len(parts) == 2:
            first, second = parts
            return lambda frame: op(first(frame), second(frame))
        return lambda frame: reduce(op, [part(frame) for part in parts])

    # ---- names ------------------------------------------------------------------------------------------------------

    def _name(self, expr: Name) -> Fn:
        name = expr.name
        if name in SYSTEM:
            read = SYSTEM[name]
            return lambda frame: read(frame.view)
        if name in ARRIVALS:
            return _carried(name)
        if name == "window":
            window = self._window
            return lambda frame: window
        if name == "next":
            return lambda frame: frame.tick.degrees[None, None, :]
        if name == "sp" and expr.level is Level.DEGREE:
            return lambda frame: frame.tick.degrees[None, :]
        if expr.type.kind in (Kind.ENUM, Kind.STR):
            return lambda frame: _strings(frame, name)
        return lambda frame: frame.column(name)

    def _let_ref(self, name: str) -> Fn:
        fn, level = self._lets[name]
        if level <= Level.TICK:
            return fn
        return lambda frame: frame.remember(f"let {name}", fn)

    def _compare_names(self, expr: Compare) -> Fn:
        """`==` and `!=` of names; one against a constant compares codes."""
        op = COMPARE[expr.op]
        for side, other in ((expr.left, expr.right), (expr.right, expr.left)):
            if isinstance(side, Name) and isinstance(other, Const):
                test = _code_test(side.name, (str(other.value),), expr.op is CompareOp.NE)
                return lift(test, Level.REQUEST, expr.level)
        return self._two(op, expr.left, expr.right, expr.level)

    def _member(self, expr: Member) -> Fn:
        values = [item.value for item in expr.items]
        if isinstance(expr.value, Name) and expr.value.type.kind in (Kind.ENUM, Kind.STR):
            return _code_test(expr.value.name, tuple(str(value) for value in values), expr.negated)
        fn, negated = self._expr(expr.value), expr.negated
        return lambda frame: np.isin(fn(frame), values, invert=negated)

    # ---- functions --------------------------------------------------------------------------------------------------

    def _call(self, expr: Call) -> Fn:
        match expr.function:
            case "max":
                return self._fold(np.maximum, expr.args, expr.level)
            case "min":
                return self._fold(np.minimum, expr.args, expr.level)
            case "clamp":
                x, low, high = (self.expr(arg, expr.level) for arg in expr.args)
                return lambda frame: np.minimum(np.maximum(x(frame), low(frame)), high(frame))
            case "abs":
                fn = self._expr(expr.args[0])
                return lambda frame: np.abs(fn(frame))
            case "ewma":
                return self._moving_average(expr)
            case "free" | "busy" | "backlog":
                return _of_pool(expr)
            case "miss_rate":
                assert isinstance(expr.args[0], Const)
                missed = f"carried missed {expr.args[0].value}"
                return lambda frame: frame.tick.scalars.get(missed, 0.0)
            case "queued":
                return self._over_class(expr, lambda frame, mask: float(np.count_nonzero(mask)))
            case "longest_wait":
                return self._over_class(
                    expr, lambda frame, mask: float(np.maximum.reduce(frame.column("waited"), where=mask, initial=0.0))
                )
            case _:
                return self._per_degree(expr.function, expr.args[0])

    def _per_degree(self, function: str, arg: Expr) -> Fn:
        """The table of `function`, or one column of it a row, by what its argument is."""
        table, missing = TABLES[function], MISSING.get(function, np.inf)
        match arg:
            case Name(name="next") if function == "gain":
                return _gain_of_next
            case Name(name="next"):
                return lambda frame: frame.column(table)[:, None, :]
            case Name(name="sp", level=Level.DEGREE):
                return lambda frame: frame.column(table)
            case Name(name="sp_best") if function == "slack":
                return lambda frame: frame.column("deadline") - _at_best(frame, "#remaining")
            case Name(name="sp_best"):
                return lambda frame: _at_best(frame, table)
            case Name(name="sp"):
                return lambda frame: gather(frame.column(table), frame.column("present"), missing)
            case Const(value=degree):
                return lambda frame: _fixed_column(frame, table, float(degree), missing)
            case _:
                raise ValueError(f"`{function}` takes `sp`, `next`, `sp_best` or a constant degree")

    def _over_class(self, expr: Call, measure: Callable[[Frame, B1], float]) -> Fn:
        """A number a tick over the waiting requests of one class, or of any."""
        arg = expr.args[0]
        assert isinstance(arg, Const)
        name = str(arg.value)
        in_class = None if name == "any" else _code_test("class", (name,), False)
        key = f"{expr.function} {name}"

        def compute(frame: Frame) -> float:
            scalars = frame.tick.scalars
            if key not in scalars:
                live = frame.tick.live()
                waiting = WITHOUT_GPUS.take(live.of(live.view.state))
                scalars[key] = measure(live, waiting if in_class is None else waiting & in_class(live))
            return float(scalars[key])

        return compute

    def _moving_average(self, expr: Call) -> Fn:
        """One value a tick and part (a class in a `state` of classes, else everybody), carried to the next tick."""
        self._aggregates += 1
        key, x = f"ewma {self._aggregates}", self._expr(expr.args[0])
        assert isinstance(expr.args[1], Const)
        average = MovingAverage(float(expr.args[1].value))

        def compute(frame: Frame) -> float:
            tick = frame.tick
            if key not in tick.scalars:
                tick.scalars[key] = average.step(tick.part, tick.view.now_s, float(np.asarray(x(frame)).flat[0]))
            return float(tick.scalars[key])

        return compute

    def _aggregate(self, expr: Aggregate) -> Fn:
        """One number a tick. Over nothing: sums, counts and means are 0, the maximum is -inf, the minimum +inf."""
        self._aggregates += 1
        key, kind = f"aggregate {self._aggregates}", expr.kind
        value = None if expr.value is None else self.expr(expr.value, Level.REQUEST)
        where = None if expr.where is None else self.expr(expr.where, Level.REQUEST)

        def compute(frame: Frame) -> float:
            scalars = frame.tick.scalars
            if key not in scalars:
                live = frame.tick.live()
                shape = (live.size,)
                mask = np.ones(shape, dtype=bool) if where is None else spread(where(live), shape)
                if value is None:
                    scalars[key] = float(np.count_nonzero(mask))
                else:
                    scalars[key] = _reduce(kind, spread(value(live), shape)[mask])
            return float(scalars[key])

        return compute


class MovingAverage:
    """`ewma`: moves towards a new value once an instant, from the first one on. What is not finite is left out."""

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._parts: dict[int, tuple[float, float]] = {}  # part -> (when, average)

    def step(self, part: int, now_s: float, value: float) -> float:
        at, average = self._parts.get(part, (-np.inf, np.nan))
        if now_s > at and np.isfinite(value):
            average = value if np.isnan(average) else average + self._weight * (value - average)
            self._parts[part] = now_s, average
        return average


@dataclass(frozen=True, slots=True)
class Share:
    """What a pool is on one tick: `idle` of its `size` ranks may be handed out; `stages[6]`: those that run in it."""

    name: str
    ranks: frozenset[int]
    size: int
    idle: int
    stages: B1


def _of_pool(expr: Call) -> Fn:
    """`free`, `busy`, `backlog`: of a share that `pools.py` put into the tick."""
    arg = expr.args[0]
    assert isinstance(arg, Const)
    key, function = f"pool {arg.value}", expr.function

    def compute(frame: Frame) -> float:
        share: Share = frame.tick.scalars[key]
        if function == "free":
            return float(share.idle)
        if function == "busy":
            return (share.size - share.idle) / share.size if share.size else 0.0
        return _backlog(frame.tick, share)

    return compute


def _backlog(tick: Tick, share: Share) -> float:
    """Seconds that the pool needs for the next stage of every row that waits for it."""
    key = f"backlog {share.name}"
    if key not in tick.scalars:
        view = tick.view
        begun = (view.stage == _DENOISE) & (view.steps_done > 0)  # goes on rather than waits
        waits = PLANNABLE[view.state] & share.stages[view.stage] & (WITHOUT_GPUS[view.state] | ~begun)
        frame = Frame(tick, np.flatnonzero(waits))
        steps = frame.column("steps_left") * np.min(frame.column("#step") * tick.degrees, axis=1, initial=np.inf)
        work = np.where(view.stage[frame.rows] == _DENOISE, steps, view.stage_gpu_s[frame.rows])
        tick.scalars[key] = float(work.sum()) / share.size if share.size else 0.0
    return float(tick.scalars[key])


def _carried(name: str) -> Fn:
    """A mode or state: its value of this tick, put there by `memory.py`."""
    return lambda frame: frame.tick.scalars[f"carried {name}"]


def _of_class(values: Fn) -> Fn:
    return lambda frame: values(frame)[frame.column("class")]


def _watched(fn: Fn, expr: Expr, watch: Watch) -> Fn:
    def tell(frame: Frame) -> Any:
        truth = fn(frame)
        watch(expr, truth)
        return truth

    return tell


def _reduce(kind: AggregateKind, values: np.ndarray) -> float:
    match kind:
        case AggregateKind.COUNT:
            return float(len(values))
        case AggregateKind.SUM:
            return float(values.sum())
        case AggregateKind.MEAN:
            return float(values.mean()) if len(values) else 0.0
        case AggregateKind.MAX:
            return float(np.max(values, initial=-np.inf))
        case AggregateKind.MIN:
            return float(np.min(values, initial=np.inf))
        case _:
            assert_never(kind)


def _strings(frame: Frame, name: str) -> np.ndarray:
    codes, names = symbols(frame, name)
    return np.array([*names, ""], dtype=object)[codes]  # the last stands for a class that is not the policy's


def _code_test(name: str, members: tuple[str, ...], negated: bool) -> Fn:
    """Whether the attribute is one of `members`, compared as codes."""

    def test(frame: Frame) -> B1:
        codes, names = symbols(frame, name)
        wanted = [code for code, value in enumerate(names) if value in members]
        hit: B1 = codes == wanted[0] if len(wanted) == 1 else np.isin(codes, wanted)
        return ~hit if negated else hit

    return test


def _gain_of_next(frame: Frame) -> np.ndarray:
    remaining = frame.column("#remaining")
    gain: np.ndarray = remaining[:, :, None] / remaining[:, None, :]
    return gain


def _at_best(frame: Frame, table: str) -> np.ndarray:
    values: np.ndarray = frame.column(table).ravel().take(frame.column("best at"))
    return values


def _fixed_column(frame: Frame, table: str, degree: float, missing: float) -> np.ndarray:
    column = frame.tick.column_of(degree)
    if column is None:
        return np.full(frame.size, missing)
    values: np.ndarray = frame.column(table)[:, column]
    return values
