"""Intervals are sound: whatever a tick computes lies in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gfdit.lang import Source, nodes, parse
from gfdit.lang.intervals import ANYTHING, EITHER, FALSE, TRUE, Interval, Ranges
from gfdit.lang.lint_conditions import background
from gfdit.lang.schema import Level, Place
from gfdit.lang.types import BOOL, Kind
from gfdit.lang.units import base_value
from gfdit.policy.columns import ClassTable, Frame, Tick
from gfdit.policy.compile import Compiler
from gfdit.policy.ranges import RANGES
from gfdit.policy.store import checked_program
from gfdit.policy.vocabulary import schema
from tests.lang.programs import exprs
from tests.policy.texts import CHEAPEST, SINGLE
from tests.policy.worlds import random_world

INF = float("inf")
VALUES = [-INF, -1e9, -2.5, -1.0, -0.0, 0.0, 1e-9, 0.1, 0.3, 1.0, 2.0, 7.0, 1e9, INF]
NAMES = ("a", "b", "c")


def expression(text: str) -> nodes.Expr:
    item = parse(Source(f"policy p version 1 let x = {text}")).tree.items[0]
    assert isinstance(item, nodes.Let)
    return item.value


# ---- arithmetic against NumPy ---------------------------------------------------------------------------------------

numbers = st.sampled_from(["0", "1", "3", "0.1", "2.5", "1e9"]).map(nodes.Number)
atoms = numbers | st.sampled_from(NAMES).map(nodes.Name)


def call(name: str, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.Ident(name), args)


def larger(inner: st.SearchStrategy[nodes.Expr]) -> st.SearchStrategy[nodes.Expr]:
    conditions = st.one_of(
        st.builds(nodes.Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner, inner),
        st.builds(nodes.Member, inner, st.lists(numbers, min_size=1, max_size=2).map(tuple), st.booleans()),
    )
    several = st.lists(conditions, min_size=2, max_size=3).map(tuple)
    both = conditions | st.builds(nodes.BoolOp, st.sampled_from(["and", "or"]), several)
    return st.one_of(
        st.builds(nodes.Binary, st.sampled_from("+-*/"), inner, inner),
        st.builds(nodes.Unary, st.just("-"), inner),
        st.builds(lambda x, y: call("max", x, y), inner, inner),
        st.builds(lambda x, y: call("min", x, y), inner, inner),
        st.builds(lambda x, y, z: call("clamp", x, y, z), inner, inner, inner),
        st.builds(lambda x: call("abs", x), inner),
        st.builds(nodes.If, both | both.map(lambda one: nodes.Unary("not", one)), inner, inner),
    )


_BINARY: dict[str, Callable[[float, float], float]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def value(node: nodes.Expr, known: dict[str, float]) -> float:
    """As compiled expressions compute it: in doubles, both branches, NaN and all."""
    match node:
        case nodes.Number():
            return base_value(node)
        case nodes.Name(name=name):
            return known[name]
        case nodes.Unary(op="not"):
            return np.logical_not(value(node.operand, known))
        case nodes.Unary():
            return np.negative(value(node.operand, known))
        case nodes.Binary() | nodes.Compare():
            return _BINARY[node.op](value(node.left, known), value(node.right, known))
        case nodes.Member():
            inside = value(node.value, known) in [value(item, known) for item in node.items]
            return inside != node.negated
        case nodes.BoolOp():
            parts = [value(operand, known) for operand in node.operands]
            return reduce(np.logical_and if node.op == "and" else np.logical_or, parts)
        case nodes.If():
            return np.where(value(node.condition, known), value(node.then, known), value(node.other, known))
        case nodes.Call(function=function):
            args = [value(arg, known) for arg in node.args]
            match function.text:
                case "abs":
                    return np.abs(args[0])
                case "clamp":
                    return np.minimum(np.maximum(args[0], args[1]), args[2])
                case other:
                    return reduce(np.maximum if other == "max" else np.minimum, args)
    raise TypeError(type(node).__name__)


@settings(max_examples=200, deadline=None)
@given(st.recursive(atoms, larger, max_leaves=8), st.data())
def test_a_value_lies_in_its_interval(node: nodes.Expr, data: st.DataObject) -> None:
    known, declared = {}, {}
    for name in NAMES:
        first, second, third = sorted(data.draw(st.tuples(*[st.sampled_from(VALUES)] * 3)))
        known[name], declared[name] = np.float64(second), Interval(first, third)
    with np.errstate(all="ignore"):
        found = float(value(node, known))
    assert Ranges({}, declared).of(node).holds(found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3s + 2s * 2", (7.0, 7.0)),
        ("a - a", (-1.0, 1.0)),
        ("a * a - 1", (-1.0, 0.0)),
        ("a / (a + 1)", (0.0, 1.0)),
        ("1 / a", (-INF, INF)),
        ("max(a, 0.5)", (0.5, 1.0)),
        ("clamp(b, 2, 3)", (2.0, 3.0)),
        ("abs(b)", (0.0, INF)),
        ("if a <= 1 then 5 else b", (5.0, 5.0)),
        ("if a < 1 then 5 else 2", (2.0, 5.0)),
        ("sum(a)", (0.0, INF)),
        ("max(a where c)", (-INF, 1.0)),
        ("ewma(a, 20%)", (0.0, 1.0)),
        ("nobody", (-INF, INF)),
    ],
)
def test_intervals_of_expressions(text: str, wanted: tuple[float, float]) -> None:
    ranges = Ranges({}, {"a": Interval(0.0, 1.0), "b": Interval(-INF, INF)})
    found = ranges.of(expression(text))
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-8)


def test_conditions_are_true_false_or_open() -> None:
    ranges = Ranges({}, {"a": Interval(0.0, 1.0), "x": Interval(-INF, INF, True)})
    wanted = {"a >= 0": TRUE, "a < 0": FALSE, "a < 1": EITHER, "x >= 0 - x": EITHER, "not (a > 1)": TRUE}
    wanted |= {"a > 2 or a >= 0": TRUE, "a > 2 and nobody": FALSE, "a in {2, 3}": FALSE, "x != x": EITHER}
    assert {text: ranges.of(expression(text)) for text in wanted} == wanted


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(exprs)
@example(expression("1 / (not 7)"))
@example(expression("1e308 * 1e9 - 1e308 * 1e9"))
def test_nonsense_has_an_interval_too(node: nodes.Expr) -> None:
    """Of a policy that does not check: no end is below the other, and none is a NaN."""
    found = Ranges(RANGES, {}).of(node)
    assert found.low <= found.high


# ---- the vocabulary against worlds ----------------------------------------------------------------------------------


def columns(text: str, seed: int, names: list[str]) -> dict[str, np.ndarray]:
    """What every `let` of a policy comes to in a random world."""
    program = checked_program(text)
    compiler = Compiler(program.lets)
    tick = Tick(random_world(seed).view(), ClassTable(program.classes), program.aging)
    frame = Frame(tick, np.arange(tick.view.size))
    with np.errstate(all="ignore"):
        return {
            name: np.broadcast_to(compiler.expr(program.let(name).value, Level.REQUEST)(frame), frame.size)
            for name in names
        }


def readable() -> list[str]:
    """Names and functions of the vocabulary that a `let` may hold and that are numbers; pools and classes apart."""
    known = schema()
    names = [
        item.name
        for item in known.attributes.values()
        if (item.places is None or Place.LET in item.places) and item.type.kind in (Kind.NUM, Kind.INSTANT)
    ]
    per_degree = [f"{name}({k})" for name in ("step_time", "remaining", "finish", "slack", "gain", "mem") for k in
                  ("sp_best", "2 gpu")]  # fmt: skip
    return [*names, *per_degree, "queued(any)", "longest_wait(any)", "miss_rate(any)"]


ARRIVALS = {"arrival_gap", "arrival_rate"}  # of what a policy saw before this tick


def test_the_vocabulary_keeps_to_its_ranges() -> None:
    shown = [text for text in readable() if text not in ARRIVALS]
    names = [f"x{n}" for n in range(len(shown))]
    lets = "\n".join(f"let {name} = {text}" for name, text in zip(names, shown, strict=True))
    text = f"policy p version 1\n{lets}\norder by arrival\n{SINGLE}\n{CHEAPEST}"
    seen = 0
    for seed in range(60):
        found = columns(text, seed, names)
        for name, what in zip(names, shown, strict=True):
            interval = RANGES.get(what.partition("(")[0] + "()" if "(" in what else what, ANYTHING)
            for one in found[name].tolist():
                seen += 1
                assert interval.holds(float(one)), (seed, what, one)
    assert seen > 10_000


def test_every_number_of_the_vocabulary_has_a_range() -> None:
    known = schema()
    places = [item for item in known.attributes.values() if item.places != frozenset({Place.TEST})]
    numbers = {item.name for item in places if item.type.kind in (Kind.NUM, Kind.INSTANT)}
    functions = {f"{name}()" for name, item in known.functions.items() if item.result is not None}
    assert numbers | functions | {"next"} <= set(RANGES)
    every = {*known.attributes, *known.degrees, *(f"{name}()" for name in known.functions)}
    assert set(RANGES) <= every
    assert not any(known.attributes[name].type == BOOL for name in RANGES if name in known.attributes)


DURATIONS = ("age", "waited", "alone", "slo", "step_time(sp_best)", "remaining(sp_best)", "slack(2 gpu)", "lateness")
COUNTS = ("steps_left", "steps_done", "steps_total")


def random_number(pick: random.Random, depth: int) -> str:
    if depth == 0 or pick.random() < 0.2:
        return pick.choice(
            (str(pick.choice((0, 1, 2, 0.5))), "load", "priority", "weight", "miss", "count(where late)")
        )
    one, other = random_number(pick, depth - 1), random_number(pick, depth - 1)
    durations, counts = pick.sample(DURATIONS, 2), pick.sample(COUNTS, 2)
    forms = (
        f"({one} {pick.choice('+-*/')} {other})",
        f"({durations[0]} / max({durations[1]}, 1ms))",
        f"(({durations[0]} - {durations[1]}) / alone)",
        f"({counts[0]} / {counts[1]})",
        f"mean({durations[0]} / alone where {durations[1]} > 1s)",
        f"(if {durations[0]} < {durations[1]} then {one} else {other})",
        f"clamp({one}, 0, 5)",
        f"min({one}, {other})",
        f"abs({one})",
    )
    return pick.choice(forms)


def test_what_policies_compute_lies_in_its_interval() -> None:
    pick = random.Random(20)
    ranges = background(parse(Source("policy p version 1")).tree, _scope(), ()).ranges
    seen = 0
    for seed in range(80):
        texts = [random_number(pick, 3) for _ in range(4)]
        lets = "\n".join(f"let x{n} = {text}" for n, text in enumerate(texts))
        try:
            found = columns(f"policy p version 1\n{lets}\norder by arrival\n{SINGLE}\n{CHEAPEST}", seed, [
                f"x{n}" for n in range(len(texts))
            ])  # fmt: skip
        except Exception as error:
            assert "V401" in str(error) or "V404" in str(error)  # a constant divisor of zero, out of luck
            continue
        for n, text in enumerate(texts):
            interval = ranges.of(expression(text))
            for one in found[f"x{n}"].tolist():
                seen += 1
                assert interval.holds(float(one)), (seed, text, one, interval)
    assert seen > 500


def _scope():  # type: ignore[no-untyped-def]
    from gfdit.lang.report import Report
    from gfdit.lang.scope import Scope

    return Scope(schema(), Report(Source("")))
