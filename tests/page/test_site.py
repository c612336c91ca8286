"""What the page lives on, asked for without a browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from gfdit.policy.library import shipped_policy
from tests.api.conftest import WAIT_S, Running

SRTF = shipped_policy("srtf").read_text("utf-8")


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=WAIT_S) as client:
        yield client


def picture(client: httpx.Client, size: str = "512x512") -> None:
    answer = client.post(
        "/v1/images/generations", json={"prompt": "a red circle", "size": size, "num_inference_steps": 4}
    )
    assert answer.status_code == 200, answer.text


def test_the_page_and_its_parts_are_served_and_may_load_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for part, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        assert f"/page/{part}" in page.text
        assert client.get(f"/page/{part}").headers["content-type"].startswith(kind)
    assert client.get("/page/index.htm").status_code == 404
    assert client.get("/page/..%2Fapp.py").status_code == 404


def test_events_are_whole_states_and_keep_coming(client: httpx.Client) -> None:
    states = []
    with client.stream("GET", "/gfdit/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                states.append(json.loads(line[6:]))
            if len(states) == 2:
                break
    assert [state["format"] for state in states] == ["gfdit-status/1"] * 2
    assert states[1]["now_s"] > states[0]["now_s"]
    assert states[0]["recent"] is not None


def test_many_lookers_are_sent_the_same_state(running: Running) -> None:
    """The status is computed once for all of them, so that looking on is cheap."""
    firsts: list[str] = []
    everybody = threading.Barrier(8)

    def look() -> None:
        with httpx.stream("GET", f"{running.url}/gfdit/events", timeout=WAIT_S) as stream:
            lines = (line for line in stream.iter_lines() if line.startswith("data: "))
            next(lines)
            everybody.wait(WAIT_S)
            next(lines)  # may have been on its way before the last one came
            firsts.append(next(lines))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(firsts) == 8
    assert len(set(firsts)) <= 3


def test_a_policy_is_checked_against_this_cluster(client: httpx.Client) -> None:
    present = client.get("/gfdit/policy").json()
    assert present["name"] == "slo"
    answer = client.post("/gfdit/policy/check", json={"text": present["text"]}).json()
    assert answer["ok"]
    assert {one["code"] for one in answer["diagnostics"]} == {"A602"}  # degrees 4 and 8 on two ranks
    broken = client.post("/gfdit/policy/check", json={"text": SRTF.replace("remaining(", "remaning(", 1)}).json()
    assert not broken["ok"]
    assert broken["diagnostics"][0]["help"] == ["did you mean `remaining`?"]


@pytest.mark.parametrize("text", ["", "\0", "policy", "policy x version 1 extends ../../etc/passwd", "é" * 1000])
def test_no_text_is_too_strange_to_be_checked(client: httpx.Client, text: str) -> None:
    answer = client.post("/gfdit/policy/check", json={"text": text})
    assert answer.status_code == 200
    assert not answer.json()["ok"]


def test_a_text_without_end_is_refused(client: httpx.Client) -> None:
    answer = client.post("/gfdit/policy/check", json={"text": "x" * (1 << 17)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "text"


def test_the_last_hour_is_simulated_under_both_policies(client: httpx.Client) -> None:
    for _ in range(3):
        picture(client)
    answer = client.post("/gfdit/policy/simulate", json={"text": SRTF}).json()
    assert answer["requests"] >= 3
    assert answer["tried"]["policy"] == "srtf"
    assert answer["present"]["policy"] == "slo"
    assert answer["tried"]["completed"] == answer["present"]["completed"] == answer["requests"]
    assert answer["tried"]["gpus"] == 2


def test_a_policy_that_does_not_check_is_not_simulated(client: httpx.Client) -> None:
    answer = client.post("/gfdit/policy/simulate", json={"text": "policy x"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "cannot_simulate"
