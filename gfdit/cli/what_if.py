"""What the last hour would have looked like under another policy: `gfdit sim` in a process of its own.

A simulation computes for seconds without a break; in this process it would take the controller's turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfdit.core.work import Request
from gfdit.errors import GfditError
from gfdit.policy.store import checked_program
from gfdit.runtime.workload import workload_line

LONGEST_S = 120.0
NICE = 10


class WhatIf:
    """`cost`: the system's cost table as text. One simulation at a time."""

    def __init__(self, cost: str, gpus: int, gpus_per_node: int) -> None:
        self._cost, self._gpus, self._gpus_per_node = cost, gpus, gpus_per_node
        self._running = threading.Lock()

    def compare(self, requests: list[Request], tried: str, present: str) -> Mapping[str, Any]:
        """See `Service.simulate`."""
        checked_program(tried, "policy.pol")
        if not requests:
            raise GfditError("no requests in the last hour", hint="send some first")
        if not self._running.acquire(blocking=False):
            raise GfditError("another simulation runs", hint="try again when it is done")
        try:
            with tempfile.TemporaryDirectory(prefix="gfdit-") as scratch:
                folder = Path(scratch)
                (folder / "last_hour.jsonl").write_text("\n".join(map(workload_line, requests)), "utf-8")
                (folder / "system.cost.json").write_text(self._cost, "utf-8")
                results = {
                    name: self._simulate(folder, text) for name, text in (("tried", tried), ("present", present))
                }
        finally:
            self._running.release()
        seconds = max(request.arrival_ns for request in requests) / 1e9
        return {"requests": len(requests), "seconds": seconds, **results}

    def _simulate(self, folder: Path, text: str) -> Mapping[str, Any]:
        (folder / "policy.pol").write_text(text, "utf-8")
        command = [sys.executable, "-m", "gfdit", "sim", "--policy", "policy.pol", "--workload", "last_hour.jsonl"]
        command += ["--cost", "system.cost.json", "--gpus", str(self._gpus), "--json"]
        command += ["--gpus-per-node", str(self._gpus_per_node)]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)  # the workers go first
            try:
                output, problems = process.communicate(timeout=LONGEST_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise GfditError(f"the simulation took more than {LONGEST_S:.0f} s and was stopped") from None
        if process.returncode != 0:
            raise GfditError(f"the simulation failed: {problems.strip()[-2000:]}")
        result: Mapping[str, Any] = json.loads(output)
        return result
