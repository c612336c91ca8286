"""What surrounds a request: ids, scheduling headers, limits, retries, formats; and what the server tells of itself."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from small_worlds import make_request

from gfdit.api.idempotency import Idempotency
from gfdit.api.pictures import PictureStore, encode
from gfdit.api.submitting import Work
from gfdit.config import DEFAULT_QUEUE
from gfdit.core.work import Outcome
from gfdit.live.results import Progress, Status, Ticket

from .conftest import WAIT_S, Running, serve
from .test_http import ENDLESS, PATH, SMALL, error


@pytest.fixture(scope="module")
def narrow() -> Iterator[Running]:
    """Two workers, and one place to wait."""
    yield from serve(time_scale=50.0, max_queue=1)


# ---- ids and headers ------------------------------------------------------------------------------------------------


def test_every_answer_has_a_request_id(client: httpx.Client) -> None:
    answers = [client.get("/livez"), client.get("/nowhere"), client.post(PATH, content=b"{"), client.get("/metrics")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids) and all(one.startswith("req_") for one in ids)


@pytest.mark.parametrize(("sent", "kept"), [("abc-1:2.3_4", True), ("a b", False), ("x" * 101, False), ("", False)])
def test_a_sane_id_of_the_client_is_kept(client: httpx.Client, sent: str, kept: bool) -> None:
    got = client.get("/livez", headers={"x-request-id": sent}).headers["x-request-id"]
    assert (got == sent) is kept
    assert kept or got.startswith("req_")


def test_headers_reach_the_scheduler_and_win_over_the_body(client: httpx.Client, running: Running) -> None:
    headers = {"x-gfdit-class": "batch", "x-gfdit-deadline-ms": "1500.5", "x-gfdit-priority": "-4"}
    answer = client.post(PATH, json={**SMALL, "class": "interactive", "priority": 9}, headers=headers)
    request = running.next_arrival().request
    assert (request.class_name, request.slo_ns, request.priority) == ("batch", 1_500_500_000, -4)
    assert answer.headers["x-gfdit-request-id"] == request.id == answer.json()["gfdit"]["id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-gfdit-deadline-ms", "soon"),
        ("x-gfdit-deadline-ms", "0"),
        ("x-gfdit-deadline-ms", "inf"),
        ("x-gfdit-priority", "1.5"),
        ("x-gfdit-class", ""),
    ],
)
def test_a_header_that_is_wrong_is_named(client: httpx.Client, running: Running, name: str, value: str) -> None:
    answer = client.post(PATH, json=SMALL, headers={name: value})
    told = error(answer)
    assert (answer.status_code, told["code"], told["param"]) == (400, "invalid_value", name)
    assert running.arrived.empty()


def test_the_keys_of_load_generators_are_read_after_the_fields(client: httpx.Client, running: Running) -> None:
    extra = {"runtime_v2_priority": "3", "runtime_v2_request_class": "batch", "other": [1]}
    times = {"runtime_v2_arrival_ms": 1_000_000.0, "runtime_v2_deadline_ms": 1_002_500.0}
    client.post(PATH, json={**SMALL, "extra_args": {**extra, **times}})
    client.post(PATH, json={**SMALL, "class": "interactive", "extra_args": {**extra, "runtime_v2_deadline_ms": 4000}})
    first, second = running.next_arrival().request, running.next_arrival().request
    assert (first.class_name, first.priority, first.slo_ns) == ("batch", 3, 2_500_000_000)
    assert (second.class_name, second.priority, second.slo_ns) == ("interactive", 3, 4_000_000_000)
    late = client.post(PATH, json={**SMALL, "extra_args": {**times, "runtime_v2_arrival_ms": 1_003_000}})
    assert (late.status_code, error(late)["param"]) == (400, "extra_args")
    wrong = client.post(PATH, json={**SMALL, "extra_args": {"runtime_v2_priority": "high"}})
    assert error(wrong)["param"] == "extra_args.runtime_v2_priority"


# ---- sizes and formats ----------------------------------------------------------------------------------------------


def test_a_size_may_be_given_as_width_and_height(client: httpx.Client, running: Running) -> None:
    body = {name: value for name, value in SMALL.items() if name != "size"}
    assert client.post(PATH, json={**body, "width": 256, "height": 320}).json()["size"] == "256x320"
    request = running.next_arrival().request
    assert (request.width, request.height) == (256, 320)


def test_fields_of_openai_that_change_nothing_are_taken(client: httpx.Client) -> None:
    fields = {"quality": "hd", "style": "vivid", "background": "auto", "moderation": "low", "partial_images": 2}
    plain, told = client.post(PATH, json=SMALL).json(), client.post(PATH, json={**SMALL, **fields}).json()
    assert told["data"][0]["b64_json"] == plain["data"][0]["b64_json"]
    assert error(client.post(PATH, json={**SMALL, "background": "transparent"}))["param"] == "background"


def test_a_picture_can_be_fetched_from_its_url(client: httpx.Client) -> None:
    import base64

    plain = client.post(PATH, json=SMALL).json()["data"][0]["b64_json"]
    picture = client.post(PATH, json={**SMALL, "response_format": "url"}).json()["data"][0]
    assert "b64_json" not in picture
    assert picture["url"].startswith(f"{client.base_url}".rstrip("/"))
    fetched = client.get(picture["url"])
    assert (fetched.headers["content-type"], fetched.content) == ("image/png", base64.b64decode(plain))
    missing = client.get("/v1/images/files/other.png")
    assert (missing.status_code, error(missing)["code"]) == (404, "picture_not_found")


def gradient() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "png")
    return out.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_pictures_are_encoded_as_asked(kind: Any) -> None:
    best, small = encode(gradient(), kind), encode(gradient(), kind, 0)
    with Image.open(io.BytesIO(best)) as picture, Image.open(io.BytesIO(gradient())) as original:
        assert (picture.format, picture.size) == (kind.upper(), original.size)
        pairs = zip(picture.convert("RGB").tobytes(), original.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 4
    assert len(small) < len(best)


def test_the_store_forgets_the_oldest_when_it_is_full() -> None:
    store = PictureStore(most_bytes=250)
    names = [store.put(bytes([n]) * 100, "png") for n in range(3)]
    assert [store.get(name) is not None for name in names] == [False, True, True]
    big = store.put(b"x" * 1000, "webp")
    assert [store.get(name) for name in names] == [None] * 3
    kept = store.get(big)
    assert kept is not None and kept.media_type == "image/webp"
    assert len({*names, big}) == 4 and all(len(name) > 24 for name in names)


# ---- limits and retries ---------------------------------------------------------------------------------------------


def test_a_full_queue_is_429_with_times_that_follow_each_other(narrow: Running) -> None:
    refused: list[httpx.Response] = []
    with httpx.Client(base_url=narrow.url, timeout=WAIT_S) as client, ExitStack() as stack:
        for _ in range(8):  # two can run and one can wait
            answer = stack.enter_context(client.stream("POST", PATH, json={**ENDLESS, "stream": True}))
            if answer.status_code != 200:
                answer.read()
                refused.append(answer)
        assert len(refused) >= 5
        scraped = httpx.get(f"{narrow.url}/metrics").text
    for answer in refused:
        told = error(answer)
        assert (answer.status_code, told["code"]) == (429, "queue_full")
        assert "at most 1 may" in told["message"] and answer.headers["x-should-retry"] == "true"
    waits = [int(answer.headers["retry-after-ms"]) for answer in refused]
    assert 0 < waits[0] <= waits[1] <= waits[2] and max(waits) <= 60_000
    assert f'gfdit_admission_rejected_total{{code="queue_full"}} {len(refused)}.0' in scraped


def test_n_pictures_are_refused_together(narrow: Running) -> None:
    with httpx.Client(base_url=narrow.url, timeout=WAIT_S) as client:
        answer = client.post(PATH, json={**ENDLESS, "n": 10})
    assert (answer.status_code, error(answer)["code"]) == (429, "queue_full")
    for ticket in narrow.system.fleet.tickets.live():
        assert ticket.wait(WAIT_S) and ticket.progress.outcome is Outcome.CANCELLED


def test_the_same_key_joins_the_work_and_another_body_is_refused(client: httpx.Client, running: Running) -> None:
    body = {name: value for name, value in SMALL.items() if name != "seed"}
    key = {"Idempotency-Key": "once"}
    first, again = (client.post(PATH, json=body, headers=key).json() for _ in range(2))
    assert first["data"] == again["data"] and first["gfdit"]["id"] == again["gfdit"]["id"]
    running.next_arrival()
    assert running.arrived.empty()
    for other in (
        client.post(PATH, json={**body, "n": 2}, headers=key),
        client.post(PATH, json=body, headers={**key, "x-gfdit-priority": "1"}),
    ):
        assert (other.status_code, error(other)["code"]) == (400, "idempotency_mismatch")
    assert error(client.post(PATH, json=body, headers={"Idempotency-Key": "x" * 256}))["param"] == "idempotency-key"


def test_work_with_a_key_outlives_its_client_until_it_fails(client: httpx.Client, running: Running) -> None:
    send = {"method": "POST", "url": PATH, "json": {**ENDLESS, "stream": True}, "headers": {"Idempotency-Key": "kept"}}
    with client.stream(**send) as answer:
        first = answer.headers["x-gfdit-request-id"]
        ticket = running.next_arrival()
    with client.stream(**send) as answer:
        assert answer.headers["x-gfdit-request-id"] == first == ticket.request.id and not ticket.ended
        running.system.cancel(first)
        assert json.loads(answer.read().decode().rpartition("data: ")[2])["error"]["code"] == "cancelled"
    with client.stream(**send) as answer:
        second = answer.headers["x-gfdit-request-id"]
    assert second != first
    running.system.cancel(second)
    assert running.next_arrival().wait(WAIT_S)


def test_old_keys_are_forgotten_by_number_and_by_bytes() -> None:
    def done(name: str) -> Work:
        work: Work = Future()
        ended = Progress(Status.ENDED, outcome=Outcome.COMPLETED)
        work.set_result([Ticket(make_request(len(name)), ended, b"x" * 100)])
        return work

    def kept(keys: Idempotency, *names: str) -> list[str]:
        """Those of `names` that need no new work; asked for newest first, as asking makes a key new."""
        again: list[str] = []
        for name in reversed(names):
            keys.join(name, b"", lambda _, name=name: again.append(name) or done(name))  # type: ignore[misc]
        return [name for name in names if name not in again]

    for keys in (Idempotency(most_keys=2), Idempotency(most_bytes=250)):
        for name in ("a", "b", "c"):
            keys.join(name, b"", lambda _, name=name: done(name))  # type: ignore[misc]
        assert kept(keys, "a", "b", "c") == ["b", "c"]


# ---- what the server tells of itself --------------------------------------------------------------------------------


def test_metrics_are_what_prometheus_reads(client: httpx.Client) -> None:
    client.post(PATH, json=SMALL)
    answer = client.get("/metrics", headers={"accept": "text/plain;version=0.0.4"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert sum(sample.value for sample in families["gfdit_requests"].samples if sample.name.endswith("_total")) >= 1
    assert families["gfdit_workers_alive"].samples[0].value == 2
    openmetrics = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_the_status_tells_of_a_running_request(client: httpx.Client, running: Running) -> None:
    with client.stream("POST", PATH, json={**ENDLESS, "stream": True, "class": "batch"}) as answer:
        lines = answer.iter_lines()  # as long as it is not dropped, the connection stays
        assert next(line for line in lines if line.startswith(": step 1"))
        status = client.get("/gfdit/status").json()
        detailed = client.get("/gfdit/status", params={"detail": True}).json()
    assert (status["format"], status["recent"]) == ("gfdit-status/1", None)
    assert status["policy"]["name"] == "slo" and not status["policy"]["fallback"]
    assert status["workers"]["alive"] == [0, 1] and status["accepting"] is True
    (row,) = [one for one in status["requests"] if one["id"] == answer.headers["x-gfdit-request-id"]]
    assert (row["class_name"], row["state"], row["stage"], row["steps_total"]) == ("batch", "running", "denoise", 1000)
    assert row["degree"] == len(row["ranks"]) >= 1 and row["slack_s"] is not None
    assert row["id"] in {stint["request"] for stint in detailed["recent"]["stints"]}


def test_the_description_of_the_api_names_the_parts_of_a_status(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert {"Status", "RequestStatus", "PolicyStatus"} <= set(schemas)


def test_a_served_system_has_a_limit_by_default() -> None:
    assert DEFAULT_QUEUE >= 100
