"""Video jobs with OpenAI's client: made, looked after, fetched in parts, cancelled, and finished after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.api.conftest import WAIT_S, Running, serve

SIZE = "832x480"
# what the client's maker says about a service of its own
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def filming(folder: Path) -> Iterator[Running]:
    yield from serve(time_scale=200.0, videos=folder, cost="wan5b")


@pytest.fixture
def client(filming: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{filming.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as client:
        yield client


def ended(url: str, video_id: str) -> dict[str, object]:
    """The job once it has ended; the test's own timeout ends the wait."""
    while True:
        answer: dict[str, object] = httpx.get(f"{url}/v1/videos/{video_id}", timeout=WAIT_S).json()
        if answer["status"] in ("completed", "failed"):
            return answer
        time.sleep(0.02)


def test_openais_client_makes_and_fetches_a_video(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="720 is not a multiple of 32; 704 is"):
        client.videos.create(prompt="a red ball", size="1280x720")
    made = client.videos.create_and_poll(
        model="wan2.2-ti2v-5b", prompt="a red ball", seconds="4", poll_interval_ms=20, extra_body={"size": SIZE}
    )
    assert (made.status, made.progress, made.size) == ("completed", 100, SIZE)
    content = client.videos.download_content(made.id).read()
    assert len(content) == 64  # an emulated device's digest
    assert client.videos.retrieve(made.id).id == made.id
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)


def test_a_job_by_json(filming: Running) -> None:
    body = {"prompt": "a red ball", "size": SIZE, "seconds": 2, "num_inference_steps": 3, "seed": 7}
    answer = httpx.post(f"{filming.url}/v1/videos", json=body, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["object"], job["size"], job["error"]) == ("video", SIZE, None)
    assert job["seconds"] == f"{33 / 16:g}"  # whole groups of four frames and one
    done = ended(filming.url, job["id"])
    assert (done["status"], done["progress"]) == ("completed", 100)
    assert done["gfdit"]["seed"] == 7 and done["gfdit"]["steps"] == 3
    assert done["expires_at"] > done["completed_at"] >= done["created_at"]
    whole = httpx.get(f"{filming.url}/v1/videos/{job['id']}/content", timeout=WAIT_S)
    part = httpx.get(f"{filming.url}/v1/videos/{job['id']}/content", headers={"range": "bytes=2-5"}, timeout=WAIT_S)
    assert (part.status_code, part.content) == (206, whole.content[2:6])


