"""Values of params that come from outside the policy: `--set age_step=30s`, a config file, a tuner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.diagnostics import did_you_mean, listing
from gfdit.lang.expr import Expressions
from gfdit.lang.parser import parse
from gfdit.lang.report import Report
from gfdit.lang.schema import Place, Schema
from gfdit.lang.scope import Scope
from gfdit.lang.source import NOWHERE, Source
from gfdit.lang.types import BOOL, STR, Type

ParamValue = float | int | bool | str


@dataclass(slots=True)
class Overrides:
    """`given` maps param names to text with units, or to values in base units."""

    given: Mapping[str, ParamValue]
    report: Report
    schema: Schema

    def unknown(self, params: list[str], lost: set[str]) -> None:
        """Reports names that the policy does not declare."""
        for name in self.given:
            if name not in params and name not in lost:
                helps = did_you_mean(name, params)
                other = f"its params are {listing(params)}" if params else "this policy has no params"
                self.report.add("N101", f"policy has no param `{name}`", NOWHERE, *(helps or (other,)))

    def value(self, name: str, kind: Type) -> float | bool | str | None:
        """The value for `name`, or None when none was given or it was wrong (and reported)."""
        if name not in self.given:
            return None
        given = self.given[name]
        if kind == STR:
            fits = isinstance(given, str)
        elif isinstance(given, str):
            return self._text(name, given, kind)
        else:
            fits = isinstance(given, bool) == (kind == BOOL) and isfinite(given)
        if not fits:
            self._wrong(name, kind)
            return None
        return given if isinstance(given, (bool, str)) else float(given)

    def in_range(self, name: str, value: float | bool | str, low: float | None, high: float | None) -> None:
        """Reports a value outside the param's range."""
        if isinstance(value, str) or low is None or high is None or low <= value <= high:
            return
        shown = self.given[name]
        text = f"`{name}={shown}` is outside the range of the param"
        self.report.add("V404", text, NOWHERE, f"in base units it runs from {low:g} to {high:g}")

    def _wrong(self, name: str, kind: Type) -> None:
        self.report.add("T302", f"param `{name}` takes {kind.describe()}, found `{self.given[name]}`", NOWHERE)

    def _text(self, name: str, text: str, kind: Type) -> float | bool | None:
        """Reads `text` as a constant expression of the language."""
        source = Source(f"policy set version 1 let value = {text}", f"value of `{name}`")
        parsed = parse(source)
        report = Report(source, list(parsed.diagnostics))
        item = parsed.tree.items[0] if len(parsed.tree.items) == 1 else None
        value: ir.Expr | None = None
        if isinstance(item, nodes.Let) and parsed.complete:
            expressions = Expressions(Scope(self.schema, report))
            value = expressions.slot(item.value, Place.CONSTANT, kind, f"param `{name}`")
        self.report.diagnostics.extend(report.diagnostics)
        if not report.diagnostics and isinstance(value, ir.Const) and not isinstance(value.value, str):
            return value.value
        if not report.diagnostics:
            self._wrong(name, kind)
        return None
