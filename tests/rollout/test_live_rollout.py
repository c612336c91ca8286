"""Policies swapped under load in a real system: worker processes, HTTP, a journal. Nothing is dropped."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from gfdit.api.policies import Control
from gfdit.api.server import HttpServer
from gfdit.cli.app import main
from gfdit.cli.service import LiveService
from gfdit.core.events import PolicySwapped
from gfdit.core.work import Outcome
from gfdit.live.system import LiveConfig, LiveSystem, start_live
from gfdit.policy.bundle import unpack
from gfdit.policy.store import compile_text
from gfdit.runtime.journal import Journal, JournalReader, replay
from gfdit.runtime.recipe import recipe_from_json, recipe_of
from gfdit.worker.emulated import expected_output, inputs_of

from .desk import COST, bundle_of, request, text_of

WAIT_S = 60
SCALE = 40.0
# shipped policies without their limits on a tick: on a busy machine the watchdog would have a say, too
GOOD = {
    f"calm_{base}": f'policy calm_{base} version 1 "for tests" extends {base}\nfallback builtin.fcfs after 3 errors'
    for base in ("srtf", "edf_best_fit", "fcfs_static", "slo")
}
BROKEN = {
    "policy_invalid": 'policy broken version 1 "x"\norder by deadlin, arrival',
    "policy_tests_failed": text_of("broken", more='test "t" { request a { stage = "denoise" } expect a.sp == 2 gpu }'),
}


@dataclass
class Served:
    """A system that serves HTTP; `folder` has its journal and the versions that were in charge."""

    system: LiveSystem
    url: str
    folder: Path

    def command(self, name: str, body: object) -> httpx.Response:
        return httpx.post(f"{self.url}/gfdit/policy/{name}", json=body, timeout=WAIT_S)

    def push(self, text: str, name: str | None = None) -> httpx.Response:
        bundle = bundle_of(text, name)
        return self.command("push", {"main": bundle.main, "sources": dict(bundle.sources), "now": True})

    @property
    def workers(self) -> dict[int, tuple[int, int]]:
        return {rank: (life.incarnation, life.process.pid) for rank, life in self.system.fleet.supervisor.lives.items()}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    policy = compile_text(GOOD["calm_slo"])
    config = LiveConfig(policy, COST, "emulated", workers=4, time_scale=SCALE)
    with start_live(config) as system:
        header = recipe_of(policy, {}, COST, 4, config.gpus_per_node, system.models).to_json()
        journal = Journal(tmp_path / "journal.sqlite", header, system.scheduler)
        service = LiveService(system, None)
        rollout = system.rollout({}, tmp_path / "policies")
        loop = threading.Thread(target=system.run, args=([journal, *service.observers], (rollout,)), name="loop")
        loop.start()
        try:
            with HttpServer(service, "127.0.0.1", 0, control=Control(rollout)) as server:
                yield Served(system, server.url, tmp_path)
        finally:
            system.drain(cancel=True)
            loop.join(WAIT_S)
            journal.close()
    assert not loop.is_alive()


def check_replay(folder: Path) -> list[PolicySwapped]:
    """The journal replays to equal decisions; the swaps that are in it."""
    reader = JournalReader(folder / "journal.sqlite")
    ticks, differences = replay(reader, recipe_from_json(reader.meta).scheduler())
    records = list(reader.records())
    reader.close()
    assert ticks > 0 and differences == []
    return [record for record in records if isinstance(record, PolicySwapped)]


@pytest.mark.timeout(180)
def test_a_hundred_requests_under_swaps_and_broken_pushes(served: Served) -> None:
    system, before = served.system, served.workers
    tickets = system.feed(replace(request(n, 0.25 * n, 3 + n % 3, 256 if n % 2 else 512), seed=n) for n in range(100))
    taken = refused = 0
    good, broken = cycle(GOOD.items()), cycle(BROKEN.items())
    while not all(ticket.ended for ticket in tickets):
        name, text = next(good)
        answer = served.push(text)
        assert answer.status_code == 200 and answer.json()["in_charge"]["name"] == name, answer.text
        taken += 1
        code, text = next(broken)
        answer = served.push(text, "broken")
        assert answer.status_code == 422 and answer.json()["error"]["code"] == code
        assert system.scheduler.policy.name == name
        refused += 1
    assert taken > 5 and refused == taken
    stages = system.models["qwen-image"].stages
    for ticket in tickets:
        assert ticket.progress.outcome is Outcome.COMPLETED, ticket.progress.message
        assert ticket.progress.failures == 0
        assert ticket.output == expected_output(inputs_of(ticket.request), stages, ticket.request.steps)
    assert served.workers == before and system.fleet.counters["workers_lost"] == 0
    assert unpack((served.folder / "policies" / "last-good.polb").read_bytes()).main == f"{name}.pol"
    system.close_intake()
    assert system.wait(WAIT_S)
    assert [event.how for event in check_replay(served.folder)] == ["push"] * taken


@pytest.mark.timeout(180)
def test_a_canary_takes_its_turns_by_itself(served: Served) -> None:
    tickets = served.system.feed(replace(request(n, 0.2 * n), seed=n) for n in range(60))
    bundle = bundle_of(text_of("other", sp=2, more="fallback fcfs_static"))
    assert served.command("push", {"main": bundle.main, "sources": dict(bundle.sources)}).status_code == 200
    canary = served.command("canary", {"window_s": 2.0, "windows": 4}).json()["canary"]
    assert canary["arm"] == "canary" and not canary["done"]
    while not canary["done"]:
        canary = httpx.get(f"{served.url}/gfdit/policy/status", timeout=WAIT_S).json()["canary"]
    assert served.system.scheduler.policy.name == "calm_slo"
    assert [window["arm"] for window in canary["windows"]] == ["canary", "live"] * 2
    assert all(window["end_s"] - window["begin_s"] >= 2.0 for window in canary["windows"])
    served.system.close_intake()
    assert served.system.wait(WAIT_S)
    assert {ticket.progress.outcome for ticket in tickets} == {Outcome.COMPLETED}
    assert [event.how for event in check_replay(served.folder)] == ["canary"] * 4 + ["canary over"]


@pytest.mark.timeout(180)
def test_the_commands_of_the_shell(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GFDIT_URL", served.url)
    monkeypatch.chdir(tmp_path)

    def gfdit(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["policy", *words]) == code, capsys.readouterr()
        out, err = capsys.readouterr()
        return out + err

    assert "in charge  calm_slo@1" in gfdit("status")
    (tmp_path / "mine.pol").write_text(text_of("mine", sp=2, more="fallback fcfs_static"))
    (tmp_path / "mine.py").write_text("raise SystemExit('never run by a server')")
    assert "candidate  mine@1" in gfdit("push", "mine.pol")
    served.system.feed(replace(request(n, 0.1 * n), seed=n) for n in range(12))
    report = json.loads(gfdit("shadow", "--ticks", "5", "--json"))["candidate"]["shadow"]
    assert report["ticks"] >= 5 and report["requests"]["degree"] > 0
    assert "turn 1 of 4, 60 min" in gfdit("canary", "--switchback", "1h", "--windows", "4")
    assert "a canary is running" in gfdit("push", "mine.pol", code=1)
    assert "in charge  mine@1" in gfdit("arm")
    assert "ejected    mine@1" in gfdit("eject")
    assert "in charge  calm_slo@1" in gfdit("rollback")
    (tmp_path / "bad.pol").write_text(BROKEN["policy_invalid"])
    assert "error[N101]: unknown name `deadlin`" in gfdit("push", "bad.pol", code=1)
    assert json.loads(gfdit("push", "bad.pol", "--json", code=1))["error"]["code"] == "policy_invalid"
    assert "is not a time" in gfdit("canary", "--switchback", "soon", code=2)
    gfdit("keygen", "team")
    assert (tmp_path / "team.key").stat().st_mode & 0o077 == 0
    assert "signed" in gfdit("build", "mine.pol", "-o", "mine.polb", "--sign", "team.key")
    assert "exists already" in gfdit("keygen", "team", code=2)
    assert "in charge  mine@1" in gfdit("push", "mine.polb", "--now")
    answer = httpx.post(
        f"{served.url}/v1/images/generations",
        json={"prompt": "a", "size": "256x256", "num_inference_steps": 2},
        timeout=WAIT_S,
    )
    sha = served.system.scheduler.policy.sha
    assert answer.headers["x-gfdit-policy"] == f"mine@1 {sha[:12]}"
    how = answer.json()["gfdit"]
    assert (how["policy"], how["policy_version"], how["policy_sha"]) == ("mine", 1, sha)
    metrics = httpx.get(f"{served.url}/metrics").text
    assert {f'gfdit_policy_swaps_total{{how="{how}"}} 1.0' for how in ("canary", "arm", "rollback", "push")} <= set(
        metrics.splitlines()
    )
    status = httpx.get(f"{served.url}/gfdit/status").json()["policy"]
    assert status == {"name": "mine", "version": 1, "sha": sha, "fallback": False}
    served.system.close_intake()
    assert served.system.wait(WAIT_S)
    swaps = [event.how for event in check_replay(served.folder)]
    assert swaps == ["canary", "arm", "rollback", "push"]


def test_a_server_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GFDIT_URL", "http://127.0.0.1:9")
    for words in (["status"], ["arm"], ["push", "slo"], ["shadow"]):
        assert main(["policy", *words]) == 1
        assert "cannot reach" in capsys.readouterr().err
