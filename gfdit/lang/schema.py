"""What a schema says: the names, functions, stages and knobs that a policy may use.

The language itself is schema-driven: these classes hold the vocabulary, `gfdit.policy.vocabulary` fills it in. Every
entry carries its type, the scope it varies over and one line of documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType

from gfdit.lang.frozen import Frozen
from gfdit.lang.intervals import Interval
from gfdit.lang.types import Type


class Level(IntEnum):
    """What a value varies over; an expression has the highest level among its parts."""

    CONST = 0
    """known when the policy is compiled"""
    TICK = 1
    """one value a tick"""
    REQUEST = 2
    """one value per request and tick"""
    DEGREE = 3
    """one value per request and candidate degree (`sp`)"""
    PAIR = 4
    """one value per request, degree and wider degree (`next`)"""


class Place(Enum):
    """Where in a policy an expression stands; decides which names are visible there."""

    CONSTANT = "a constant"
    LET = "a `let`"
    CLASS = "a class rule"
    ADMIT = "an admission rule"
    DEGRADE = "a degraded value"
    ORDER = "an order key"
    TRIAGE = "the `triage` clause"
    FIXED = "a fixed degree"
    CHOOSE = "a choice of degree"
    GROW = "a `grow` condition"
    TICK = "a condition on the whole system"
    STATE = "the next value of a state"
    VALUE = "the value of an allocation"
    WINNER = "a `preempt` condition"
    VICTIM = "a choice of victims"
    BATCH = "a `batch` clause"
    REACT = "a `react` condition"
    AGGREGATE = "an aggregate"
    TEST = "a test"


class Attribute(Frozen):
    """A name with a value: `type`, the level it varies over, the places where it may be read (None: everywhere)."""

    name: str
    type: Type
    level: Level
    doc: str
    places: frozenset[Place] | None = None
    fixed: bool = False
    """true if it is fixed when the request arrives; class rules may read only such names"""
    yields: bool = False
    """true if a policy may declare the name for itself, which then means that"""


class Arg(Enum):
    """What a function takes as one argument."""

    DEGREE = "a degree: `sp`, `next`, `sp_best` or a constant such as `4 gpu`"
    CLASS = "a class name or `any`"
    POOL = "a pool name"
    SAME = "values of one type"
    NUMBER = "a number"
    WHOLE = "a number of the whole system"
    WEIGHT = "a ratio above 0% and up to 100%"


class Function(Frozen):
    """A function. `result` None means: the type of its arguments. `variadic`: the last argument repeats."""

    name: str
    args: tuple[Arg, ...]
    result: Type | None
    doc: str
    level: Level = Level.CONST
    variadic: bool = False
    as_instant: str = ""
    """for a duration that counts from now: the function that gives the same as an instant"""
    as_slack: str = ""
    """the function that compares this one with the deadline"""


class Stage(Frozen):
    """A stage of a request. `follows`: the stage whose clause it takes when it has none of its own."""

    name: str
    doc: str
    follows: str = ""


class Knob(Frozen):
    """A request parameter that `degrade` may make cheaper; in the new value its name means the present value."""

    name: str
    type: Type
    doc: str


class Event(Frozen):
    """What `react` may name beside modes. `of_request`: it happens to requests, one by one."""

    name: str
    doc: str
    of_request: bool


class Schema(Frozen):
    """The whole vocabulary.

    `attributes` maps a name to its meaning per request or tick; `degrees` holds the meanings of `sp` and `next` where a
    degree is chosen (`sp` elsewhere is the present degree).
    """

    attributes: Mapping[str, Attribute]
    degrees: Mapping[str, Attribute]
    functions: Mapping[str, Function]
    stages: Mapping[str, Stage]
    knobs: Mapping[str, Knob]
    triggers: Mapping[str, str]
    events: Mapping[str, Event]
    preferences: Mapping[str, str]
    enums: Mapping[str, tuple[str, ...] | None]
    """enumeration to its members; None: any string is a member (or, for `class`, what the policy declares)"""
    clock: str = "now"
    """the instant of the tick"""
    tie: str = "arrival"
    """the key that ends every order"""
    shed: str = "gpu_time"
    """what `triage` sheds most of when the policy does not say"""
    ranges: Mapping[str, Interval] = MappingProxyType({})
    """between which values a name (or a function, with `()` behind its name) lies, in base units; others are unknown"""
