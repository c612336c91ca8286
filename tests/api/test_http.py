"""The HTTP side in front of a running system: what clients get, and what they get told."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any

import httpx
import pytest

from gfdit.api.images import MAX_BODY
from gfdit.core.work import Outcome
from gfdit.errors import UsageError
from gfdit.worker.emulated import expected_output, inputs_of

from .conftest import WAIT_S, Running, serve

PATH = "/v1/images/generations"
SMALL: dict[str, Any] = {"prompt": "a cat", "size": "256x256", "num_inference_steps": 3, "seed": 7}
ENDLESS: dict[str, Any] = {"prompt": "a cat", "size": "2048x2048", "num_inference_steps": 1000}


def error(response: httpx.Response) -> dict[str, Any]:
    """The error object, after checking that its shape is the one clients read."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


def events(text: str) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    """Comments, and events with their data."""
    comments, found, kind = [], [], ""
    for line in text.splitlines():
        if line.startswith(": "):
            comments.append(line[2:])
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            found.append((kind, json.loads(line[6:])))
    return comments, found


def test_health_models_and_version(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/health"):
        assert client.get(path).json() == {"status": "ok"}
    listing = client.get("/v1/models").json()
    assert listing["object"] == "list"
    assert [model["id"] for model in listing["data"]] == ["qwen-image"]
    assert client.get("/v1/models/qwen-image").json() == listing["data"][0]
    assert error(client.get("/v1/models/flux"))["code"] == "model_not_found"
    assert "version" in client.get("/version").json()


def test_a_picture_is_the_one_that_an_uninterrupted_run_gives(client: httpx.Client, running: Running) -> None:
    answer = client.post(PATH, json=SMALL).json()
    request = running.next_arrival().request
    stages = running.system.models["qwen-image"].stages
    assert base64.b64decode(answer["data"][0]["b64_json"]) == expected_output(inputs_of(request), stages, 3)
    assert (answer["size"], answer["output_format"]) == ("256x256", "png")
    how = answer["gfdit"]
    assert how == answer["data"][0]["gfdit"]
    assert (how["seed"], how["steps"], how["attempts"], how["policy"]) == (7, 3, 1, "slo")
    assert how["degrees"][0][0] == 0 and {degree for _, degree in how["degrees"]} <= {1, 2}
    assert how["deadline_met"] is True  # by its class's budget


def test_the_scheduling_fields_reach_the_scheduler(client: httpx.Client, running: Running) -> None:
    fields = {"class": "interactive", "deadline_ms": 90_000, "priority": 3, "user": "ann", "preemptible": False}
    assert client.post(PATH, json={**SMALL, **fields}).json()["gfdit"]["deadline_met"] is True
    request = running.next_arrival().request
    assert (request.class_name, request.slo_ns, request.priority) == ("interactive", 90_000_000_000, 3)
    assert (request.tenant, request.preemptible) == ("ann", False)
    assert (request.width, request.height, request.tokens) == (256, 256, 256)


def test_n_pictures_have_seeds_of_their_own(client: httpx.Client) -> None:
    data = client.post(PATH, json={**SMALL, "n": 3}).json()["data"]
    assert [picture["gfdit"]["seed"] for picture in data] == [7, 8, 9]
    assert len({picture["b64_json"] for picture in data}) == 3


def test_an_answer_without_a_size_or_a_seed_has_the_models_own(client: httpx.Client, running: Running) -> None:
    client.post(PATH, json={"prompt": "a cat", "num_inference_steps": 1})
    request = running.next_arrival().request
    assert (request.width, request.height) == (1024, 1024)


def test_a_stream_tells_every_step_and_ends_with_the_picture(client: httpx.Client) -> None:
    response = client.post(PATH, json={**SMALL, "num_inference_steps": 5, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    comments, found = events(response.text)
    steps = [comment for comment in comments if comment.startswith("step ")]
    assert steps == sorted(set(steps)) and steps[-1] == "step 5/5"
    ((kind, body),) = found
    assert kind == body["type"] == "image_generation.completed"
    plain = client.post(PATH, json={**SMALL, "num_inference_steps": 5}).json()
    assert body["b64_json"] == plain["data"][0]["b64_json"]


@pytest.mark.parametrize(
    ("change", "code", "param", "part"),
    [
        ({"sise": "64x64"}, "unknown_parameter", "sise", "did you mean `size`?"),
        ({"prompt": None}, "invalid_value", "prompt", "string"),
        ({"prompt": ""}, "invalid_value", "prompt", "at least 1"),
        ({"n": 0}, "invalid_value", "n", "greater than or equal to 1"),
        ({"n": "2"}, "invalid_value", "n", "integer"),
        ({"n": 2, "stream": True}, "invalid_value", "n", "one picture"),
        ({"size": "250x256"}, "invalid_size", "size", "256 is"),
        ({"size": "0x16"}, "invalid_size", "size", "16 is"),
        ({"size": "16x16"}, "invalid_size", "size", "64 to 4096"),
        ({"size": "8192x64"}, "size_too_large", "size", "64 to 4096"),
        ({"size": "-64x64"}, "invalid_size", "size", "like `128x128`"),
        ({"size": "huge"}, "invalid_size", "size", "like `128x128`"),
        ({"seed": -1}, "invalid_value", "seed", "greater than or equal to 0"),
        ({"num_inference_steps": 100_000}, "invalid_value", "num_inference_steps", "at most 1000"),
        ({"guidance_scale": 3.0}, "unknown_parameter", "guidance_scale", "no guidance"),
        ({"deadline_ms": 0}, "invalid_value", "deadline_ms", "greater than 0"),
        ({"response_format": "uri"}, "invalid_value", "response_format", "b64_json"),
        ({"response_format": "url", "stream": True}, "invalid_value", "response_format", "itself"),
        ({"output_format": "gif"}, "invalid_value", "output_format", "webp"),
        ({"output_format": "jpeg"}, "invalid_value", "output_format", "emulated"),
        ({"width": 256}, "invalid_size", "height", "both"),
        ({"size": "auto", "width": 250, "height": 256}, "invalid_size", "width", "256 is"),
        ({"width": 256, "height": 256}, "invalid_size", "size", "both"),
        ({"model": "flux"}, "model_not_found", "model", "`qwen-image`"),
    ],
)
def test_bad_input_names_the_field(
    client: httpx.Client, running: Running, change: dict[str, Any], code: str, param: str, part: str
) -> None:
    response = client.post(PATH, json={**SMALL, **change})
    told = error(response)
    assert 400 <= response.status_code < 500
    assert (told["type"], told["code"], told["param"]) == ("invalid_request_error", code, param)
    assert part in told["message"]
    assert running.arrived.empty()


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "invalid_json"), (b"\xff\xfe", "invalid_json"), (b"[1]", "invalid_body"), (b"{}", "missing_parameter")],
)
def test_a_body_that_is_no_request(client: httpx.Client, body: bytes, code: str) -> None:
    response = client.post(PATH, content=body)
    assert response.status_code == 400
    assert error(response)["code"] == code


