"""One row of a tick in plain floats: what a clause says of a few requests costs a microsecond each this way, where
columns of one row cost a hundred.

The values are those of `columns.py` and `compile.py` bit for bit. What is beyond a row (aggregates, pools, averages) is
not compiled: `Unsupported`. May not decide anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gfdit.core.view import View
from gfdit.lang.program import Call, Const, LetRef, Name
from gfdit.lang.schema import Level
from gfdit.lang.types import Kind
from gfdit.policy.columns import FIELDS, SYSTEM, Frame, Tick, symbols
from gfdit.policy.compile import MISSING, TABLES, Compiler
from gfdit.policy.explain import Compared, Condition
from gfdit.policy.scalars import INF, ScalarFn, Scalars, Unsupported, divide


class Row:
    """One row, and every value and table that was read of it so far."""

    __slots__ = ("_known", "_tables", "degrees", "row", "tick", "view")

    def __init__(self, tick: Tick, row: int) -> None:
        self.tick = tick
        self.view: View = tick.view
        self.row = row
        self.degrees: tuple[int, ...] = tick.view.degrees
        self._known: dict[str, Any] = {}
        self._tables: dict[str, list[float]] = {}

    def value(self, name: str) -> Any:
        """An attribute of the request."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._read(name)
        return found

    def _read(self, name: str) -> Any:
        field = FIELDS.get(name)
        if field is not None:
            return getattr(self.view, field).item(self.row)
        if name == "deadline":
            return self.view.deadline_s.item(self.row) - self.view.now_s
        if name == "sp_best":
            return float(self.degrees[self.best()])
        return self._frame().column(name).item(0)

    def table(self, name: str) -> list[float]:
        """`[D]`: a table of the request at every degree."""
        found = self._tables.get(name)
        if found is None:
            found = self._tables[name] = self._read_table(name)
        return found

    def _read_table(self, name: str) -> list[float]:
        field = FIELDS.get(name)
        if field is not None:
            read: list[float] = getattr(self.view, field)[self.row].tolist()
            return read
        if name == "#slack":
            deadline = self.value("deadline")
            return [deadline - remaining for remaining in self.table("#remaining")]
        if name == "#mem" and self.view.memory_of_slot is not None:
            needed: list[float] = self.view.memory_of_slot[self.view.slots.item(self.row)].tolist()
            return needed
        found: list[float] = self._frame().column(name)[0].tolist()
        return found

    def text(self, name: str) -> str:
        """An attribute that has names for values; "" for a class that is not the policy's."""
        codes, names = symbols(self._frame(), name)
        return (*names, "")[int(codes[0])]

    def of_system(self, name: str) -> float:
        """An attribute with one value a tick."""
        key = f"system {name}"
        found: float | None = self.tick.scalars.get(key)
        if found is None:
            found = self.tick.scalars[key] = SYSTEM[name](self.view)
        return found

    def best(self) -> int:
        """Column of the degree with the fastest step."""
        steps = self.table("#step")
        return steps.index(min(steps))

    def at(self, table: str, degree: float, missing: float) -> float:
        """A table at a degree; `missing` where the cluster does not offer that."""
        return self.table(table)[self.degrees.index(int(degree))] if degree in self.degrees else missing

    def _frame(self) -> Frame:
        return Frame(self.tick, np.array([self.row]))


RowFn = ScalarFn[Row]


class RowCompiler(Scalars[Row]):
    """Compiles the expressions that `compiler` knows for one row at a time."""

    def __init__(self, compiler: Compiler) -> None:
        super().__init__(compiler.let_values)

    def _carried(self, expr: LetRef) -> RowFn:
        if expr.level > Level.TICK:  # a state with a value for each class
            raise Unsupported(expr.name)
        carried = f"carried {expr.name}"
        return lambda row, here, wider: row.tick.scalars[carried]

    def _name(self, expr: Name) -> RowFn:
        name = expr.name
        if name in SYSTEM:
            return lambda row, here, wider: row.of_system(name)
        if name == "next":
            return lambda row, here, wider: float(row.degrees[wider])
        if name == "sp" and expr.level is Level.DEGREE:
            return lambda row, here, wider: float(row.degrees[here])
        if expr.level is not Level.REQUEST:
            raise Unsupported(name)
        if expr.type.kind in (Kind.ENUM, Kind.STR):
            return lambda row, here, wider: row.text(name)
        return lambda row, here, wider: row.value(name)

    def _function(self, expr: Call) -> RowFn:
        function, arg = expr.function, expr.args[0]
        if function not in TABLES:
            raise Unsupported(function)
        table, missing = TABLES[function], MISSING.get(function, INF)
        match arg:
            case Name(name="next") if function == "gain":
                return lambda row, here, wider: divide(row.table("#remaining")[here], row.table("#remaining")[wider])
            case Name(name="next"):
                return lambda row, here, wider: row.table(table)[wider]
            case Name(name="sp", level=Level.DEGREE):
                return lambda row, here, wider: row.table(table)[here]
            case Name(name="sp_best"):
                return lambda row, here, wider: row.table(table)[row.best()]
            case Name(name="sp"):
                return lambda row, here, wider: row.at(table, row.value("sp"), missing)
            case Const(value=degree):
                return lambda row, here, wider: row.at(table, float(degree), missing)
            case _:
                raise Unsupported(function)


class RowCondition:
    """A condition for one row, and what it compared: `Condition` in plain floats."""

    def __init__(self, condition: Condition, compiler: RowCompiler) -> None:
        self.holds = compiler.expr(condition.expr)
        self._sides = [(side, compiler.expr(expr)) for side, expr in condition.sides]

    def compared(self, row: Row, here: int, wider: int = -1) -> Compared:
        """The compared values at these columns."""
        return [(side, fn(row, here, wider)) for side, fn in self._sides if side.level is not Level.CONST]
