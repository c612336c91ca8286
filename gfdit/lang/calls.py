"""Calls: functions of the schema and aggregates over requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.schema import Arg, Function, Level, Place
from gfdit.lang.scope import ANY, poison
from gfdit.lang.types import BOOL, GPUS, INSTANT, NUM, Kind, Type, enum_type
from gfdit.lang.units import missing_unit, mixed, same_type

if TYPE_CHECKING:
    from gfdit.lang.expr import Expressions

AGGREGATES: Final = {kind.value: kind for kind in ir.AggregateKind}
_ONLY_AGGREGATES: Final = frozenset({"count", "sum", "mean"})


def check_call(checker: Expressions, node: nodes.Call, place: Place) -> ir.Expr:
    """A call at `place`, or a poisoned constant when something in it was wrong."""
    name, report = node.function.text, checker.report
    if name in _ONLY_AGGREGATES or (name in AGGREGATES and node.where is not None):
        return _aggregate(checker, node, place)
    function = checker.schema.functions.get(name)
    if function is None:
        _unknown(checker, node)
        return poison(node.span)
    if node.where is not None:
        report.add("T301", f"`{name}` takes no `where`", node.where.span)
        return poison(node.span)
    if not _count_fits(function, len(node.args)):
        report.add("T301", f"`{name}` takes {_counted(function)}, found {len(node.args)}", node.span)
        return poison(node.span)
    checker.scope.used.add(name)
    args = tuple(_argument(checker, function, i, node, place) for i in range(len(node.args)))
    if any(arg.type.is_error for arg in args):
        return poison(node.span)
    if Arg.WEIGHT in function.args:
        return ir.Call(name, args, args[0].type, Level.TICK, node.span)
    if function.result is None:
        return _same(checker, node, args)
    level = max([function.level, *(arg.level for arg in args)])
    if place in (Place.TICK, Place.STATE) and level > Level.TICK:
        report.add("N105", f"`{name}` varies by request, which means nothing in {place.value}", node.span)
        return poison(node.span)
    return ir.Call(name, args, function.result, level, node.span)


def _unknown(checker: Expressions, node: nodes.Call) -> None:
    name = node.function.text
    known = [*checker.schema.functions, *AGGREGATES]
    other = "it is a name, not a function" if name in checker.schema.attributes else ""
    checker.report.unknown("N102", "function", name, node.function.span, known, other)


def _count_fits(function: Function, count: int) -> bool:
    return count >= len(function.args) if function.variadic else count == len(function.args)


def _counted(function: Function) -> str:
    count = len(function.args)
    plural = "" if count == 1 else "s"
    return f"{'at least ' if function.variadic else ''}{count} argument{plural}"


def _argument(checker: Expressions, function: Function, index: int, node: nodes.Call, place: Place) -> ir.Expr:
    kind = function.args[min(index, len(function.args) - 1)]
    arg = node.args[index]
    if kind is Arg.DEGREE:
        return _degree(checker, function, arg, place)
    if kind is Arg.CLASS:
        if not isinstance(arg, nodes.Name):
            checker.report.add("T302", f"`{function.name}` takes {Arg.CLASS.value}", arg.span)
            return poison(arg.span)
        word = checker.scope.class_name(nodes.Ident(arg.name, arg.span))
        known = word == ANY or word in checker.scope.classes
        return ir.Const(word, enum_type("class"), arg.span) if known else poison(arg.span)
    if kind is Arg.POOL:
        if not isinstance(arg, nodes.Name):
            checker.report.add("T302", f"`{function.name}` takes {Arg.POOL.value}", arg.span)
            return poison(arg.span)
        pool = checker.scope.pool_name(nodes.Ident(arg.name, arg.span))
        return poison(arg.span) if pool is None else ir.Const(pool, enum_type("pool"), arg.span)
    if kind is Arg.WEIGHT:
        return _weight(checker, function, arg)
    value = checker.expr(arg, place)
    if kind is Arg.WHOLE and not value.type.is_error:
        return _whole(checker, function, arg, value)
    return value


def _whole(checker: Expressions, function: Function, arg: nodes.Expr, value: ir.Expr) -> ir.Expr:
    """A number that does not vary by request."""
    if not value.type.is_num:
        text = f"`{function.name}` takes {Arg.WHOLE.value}, found {value.type.describe()}"
        checker.report.add("T302", text, arg.span)
    elif value.level > Level.TICK:
        helps = f"average it over requests first, such as `{function.name}(mean({checker.text(arg)}), 20%)`"
        checker.report.add("N105", f"`{function.name}` takes {Arg.WHOLE.value}", arg.span, helps)
    else:
        return value
    return poison(arg.span)


def _weight(checker: Expressions, function: Function, arg: nodes.Expr) -> ir.Expr:
    what = f"the weight of `{function.name}`"
    value = checker.constant(arg, NUM, what)
    if value is None:
        return poison(arg.span)
    if not 0 < value <= 1:
        checker.report.add("V404", f"{what} is {Arg.WEIGHT.value}", arg.span)
        return poison(arg.span)
    return ir.Const(value, NUM, arg.span)


def _degree(checker: Expressions, function: Function, arg: nodes.Expr, place: Place) -> ir.Expr:
    found = checker.scope.degree(arg, place)
    if found is not None:
        return found
    value = checker.expr(arg, place)
    if value.type.is_error:
        return value
    if isinstance(value, ir.Const) and value.type == GPUS and float(value.value) >= 1 and float(value.value) % 1 == 0:
        return value
    code = "U205" if value.type.is_num and value.type != GPUS else "T302"
    helps = missing_unit(arg, GPUS)
    checker.report.add(code, f"`{function.name}` takes {Arg.DEGREE.value}", arg.span, helps)
    return poison(arg.span)


def _same(checker: Expressions, node: nodes.Call, args: tuple[ir.Expr, ...]) -> ir.Expr:
    """`max`, `min`, `clamp`, `abs`: the result has the type of the arguments."""
    first = args[0].type
    for arg, written in zip(args, node.args, strict=True):
        if arg.type.kind not in (Kind.NUM, Kind.INSTANT):
            checker.report.add(
                "T302", f"`{node.function.text}` takes numbers, found {arg.type.describe()}", written.span
            )
            return poison(node.span)
        if not same_type(first, arg.type):
            code = "U204" if INSTANT in (first, arg.type) else "U203"
            text = f"`{node.function.text}` cannot mix {first.describe()} and {arg.type.describe()}"
            checker.report.add(code, text, written.span, mixed(node.args[0], first, written, arg.type))
            return poison(node.span)
    if node.function.text == "abs" and first == INSTANT:
        checker.report.add("U204", "`abs` takes a number, found instant", node.args[0].span)
        return poison(node.span)
    constants = [float(arg.value) for arg in args if isinstance(arg, ir.Const)]
    if len(constants) == len(args):
        return ir.Const(_fold(node.function.text, constants), first, node.span)
    return ir.Call(node.function.text, args, first, max(arg.level for arg in args), node.span)


def _fold(name: str, values: list[float]) -> float:
    if name == "clamp":
        return min(max(values[0], values[1]), values[2])
    if name == "abs":
        return abs(values[0])
    return max(values) if name == "max" else min(values)


def _aggregate(checker: Expressions, node: nodes.Call, place: Place) -> ir.Expr:
    """`count(where p)`, `sum(x where p)` and the like: one value a tick, over all requests."""
    name, report = node.function.text, checker.report
    if place in (Place.CONSTANT, Place.CLASS):
        report.add("N105", f"an aggregate means nothing in {place.value}", node.span)
        return poison(node.span)
    wanted = 0 if name == "count" else 1
    if len(node.args) != wanted:
        form = "count(where condition)" if name == "count" else f"{name}(value where condition)"
        report.add(
            "T301",
            f"`{name}` over requests takes {wanted or 'no'} value, found {len(node.args)}",
            node.span,
            f"write `{form}`",
        )
        return poison(node.span)
    where = checker.condition(node.where, Place.AGGREGATE) if node.where is not None else None
    value = checker.expr(node.args[0], Place.AGGREGATE) if node.args else None
    if (where and where.type.is_error) or (value and value.type.is_error):
        return poison(node.span)
    kind: Type = value.type if value else NUM
    if value and (not value.type.is_num and not (value.type == INSTANT and name in ("max", "min"))):
        helps = f"use `count(where {checker.text(node.args[0])})`" if value.type == BOOL else ""
        report.add("T302", f"`{name}` takes a number, found {value.type.describe()}", node.args[0].span, helps)
        return poison(node.span)
    return ir.Aggregate(AGGREGATES[name], value, where, kind, Level.TICK, node.span)
