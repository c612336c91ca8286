"""The words of the policy language: every attribute, function, stage and knob, with its type, scope and meaning.

`gfdit.lang` is driven by this schema and knows no scheduling itself.
"""

from __future__ import annotations

from functools import cache

from gfdit.lang.schema import Arg, Attribute, Event, Function, Knob, Level, Place, Schema, Stage
from gfdit.lang.types import (
    BOOL,
    BYTES,
    DUR,
    GPUS,
    INSTANT,
    NUM,
    PIXELS,
    STEPS,
    STR,
    TOKENS,
    Type,
    enum_type,
    over,
    times,
)
from gfdit.policy.ranges import RANGES

CLASS = enum_type("class")
STAGE = enum_type("stage")
MODEL = enum_type("model")
RATE = Type(DUR.kind, over(NUM.dim, DUR.dim))
GPU_TIME = Type(DUR.kind, times(DUR.dim, GPUS.dim))

_REQUEST_PLACES = frozenset(Place) - {Place.CONSTANT, Place.TICK, Place.STATE, Place.TEST}
_CLASSED = _REQUEST_PLACES - {Place.CLASS}
_SP_NOW = frozenset(
    {Place.ADMIT, Place.ORDER, Place.TRIAGE, Place.FIXED, Place.WINNER, Place.VICTIM, Place.BATCH, Place.REACT}
)
_SP_CANDIDATE = frozenset({Place.CHOOSE, Place.GROW, Place.VALUE})
_SYSTEM_PLACES = frozenset(Place) - {Place.CONSTANT}
_TESTS = frozenset({Place.TEST})


def _fixed(name: str, kind: Type, doc: str) -> Attribute:
    return Attribute(name, kind, Level.REQUEST, doc, _REQUEST_PLACES, fixed=True)


def _classed(name: str, kind: Type, doc: str) -> Attribute:
    return Attribute(name, kind, Level.REQUEST, doc, _CLASSED)


def _of_class(name: str, kind: Type, doc: str) -> Attribute:
    return Attribute(name, kind, Level.REQUEST, doc, _CLASSED | {Place.STATE})


_live = _classed


def _system(name: str, kind: Type, doc: str) -> Attribute:
    return Attribute(name, kind, Level.TICK, doc, _SYSTEM_PLACES)


_ATTRIBUTES = (
    _fixed("model", MODEL, "model that the request asks for"),
    _fixed("tag", STR, "class of service that the client named (the workload's `class`)"),
    _fixed("tenant", STR, "who pays"),
    _fixed("priority", NUM, "the client's own priority; higher is sooner"),
    _fixed("arrival", INSTANT, "when the request arrived"),
    _fixed("tokens", TOKENS, "latent sequence length"),
    _fixed("text_tokens", TOKENS, "length of the text embedding"),
    _fixed("pixels", PIXELS, "pixels of the whole output: height x width x frames"),
    _fixed("width", PIXELS, "output width"),
    _fixed("height", PIXELS, "output height"),
    _fixed("frames", NUM, "output frames; 1 for a picture"),
    _fixed("steps_total", STEPS, "denoising steps"),
    _fixed("alone", DUR, "latency alone on the cluster at the best fixed degree"),
    _classed("class", CLASS, "class that the policy assigned; the workload's class when the policy declares none"),
    _classed("deadline", INSTANT, "arrival + slo; later than every instant without a budget"),
    _classed("slo", DUR, "budget: the client's own, or else its class's; unbounded without one"),
    _of_class("rank", NUM, "rank of the class; lower goes first"),
    _of_class("weight", NUM, "weight of the class"),
    _of_class("miss", NUM, "ratio of late requests that the class tolerates"),
    _classed("tier", NUM, "rank, lowered by `aging`"),
    _live("age", DUR, "now - arrival"),
    _live("waited", DUR, "total time without GPUs since arrival"),
    _live("paused_for", DUR, "time since it last lost its GPUs; 0 while it has some"),
    _live("stage", STAGE, "stage that is next, or that runs"),
    _live("steps_done", STEPS, "denoising steps finished"),
    _live("steps_left", STEPS, "denoising steps to go"),
    _live("last_gpus", GPUS, "GPUs of its latest group, also while it is paused; 0 before the first"),
    _live("preemptions", NUM, "how often its GPUs were taken"),
    _live("waiting", BOOL, "has no GPUs"),
    _live("running", BOOL, "has GPUs"),
    _live("late", BOOL, "its deadline has passed"),
    _live("lateness", DUR, "now - deadline: negative while there is time"),
    Attribute(
        "sp", GPUS, Level.REQUEST, "GPUs it has now; under test where a degree is chosen", _SP_NOW | _SP_CANDIDATE
    ),
    Attribute("sp_best", GPUS, Level.REQUEST, "degree with the shortest step for this request", _CLASSED),
    Attribute(
        "gpu_time",
        GPU_TIME,
        Level.REQUEST,
        "GPU-seconds left at the cheapest degree that is on time",
        frozenset({Place.TRIAGE}),
    ),
    Attribute("why", STR, Level.REQUEST, "reason for which it waits (see explain); empty when it does not", _TESTS),
    Attribute("batch_leader", STR, Level.REQUEST, "the request that opened its batch; itself without one", _TESTS),
    Attribute("batch_size", NUM, Level.REQUEST, "requests in its batch, itself included", _TESTS),
    Attribute("cache", NUM, Level.REQUEST, "what admission set the knob `cache` to", _TESTS),
    _system("now", INSTANT, "time of this tick"),
    _system("gpus", GPUS, "GPUs in the cluster"),
    _system("free", GPUS, "GPUs that this tick may hand out"),
    _system("gpu_mem", BYTES, "memory of one GPU, by the cost model; unbounded when it does not say"),
    Attribute(
        "window",
        DUR,
        Level.TICK,
        "the `window` of the `batch` clause, 0 without one; a policy may declare the name for itself",
        _SYSTEM_PLACES,
        yields=True,
    ),
    Attribute("alerts", NUM, Level.TICK, "alerts of guards and reactions in the latest plan", _TESTS),
    _system("arrival_gap", DUR, "mean time between arrivals, of the latest most; grows while nobody comes"),
    _system("arrival_rate", RATE, "arrivals in a second: 1 / arrival_gap"),
    _system("load", NUM, "work that has a deadline over what the GPUs can do by then; above 100 % some will be late"),
)

