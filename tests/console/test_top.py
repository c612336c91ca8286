"""`gfdit status` and `gfdit top`: what is drawn from afar is what the system itself would draw."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from small_worlds import make_cost, make_workload

from gfdit.cli.app import main
from gfdit.cli.console import ConsoleHeader
from gfdit.cli.frame import draw
from gfdit.cli.server_client import get_status
from gfdit.cli.watch import JournalSource, ServerSource, watch
from gfdit.core.events import Event, RequestArrived, WorkerJoined, WorkerLost
from gfdit.core.lifecycle import State
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.errors import GfditError
from gfdit.policy.store import load_policy
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.standing import standing
from gfdit.runtime.status import WINDOWS_S, About, Status, StatusBoard, picture_of
from gfdit.runtime.timeline import Timeline
from gfdit.sim.run import SimConfig, build_scheduler, simulate
from gfdit.units import to_ns

GPUS, WINDOW_S = 4, 20.0
STATUS = TypeAdapter(Status)
Capture = pytest.CaptureFixture[str]


@dataclass
class Afar:
    """Looks on as the console does, and compares what it would draw with what a status gives, as JSON."""

    scheduler: Scheduler

    def __post_init__(self) -> None:
        self.now = 0
        self.board = StatusBoard(About("m", "simulated", GPUS, WINDOW_S), self.scheduler, lambda: self.now)
        self.own = Timeline(GPUS, keep_s=1.25 * WINDOW_S, policy_of=lambda: self.scheduler.policy.name)
        self.statuses: list[Status] = []
        self.ticks = 0

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.now = now
        for observer in (self.board, self.own):
            observer.record(now, events, decision, tick_seconds)
        self.ticks += 1
        if self.ticks % 25 == 0:
            self.compare()

    def compare(self) -> None:
        status = STATUS.validate_json(STATUS.dump_json(self.board.status(accepting=True, detail=True)))
        picture = picture_of(status)
        policy = self.scheduler.policy
        header = ConsoleHeader("m", policy.name, policy.sha, GPUS, "simulated", "hint", WINDOW_S)
        look = partial(standing, self.scheduler, now=self.now)
        for width, height in ((80, 24), (160, 50)):
            here = draw(self.own, header, self.now, width, height, look=look)
            there = draw(picture.timeline, header, to_ns(status.now_s), width, height, look=picture.standings.get)
            assert there.text == here.text
        self.statuses.append(status)


@pytest.fixture(scope="module")
def seen() -> Afar:
    config = SimConfig(load_policy("slo"), make_workload(11, 60), "made", make_cost(), GPUS)
    (afar,) = simulate(config, lambda scheduler: (Afar(scheduler),)).observers
    assert isinstance(afar, Afar)
    return afar


def test_the_console_draws_the_same_from_a_status_as_on_the_spot(seen: Afar) -> None:
    assert len(seen.statuses) > 5  # each was compared, in two sizes
    assert any(status.queue.waiting for status in seen.statuses)


def test_counts_of_a_status_add_up(seen: Afar) -> None:
    for status in seen.statuses:
        assert status.queue.waiting + status.queue.paused + status.queue.running == len(status.requests)
        assert status.queue.running == sum(one.state is State.RUNNING for one in status.requests)
        assert status.workers.busy == tuple(sorted({rank for one in status.requests for rank in one.ranks}))
        ended = sum(status.totals.outcomes.values())
        assert status.totals.arrived == ended + len(status.requests)
        assert [one.seconds for one in status.attainment] == [*WINDOWS_S, None]
        assert status.attainment[-1].ended == ended >= status.attainment[0].ended
        for one in status.requests:
            assert (one.degree == 0) == (one.state is not State.RUNNING)
            assert one.wait_reason is None or one.degree == 0


def test_why_a_request_waits_and_its_slack_are_told(seen: Afar) -> None:
    rows = [one for status in seen.statuses for one in status.requests]
    assert {str(one.wait_reason) for one in rows if one.state is State.WAITING} <= {"no_free_gpu", "set_aside"}
    assert all((one.slack_s is None) == (one.deadline_s is None) for one in rows)


def test_ended_requests_are_forgotten_but_counted() -> None:
    scheduler = build_scheduler(load_policy("slo"), make_cost(), GPUS)
    board = StatusBoard(About("m", "", GPUS, WINDOW_S), scheduler, lambda: 0)
    board.record(0, [WorkerJoined(0, 0, 1), WorkerJoined(0, 1, 1)], Decision((), None), 0.0)
    board.record(9, [WorkerLost(9, 1, 1, "killed")], Decision((), None), 0.0)
    status = board.status(accepting=False)
    assert (status.workers.alive, status.workers.expected, status.accepting, status.recent) == ((0,), GPUS, False, None)


def test_a_request_whose_work_has_no_end_has_no_slack_but_a_row() -> None:
    """A degree that the cluster lacks makes the remaining time infinite, which JSON does not know."""
    scheduler = build_scheduler(load_policy("slo"), make_cost(), GPUS)
    board = StatusBoard(About("m", "", GPUS, WINDOW_S), scheduler, lambda: 0)
    request = make_workload(2, 1)[0]
    event = RequestArrived(request.arrival_ns, request)
    scheduler.observe(event)
    scheduler.trajectories[request.id].cost.rest_s[:] = float("inf")
    board.record(request.arrival_ns, [event], Decision((), None), 0.0)
    (row,) = json.loads(STATUS.dump_json(board.status(accepting=True)))["requests"]
    assert (row["id"], row["slack_s"], row["state"]) == (request.id, None, "waiting")


# ---- a server that answers with what was seen ---------------------------------------------------------------------


@contextmanager
def answering(answers: list[tuple[int, bytes]]) -> Iterator[str]:
    """A server that gives these answers, the last one again and again; its address."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, content = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_status_prints_lines_a_table_and_json(seen: Afar, capsys: Capture) -> None:
    status = max(seen.statuses, key=lambda status: len(status.requests))
    with answering([(200, STATUS.dump_json(status))]) as url:
        assert main(["status", "--url", url]) == 0
        shown = capsys.readouterr().out
        assert main(["status", "--url", url, "--json"]) == 0
        assert STATUS.validate_json(capsys.readouterr().out) == status
    assert f"policy    slo@1 ({status.policy.sha[:8]})" in shown
    assert f"{status.queue.running} running, {status.queue.paused} paused, {status.queue.waiting} waiting" in shown
    assert all(one.id in shown for one in status.requests)
    assert "no free gpu" in shown


