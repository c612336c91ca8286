"""OpenAI's own Python client and a running system: answers, streams, errors and retries as its users see them."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import openai
import pytest

from gfdit.worker.emulated import expected_output, inputs_of

from .conftest import WAIT_S, Running, serve

MORE = {"num_inference_steps": 3, "seed": 7, "class": "interactive"}


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as client:
        yield client
    while not running.arrived.empty():
        running.arrived.get_nowait()


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["qwen-image"]
    assert client.models.retrieve("qwen-image").owned_by == "gfdit"


def test_a_picture_and_how_it_fared(client: openai.OpenAI, running: Running) -> None:
    answer = client.images.generate(
        prompt="a cat", model="qwen-image", size="256x256", n=2, response_format="b64_json", extra_body=MORE
    )
    assert answer.data is not None and answer.data[0].b64_json is not None
    request = running.next_arrival().request
    stages = running.system.models["qwen-image"].stages
    assert base64.b64decode(answer.data[0].b64_json) == expected_output(inputs_of(request), stages, 3)
    assert (len(answer.data), answer.size, answer.output_format) == (2, "256x256", "png")
    assert answer.model_extra is not None and answer.model_extra["gfdit"]["seed"] == 7
    assert answer._request_id is not None and answer._request_id.startswith("req_")


def test_a_picture_by_url(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", size="256x256", response_format="url", extra_body=MORE)
    assert answer.data is not None and answer.data[0].url is not None and answer.data[0].b64_json is None
    assert httpx.get(answer.data[0].url, timeout=WAIT_S).status_code == 200


def test_a_stream_ends_with_the_picture(client: openai.OpenAI) -> None:
    plain = client.images.generate(prompt="a cat", size="256x256", extra_body=MORE)
    with client.images.generate(
        prompt="a cat", size="256x256", stream=True, partial_images=2, extra_body=MORE
    ) as stream:
        (event,) = list(stream)  # progress is comments, which are no events
    assert event.type == "image_generation.completed"
    assert plain.data is not None and event.b64_json == plain.data[0].b64_json
    assert event.created_at > 0 and event.size == "256x256"


def test_errors_are_the_clients_own_with_code_and_param(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a cat", size="250x256")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "invalid_size", "size", "invalid_request_error",
    )  # fmt: skip
    assert "256 is" in caught.value.message
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="a cat", model="dall-e-3")
    assert missing.value.code == "model_not_found" and missing.value.request_id is not None
    with pytest.raises(openai.BadRequestError) as unknown:
        client.images.generate(prompt="a cat", extra_body={"steps": 3})
    assert unknown.value.code == "unknown_parameter"


def test_an_error_in_a_stream_is_raised(client: openai.OpenAI, running: Running) -> None:
    endless = {"num_inference_steps": 1000}
    with client.images.generate(prompt="a cat", size="2048x2048", stream=True, extra_body=endless) as stream:
        running.system.cancel(running.next_arrival().request.id)
        with pytest.raises(openai.APIError, match="cancelled"):
            list(stream)


def test_the_client_does_not_retry_work_that_has_begun(running: Running) -> None:
    """It would retry a 503 twice by itself; `x-should-retry: false` keeps it from sending the work again."""
    sent: list[httpx.Response] = []
    hooks = {"response": [sent.append]}
    with (
        httpx.Client(event_hooks=hooks, timeout=WAIT_S) as transport,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=2, http_client=transport) as client,
    ):
        import threading

        def cancel() -> None:
            running.system.cancel(running.next_arrival().request.id)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(prompt="a cat", size="2048x2048", extra_body={"num_inference_steps": 1000})
        canceller.join(WAIT_S)
    assert caught.value.code == "cancelled"
    assert [answer.status_code for answer in sent] == [503]


def test_the_client_comes_back_when_the_queue_is_full() -> None:
    """A burst of as many clients as there are places and more: retries, told when to come, get all of them through."""
    from concurrent.futures import ThreadPoolExecutor

    for running in serve(time_scale=200.0, max_queue=2):
        statuses: list[int] = []

        def one(number: int, url: str = running.url, seen: list[int] = statuses) -> int:
            hooks = {"response": [lambda answer: seen.append(answer.status_code)]}
            with (
                httpx.Client(event_hooks=hooks, timeout=WAIT_S) as transport,
                openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=30, http_client=transport) as client,
            ):
                more = {"num_inference_steps": 20, "seed": number}
                return len(client.images.generate(prompt="a cat", size="1024x1024", extra_body=more).data or [])

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(one, range(8))) == [1] * 8
        assert statuses.count(200) == 8 and 429 in statuses