_DEGREES = (
    Attribute("sp", GPUS, Level.DEGREE, "degree under test", _SP_CANDIDATE),
    Attribute("next", GPUS, Level.PAIR, "a degree wider than `sp`, smallest first", frozenset({Place.GROW})),
)


def _per_degree(name: str, result: Type, doc: str, as_instant: str = "", as_slack: str = "") -> Function:
    return Function(name, (Arg.DEGREE,), result, doc, Level.REQUEST, as_instant=as_instant, as_slack=as_slack)


_FUNCTIONS = (
    _per_degree("step_time", DUR, "one denoising step at degree k"),
    _per_degree("remaining", DUR, "time to the end at degree k, resharding included", "finish", "slack"),
    _per_degree("finish", INSTANT, "now + remaining(k)"),
    _per_degree("slack", DUR, "deadline - finish(k): how much room is left; negative when it will be late"),
    _per_degree(
        "gain",
        NUM,
        "speed-up: of `next` over `sp`; of any other degree over the best narrower one (the narrowest always gains)",
    ),
    _per_degree(
        "mem",
        BYTES,
        "the most memory that a stage needs on each GPU at degree k; below everything when the cost model does not say",
    ),
    Function("queued", (Arg.CLASS,), NUM, "waiting requests of a class", Level.TICK),
    Function("longest_wait", (Arg.CLASS,), DUR, "longest `waited` among waiting requests of a class", Level.TICK),
    Function(
        "miss_rate",
        (Arg.CLASS,),
        NUM,
        "share of late, failed and rejected requests of a class among its latest 50 or so; 0 before the first ended",
        Level.TICK,
    ),
    Function("free", (Arg.POOL,), GPUS, "GPUs of a pool that this tick may hand out", Level.TICK),
    Function("busy", (Arg.POOL,), NUM, "share of a pool's GPUs that are in the middle of a task", Level.TICK),
    Function(
        "backlog",
        (Arg.POOL,),
        DUR,
        "how long a pool needs for the next stages of those that wait for it, at their cheapest degrees",
        Level.TICK,
    ),
    Function("max", (Arg.SAME, Arg.SAME), None, "the larger; `max(x where p)` over requests", variadic=True),
    Function("min", (Arg.SAME, Arg.SAME), None, "the smaller; `min(x where p)` over requests", variadic=True),
    Function("clamp", (Arg.SAME, Arg.SAME, Arg.SAME), None, "x, but no less than low and no more than high"),
    Function(
        "ewma",
        (Arg.WHOLE, Arg.WEIGHT),
        None,
        "moving average of x: each tick that reads it moves it by the weight (the second value) towards x",
        Level.TICK,
    ),
    Function("abs", (Arg.NUMBER,), None, "distance from zero"),
)

_STAGES = (
    Stage("encode", "text encoding, one GPU"),
    Stage("prepare", "latents and embeddings", follows="denoise"),
    Stage("timesteps", "the noise levels", follows="denoise"),
    Stage("denoise", "the denoising steps"),
    Stage("decode", "latents to pixels, one GPU"),
    Stage("finalize", "pixels to files", follows="decode"),
)

_EVENTS = (
    Event("worker_lost", "the cluster has GPUs no longer that it had at the latest plan", False),
    Event("worker_joined", "the cluster has GPUs that it did not have", False),
    Event("late", "the deadline of a request has passed", True),
    Event("preempted", "GPUs of a request were taken", True),
)


@cache
def schema() -> Schema:
    """The vocabulary of this version."""
    return Schema(
        attributes={item.name: item for item in _ATTRIBUTES},
        degrees={item.name: item for item in _DEGREES},
        functions={item.name: item for item in _FUNCTIONS},
        stages={item.name: item for item in _STAGES},
        knobs={
            "steps": Knob("steps", STEPS, "denoising steps; lowered, never raised"),
            "cache": Knob("cache", NUM, "share of the work that cached features may replace; raised, never lowered"),
        },
        triggers={
            "arrival": "a request arrived",
            "step_end": "a denoising step ended",
            "stage_end": "a stage ended",
            "cancel": "a request was cancelled",
            "worker": "a worker joined or was lost",
        },
        events={item.name: item for item in _EVENTS},
        preferences={
            "last_gpus": "the GPUs it had last",
            "same_node": "GPUs of one node",
            "pack": "nodes that are already in use",
            "spread": "nodes that are least in use",
        },
        ranges=RANGES,
        enums={"class": None, "stage": tuple(item.name for item in _STAGES), "model": None},
    )
