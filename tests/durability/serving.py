"""`gfdit run` as a process that can be killed, and what its clients, its ledger and an undisturbed run know."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gfdit.core.work import Request, Stage
from gfdit.live.durable_ledger import Entry, Ledger
from gfdit.runtime.blobs import Blobs
from gfdit.worker.emulated import expected_output, inputs_of

WAIT_S = 60
PATH = "/v1/images/generations"


@dataclass
class Server:
    """A running one. What it says on standard error goes to `errors.txt` beside its folder."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)


@contextmanager
def serving(out: Path, *options: str, time_scale: float = 100.0, workers: int = 2) -> Iterator[Server]:
    """Emulated workers behind HTTP; stopped at the end if it still runs."""
    command = [sys.executable, "-m", "gfdit", "run", "-p", "slo", "--port", "0", "--device", "emulated"]
    command += ["--workers", str(workers), "--time-scale", str(time_scale), "--out", str(out), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (
        (out.parent / "errors.txt").open("a") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            found = (re.search(r"serving on (http://\S+);", text) for text in process.stdout)
            yield Server(process, next(one[1] for one in found if one is not None))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=WAIT_S)


def asked(number: int, steps: int = 8, **more: Any) -> dict[str, Any]:
    return {"prompt": f"picture {number}", "size": "512x512", "num_inference_steps": steps, "seed": number, **more}


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def entries(out: Path) -> dict[str, Entry]:
    """By request id, all that the ledger of a stopped server knows."""
    base = sqlite3.connect(out / "ledger.sqlite")
    ids = [request_id for (request_id,) in base.execute("SELECT id FROM requests ORDER BY number")]
    base.close()
    ledger = Ledger(out / "ledger.sqlite", Blobs(out / "results"))
    found = {request_id: ledger.entry(request_id) for request_id in ids}
    ledger.close()
    return {request_id: entry for request_id, entry in found.items() if entry is not None}


def undisturbed(request: Request, stages: Sequence[Stage]) -> bytes:
    """The output of the same request where nothing ever failed."""
    return expected_output(inputs_of(request), stages, request.steps)


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=WAIT_S)
