"""The controller is killed under load and started again: nothing accepted is lost, nothing is made twice, and every
output is what an undisturbed run gives."""

from __future__ import annotations

import base64
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gfdit.cli.live_run import ROSTER
from gfdit.cli.shipped import find_cost
from gfdit.core.work import Outcome
from gfdit.errors import UsageError
from gfdit.live.durable_lock import FolderLock
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.journal import JournalReader, replay
from gfdit.runtime.recipe import recipe_from_json

from .serving import PATH, WAIT_S, asked, entries, get, keyed, serving, undisturbed

REQUESTS = 12
STAGES = tuple(load_cost_model(find_cost("qwen-h20")).stages("qwen-image"))


def counts(out: Path) -> tuple[int, int]:
    """Accepted and ended, as the ledger has it now."""
    base = sqlite3.connect(out / "ledger.sqlite")
    ((accepted, ended),) = base.execute("SELECT count(*), count(ended_at) FROM requests")
    base.close()
    return int(accepted), int(ended)


def ask_all(url: str, first: int = 1) -> tuple[list[threading.Thread], dict[int, httpx.Response]]:
    answers: dict[int, httpx.Response] = {}

    def ask(number: int) -> None:
        try:
            answers[number] = httpx.post(url + PATH, json=asked(number), headers=keyed(f"k{number}"), timeout=WAIT_S)
        except httpx.TransportError:
            pass  # the controller was killed

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(first, REQUESTS + first)]
    for thread in threads:
        thread.start()
    return threads, answers


def workers(out: Path) -> list[int]:
    return [worker["pid"] for worker in json.loads((out / ROSTER).read_text())["workers"]]


def kill_under_load(out: Path) -> tuple[str, list[int], dict[int, httpx.Response]]:
    """The path of a picture that was fetched before, the workers' pids, and what was answered before the kill."""
    with serving(out) as server:
        one = httpx.post(server.url + PATH, json=asked(0, response_format="url"), timeout=WAIT_S).json()
        picture = httpx.URL(one["data"][0]["url"]).path
        threads, answers = ask_all(server.url)
        while True:  # bounded by the test's own timeout
            accepted, ended = counts(out)
            if accepted == REQUESTS + 1 and ended >= 3:
                break
            time.sleep(0.01)
        pids = workers(out)
        server.kill()
        for thread in threads:
            thread.join(WAIT_S)
    return picture, pids, answers


def test_nothing_is_lost_doubled_or_changed_by_a_kill(tmp_path: Path) -> None:
    out = tmp_path / "out"
    picture, pids, before = kill_under_load(out)
    accepted, ended = counts(out)
    assert accepted == REQUESTS + 1 and ended < accepted, "the kill came too late to show anything"
    with serving(out) as server:
        assert get(server.url + picture).status_code == 200
        assert workers(out) == pids  # with what they had loaded
        threads, answers = ask_all(server.url)
        for thread in threads:
            thread.join(WAIT_S)
    known = entries(out)
    assert len(known) == REQUESTS + 1  # a retry joins the work of its key: no other request was made
    for entry in known.values():
        assert entry.progress is not None and entry.progress.outcome is Outcome.COMPLETED
        assert entry.output == undisturbed(entry.request, STAGES)
    assert len(answers) == REQUESTS
    for number, answer in answers.items():
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert base64.b64decode(told["data"][0]["b64_json"]) == known[told["gfdit"]["id"]].output
        assert number not in before or before[number].json()["data"] == told["data"]
    assert f"{accepted - ended} requests of the run before go on" in (tmp_path / "errors.txt").read_text()
    for journal in ("journal.sqlite", "journal-1.sqlite"):
        reader = JournalReader(out / journal)
        ticks, differences = replay(reader, recipe_from_json(reader.meta).scheduler())
        reader.close()
        assert ticks > 0 and differences == []


def test_two_controllers_never_share_a_folder(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(UsageError, match=r"in use by a `gfdit run` \(process \d+\)"):
        FolderLock(tmp_path)
    with FolderLock(tmp_path):
        pass


@dataclass
class Client:
    """Sends its requests one after the other, each with one key until it is answered, as OpenAI's client would."""

    number: int
    answers: dict[str, list[str]] = field(default_factory=dict)  # key: ids that answered it

    def run(self, url_of: Callable[[], str], stop: threading.Event) -> None:
        count = 0
        with httpx.Client(timeout=WAIT_S) as client:
            while not stop.is_set():
                key, count = f"{self.number}-{count}", count + 1
                while key not in self.answers:
                    try:
                        answer = client.post(url_of() + PATH, json=asked(count), headers=keyed(key))
                    except httpx.TransportError:  # between two controllers
                        time.sleep(0.05)
                        continue
                    if answer.status_code == 200:
                        self.answers.setdefault(key, []).append(answer.json()["gfdit"]["id"])


def test_clients_that_retry_are_served_through_many_kills(tmp_path: Path) -> None:
    """`GFDIT_KILLS=200` for a longer run."""
    out, urls, stop = tmp_path / "out", [""], threading.Event()
    clients = [Client(number) for number in range(4)]
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    draw, pids = random.Random(seed), set()
    threads = [threading.Thread(target=client.run, args=(lambda: urls[0], stop)) for client in clients]
    for life in range(int(os.environ.get("GFDIT_KILLS", "1")) + 1):
        with serving(out) as server:
            urls[0] = server.url
            pids.add(tuple(workers(out)))
            if life == 0:
                for thread in threads:
                    thread.start()
            served = sum(len(client.answers) for client in clients)
            while sum(len(client.answers) for client in clients) < served + 4:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.1))
            if life < int(os.environ.get("GFDIT_KILLS", "1")):
                server.kill()
                continue
            stop.set()
            for thread in threads:
                thread.join(WAIT_S)
    known = entries(out)
    answered = [one for client in clients for ids in client.answers.values() for one in ids]
    assert len(set(answered)) == len(answered) == len(known)  # lost = 0, duplicates = 0
    assert len(pids) == 1, "workers were started anew"
    for entry in known.values():
        assert entry.progress is not None and entry.progress.outcome is Outcome.COMPLETED
        assert entry.output == undisturbed(entry.request, STAGES)


def test_a_video_job_finds_its_request_again(tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--cost", "wan5b")
    with serving(out, *options, time_scale=20.0) as server:
        body = {"prompt": "a red ball", "size": "832x480", "seconds": "2", "seed": 5}
        job = httpx.post(f"{server.url}/v1/videos", json=body, timeout=WAIT_S).json()
        server.kill()
    with serving(out, *options, time_scale=400.0) as server:
        while (now := get(f"{server.url}/v1/videos/{job['id']}").json())["status"] not in ("completed", "failed"):
            time.sleep(0.02)
        assert now["status"] == "completed", now
        content = get(f"{server.url}/v1/videos/{job['id']}/content").content
    (entry,) = entries(out).values()  # one request, whoever took it up again
    stages = tuple(load_cost_model(find_cost("wan5b")).stages(entry.request.model))
    assert entry.request.id == job["id"] and content == entry.output == undisturbed(entry.request, stages)
