"""Workers outlive their controller: the next one takes them over with what they loaded, and with no old work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gfdit.core.work import Outcome
from gfdit.live.durable_ledger import Ledger
from gfdit.live.fleet import FleetSettings
from gfdit.live.reattach import AdoptedProcess, started_at
from gfdit.live.system import LiveConfig, start_live
from gfdit.runtime.blobs import Blobs
from gfdit.worker.emulated import expected_output, inputs_of
from tests.live.emulation import Restless, cost_model, requests

COST = cost_model(step_s=0.1)
CONTROLLER = """
import sys
from pathlib import Path
from tests.durability.test_reattach import config, opened
from tests.live.emulation import requests
from gfdit.live.system import start_live

class Announce:
    steps = 0
    def record(self, now, events, decision, tick_seconds):
        self.steps += sum(len(getattr(command, "ranks", ())) > 1 for command in decision.commands)
        if self.steps == 4:
            print("busy", flush=True)

if __name__ == "__main__":
    folder, grace_s = Path(sys.argv[1]), float(sys.argv[2])
    with start_live(config(folder, grace_s)) as system:
        system.keep(opened(folder))
        for request in requests(4, steps=30, every_s=0):
            system.submit(request)
        system.run([Announce()])
"""


def config(folder: Path, grace_s: float = 10.0) -> LiveConfig:
    fleet = FleetSettings(heartbeat_s=0.1, roster=folder / "roster.json", grace_s=grace_s)
    return LiveConfig(Restless(), COST, device="emulated", workers=4, time_scale=4.0, fleet=fleet)


def opened(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.sqlite", Blobs(folder / "results"))


def pids(folder: Path) -> list[int]:
    return [worker["pid"] for worker in json.loads((folder / "roster.json").read_text())["workers"]]


@contextmanager
def killed(folder: Path, grace_s: float) -> Iterator[list[int]]:
    """The pids of four workers that were in the middle of group tasks when their controller was killed."""
    path = folder / "controller.py"
    path.write_text(CONTROLLER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
    command = [sys.executable, str(path), str(folder), str(grace_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        process.kill()
        process.wait(10)
        found = pids(folder)
        assert len(set(found)) == 4
        try:
            yield found
        finally:
            for pid in found:
                end(pid)


def end(pid: int) -> None:
    """Whatever a failed test has left behind."""
    try:
        process = AdoptedProcess(pid, started_at(pid))
    except OSError:
        return
    process.kill()
    process.close()


def gone(pid: int, within_s: float = 10.0) -> bool:
    try:
        process = AdoptedProcess(pid, started_at(pid))
    except OSError:
        return True
    process.join(within_s)
    dead = not process.is_alive()
    process.close()
    return dead


def test_the_next_controller_takes_over_the_workers_and_the_requests(tmp_path: Path) -> None:
    with killed(tmp_path, grace_s=30.0) as before, start_live(config(tmp_path, grace_s=30.0)) as system:
        assert system.fleet.counters["adopted"] == 4 and pids(tmp_path) == before
        assert [life.pid for life in system.fleet.supervisor.lives.values()] == before
        assert system.keep(opened(tmp_path)) == 4
        tickets = [system.recall(f"r{number}") for number in range(4)]
        late = system.submit(replace(requests(5, steps=5)[4], id="late"))
        system.close_intake()
        system.run()
        for ticket in (*tickets, late):
            assert ticket is not None and ticket.wait(10)
            request, progress = ticket.request, ticket.progress
            assert (progress.outcome, progress.failures) == (Outcome.COMPLETED, 0)
            assert ticket.output == expected_output(inputs_of(request), COST.stages("tiny"), request.steps)
        assert system.fleet.counters["workers_lost"] == 0
        directory = Path(system.fleet.address.removeprefix("ipc://")).parent
    assert all(gone(pid) for pid in before)
    assert not directory.exists() and not (tmp_path / "roster.json").exists()


def test_one_that_died_meanwhile_is_started_anew(tmp_path: Path) -> None:
    with killed(tmp_path, grace_s=30.0) as before:
        os.kill(before[2], signal.SIGKILL)
        assert gone(before[2])
        with start_live(config(tmp_path, grace_s=30.0)) as system:
            assert system.fleet.counters["adopted"] == 3
            os.kill(before[1], signal.SIGKILL)  # an adopted one that dies is noticed like any other
            assert system.keep(opened(tmp_path)) == 4
            tickets = [system.recall(f"r{number}") for number in range(4)]
            system.close_intake()
            system.run()
            for ticket in tickets:
                assert ticket is not None and ticket.wait(10) and ticket.progress.outcome is Outcome.COMPLETED
                request = ticket.request
                assert ticket.output == expected_output(inputs_of(request), COST.stages("tiny"), request.steps)
            assert system.fleet.counters["workers_lost"] == 1


def test_nobody_waits_longer_than_the_grace_period(tmp_path: Path) -> None:
    with killed(tmp_path, grace_s=0.3) as before:
        assert all(gone(pid) for pid in before)


def test_workers_of_another_kind_are_ended_and_not_taken_over(tmp_path: Path) -> None:
    with killed(tmp_path, grace_s=30.0) as before:
        other = replace(config(tmp_path, grace_s=30.0), time_scale=5.0)
        with start_live(other) as system:
            assert system.fleet.counters["adopted"] == 0
            assert all(gone(pid) for pid in before)


BAD_WORKER = '{"spec": "", "life": 0, "directory": "/", "workers": [{"rank": "no"}]}'


FOREIGN = '{"spec": "", "life": 0, "directory": "NOT-OURS", "workers": []}'


@pytest.mark.parametrize("text", ["{", BAD_WORKER, FOREIGN])
def test_a_roster_that_is_not_believed_is_none(tmp_path: Path, text: str) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (tmp_path / "roster.json").write_text(text.replace("NOT-OURS", str(others)))
    with start_live(replace(config(tmp_path), workers=1)) as system:
        assert system.fleet.counters["adopted"] == 0
        assert others.is_dir()  # it is not what a fleet made for itself
        assert (tmp_path / "roster.json").stat().st_mode & 0o777 == 0o600


def test_another_process_of_the_same_number_is_not_taken_for_a_worker() -> None:
    mine = os.getpid()
    with pytest.raises(ProcessLookupError):
        AdoptedProcess(mine, started_at(mine) + 1)
    process = AdoptedProcess(mine, started_at(mine))
    assert process.is_alive()
    process.close()
