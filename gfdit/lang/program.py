"""The checked program: what `gfdit.policy` compiles to columns.

Everything is resolved, typed, folded and in base units (seconds, gpu, B, px, tok, step; `%` is a ratio). Instants are
seconds relative to the tick's `now`: `now` itself is 0.0, a deadline in three seconds is 3.0, an arrival two seconds
ago is -2.0; no deadline is +inf. Params are already replaced by their values, so a `Program` holds for one set of
params. Nothing here knows what an attribute means: names point at entries of the schema.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from gfdit.lang import nodes
from gfdit.lang.frozen import Frozen
from gfdit.lang.schema import Level
from gfdit.lang.source import Source, Span
from gfdit.lang.types import Type

# -- expressions: a closed union; every node has `type`, `level` and `span` -------------------------------------------


class Const(Frozen):
    """A value known now: float in base units, bool, or str (a string or the name of an enum member)."""

    value: float | bool | str
    type: Type
    span: Span
    level: Level = Level.CONST


class Name(Frozen):
    """An attribute of the schema, by name.

    `sp` at level REQUEST is the present degree (0 when not running), at level DEGREE the degree under test (in a
    `grow` condition: the degree the request has in the plan). `next` is always at level PAIR.
    """

    name: str
    type: Type
    level: Level
    span: Span


class LetRef(Frozen):
    """The value of a declared name: a `let` (level TICK or REQUEST), a `mode` (a bool, TICK) or a `state` (TICK, or
    REQUEST when there is one value a class)."""

    name: str
    type: Type
    level: Level
    span: Span


class UnaryOp(Enum):
    NEG = "-"
    NOT = "not"


class BinaryOp(Enum):
    ADD = "+"
    SUB = "-"
    MUL = "*"
    DIV = "/"


class CompareOp(Enum):
    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


class Unary(Frozen):
    op: UnaryOp
    operand: Expr
    type: Type
    level: Level
    span: Span


class Binary(Frozen):
    op: BinaryOp
    left: Expr
    right: Expr
    type: Type
    level: Level
    span: Span


class Compare(Frozen):
    """Result is bool. Operands are both numbers or instants (any operator), or equal enum, str, bool (EQ, NE only)."""

    op: CompareOp
    left: Expr
    right: Expr
    type: Type
    level: Level
    span: Span


class Member(Frozen):
    """`value in {items}`; items are constants."""

    value: Expr
    items: tuple[Const, ...]
    negated: bool
    type: Type
    level: Level
    span: Span


class BoolOp(Frozen):
    """`conjunction` True for `and`, False for `or`; two or more operands."""

    conjunction: bool
    operands: tuple[Expr, ...]
    type: Type
    level: Level
    span: Span


class If(Frozen):
    """Both branches have one type and may be evaluated eagerly (`np.where`)."""

    condition: Expr
    then: Expr
    other: Expr
    type: Type
    level: Level
    span: Span


class Call(Frozen):
    """A function of the schema.

    * element-wise: `max min` (two or more args), `clamp(x, low, high)`, `abs(x)`
    * per degree: `step_time remaining finish slack gain mem`, one arg: `Name` `sp`, `next` or `sp_best`, or a `Const`
    * per class, level TICK: `queued longest_wait miss_rate`, one arg: `Const` str, a class name or `any`
    * per pool, level TICK: `free busy backlog`, one arg: `Const` str, a pool name
    * carried from tick to tick, level TICK: `ewma(x, weight)`, the weight a `Const`
    """

    function: str
    args: tuple[Expr, ...]
    type: Type
    level: Level
    span: Span


class AggregateKind(Enum):
    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"


class Aggregate(Frozen):
    """One value a tick over all requests in the view. `value` is None for COUNT only; `where` None means all."""

    kind: AggregateKind
    value: Expr | None
    where: Expr | None
    type: Type
    level: Level
    span: Span


Expr: TypeAlias = Const | Name | LetRef | Unary | Binary | Compare | Member | BoolOp | If | Call | Aggregate


# -- clauses ----------------------------------------------------------------------------------------------------------


class Clause(Frozen, ignore=("line",)):
    """Where a clause stands: a stable id for decisions (`stage.denoise.sp`, `preempt.1`), and its place in the text."""

    id: str
    line: int
    span: Span


class Param(Frozen):
    """A tunable. `value` is in force, base units; `default`, `low`, `high` are as written (None: unbounded)."""

    name: str
    type: Type
    value: float | bool | str
    default: float | bool | str
    low: float | None
    high: float | None
    clause: Clause


class Let(Frozen):
    """A named expression, level TICK or REQUEST; may use earlier lets only."""

    name: str
    value: Expr
    clause: Clause


class ClassRule(Frozen):
    """A class of requests. The first rule whose `when` holds on arrival wins; `when` None is `otherwise`.

    A request that no rule matches keeps the class name of its workload, rank = number of rules, weight 1.
    `slo` in seconds, used as budget when the request brings none; `miss` is the tolerated ratio of late requests.
    """

    name: str
    when: Expr | None
    rank: int
    weight: float
    slo: float | None
    miss: float | None
    preemptible: bool
    clause: Clause


class Mode(Frozen):
    """A named condition with hysteresis: on once `when` has held for `when_for` seconds, off once `until` has held for
    `until_for`. Off at first. Both conditions are of level TICK and read what held before this tick."""

    name: str
    when: Expr
    when_for: float
    until: Expr
    until_for: float
    clause: Clause


class State(Frozen):
    """A number carried from tick to tick: `start`, then `next` every `every` seconds (None: on every tick), clamped to
    `low` .. `high`.

    `per_class`: one value for each class. Its `next` is then of level <= REQUEST, reads attributes of the class, and
    its aggregates run over the requests of that class only.
    """

    name: str
    per_class: bool
    type: Type
    start: float
    low: float | None
    high: float | None
    next: Expr
    every: float | None
    clause: Clause


class Pool(Frozen):
    """A share of the cluster: `count` GPUs, or (None, one pool only) what the others leave."""

    name: str
    count: int | None
    clause: Clause


class Resize(Frozen):
    """Changes a pool `by` so many GPUs, within `low` .. `high`, once `when` (level TICK) has held for `when_for` s
    and its last change is `cooldown` s ago."""

    pool: str
    by: int
    when: Expr
    when_for: float
    low: int
    high: int
    cooldown: float
    clause: Clause


class Spill(Frozen):
    """Where a stage may go when its own pool has no room and `when` (level TICK) holds."""

    pool: str
    when: Expr
    clause: Clause


class Verdict(Enum):
    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    DEGRADE = "degrade"


class Change(Frozen):
    """A degraded parameter: `value` is an expression at level REQUEST in which the knob's name is its present value."""

    knob: str
    value: Expr


