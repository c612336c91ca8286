"""A601, A602 in pools: degrees that are larger than the pool of their stage can ever be.

The cluster as a whole is looked at where degrees are checked; this is about the shares of it.
"""

from __future__ import annotations

from math import inf

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.report import Report


def check(tree: nodes.Policy, program: ir.Program, gpus: int | None, report: Report) -> None:
    """`gpus`: size of the cluster, None when it is not known; then the pool of the rest has no bound."""
    sizes = largest_sizes(program, gpus)
    for item in tree.items:
        if not isinstance(item, nodes.Stage) or item.pool is None or item.pool.text not in sizes:
            continue
        spills = [part.pool.text for part in item.items if isinstance(part, nodes.Spill)]
        room = max(sizes.get(name, inf) for name in (item.pool.text, *spills))
        where = f"pool `{item.pool.text}` never has more than {room:g} gpu"
        for part in item.items:
            if isinstance(part, nodes.SpFixed) and isinstance(part.value, nodes.Number):
                if float(part.value.text) > room:
                    report.add("A601", f"{part.value.text} gpu is more than the pool has", part.value.span, where)
            elif isinstance(part, nodes.SpChoice):
                _choice(part, room, gpus, where, report)


def _choice(part: nodes.SpChoice, room: float, gpus: int | None, where: str, report: Report) -> None:
    too_large = [number for number in part.degrees if number.text.isdigit() and int(number.text) > room]
    if len(too_large) == len(part.degrees):
        report.add("A601", "every degree is larger than the pool", too_large[0].span.to(too_large[-1].span), where)
        return
    for number in too_large:
        if gpus is None or int(number.text) <= gpus:  # else it has been said already
            report.add("A602", f"degree {number.text} never fits in the pool", number.span, where)


def largest_sizes(program: ir.Program, gpus: int | None) -> dict[str, float]:
    """The most GPUs that each pool can ever have, by name."""
    sizes: dict[str, float] = {}
    least = 0
    for pool in program.pools:
        bounds = [(resize.low, resize.high) for resize in program.resizes if resize.pool == pool.name]
        if pool.count is not None:
            sizes[pool.name] = max([pool.count, *(high for _, high in bounds)])
            least += min([pool.count, *(low for low, _ in bounds)])
    for pool in program.pools:
        if pool.count is None:
            sizes[pool.name] = inf if gpus is None else max(gpus - least, 0)
    return sizes
