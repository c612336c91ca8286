"""Everything that `gfdit check` says of a policy: what the language finds, and what only a cluster shows.

A605: a registered model that fits into no GPU at any degree the policy may choose. C701: a worst-case tick above the
policy's own limit. May not run a policy; what only a cluster needs is imported when there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from gfdit.lang import nodes
from gfdit.lang import program as ir
from gfdit.lang.check import Checked, check
from gfdit.lang.diagnostics import Diagnostic, in_order
from gfdit.lang.source import Source, Span
from gfdit.lang.values import ParamValue
from gfdit.policy.vocabulary import schema

if TYPE_CHECKING:
    from gfdit.policy.cluster import Cluster
    from gfdit.policy.costing import Bound

DEAREST = 3
DENOISE = "denoise"  # the stage that takes most, and whose memory the cluster file speaks of
_GIB = 2.0**30


def check_policy(
    source: Source,
    params: Mapping[str, ParamValue] | None = None,
    *,
    gpus: int | None = None,
    cluster: Cluster | None = None,
    policies: Collection[str] | None = None,
) -> Checked:
    """Checks a policy against the vocabulary and, when it is known, against a cluster (which goes before `gpus`)."""
    gpus = gpus if cluster is None else cluster.gpus
    checked = check(source, schema(), params, gpus=gpus, policies=policies)
    if cluster is None or checked.program is None:
        return checked
    more = (*_too_slow(checked.program, checked.tree, cluster), *_too_large(checked.program, cluster))
    if not more:
        return checked
    return Checked(None, checked.tree, in_order((*checked.diagnostics, *more)))


def _too_slow(program: ir.Program, tree: nodes.Policy, cluster: Cluster) -> Iterator[Diagnostic]:
    """C701: the worst tick of such a cluster breaks the limit that `fallback ... tick > t` sets."""
    from gfdit.policy.costing import bound
    from gfdit.units import human_s

    limit = program.fallback.tick
    if limit is None:
        return
    found = bound(program, cluster.requests, cluster.gpus, cluster.constants)
    if found.seconds <= limit:
        return
    clause = next((item for item in tree.items if isinstance(item, nodes.Fallback)), None)
    span = clause.tick.span if clause is not None and clause.tick is not None else Span(0, 0)
    size = f"{cluster.requests} requests on {cluster.gpus} gpu"
    text = f"the worst tick takes {human_s(found.seconds)}, above its limit of {human_s(limit)}, with {size}"
    helps = tuple(dearest(found))
    yield Diagnostic("C701", text, span, program.source, "", helps)


def dearest(found: Bound) -> Iterator[str]:
    """The dearest lines of a bound, for people."""
    from gfdit.units import human_s

    for part in found.parts[:DEAREST]:
        seconds = part.work.seconds(found.constants)
        where = f"line {part.line}, `{part.text}`" if part.line else "what every policy does"
        yield f"{human_s(seconds)} ({seconds / found.seconds:.0%}) in {where}"


def _too_large(program: ir.Program, cluster: Cluster) -> Iterator[Diagnostic]:
    """A605: at every degree that denoising may take, a model needs more memory than a GPU has."""
    if cluster.gpu_mem is None:
        return
    degrees, clause = _degrees(program.stage(DENOISE).degree)
    for model, needs in sorted(cluster.models.items()):
        usable = [needs[degree] for degree in degrees if degree in needs]
        if usable and min(usable) > cluster.gpu_mem:
            has = f"{cluster.gpu_mem / _GIB:.3g} GiB"
            text = f"model `{model}` needs {min(usable) / _GIB:.3g} GiB on each GPU, which has {has}"
            wider = [degree for degree, least in sorted(needs.items()) if least <= cluster.gpu_mem]
            helps = (f"it fits at degree {wider[0]}",) if wider else ("no degree of the cluster file fits",)
            yield Diagnostic("A605", text, clause.span, program.source, "", helps)


def _degrees(degree: ir.FixedDegree | ir.ChosenDegree) -> tuple[tuple[int, ...], ir.Clause]:
    """The degrees that a clause may come to; none when an expression decides them."""
    if isinstance(degree, ir.ChosenDegree):
        return degree.degrees, degree.clause
    leaves = _leaves(degree.value)
    known = all(isinstance(leaf, ir.Const) and not isinstance(leaf.value, str) for leaf in leaves)
    counts = tuple(int(leaf.value) for leaf in leaves if isinstance(leaf, ir.Const)) if known else ()
    return counts, degree.clause


def _leaves(value: ir.Expr) -> list[ir.Expr]:
    return [*_leaves(value.then), *_leaves(value.other)] if isinstance(value, ir.If) else [value]
