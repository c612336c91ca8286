"""Journals of small simulated runs, for the tools that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from small_worlds import make_cost, make_request

from gfdit.core.scheduler import Scheduler
from gfdit.core.work import Request
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text
from gfdit.runtime.journal import Journal
from gfdit.runtime.recipe import recipe_of
from gfdit.sim.run import SimConfig, simulate

GPUS = 4
TAKING = """\
policy taking version 1 "Takes ranks back"

class ui when tag == "ui" { rank 0 }
class bulk otherwise { rank 1 preemptible }
admit {
  reject when tokens > 5000 tok because "too large"
  accept
}
order by rank, arrival
aging every 10min raise 1
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp fixed 2 gpu }
preempt for ui from bulk do pause
"""


def tagged(number: int, tag: str, arrival_s: float, **fields: int) -> Request:
    return replace(make_request(number, arrival_s, **fields), tag=tag, class_name=tag)


def contended() -> list[Request]:
    """Two bulk requests fill the cluster; one of another class comes in the middle of their steps, one is refused."""
    bulk = [tagged(n, "bulk", 0.0, tokens=4096, steps=8) for n in (1, 2)]
    return [*bulk, tagged(3, "ui", 0.4, steps=3), tagged(4, "ui", 0.5, tokens=9999)]


def record(path: Path, policy: CompiledPolicy | str, requests: Sequence[Request], gpus: int = GPUS) -> Path:
    """Simulate, and leave the journal at `path`."""
    compiled = compile_text(policy, "made.pol") if isinstance(policy, str) else policy
    fresh = CompiledPolicy(compiled.program)
    journals: list[Journal] = []

    def observers(scheduler: Scheduler) -> list[Journal]:
        recipe = recipe_of(compiled, {}, make_cost(), gpus, about={"workload": "made"})
        journals.append(Journal(path, recipe.to_json(), scheduler))
        return journals

    simulate(SimConfig(fresh, requests, "made", make_cost(), gpus), observers)
    journals[0].close()
    return path
