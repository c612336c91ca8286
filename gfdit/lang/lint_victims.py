"""L506: a `preempt` that takes from the most urgent first, by the policy's own order."""

from __future__ import annotations

from gfdit.lang import nodes
from gfdit.lang.report import Report


def check(tree: nodes.Policy, report: Report) -> None:
    """Adds a finding for each `preempt` whose first victim key is a key of `order by` in the same direction."""
    order = next((item for item in tree.items if isinstance(item, nodes.Order)), None)
    if order is None:
        return
    urgent = {(key.value, key.direction == "desc") for key in order.keys}
    for item in tree.items:
        if isinstance(item, nodes.Preempt) and item.by:
            first = item.by[0]
            descending = first.direction == "desc"
            if (first.value, descending) in urgent:
                other = "asc" if descending else "desc"
                report.add(
                    "L506",
                    "the most urgent is taken from first: `order by` has the same key in the same direction",
                    first.span,
                    f"write `{report.source.slice(first.value.span)} {other}`",
                )
