"""`gfdit bench serve` against a served system: emulated workers in processes of their own, HTTP over the loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gfdit.api.load.client import Fate, Manner
from gfdit.api.load.measure import Load, drive, figures
from gfdit.api.load.plan import PICTURES, VIDEOS, Like, Shot, shots_at, shots_of
from gfdit.api.load.server import find_server
from gfdit.cli.app import main
from gfdit.core.work import Request
from gfdit.errors import GfditError, UsageError
from gfdit.runtime.workload import workload_line
from gfdit.units import to_ns
from tests.api.conftest import WAIT_S, Running, serve

SCALE = 40.0
SMALL = Like(model="qwen-image", size=(512, 512), steps=4)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from serve(SCALE)


def request(number: int, at_s: float, name: str, budget_s: float | None) -> Request:
    return Request(
        f"r{number}", "qwen-image", name, to_ns(at_s), 512, 512, 4, tokens=1024, tag=name, seed=number,
        slo_ns=None if budget_s is None else to_ns(budget_s), prompt=f"prompt {number}",
    )  # fmt: skip


def workload(count: int = 30) -> list[Request]:
    """Every second one is in a hurry, every third of those in one that nobody can satisfy."""
    rush = [(n, "interactive", 0.001 if n % 6 == 0 else 400.0) for n in range(0, count, 2)]
    calm = [(n, "batch", None) for n in range(1, count, 2)]
    return [request(n, 2.0 * n, name, budget_s) for n, name, budget_s in sorted(rush + calm)]


def test_a_workload_is_told_by_class_and_nothing_is_missing(running: Running) -> None:
    shots = shots_of(workload(), SCALE, stream=False)
    found = figures(drive(shots, Manner(running.url)))
    assert (found["requests"], found["completed"], found["failed"]) == (30, 30, 0)
    classes = found["classes"]
    assert {name: group["requests"] for name, group in classes.items()} == {"batch": 15, "interactive": 15}
    assert classes["interactive"]["on_time"] == 10, "five came with a budget of 25 microseconds of our time"
    assert classes["batch"]["attainment"] == 1.0, "the server's own deadline for batch is ten minutes"
    assert found["latency_s"]["p50"] <= found["latency_s"]["p95"] <= found["latency_s"]["max"]
    assert found["span_s"] >= 29 * 2.0 / SCALE
    cost = found["server"]
    assert cost["steps"] == 30 * 4
    assert cost["cpu_s"] == pytest.approx(30 * cost["cpu_s_a_request"]) == pytest.approx(120 * cost["cpu_s_a_step"])
    assert 0 < cost["rss_before"] <= cost["rss_peak"]


def test_streams_tell_the_first_step_before_the_end(running: Running) -> None:
    shots = shots_at(8.0, 1.0, SMALL, seed=3, speed=SCALE, stream=True)
    load = drive(shots, Manner(running.url))
    assert {answer.fate for answer in load.answers} == {Fate.COMPLETED}
    for answer in load.answers:
        assert answer.first_s is not None and answer.lag_s <= answer.first_s <= answer.latency_s
        assert answer.steps == 4


def test_impatience_is_no_failure_and_the_server_stops_working(running: Running) -> None:
    slow = Like(model="qwen-image", size=(512, 512), steps=500)
    load = drive(shots_at(6.0, 1.0, slow, 1, SCALE, stream=False), Manner(running.url, timeout_s=0.3))
    found = figures(load)
    assert found["timed_out"] == found["requests"] > 0 and found["failed"] == 0
    assert found["codes"] == {"client_timeout": found["requests"]}
    assert found["latency_s"] is None and found["attainment"] == 0.0
    arrived = [running.next_arrival() for _ in range(running.arrived.qsize())]
    assert all(ticket.wait(60) for ticket in arrived), "what nobody waits for is cancelled"


def test_errors_are_told_by_code(running: Running) -> None:
    load = drive(shots_at(5.0, 1.0, Like(model="nothing"), 1, SCALE, stream=False), Manner(running.url))
    assert {(answer.fate, answer.code) for answer in load.answers} == {(Fate.FAILED, "model_not_found")}


def test_nothing_is_asked_of_what_is_no_server() -> None:
    shots = shots_at(1.0, 5.0, Like(), 0, 1.0, stream=False)
    with pytest.raises(UsageError, match="is no server's address"):
        drive(shots, Manner("nowhere"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(GfditError, match="cannot reach"):
        drive(shots, Manner(f"http://127.0.0.1:{port}"))


def test_time_that_a_server_stood_still_is_in_the_latencies() -> None:
    """A server that lets everybody wait until the last one has asked: the first waited for the whole run."""
    shots = [Shot(0.1 * n, PICTURES, {"prompt": "a"}, "any", 0.55) for n in range(10)]
    load = stalled(shots)
    latencies = [answer.latency_s for answer in load.answers]
    assert [answer.fate for answer in load.answers] == [Fate.COMPLETED] * 10
    assert all(latency >= 0.9 - answer.at_s for answer, latency in zip(load.answers, latencies, strict=True))
    assert [answer.on_time for answer in load.answers][:3] == [False] * 3


def stalled(shots: list[Shot]) -> Load:
    """Against a server that answers nobody before it has heard from all."""
    everybody = threading.Barrier(len(shots))

    class Stalled(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            everybody.wait(WAIT_S)
            self.answer({"data": [], "gfdit": {"steps": 1, "deadline_met": None}})

        def answer(self, what: object) -> None:
            body = json.dumps(what).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *about: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stalled) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            return drive(shots, Manner(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=WAIT_S))
        finally:
            server.shutdown()
            thread.join()


def test_a_plan_is_seeded_and_open() -> None:
    shots = shots_at(50.0, 20.0, SMALL, seed=7, speed=1.0, stream=False)
    assert shots == shots_at(50.0, 20.0, SMALL, seed=7, speed=1.0, stream=False)
    assert shots != shots_at(50.0, 20.0, SMALL, seed=8, speed=1.0, stream=False)
    assert len(shots) == pytest.approx(1000, abs=5 * 1000**0.5)
    times = [shot.at_s for shot in shots]
    assert times == sorted(times) and times[0] >= 0 and times[-1] < 20.0
    with pytest.raises(UsageError, match="at most"):
        shots_at(1e6, 60.0, SMALL, 0, 1.0, stream=False)


def test_requests_with_frames_are_videos_and_budgets_follow_the_speed() -> None:
    (picture, film) = shots_of(
        [
            request(0, 10.0, "batch", 20.0),
            Request("v", "hunyuanvideo", "batch", to_ns(14.0), 480, 832, 9, tokens=1, frames=5, tag=None),
        ],
        speed=4.0,
        stream=True,
    )
    assert (picture.at_s, film.at_s) == (0.0, 1.0)
    assert (picture.path, film.path) == (PICTURES, VIDEOS)
    assert picture.body["deadline_ms"] == 20_000 and picture.budget_s == 5.0
    assert picture.body["stream"] is True and "stream" not in film.body and film.body["num_frames"] == 5


def test_the_command_prints_and_writes_what_it_found(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFDIT_URL", running.url)
    file = tmp_path / "small.jsonl"
    file.write_text("".join(workload_line(one) + "\n" for one in workload(6)))
    page, rows = tmp_path / "out" / "load.html", tmp_path / "load.json"
    asked = ["bench", "serve", "--workload", str(file), "--speed", str(SCALE)]
    assert main([*asked, "--json", "--out", str(rows)]) == 0
    found = json.loads(capsys.readouterr().out)
    written = json.loads(rows.read_text())
    assert len(written.pop("answers")) == found["requests"] == 6 and written == found
    assert main([*asked, "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "interactive" in shown and "API and controller" in shown
    assert max(map(len, shown.splitlines()[:6])) <= 80
    text = page.read_text()
    assert text.count("<svg") == 2
    assert not any(f"<!--{name}-->" in text for name in ("title", "subtitle", "tiles", "body"))
    assert main(["bench", "serve", "--rate", "1", "--for", "soon"]) == 2
    assert main(["bench", "serve"]) == 2


def test_the_servers_process_is_found_by_its_port(running: Running) -> None:
    import os

    found = find_server(running.url)
    assert found is not None and found.pid == os.getpid()
    assert find_server("http://192.0.2.1:8000") is None


@pytest.mark.slow
def test_ten_times_too_much_costs_no_goodput() -> None:
    """Beyond capacity the rate at which requests are completed stays what it is; who is turned away is told when to
    come back, and is let in then."""
    for running in serve(2.0, max_queue=6):
        url, at_2, at_10 = running.url, 8.0, 40.0
        peak, over = (
            figures(drive(shots_at(rate, 3.0, SMALL, 5, 2.0, stream=False), Manner(url))) for rate in (at_2, at_10)
        )
        told = figures(drive(shots_at(16.0, 1.0, SMALL, 6, 2.0, stream=False), Manner(url, retries=1)))
    assert over["failed"] == over["timed_out"] == peak["failed"] == 0
    assert over["codes"] == {"queue_full": over["turned_away"]}
    assert over["completed_per_s"] > 0.8 * peak["completed_per_s"], (peak, over)
    assert over["server"]["rss_peak"] - over["server"]["rss_before"] < 64 << 20
    assert told["retries"] > 0
    assert told["completed"] > 0.8 * told["requests"], "who comes back when told to is let in"