class AdmitRule(Frozen):
    """The first terminal rule (accept, reject, defer) whose `when` holds wins; degrade applies and goes on.

    `when` None always holds. No rule holding means accept. Deferred requests are judged again every tick.
    """

    verdict: Verdict
    when: Expr | None
    because: str
    changes: tuple[Change, ...]
    clause: Clause


class OrderKey(Frozen):
    """One key, level REQUEST, type NUM, INSTANT or BOOL (false first); smaller first unless `descending`."""

    value: Expr
    descending: bool


class Order(Frozen):
    """Keys, most significant first. The last is always `arrival`; what is still equal is in order of request id."""

    keys: tuple[OrderKey, ...]
    clause: Clause


class Triage(Frozen):
    """Keeps the largest set that can be on time (Moore-Hodgson on GPU-seconds).

    Walk active requests by `by`; when the sum of GPU-seconds passes `margin` x GPUs x (deadline - now), set aside the
    request whose `shed` key is largest (`shed_most`) or smallest so far. `reject_because` None: they run last.
    """

    by: OrderKey
    margin: float
    shed: Expr
    shed_most: bool
    reject_because: str | None
    clause: Clause


class Aging(Frozen):
    """tier = max(until, rank - raise_by * floor(waited / every)), never above rank."""

    every: float
    raise_by: float
    until: float
    clause: Clause


