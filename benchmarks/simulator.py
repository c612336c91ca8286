"""How many simulated tasks a second one core does: `python benchmarks/simulator.py`.

Without arguments a generated stream of requests on eight ranks, with the policy asked sparingly and, as baseline in the
same run, asked on every tick. `--gpus 1024 --requests 10000` is the large case, 50 steps each.
Processor seconds of this process, best of `--repeat`.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from gfdit.core.cost import CostModel
from gfdit.core.work import Request
from gfdit.policy.store import load_policy
from gfdit.policy.world import default_cost
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.workload import load_workload
from gfdit.sim.run import SimConfig, simulate
from gfdit.units import to_ns


def steady_stream(cost: CostModel, gpus: int, count: int, load: float, seed: int = 0) -> list[Request]:
    """`count` requests of 50 steps in three sizes, at a rate that is `load` of what `gpus` ranks can do."""
    pick = random.Random(seed)
    model = next(iter(cost.models))
    sizes = [(512, 1024), (1024, 4096), (1536, 9216)]
    requests: list[Request] = []
    at = 0.0
    for number in range(count):
        side, tokens = pick.choice(sizes)
        plain = Request(f"r{number:06}", model, "any", to_ns(at), side, side, 50, tokens)
        alone_s = sum(cost.seconds(plain, stage, 1) * (50 if stage == "denoise" else 1) for stage in cost.stages(model))
        slo_ns = to_ns(alone_s * pick.choice((1.5, 2.0, 6.0)))
        requests.append(Request(f"r{number:06}", model, "any", to_ns(at), side, side, 50, tokens, slo_ns=slo_ns))
        at += pick.expovariate(load * gpus / alone_s)
    return requests


def measure(config: SimConfig, repeat: int) -> tuple[float, int, dict[str, object]]:
    """Seconds, tasks and figures of the fastest of `repeat` runs."""
    best, tasks, figures = float("inf"), 0, {}
    for _ in range(repeat):
        begin = time.process_time()
        outcome = simulate(config)
        best, tasks = min(best, time.process_time() - begin), outcome.summary.tasks
        figures = {name: value for name, value in outcome.result.items() if not name.startswith("tick")}
    return best, tasks, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="edf_best_fit")
    parser.add_argument("--cost", type=Path, help="a cost model file; without one, the built-in one")
    parser.add_argument("--workload", type=Path, help="a workload file instead of generated requests")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--requests", type=int, default=250)
    parser.add_argument("--load", type=float, default=0.85)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-baseline", action="store_true", help="only as users run it")
    args = parser.parse_args()
    cost = load_cost_model(args.cost) if args.cost else default_cost()
    requests = (
        load_workload(args.workload) if args.workload else steady_stream(cost, args.gpus, args.requests, args.load)
    )

    def config(always: bool) -> SimConfig:
        return SimConfig(load_policy(args.policy), requests, "benchmark", cost, args.gpus, always_evaluate=always)

    seconds, tasks, figures = measure(config(False), args.repeat)
    print(f"{args.policy}, {args.gpus} ranks, {len(requests)} requests: {tasks} tasks in {seconds:.2f} s of a core")
    print(f"  asked sparingly     {tasks / seconds:8.0f} tasks/s")
    if not args.no_baseline:
        slow, _, same = measure(config(True), 1)
        print(f"  asked on every tick {tasks / slow:8.0f} tasks/s, {slow / seconds:.1f} times as long")
        print(f"  same figures: {same == figures}")


if __name__ == "__main__":
    main()
