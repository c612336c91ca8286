"""Policies: the only package that knows both the language and the scheduler.

    load_policy("edf_best_fit")              a shipped policy, a `.pol` or a `.py` file, ready for a Scheduler
    from gfdit.policy import policy, ...     the Python form: see decorators.py

Importing the package loads nothing else: every name comes from its module when it is first used, so that `gfdit check`
starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gfdit.policy.decorators import (
        accept,
        admit,
        aging,
        backfill,
        choose,
        defer,
        degrade,
        greedy,
        grow,
        let,
        order_by,
        param,
        policy,
        preempt,
        reject,
        service_class,
        stage,
        stages,
        tick,
        triage,
        wait,
    )
    from gfdit.policy.planner import CompiledPolicy
    from gfdit.policy.store import load_policy
    from gfdit.policy.testing import TestResult, run_tests
    from gfdit.policy.tracing import (
        Symbol,
        age,
        alone,
        arrival,
        call,
        count,
        deadline,
        free,
        gpu,
        gpu_time,
        gpus,
        hours,
        load,
        minutes,
        model,
        mpx,
        ms,
        name,
        now,
        percent,
        pixels,
        priority,
        px,
        rank,
        s,
        slo,
        sp_best,
        step,
        steps_done,
        steps_left,
        steps_total,
        tag,
        tenant,
        tier,
        tok,
        tokens,
        us,
        waited,
        weight,
        where,
    )

__all__ = [
    "CompiledPolicy",
    "Symbol",
    "TestResult",
    "accept",
    "admit",
    "age",
    "aging",
    "alone",
    "arrival",
    "backfill",
    "call",
    "choose",
    "count",
    "deadline",
    "defer",
    "degrade",
    "free",
    "gpu",
    "gpu_time",
    "gpus",
    "greedy",
    "grow",
    "hours",
    "let",
    "load",
    "load_policy",
    "minutes",
    "model",
    "mpx",
    "ms",
    "name",
    "now",
    "order_by",
    "param",
    "percent",
    "pixels",
    "policy",
    "preempt",
    "priority",
    "px",
    "rank",
    "reject",
    "run_tests",
    "s",
    "service_class",
    "slo",
    "sp_best",
    "stage",
    "stages",
    "step",
    "steps_done",
    "steps_left",
    "steps_total",
    "tag",
    "tenant",
    "tick",
    "tier",
    "tok",
    "tokens",
    "triage",
    "us",
    "wait",
    "waited",
    "weight",
    "where",
]

_HOMES = {
    "planner": ("CompiledPolicy",),
    "store": ("load_policy",),
    "testing": ("TestResult", "run_tests"),
    "decorators": (
        "accept",
        "admit",
        "aging",
        "backfill",
        "choose",
        "defer",
        "degrade",
        "greedy",
        "grow",
        "let",
        "order_by",
        "param",
        "policy",
        "preempt",
        "reject",
        "service_class",
        "stage",
        "stages",
        "tick",
        "triage",
        "wait",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(attribute: str) -> object:
    """A name of the package, from the module that defines it; what no other module has is a word of the Python form."""
    if attribute not in __all__:
        raise AttributeError(f"module `gfdit.policy` has no attribute `{attribute}`")
    return getattr(import_module(f"gfdit.policy.{_HOME.get(attribute, 'tracing')}"), attribute)