def test_top_once_draws_the_frame_of_the_status(seen: Afar, capsys: Capture) -> None:
    status = seen.statuses[-1]
    with answering([(200, STATUS.dump_json(status))]) as url:
        assert main(["top", "--url", url, "--once", "--ascii"]) == 0
    shown = capsys.readouterr().out
    assert " gfdit  m on simulated   policy slo" in shown and "recent events" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_a_server_that_goes_away_leaves_the_last_picture(seen: Afar) -> None:
    with answering([(200, STATUS.dump_json(seen.statuses[-1]))]) as url:
        source = ServerSource(url)
        first = source.view()
    gone = source.view()
    assert (gone.timeline, gone.now) == (first.timeline, first.now)
    assert "cannot reach" in gone.message and "still trying" in gone.message


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ((503, b'{"error": {"message": "shutting down"}}'), "answered 503: shutting down"),
        ((404, b"<html>"), "answered 404"),
        ((200, b"{}"), "does not answer in the format `gfdit-status/1`"),
    ],
)
def test_other_servers_are_told_apart(answer: tuple[int, bytes], part: str) -> None:
    with answering([answer]) as url, pytest.raises(GfditError, match=part):
        get_status(url)


# ---- journals -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("top") / "run.sqlite"
    line = ["sim", "-p", "slo", "--workload", "burst", "--cost", "qwen-h20", "--gpus", "8", "--json"]
    assert main([*line, "--journal", str(path)]) == 0
    return path


def test_top_once_of_a_journal_shows_how_it_ended(journal: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["top", str(journal), "--once", "--ascii"]) == 0
    shown = capsys.readouterr().out
    assert "on time 22/22 100%" in shown and "busy 0/8" in shown and "(fallback)" not in shown


def test_a_replay_follows_the_clock_at_its_speed(journal: Path) -> None:
    ours = 100.0
    source = JournalSource(journal, speed=2.0, clock=lambda: ours)
    began = source.view().now
    seen_notes = []
    for ours in (105.0, 110.0, 1000.0):
        view = source.view()
        seen_notes.append(len(view.timeline.notes))
        if not view.over:
            assert view.now == began + to_ns(2 * (ours - 100.0))
            assert view.timeline.now <= view.now
    whole = Timeline.from_journal(JournalReader(journal), 8)
    assert view.over and view.timeline.totals == whole.totals and view.now == whole.now
    assert seen_notes == sorted(seen_notes)


def test_watch_writes_one_frame_when_nothing_can_be_redrawn(journal: Path) -> None:
    out = io.StringIO()
    watch(JournalSource(journal, 1.0, at_end=True), out, once=True, ascii_only=True, size=(100, 30))
    lines = out.getvalue().splitlines()
    assert 10 < len(lines) <= 30 and max(map(len, lines)) <= 100


def test_watch_takes_the_screen_until_the_journal_is_over(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    watch(JournalSource(journal, 1e6), out, once=False, ascii_only=False, size=(100, 30))
    screen, _, after = out.getvalue().rpartition("\x1b[?1049l")
    assert screen.startswith("\x1b[?1049h") and screen.count("recent events") >= 2
    assert "22/22" in after and "Ctrl-C" not in after


def test_top_takes_one_source(capsys: Capture) -> None:
    assert main(["top", "run.sqlite", "--url", "http://127.0.0.1:1"]) == 2
    assert "not both" in capsys.readouterr().err