class Pick(Enum):
    SMALLEST = "smallest"
    LARGEST = "largest"
    MINIMIZING = "minimizing"
    MAXIMIZING = "maximizing"
    WAIT = "wait"


class Alternative(Frozen):
    """One link of the chain; the first link with a feasible degree wins. Ties go to the smaller degree.

    `key` (level <= DEGREE) for MINIMIZING and MAXIMIZING only; `where` None admits every degree. WAIT: do not run now.
    """

    pick: Pick
    key: Expr | None
    where: Expr | None
    clause: Clause


class FixedDegree(Frozen):
    """`sp fixed`: a GPU count at level <= REQUEST, at least 1."""

    value: Expr
    clause: Clause


class ChosenDegree(Frozen):
    """`sp in`: ascending, distinct degrees and the chain of alternatives; no link feasible means wait."""

    degrees: tuple[int, ...]
    alternatives: tuple[Alternative, ...]
    clause: Clause


class Grow(Frozen):
    """After allocation, in plan order, one pass: the smallest wider degree for which `where` (level <= PAIR) holds.

    `by`: keys of level <= PAIR; then not in plan order, but one step to a wider degree at a time, the one whose keys
    are smallest. `most`: at most this many GPUs for one request (level TICK), None: no cap.
    """

    where: Expr | None
    most: Expr | None
    clause: Clause
    by: tuple[OrderKey, ...] = ()


class HoldKind(Enum):
    UNTIL_DONE = "until done"
    FOR = "for"


class Hold(Frozen):
    """No change of a placed request until it is done, or for `seconds` (FOR only)."""

    kind: HoldKind
    seconds: float | None
    clause: Clause


class StageClause(Frozen):
    """How one stage runs. A stage that follows another shares its fields (`follows` is that stage's name).

    `sticky`: keep the present degree unless the finish improves by this ratio. `prefer`: names of the schema's
    preferences, strongest first. `reserve`: seconds for which free GPUs are held for a request that does not fit.
    `pool`: the only GPUs it may use (None: the policy has no pools). `lanes`: at most so many requests at once.
    """

    stage: str
    follows: str
    degree: FixedDegree | ChosenDegree
    grow: Grow | None
    hold: Hold | None
    sticky: float | None
    prefer: tuple[str, ...]
    reserve: float | None
    clause: Clause
    pool: str | None = None
    lanes: int | None = None
    spill: Spill | None = None


class Action(Enum):
    SHRINK = "shrink"
    PAUSE = "pause"
    DEMOTE = "demote"
    MIGRATE = "migrate"


class Take(Frozen):
    """SHRINK has `to` in GPUs. DEMOTE shrinks to the narrowest degree and puts the victim behind everybody for as long
    as the winner lives. MIGRATE moves the victim to other ranks, so that a block of the winner's width is free."""

    action: Action
    to: int | None


class Preempt(Frozen):
    """Takes GPUs back for unplaced requests of the `winners` for which `when` holds.

    Victims: running requests of the `victims` classes with `where`, by the keys in `by` (then newest first). An empty
    tuple of classes means any. `takes`: what to do with a victim, first that helps. At most `limit` victims per `per`
    seconds (token bucket); a victim that started less than `protect` seconds ago is left alone.
    """

    winners: tuple[str, ...]
    when: Expr | None
    victims: tuple[str, ...]
    where: Expr | None
    by: tuple[OrderKey, ...]
    takes: tuple[Take, ...]
    limit: int | None
    per: float | None
    protect: float
    clause: Clause


class Batch(Frozen):
    """Requests that would share their tasks: of one model, at the same stage and step, equal in every expression of
    `by` (level <= REQUEST) and passing `where`; at most `most`.

    `window`: seconds since the arrival of its first member for which a batch that is not full and has not begun waits
    for more members; 0: it does not wait.
    """

    by: tuple[Expr, ...]
    most: int
    window: float
    where: Expr | None
    clause: Clause


