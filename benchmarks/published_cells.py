"""Our policies beside the published ones on the evaluation cells: `python benchmarks/published_cells.py DATA`.

DATA has `workloads/*_g8.jsonl`, `workloads/results.csv` (published policies' figures on them) and `cost/`.
Prints a Markdown table: attainment / mean latency in seconds, 8 GPUs, no noise.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.workload import load_workload
from gfdit.sim.run import SimConfig, simulate

POLICIES = ("slo", "edf_best_fit")


def best_published(rows: list[dict[str, str]], workload: str) -> str:
    """The highest attainment, and of those that reach it the lowest mean latency."""
    cells = [row for row in rows if row["workload"] == workload and row["gpus"] == "8"]
    best = max(cells, key=lambda row: (float(row["attainment"]), -float(row["mean_s"])))
    return f"{float(best['attainment']):.3f} / {float(best['mean_s']):.1f} ({best['policy']})"


def main(data: Path) -> None:
    with (data / "workloads" / "results.csv").open(newline="") as file:
        published = list(csv.DictReader(file))
    print(f"| workload | {' | '.join(POLICIES)} | best published |\n|{'---|' * (len(POLICIES) + 2)}")
    for path in sorted((data / "workloads").glob("*_g8.jsonl")):
        requests = load_workload(path)
        table = "wan5b" if path.stem.startswith("wan") else "qwen-h20"
        cost = load_cost_model(data / "cost" / f"{table}.cost.json")
        cells = []
        for policy in POLICIES:
            result = simulate(SimConfig(load_policy(policy), requests, path.name, cost, 8)).result
            cells.append(f"{result['attainment']:.3f} / {result['mean_latency_s']:.1f}")
        print(f"| {path.stem} | {' | '.join(cells)} | {best_published(published, path.stem)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
