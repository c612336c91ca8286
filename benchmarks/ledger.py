"""What it costs that accepted means on disk: `python benchmarks/ledger.py [FOLDER]`, on the disk of FOLDER.

Processor seconds are the process's own and comparable between machines; wall time is mostly the disk's.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gfdit.core.work import Request
from gfdit.live.durable import Durable
from gfdit.live.durable_ledger import Ledger
from gfdit.live.results import Tickets
from gfdit.runtime.blobs import Blobs

ALONE, TOGETHER = 500, 10_000


def request(name: str) -> Request:
    return Request(name, "qwen-image", "standard", 0, 1024, 1024, 28, 4096, prompt="a cat on a roof " * 4)


def accept_alone(durable: Durable) -> dict[str, float]:
    """One client that waits for each answer."""
    walls, begin = [], time.process_time()
    for number in range(ALONE):
        at = time.perf_counter()
        durable.accept([(request(f"alone-{number}"), {"seed": number})]).result()
        walls.append(time.perf_counter() - at)
    cpu = (time.process_time() - begin) / ALONE
    quantiles = statistics.quantiles(walls, n=100)
    return {"cpu_us": cpu * 1e6, "wall_p50_ms": quantiles[49] * 1e3, "wall_p99_ms": quantiles[98] * 1e3}


def accept_together(durable: Durable) -> dict[str, float]:
    """All at once: how far a sync is shared."""
    before, begin = durable.fsyncs, time.process_time()
    waiting = [durable.accept([(request(f"together-{number}"), {"seed": number})]) for number in range(TOGETHER)]
    for one in waiting:
        one.result()
    cpu = (time.process_time() - begin) / TOGETHER
    return {"cpu_us": cpu * 1e6, "accepts_a_fsync": TOGETHER / (durable.fsyncs - before)}


def come_back(folder: Path) -> dict[str, float]:
    """What the next controller reads first."""
    begin, at = time.process_time(), time.perf_counter()
    durable = Durable(Ledger(folder / "ledger.sqlite", Blobs(folder / "results")), Tickets())
    requests = len(durable.unfinished())
    found = {"requests": requests, "cpu_s": time.process_time() - begin, "wall_s": time.perf_counter() - at}
    durable.close()
    return found


def main(where: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=where) as made:
        folder = Path(made)
        durable = Durable(Ledger(folder / "ledger.sqlite", Blobs(folder / "results")), Tickets())
        found = {"alone": accept_alone(durable), "together": accept_together(durable)}
        durable.close()
        print(json.dumps({"bench": "ledger", **found, "restart": come_back(folder)}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
