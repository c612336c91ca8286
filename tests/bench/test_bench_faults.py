"""`gfdit bench faults` breaks real systems and loses nothing; and it would notice if something were lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.cli.bench_faults import HttpDoor, page_of
from gfdit.cli.shipped import find_cost
from gfdit.core.commands import EndRequest
from gfdit.core.scheduler import Decision
from gfdit.core.work import Outcome
from gfdit.errors import WireError
from gfdit.live.faultbench import workers
from gfdit.live.faultbench.row import Row, times_ms
from gfdit.live.faultbench.stage import Setting, Stage, perform
from gfdit.live.faultbench.strangers import malformed
from gfdit.live.faultbench.watch import Blow, Watch
from gfdit.runtime.costfile import load_cost_model
from gfdit.wire.codec import TO_CONTROLLER

FIELDS = {
    "test", "faults", "requests", "lost", "duplicates", "hash_mismatches", "detect_p50_ms", "detect_p99_ms",
    "recover_p50_ms", "recover_p99_ms", "seed",
}  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(load_cost_model(find_cost("qwen-h20")), 3, HttpDoor, tmp_path)


@pytest.mark.timeout(120)
def test_killed_workers_cost_nothing_but_time(setting: Setting) -> None:
    row = workers.kills(setting, 5)
    assert row.good, row
    assert row.faults == 5 and row.requests >= 6
    assert row.detect_p50_ms is not None and row.recover_p50_ms is not None
    assert row.detect_p50_ms <= row.recover_p50_ms


@pytest.mark.timeout(120)
def test_a_lost_and_a_changed_request_would_be_noticed(setting: Setting) -> None:
    """One that is cancelled behind the bench's back, and one whose workers were told something else."""

    def act(stage: Stage) -> int:
        doomed = stage.system.submit(replace(stage.request("doomed"), steps=500))
        other = stage.request("other")
        inputs = {**stage.system.inputs_of(other), "seed": other.seed + 1}
        stage.tickets += [doomed, stage.system.submit(other, inputs)]
        stage.system.cancel("doomed")
        assert stage.tickets[-1].wait(60)
        return 2

    row = perform("to be noticed", setting, act)
    assert (row.lost, row.hash_mismatches, row.duplicates) == (1, 1, 0)
    assert not row.good


def test_an_end_too_many_would_be_noticed() -> None:
    watch = Watch()
    for at in (5, 9):
        watch.record(at, [], Decision((EndRequest("a", Outcome.COMPLETED, at),), None), 0.0)
    assert watch.ends["a"] == 2


def test_what_is_called_malformed_is_no_message() -> None:
    import random

    pick = random.Random(5)
    for number in range(2000):
        frames = malformed(pick)
        with pytest.raises(WireError):
            pytest.fail(f"{number}: {TO_CONTROLLER.decode(frames)}")


def test_times_are_of_the_wall() -> None:
    found = Blow(0, 1, at=1_000_000_000, hurt={}, lost_at=1_500_000_000, back_at={"a": 2_000_000_000})
    assert times_ms([found, Blow(1, 1, 0, {})], scale=10.0) == (50.0, 50.0, 100.0, 100.0)
    assert times_ms([], 1.0) == (None,) * 4


def test_the_page_names_machine_seed_and_every_row() -> None:
    row = Row("kill -9 of a worker", 1000, 4321, 0, 0, 0, 5.0, 50.0, 20.4, None, 7)
    page = page_of([row])
    assert "| kill -9 of a worker | 1,000 | 4,321 | 0 | 0 | 0 | 5 / 50 ms | - | 7 |" in page
    assert " cores, " in page and "Python" in page


def test_unknown_tests_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "faults", "--only", "earthquakes"]) == 2
    assert "known: kills" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quick_table_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", "faults", "--quick", "--json", "--seed", "11"])
    table = json.loads(capsys.readouterr().out)
    assert table["bench"] == "faults" and len(table["rows"]) == 8
    for row in table["rows"]:
        assert set(row) == FIELDS
        assert row["lost"] == row["duplicates"] == row["hash_mismatches"] == 0, row
        assert row["faults"] > 0 and row["requests"] > 0 and row["seed"] == 11
    assert code == 0
