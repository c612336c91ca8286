"""The controller itself is killed under load and started again, as `gfdit run` with the same folder.

Clients ask with keys of their own and ask again when the connection breaks, as OpenAI's do. Whatever was accepted has
to end once, with the bytes of the run without faults; asking again makes no second request.
"""

from __future__ import annotations

import base64
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from gfdit.api.load.plan import PICTURES
from gfdit.core.cost import CostModel
from gfdit.core.work import Outcome
from gfdit.errors import FleetError
from gfdit.live.durable_ledger import Entry, Ledger
from gfdit.live.faultbench.row import Row
from gfdit.live.faultbench.stage import ALIVE, MODEL, PATIENCE_S, Setting
from gfdit.runtime.blobs import Blobs
from gfdit.worker.emulated import expected_output, inputs_of

WORKERS, SCALE = 2, 100.0
PHASE_S, LOOK_S = 0.6, 0.02


@dataclass
class Clients:
    """Some threads that ask one request after the other. `answers`: by key, the id and the bytes that came."""

    pick: random.Random
    changed: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""  # "" while nobody serves
    asked: int = 0
    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    over: bool = False

    def serve_at(self, url: str) -> None:
        with self.changed:
            self.url = url
            self.changed.notify_all()

    def run(self) -> None:
        while True:
            with self.changed:
                if self.over:
                    return
                self.asked += 1
                key, steps, seed = f"key-{self.asked}", self.pick.randint(2, 8), self.pick.randrange(1 << 30)
            self._ask(key, {"prompt": key, "size": "512x512", "num_inference_steps": steps, "seed": seed})

    def _ask(self, key: str, body: dict[str, object]) -> None:
        """Until it is answered."""
        while True:
            with self.changed:
                if not self.changed.wait_for(lambda: bool(self.url), PATIENCE_S):
                    self.refused.append(key)
                    return
                url = self.url
            try:
                headers = {"Idempotency-Key": key}
                answer = httpx.post(url + PICTURES, json={**body, "model": MODEL}, headers=headers, timeout=PATIENCE_S)
            except httpx.TransportError:
                with self.changed:  # it was killed: the next one serves elsewhere
                    self.changed.wait_for(lambda url=url: self.url != url or self.over, PATIENCE_S)  # type: ignore[misc]
                continue
            with self.changed:
                if answer.status_code == 200:
                    said = answer.json()
                    self.answers[key] = said["gfdit"]["id"], base64.b64decode(said["data"][0]["b64_json"])
                else:
                    self.refused.append(key)
                self.changed.notify_all()
            return


def restarts(setting: Setting, count: int) -> Row:
    """`count` times `kill -9` at a random moment under load, and a start. Recovery is from the kill until the next
    controller serves."""
    out = setting.folder / "controller"
    clients = Clients(random.Random(f"{setting.seed} controller"))
    threads = [threading.Thread(target=clients.run, name=f"client-{n}") for n in range(ALIVE)]
    recovered: list[float] = []
    killed: float | None = None
    for number in range(count + 1):
        with _serving(out) as (process, url):
            if killed is not None:
                recovered.append(time.monotonic() - killed)
            clients.serve_at(url)
            if number == 0:
                for thread in threads:
                    thread.start()
            if number == count:
                _finish(clients, threads)
                break
            _let_work(clients)
            clients.serve_at("")
            killed = time.monotonic()
            process.kill()
    return _row(setting, clients, count, recovered, out)


def _let_work(clients: Clients) -> None:
    """Until somebody was answered, and a random moment longer."""
    with clients.changed:
        before = len(clients.answers)
        if not clients.changed.wait_for(lambda: len(clients.answers) > before, PATIENCE_S):
            raise FleetError(f"nobody was answered within {PATIENCE_S:g} s of a restart")
        phase = clients.pick.uniform(0, PHASE_S)
    threading.Event().wait(phase)


def _finish(clients: Clients, threads: list[threading.Thread]) -> None:
    """Let everybody be answered, and nobody ask again."""
    with clients.changed:
        clients.over = True
    for thread in threads:
        thread.join(PATIENCE_S)


@contextmanager
def _serving(out: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A controller that serves, and where; asked to stop in order at the end unless it was killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gfdit", "run", "-p", "srtf", "--port", str(port), "--device", "emulated"]
    command += ["--workers", str(WORKERS), "--time-scale", f"{SCALE:g}", "--out", str(out), "--no-console"]
    with (
        out.with_suffix(".log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _ready(process, url)
            yield process, url
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)


def _ready(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200:
                return
        except httpx.TransportError:
            threading.Event().wait(LOOK_S)
    raise FleetError(f"the controller does not serve; exit code {process.poll()}")


def _entries(out: Path) -> dict[str, Entry]:
    """By request id, all that the ledger of a controller that has stopped knows."""
    base = sqlite3.connect(out / "ledger.sqlite")
    ids = [name for (name,) in base.execute("SELECT id FROM requests ORDER BY number")]
    base.close()
    ledger = Ledger(out / "ledger.sqlite", Blobs(out / "results"))
    found = {name: ledger.entry(name) for name in ids}
    ledger.close()
    return {name: entry for name, entry in found.items() if entry is not None}


def _row(setting: Setting, clients: Clients, count: int, recovered: list[float], out: Path) -> Row:
    entries = _entries(out)
    completed = {
        name: entry
        for name, entry in entries.items()
        if entry.progress is not None and entry.progress.outcome is Outcome.COMPLETED
    }
    right = {name: _undisturbed(entry, setting.cost) for name, entry in completed.items()}
    changed = sum(entry.output != right[name] for name, entry in completed.items())
    changed += sum(content != right.get(name) for name, content in clients.answers.values())
    p50, p99 = (float(np.percentile(recovered, percent)) * 1e3 for percent in (50, 99))
    return Row(
        test="kill -9 of the controller",
        faults=count,
        requests=len(entries),
        lost=len(entries) - len(completed) + len(clients.refused),
        duplicates=max(0, len(entries) - clients.asked),
        hash_mismatches=changed,
        detect_p50_ms=None,
        detect_p99_ms=None,
        recover_p50_ms=p50,
        recover_p99_ms=p99,
        seed=setting.seed,
    )


def _undisturbed(entry: Entry, cost: CostModel) -> bytes:
    return expected_output(inputs_of(entry.request), cost.stages(entry.request.model), entry.request.steps)
