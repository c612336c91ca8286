"""Unit rules, and the words that explain a breach: which expression was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from gfdit.lang import nodes
from gfdit.lang.types import BASE_UNITS, DUR, PLAIN, SECOND, UNITS, Kind, Type, dim_text

if TYPE_CHECKING:
    from gfdit.lang.schema import Schema

Text = Callable[[nodes.Expr], str]


def base_value(number: nodes.Number) -> float:
    """The literal in base units, rounded once: `115%` is 1.15."""
    if not number.unit:
        return float(number.text)
    return float(Decimal(number.text) * Decimal(repr(UNITS[number.unit][0])))


def same_type(a: Type, b: Type) -> bool:
    """Whether two values may meet in a comparison, a branch or `max`; an error meets everything."""
    return a.is_error or b.is_error or a == b


def with_unit(text: str, kind: Type) -> str:
    """`text` with the unit of `kind`, such as `3s` or `3 gpu`."""
    if kind.dim == SECOND or kind.kind is Kind.INSTANT:
        return f"{text}s"
    return f"{text} {dim_text(kind.dim)}"


def missing_unit(node: nodes.Expr, expected: Type) -> str:
    """Help for a bare number where a quantity was expected; empty when that is not the mistake."""
    single = expected.is_num and dim_text(expected.dim) in BASE_UNITS
    if isinstance(node, nodes.Number) and not node.unit and (single or expected.kind is Kind.INSTANT):
        return f"write `{with_unit(node.text, expected)}`"
    return ""


def mixed(left: nodes.Expr, left_type: Type, right: nodes.Expr, right_type: Type) -> str:
    """Help for two quantities of different units: a unit that was left out on one side."""
    return missing_unit(right, left_type) or missing_unit(left, right_type)


def instant_help(node: nodes.Compare, left: Type, right: Type, schema: Schema, text: Text) -> tuple[str, ...]:
    """Help for comparing a duration with an instant."""
    duration, swap = (node.left, False) if left == DUR else (node.right, True)
    other = node.right if not swap else node.left
    if (right if swap else left) != DUR:
        return (missing_unit_of_instant(duration, other, text),)
    function = schema.functions.get(duration.function.text) if isinstance(duration, nodes.Call) else None
    if isinstance(duration, nodes.Call) and function and function.as_instant:
        argument = ", ".join(text(arg) for arg in duration.args)
        better = f"{function.as_instant}({argument})"
        pair = (text(other), better) if swap else (better, text(other))
        return (f"compare `{pair[0]} {node.op} {pair[1]}`, or use `{function.as_slack}({argument})`",)
    instant, length = text(other), text(duration)
    pair = (instant, f"{schema.clock} + {length}") if swap else (f"{schema.clock} + {length}", instant)
    return (f"compare `{pair[0]} {node.op} {pair[1]}`",)


def missing_unit_of_instant(number: nodes.Expr, instant: nodes.Expr, text: Text) -> str:
    """Help for `deadline < 3`."""
    return f"an instant compares with instants only, such as `{text(instant)} < now + 3s`"


def is_plain(kind: Type) -> bool:
    """A number without unit."""
    return kind.is_num and kind.dim == PLAIN