class AllocateKind(Enum):
    GREEDY = "greedy"
    BACKFILL = "backfill"
    KNAPSACK = "knapsack"
    ROLLOUT = "rollout"


class Allocate(Frozen):
    """GREEDY: walk the order, the first that does not fit is passed over. BACKFILL: strict order, except that up to
    `depth` later requests may start if they fit beside the first that waits. KNAPSACK: the choice of degrees with the
    largest (`maximizing`) or smallest sum of `value`, an expression of level <= DEGREE in which `sp` is 0 for a request
    that does not run; what that leaves free goes by GREEDY. ROLLOUT: of the plans for the first `horizon` requests that
    a beam search of width `beam` finds, the one with the best sum of `value`; requests may begin later in it."""

    kind: AllocateKind
    depth: int
    clause: Clause | None
    value: Expr | None = None
    maximizing: bool = True
    horizon: int = 0
    beam: int = 0


class Tick(Frozen):
    """When to evaluate: every `every` seconds (None: no period) and on these triggers (empty: on every event)."""

    every: float | None
    on: tuple[str, ...]
    clause: Clause | None


class ReactAction(Enum):
    ALERT = "alert"
    RAISE = "raise"
    SHRINK = "shrink"
    PAUSE = "pause"


class React(Frozen):
    """`event` is an event of the schema, or (`is_mode`) the mode that turns on. `when` (level <= REQUEST) picks
    requests as the event finds them: those it happened to, or all admitted ones when it is of the whole system.

    ALERT says so, with `text`. RAISE lowers their tier by `amount`, SHRINK gives them at most `amount` GPUs, PAUSE
    none; for `seconds`, or (RAISE only, None) until they end.
    """

    event: str
    is_mode: bool
    of_request: bool
    when: Expr | None
    action: ReactAction
    amount: float
    seconds: float | None
    text: str
    clause: Clause


class GuardAction(Enum):
    ALERT = "alert"
    FALLBACK = "fallback"


class Guard(Frozen):
    """`condition` (level TICK) must hold on every tick, or else `action`."""

    name: str
    condition: Expr
    action: GuardAction
    clause: Clause


class Fallback(Frozen):
    """The policy that takes over after `errors` strikes within a minute; a tick longer than `tick` seconds strikes."""

    policy: str
    errors: int
    tick: float | None
    clause: Clause | None


class Test(Frozen):
    """A `test` block: kept as syntax, names and types checked."""

    title: str
    body: nodes.Test
    clause: Clause


class Program(Frozen, ignore=("sha", "source")):
    """A policy that passed every check.

    `sha` is the SHA-256 of the text and of the overridden params; `stages` has one clause per stage of the schema, in
    the schema's order. `uses` lists the attributes and functions that some clause reads.
    """

    name: str
    version: int
    title: str
    sha: str
    source: Source
    params: tuple[Param, ...]
    lets: tuple[Let, ...]
    modes: tuple[Mode, ...]
    states: tuple[State, ...]
    pools: tuple[Pool, ...]
    resizes: tuple[Resize, ...]
    classes: tuple[ClassRule, ...]
    admit: tuple[AdmitRule, ...]
    order: Order
    triage: Triage | None
    aging: Aging | None
    stages: tuple[StageClause, ...]
    preempts: tuple[Preempt, ...]
    batch: Batch | None
    allocate: Allocate
    tick: Tick
    reacts: tuple[React, ...]
    guards: tuple[Guard, ...]
    fallback: Fallback
    tests: tuple[Test, ...]
    uses: frozenset[str]

    def stage(self, name: str) -> StageClause:
        """The clause of stage `name`; KeyError when the schema has no such stage."""
        for clause in self.stages:
            if clause.stage == name:
                return clause
        raise KeyError(name)

    def let(self, name: str) -> Let:
        """The `let` called `name`; KeyError when there is none."""
        for item in self.lets:
            if item.name == name:
                return item
        raise KeyError(name)

    @property
    def label(self) -> str:
        """`name@version (sha, seven digits)`, for logs and decisions."""
        return f"{self.name}@{self.version} ({self.sha[:7]})"