def test_a_body_that_is_too_long_is_refused(client: httpx.Client) -> None:
    announced = client.post(PATH, content=b"x" * (MAX_BODY + 1))
    assert (announced.status_code, error(announced)["code"]) == (413, "body_too_large")
    chunks = iter([b"x" * 65536] * (MAX_BODY // 65536 + 1))  # no length announced
    streamed = client.post(PATH, content=chunks)
    assert (streamed.status_code, error(streamed)["code"]) == (413, "body_too_large")


def test_unknown_routes_and_methods_have_the_same_error_shape(client: httpx.Client) -> None:
    missing = client.get("/v2/anything")
    assert (missing.status_code, error(missing)["code"]) == (404, "unknown_route")
    wrong = client.get(PATH)
    assert (wrong.status_code, error(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_the_api_describes_itself(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    schema = described["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["prompt"] and schema["additionalProperties"] is False


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(running: Running, client: httpx.Client, stream: bool) -> None:
    body = json.dumps({**ENDLESS, "stream": stream}).encode()
    address = httpx.URL(running.url)
    with socket.create_connection((address.host, address.port), timeout=WAIT_S) as leaving:
        head = f"POST {PATH} HTTP/1.1\r\nHost: gfdit\r\nContent-Length: {len(body)}\r\n\r\n"
        leaving.sendall(head.encode() + body)
        ticket = running.next_arrival()
        assert not ticket.ended
    assert ticket.wait(WAIT_S)
    assert ticket.progress.outcome is Outcome.CANCELLED


def test_a_server_that_drains_takes_no_new_requests_and_answers_the_old() -> None:
    for running in serve(time_scale=50.0):
        with httpx.Client(base_url=running.url, timeout=WAIT_S) as client:
            assert client.get("/readyz").status_code == 200
            with client.stream("POST", PATH, json={**SMALL, "stream": True, "num_inference_steps": 20}) as response:
                running.next_arrival()
                running.system.drain()
                assert running.system.fleet.intake.open is False
                with httpx.Client(base_url=running.url, timeout=WAIT_S) as late:
                    ready, refused = late.get("/readyz"), late.post(PATH, json=SMALL)
                    assert late.get("/livez").status_code == 200
                _, found = events("".join(response.iter_text()))
        for answer in (ready, refused):
            assert (answer.status_code, error(answer)["code"]) == (503, "shutting_down")
            assert answer.headers["x-should-retry"] == "false"
        assert [kind for kind, _ in found] == ["image_generation.completed"]


def test_a_taken_port_is_a_clear_error(running: Running) -> None:
    from gfdit.api.server import HttpServer
    from gfdit.cli.service import LiveService

    port = httpx.URL(running.url).port
    assert port is not None
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
        HttpServer(LiveService(running.system, None), "127.0.0.1", port)