def test_a_form_has_texts_for_numbers(filming: Running) -> None:
    form = {"prompt": "x", "size": SIZE, "num_frames": "5", "num_inference_steps": "2", "extra_args": json.dumps({})}
    parts = {name: (None, value) for name, value in form.items()}
    answer = httpx.post(f"{filming.url}/v1/videos", files=parts, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    assert ended(filming.url, answer.json()["id"])["gfdit"]["steps"] == 2


def test_the_file_itself_for_those_who_wait(filming: Running) -> None:
    body = {"prompt": "x", "size": SIZE, "num_frames": 5, "num_inference_steps": 2}
    answer = httpx.post(f"{filming.url}/v1/videos/sync", json=body, timeout=WAIT_S)
    assert (answer.status_code, len(answer.content)) == (200, 64)  # an emulated device's digest


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "x", "seconds": 2, "num_frames": 5}, "seconds", "invalid_value"),
        ({"prompt": "x", "num_frames": 6}, "num_frames", "invalid_value"),
        ({"prompt": "x", "seconds": 500}, "seconds", "invalid_value"),
        ({"prompt": "x", "size": "100x100"}, "size", "invalid_size"),
        ({"prompt": "x", "secnds": 2}, "secnds", "unknown_parameter"),
        ({"prompt": "x", "model": "none"}, "model", "model_not_found"),
        ({}, "prompt", "missing_parameter"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_begins(
    filming: Running, body: dict[str, object], param: str, code: str
) -> None:
    before = httpx.get(f"{filming.url}/v1/videos", timeout=WAIT_S).json()["data"]
    answer = httpx.post(f"{filming.url}/v1/videos", json=body, timeout=WAIT_S)
    assert 400 <= answer.status_code < 500
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert httpx.get(f"{filming.url}/v1/videos", timeout=WAIT_S).json()["data"] == before


def test_a_picture_to_start_from_is_refused(filming: Running) -> None:
    parts = {"prompt": (None, "x"), "input_reference": ("a.png", b"png")}
    answer = httpx.post(f"{filming.url}/v1/videos", files=parts, timeout=WAIT_S)
    assert answer.json()["error"]["param"] == "input_reference"


def test_jobs_are_listed_a_page_at_a_time(filming: Running, client: openai.OpenAI) -> None:
    asked = {"prompt": "x", "size": SIZE, "num_frames": 5, "num_inference_steps": 1}
    ids = [httpx.post(f"{filming.url}/v1/videos", json=asked, timeout=WAIT_S).json()["id"] for _ in range(3)]
    newest = httpx.get(f"{filming.url}/v1/videos", params={"limit": 2}, timeout=WAIT_S).json()
    assert [one["id"] for one in newest["data"]] == [ids[2], ids[1]]
    assert newest["has_more"] is True and newest["last_id"] == ids[1]
    more = httpx.get(f"{filming.url}/v1/videos", params={"limit": 1, "after": ids[1]}, timeout=WAIT_S).json()
    assert [one["id"] for one in more["data"]] == [ids[0]]
    assert ids[0] in [video.id for video in client.videos.list(limit=1)]  # the client turns the pages
    assert httpx.get(f"{filming.url}/v1/videos", params={"after": "none"}, timeout=WAIT_S).status_code == 404
    assert (
        httpx.get(f"{filming.url}/v1/videos", params={"limit": 0}, timeout=WAIT_S).json()["error"]["param"] == "limit"
    )


def test_deleting_a_job_that_runs_cancels_it(filming: Running) -> None:
    body = {"prompt": "x", "size": SIZE, "num_frames": 81, "num_inference_steps": 1000}
    job = httpx.post(f"{filming.url}/v1/videos", json=body, timeout=WAIT_S).json()
    content = httpx.get(f"{filming.url}/v1/videos/{job['id']}/content", timeout=WAIT_S)
    assert (content.status_code, content.headers["x-should-retry"]) == (409, "false")
    ticket = filming.system.fleet.tickets.get(job["id"])
    assert ticket is not None
    gone = httpx.delete(f"{filming.url}/v1/videos/{job['id']}", timeout=WAIT_S).json()
    assert gone == {"id": job["id"], "object": "video.deleted", "deleted": True}
    assert ticket.wait(WAIT_S) and ticket.progress.outcome == "cancelled"
    assert httpx.get(f"{filming.url}/v1/videos/{job['id']}", timeout=WAIT_S).status_code == 404


def test_a_model_of_videos_makes_no_pictures(filming: Running) -> None:
    answer = httpx.post(f"{filming.url}/v1/images/generations", json={"prompt": "x"}, timeout=WAIT_S)
    assert "/v1/videos" in answer.json()["error"]["message"]


def test_jobs_go_on_after_a_restart_with_the_same_result(tmp_path: Path) -> None:
    """The first server ends with its work cancelled, as a second Ctrl-C does; the next one makes the same video."""
    long = {"prompt": "x", "size": SIZE, "num_frames": 81, "num_inference_steps": 200, "seed": 5}
    short = {**long, "num_inference_steps": 2}
    for running in serve(time_scale=500.0, videos=tmp_path, cost="wan5b"):
        first = httpx.post(f"{running.url}/v1/videos", json=short, timeout=WAIT_S).json()
        ended(running.url, first["id"])
        cut = httpx.post(f"{running.url}/v1/videos", json=long, timeout=WAIT_S).json()
        running.system.drain(cancel=True)
        assert running.system.wait(WAIT_S)
    for running in serve(time_scale=500.0, videos=tmp_path, cost="wan5b"):
        assert ended(running.url, first["id"])["status"] == "completed"
        assert httpx.get(f"{running.url}/v1/videos/{first['id']}/content", timeout=WAIT_S).status_code == 200
        assert ended(running.url, cut["id"])["status"] == "completed"
        again = httpx.post(f"{running.url}/v1/videos/sync", json=long, timeout=WAIT_S)
        assert httpx.get(f"{running.url}/v1/videos/{cut['id']}/content", timeout=WAIT_S).content == again.content
