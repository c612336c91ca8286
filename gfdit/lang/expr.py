"""Expressions: names resolved, types and units checked, constants folded. Syntax in, `program.Expr` out."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Final, assert_never

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.calls import check_call
from gfdit.lang.report import Report
from gfdit.lang.schema import Level, Place, Schema
from gfdit.lang.scope import Scope, poison
from gfdit.lang.types import BOOL, DUR, INSTANT, NUM, STR, UNITS, Kind, Type, over, times
from gfdit.lang.units import base_value, instant_help, missing_unit, mixed, same_type

_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: Final[dict[str, Callable[[float, float], float]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_QUANTITY: Final = (Kind.NUM, Kind.INSTANT)
_VERBS: Final = {"+": ("add", "to"), "-": ("subtract", "from"), "*": ("multiply", "by"), "/": ("divide", "by")}


@dataclass(slots=True)
class Expressions:
    """Checks expressions of one policy. Every method reports what is wrong and returns something usable."""

    scope: Scope

    @property
    def schema(self) -> Schema:
        return self.scope.schema

    @property
    def report(self) -> Report:
        return self.scope.report

    def text(self, node: nodes.Expr) -> str:
        """The expression as the user typed it."""
        return " ".join(self.report.source.slice(node.span).split())

    # -- slots: an expression with a type it must have

    def condition(self, node: nodes.Expr, place: Place) -> ir.Expr:
        """A bool at `place`."""
        return self.slot(node, place, BOOL, "a condition")

    def slot(self, node: nodes.Expr, place: Place, kind: Type, what: str) -> ir.Expr:
        """An expression that must be of type `kind`; `what` names the slot in messages."""
        value = self.expr(node, place)
        if not same_type(value.type, kind):
            both_quantities = kind.kind in _QUANTITY and value.type.kind in _QUANTITY
            message = f"{what} takes {_an(kind.describe())}, found {_an(value.type.describe())}"
            self.report.add("U205" if both_quantities else "T302", message, node.span, missing_unit(node, kind))
            return poison(node.span)
        return value

    def constant(self, node: nodes.Expr, kind: Type, what: str) -> float | None:
        """A number known before the policy runs, in base units; None when it was wrong."""
        value = self.slot(node, Place.CONSTANT, kind, what)
        if value.type.is_error:
            return None
        if not isinstance(value, ir.Const) or isinstance(value.value, str):
            self.report.add("N105", f"{what} must be known before the policy runs", node.span)
            return None
        return float(value.value)

    # -- expressions

    def expr(self, node: nodes.Expr, place: Place) -> ir.Expr:
        """Any expression at `place`."""
        match node:
            case nodes.Number():
                return self._number(node)
            case nodes.Text():
                return ir.Const(node.value, STR, node.span)
            case nodes.Truth():
                return ir.Const(node.value, BOOL, node.span)
            case nodes.Name():
                return self.scope.name(node, place)
            case nodes.Field():
                return self._field(node, place)
            case nodes.Unary():
                return self._unary(node, place)
            case nodes.Binary():
                return self._binary(node, place)
            case nodes.Compare():
                return self._compare(node, place)
            case nodes.Member():
                return self._member(node, place)
            case nodes.BoolOp():
                return self._bool_op(node, place)
            case nodes.If():
                return self._if(node, place)
            case nodes.Call():
                return check_call(self, node, place)
        assert_never(node)

    def _number(self, node: nodes.Number) -> ir.Expr:
        value = base_value(node)
        if not isfinite(value):
            self.report.add("V404", "value is too large", node.span)
            return poison(node.span)
        return ir.Const(value, _literal_type(node), node.span)

    def _field(self, node: nodes.Field, place: Place) -> ir.Expr:
        base, name = node.base.text, node.name.text
        if place is not Place.TEST:
            text = f"`{base}.{name}`: requests have names in tests only"
            self.report.add("N105", text, node.span, f"write `{name}` for the request at hand")
        elif base not in self.scope.requests:
            self.report.unknown("N101", "request", base, node.base.span, sorted(self.scope.requests))
        elif entry := self.schema.attributes.get(name):
            return ir.Name(f"{base}.{name}", entry.type, Level.TICK, node.span)
        else:
            self.report.unknown("N104", "field", name, node.name.span, list(self.schema.attributes))
        return poison(node.span)

    def _unary(self, node: nodes.Unary, place: Place) -> ir.Expr:
        if node.op == "not":
            value = self.condition(node.operand, place)
            if isinstance(value, ir.Const):
                return ir.Const(not value.value, value.type, node.span)
            return ir.Unary(ir.UnaryOp.NOT, value, BOOL, value.level, node.span)
        value = self.expr(node.operand, place)
        if value.type == INSTANT:
            text = "an instant has no negative"
            helps = f"for the latest first write `{self.text(node.operand)} desc`"
            self.report.add("U204", text, node.span, helps if place is Place.ORDER else "")
            return poison(node.span)
        if not value.type.is_num:
            return self._wrong(f"cannot negate {_an(value.type.describe())}", node, value)
        if isinstance(value, ir.Const) and isinstance(value.value, float):
            return ir.Const(-value.value, value.type, node.span)
        return ir.Unary(ir.UnaryOp.NEG, value, value.type, value.level, node.span)

    def _binary(self, node: nodes.Binary, place: Place) -> ir.Expr:
        left, right = self.expr(node.left, place), self.expr(node.right, place)
        if left.type.is_error or right.type.is_error:
            return poison(node.span)
        kind = self._arithmetic_type(node, left.type, right.type)
        if kind is None:
            return poison(node.span)
        if node.op == "/" and isinstance(right, ir.Const) and right.value == 0:
            self.report.add("V401", "division by zero", node.right.span)
            return poison(node.span)
        if isinstance(left, ir.Const) and isinstance(right, ir.Const):
            value = _ARITHMETIC[node.op](float(left.value), float(right.value))
            if not isfinite(value):
                self.report.add("V404", "value is too large", node.span)
                return poison(node.span)
            return ir.Const(value, kind, node.span)
        return ir.Binary(ir.BinaryOp(node.op), left, right, kind, max(left.level, right.level), node.span)

    def _arithmetic_type(self, node: nodes.Binary, left: Type, right: Type) -> Type | None:
        """Type of the result; reports and returns None when there is none."""
        names = (left.describe(), right.describe())
        verb, link = _VERBS[node.op]
        first, second = (names[1], names[0]) if node.op in "+-" else names
        message = f"cannot {verb} {first} {link} {second}"
        if INSTANT in (left, right):
            good = {("+", INSTANT, DUR): INSTANT, ("+", DUR, INSTANT): INSTANT, ("-", INSTANT, DUR): INSTANT}
            good[("-", INSTANT, INSTANT)] = DUR
            if (node.op, left, right) in good:
                return good[(node.op, left, right)]
            other = mixed(node.left, left, node.right, right) if node.op in "+-" else ""
            hint = f"take the time to it first: `{self.schema.clock} - ...` is a duration" if node.op in "*/" else ""
            self.report.add("U204", message, node.span, other or hint)
            return None
        if not (left.is_num and right.is_num):
            self.report.add("T302", message, node.span)
            return None
        if node.op in "+-":
            if left.dim != right.dim:
                self.report.add("U201", message, node.span, mixed(node.left, left, node.right, right))
                return None
            return left
        return Type(Kind.NUM, (times if node.op == "*" else over)(left.dim, right.dim))

    def _compare(self, node: nodes.Compare, place: Place) -> ir.Expr:
        left, right = self._operands(node.left, node.right, place)
        if left.type.is_error or right.type.is_error:
            return poison(node.span)
        if not self._comparable(node, left.type, right.type):
            return poison(node.span)
        if isinstance(left, ir.Const) and isinstance(right, ir.Const):
            if isinstance(left.value, str) or isinstance(right.value, str):
                return ir.Const((left.value == right.value) == (node.op == "=="), BOOL, node.span)
            return ir.Const(_COMPARE[node.op](left.value, right.value), BOOL, node.span)
        return ir.Compare(ir.CompareOp(node.op), left, right, BOOL, max(left.level, right.level), node.span)

    def _operands(self, left: nodes.Expr, right: nodes.Expr, place: Place) -> tuple[ir.Expr, ir.Expr]:
        """Both sides; where one is an enum, a bare word or a string on the other side is its member."""
        if enum := self.enum_of(left, place):
            return self.expr(left, place), self.scope.member(right, enum) or self.expr(right, place)
        if enum := self.enum_of(right, place):
            return self.scope.member(left, enum) or self.expr(left, place), self.expr(right, place)
        return self.expr(left, place), self.expr(right, place)

    def enum_of(self, node: nodes.Expr, place: Place) -> Type | None:
        """The enum that `node` is an attribute of, if it is one."""
        entry = None
        if isinstance(node, nodes.Name):
            entry = self.scope.attribute(node.name, place)
        elif isinstance(node, nodes.Field) and place is Place.TEST:
            entry = self.schema.attributes.get(node.name.text)
        return entry.type if entry and entry.type.kind is Kind.ENUM else None

    def _comparable(self, node: nodes.Compare, left: Type, right: Type) -> bool:
        message = f"cannot compare {left.describe()} with {right.describe()}"
        if left != right:
            quantities = left.kind in _QUANTITY and right.kind in _QUANTITY
            if INSTANT in (left, right) and quantities:
                helps = instant_help(node, left, right, self.schema, self.text)
                self.report.add("U204", message, node.span, *helps)
            elif left.is_num and right.is_num:
                self.report.add("U202", message, node.span, mixed(node.left, left, node.right, right))
            else:
                self.report.add("T302", message, node.span)
            return False
        if left.kind in (Kind.ENUM, Kind.STR, Kind.BOOL) and node.op not in ("==", "!="):
            self.report.add("T302", f"{left.describe()} values have no order", node.span, "use `==` or `!=`")
            return False
        return True

    def _member(self, node: nodes.Member, place: Place) -> ir.Expr:
        enum = self.enum_of(node.value, place)
        value = self.expr(node.value, place)
        items: list[ir.Const] = []
        for item in node.items:
            found = (self.scope.member(item, enum) if enum else None) or self.expr(item, place)
            if not isinstance(found, ir.Const):
                self.report.add("N105", "members of a set must be constants", item.span)
            elif not same_type(value.type, found.type):
                text = f"cannot compare {value.type.describe()} with {found.type.describe()}"
                code = "U202" if value.type.is_num and found.type.is_num else "T302"
                self.report.add(code, text, item.span, missing_unit(item, value.type))
            elif not found.type.is_error:
                items.append(found)
        if value.type.is_error or len(items) < len(node.items):
            return poison(node.span)
        return ir.Member(value, tuple(items), node.negated, BOOL, value.level, node.span)

    def _bool_op(self, node: nodes.BoolOp, place: Place) -> ir.Expr:
        operands = tuple(self.slot(item, place, BOOL, f"`{node.op}`") for item in node.operands)
        if any(item.type.is_error for item in operands):
            return poison(node.span)
        conjunction = node.op == "and"
        constants = [item.value for item in operands if isinstance(item, ir.Const)]
        if (not conjunction) in constants or len(constants) == len(operands):
            return ir.Const((all if conjunction else any)(constants), BOOL, node.span)
        return ir.BoolOp(conjunction, operands, BOOL, max(item.level for item in operands), node.span)

    def _if(self, node: nodes.If, place: Place) -> ir.Expr:
        condition = self.condition(node.condition, place)
        then, other = self.expr(node.then, place), self.expr(node.other, place)
        if not same_type(then.type, other.type):
            code = "U203" if then.type.kind in (Kind.NUM, Kind.INSTANT) else "T302"
            text = f"branches differ: {then.type.describe()} and {other.type.describe()}"
            self.report.add(code, text, node.span, mixed(node.then, then.type, node.other, other.type))
            return poison(node.span)
        if condition.type.is_error or then.type.is_error or other.type.is_error:
            return poison(node.span)
        if isinstance(condition, ir.Const):
            return then if condition.value else other
        level = max(condition.level, then.level, other.level)
        return ir.If(condition, then, other, then.type, level, node.span)

    def _wrong(self, message: str, node: nodes.Expr, *values: ir.Expr) -> ir.Expr:
        if not any(value.type.is_error for value in values):
            self.report.add("T302", message, node.span)
        return poison(node.span)


def _literal_type(node: nodes.Number) -> Type:
    return Type(Kind.NUM, UNITS[node.unit][1]) if node.unit else NUM


def _an(noun: str) -> str:
    if noun[:1] in "aeiou":
        return f"an {noun}"
    return f"a {noun}"
