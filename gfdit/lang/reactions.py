"""`react`: what shall happen when something happens. Syntax in, clauses of `program.py` out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.clauses import Clauses
from gfdit.lang.diagnostics import listing
from gfdit.lang.report import Report
from gfdit.lang.schema import Place
from gfdit.lang.types import DUR, GPUS, NUM


@dataclass(slots=True)
class Reactions:
    """Checks all `react` clauses; `modes` are those that the policy declares."""

    checks: Clauses
    modes: tuple[str, ...]

    @property
    def report(self) -> Report:
        return self.checks.report

    def clauses(self, items: Iterable[nodes.Item]) -> tuple[ir.React, ...]:
        """In the order of the text."""
        found = [item for item in items if isinstance(item, nodes.React)]
        return tuple(self._react(item, number) for number, item in enumerate(found, 1))

    def _react(self, item: nodes.React, number: int) -> ir.React:
        name, scope = item.event.text, self.checks.scope
        event = scope.schema.events.get(name)
        if event is None and name in self.modes:
            scope.used.add(name)
        elif event is None and name not in scope.lost:
            known = [*scope.schema.events, *self.modes]
            self.report.unknown("N104", "event", name, item.event.span, known, f"events are {listing(known)}")
        when = None if item.when is None else self.checks.expressions.condition(item.when, Place.REACT)
        return ir.React(
            event=name,
            is_mode=event is None,
            of_request=event is not None and event.of_request,
            when=when,
            action=ir.ReactAction(item.do.action),
            amount=self._amount(item.do),
            seconds=self._seconds(item.do),
            text=item.do.text.value if item.do.text else "",
            clause=self.checks.at(f"react.{number}", item.span),
        )

    def _amount(self, item: nodes.Reaction) -> float:
        if item.amount is None:
            return 0.0
        if item.action == "shrink":
            return float(self.checks.whole(item.amount, GPUS, "`shrink to`"))
        return self.checks.positive(item.amount, NUM, "`raise`") or 1.0

    def _seconds(self, item: nodes.Reaction) -> float | None:
        """What takes GPUs away must end of its own accord."""
        if item.duration is not None:
            return self.checks.positive(item.duration, DUR, "`for`")
        if item.action in ("shrink", "pause"):
            word = "pause" if item.action == "pause" else self.report.source.slice(item.span)
            text = f"`{item.action}` needs a time after which it ends"
            self.report.add("T301", text, item.span, f"write `{word} for 10s`")
        return None
