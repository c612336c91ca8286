"""What a tick costs, as a Markdown table: `python benchmarks/tick.py [--quick]`. The figures of `gfdit bench tick`."""

from __future__ import annotations

import sys

from gfdit.sim.tickbench import FULL, QUICK, measure_all


def main(quick: bool) -> None:
    report = measure_all(QUICK if quick else FULL, done=lambda row: print(".", end="", file=sys.stderr, flush=True))
    print("\n| policy | requests / GPUs | p50 ms | target | p99 | whole tick | yardstick |")
    print("|---|---|---|---|---|---|---|")
    for row in report.rows:
        times = (row.p50_us, row.target_us or float("nan"), row.p99_us, row.tick_p50_us, row.yardstick_p50_us)
        cells = " | ".join(f"{microseconds / 1e3:.3g}" for microseconds in times)
        print(f"| {row.policy} | {row.requests:,} / {row.gpus:,} | {cells} |")
    for name, value, target in report.others():
        print(f"\n{name}: {value:.3g} ms (target {target:g} ms)")


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
