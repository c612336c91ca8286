"""What the console shows: frames and log lines against golden files, layouts for any size, and a real terminal."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from literal_policies import EdfBestFit
from rich.segment import Segment
from screens import HEADER
from small_worlds import make_cost, make_request, make_workload
from stories import tell

from gfdit.cli import strip
from gfdit.cli.console import Console, ConsoleHeader, PlainLog, make_console
from gfdit.cli.frame import Frame, draw, shown_window
from gfdit.cli.strip import Empty, StripPlan, plan_strip
from gfdit.core.events import WorkerJoined
from gfdit.core.scheduler import Scheduler
from gfdit.runtime.standing import standing
from gfdit.runtime.timeline import Stint, Timeline
from gfdit.sim.run import SimConfig, simulate
from gfdit.units import to_ns

GOLDEN = Path(__file__).parent / "golden"
PATIENCE_S = 20


def golden(name: str, text: str) -> None:
    """Equal to the file; `GFDIT_UPDATE_GOLDEN=1` writes it anew, to be read before it is committed."""
    path = GOLDEN / name
    if os.environ.get("GFDIT_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def told(keep_s: float | None = None) -> Timeline:
    timeline = Timeline(4, keep_s=keep_s)
    tell(timeline.record)
    return timeline


def frame_of(
    timeline: Timeline, width: int, height: int, *, ascii_only: bool = True, header: ConsoleHeader = HEADER
) -> Frame:
    return draw(timeline, header, timeline.now, width, height, look=lambda _: None, ascii_only=ascii_only)


def columns(line: tuple[Segment, ...]) -> int:
    return sum(segment.cell_length for segment in line)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
@pytest.mark.parametrize("ascii_only", [True, False], ids=["ascii", "unicode"])
def test_frames(width: int, height: int, ascii_only: bool) -> None:
    kind = "ascii" if ascii_only else "unicode"
    text = frame_of(told(), width, height, ascii_only=ascii_only).text
    assert not ascii_only or text.isascii()
    golden(f"frame_{width}x{height}_{kind}.txt", text)


def test_plain_lines() -> None:
    out = io.StringIO()
    with make_console(HEADER, stream=out) as log:
        assert isinstance(log, PlainLog)
        tell(log.record)
        log.say("draining")
    golden("plain.txt", out.getvalue())


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 20, 64, 200])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 15), (200, 60), (100, 30), (40, 10)])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_frame_fits_its_screen(ranks: int, width: int, height: int, ascii_only: bool) -> None:
    timeline = Timeline(ranks)
    tell(timeline.record)
    header = ConsoleHeader("m" * 30, "p" * 30, "0" * 40, ranks, "emulated", "h" * 300)
    frame = draw(timeline, header, timeline.now, width, height, look=lambda _: None, ascii_only=ascii_only)
    assert len(frame.lines) == height
    assert {columns(line) for line in frame.lines} == {width}


def test_the_strip_shows_a_group_growing_and_shrinking() -> None:
    """The number of rows that `big-1` fills, bucket by bucket (1 s each), is its degree."""
    timeline = told()
    edges = strip.bucket_edges(timeline.now - 1, to_ns(24), 24)
    rows = [strip.lane_holders(timeline, rank, edges, timeline.now) for rank in range(4)]
    held = [
        sum(isinstance(row[n], Stint) and row[n].life.request.id == "big-1" for row in rows)  # type: ignore[union-attr]
        for n in range(24)
    ]
    assert held == [0, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0]
    gone = [n for n in range(24) if rows[1][n] is Empty.GONE]
    assert gone == [16, 17, 18]


def test_a_finished_bucket_never_changes_while_time_goes_on() -> None:
    whole: list[list[object]] = []
    timeline = Timeline(4)
    at: list[int] = []

    def record(now: int, *rest: object) -> None:
        timeline.record(now, *rest)  # type: ignore[arg-type]
        at.append(now)
        edges = strip.bucket_edges(now, to_ns(30), 30)
        finished = [n for n in range(30) if edges[n] >= 0 and edges[n + 1] <= now]
        names = [
            [
                (edges[n], holder.life.request.id if isinstance(holder, Stint) else holder)
                for n in finished
                if (holder := strip.lane_holders(timeline, rank, edges, now)[n])
            ]
            for rank in range(4)
        ]
        whole.append([dict(row) for row in names])

    tell(record)
    last = whole[-1]
    for earlier in whole:
        for rank in range(4):
            assert earlier[rank].items() <= last[rank].items()  # type: ignore[attr-defined]
    assert at[-1] == to_ns(24)


def test_layouts_of_the_strip() -> None:
    assert plan_strip(4, 12, ascii_only=False) == StripPlan(1, False, 3)
    assert plan_strip(8, 10, ascii_only=False) == StripPlan(1, False, 1)
    assert plan_strip(16, 10, ascii_only=False) == StripPlan(1, True, 1)
    assert plan_strip(64, 10, ascii_only=False) == StripPlan(4, True, 1)
    assert plan_strip(64, 10, ascii_only=True) == StripPlan(7, False, 1)
    for ranks in range(1, 300):
        for room in (1, 2, 5, 10, 32):
            for ascii_only in (True, False):
                assert plan_strip(ranks, room, ascii_only=ascii_only).lines(ranks) <= room


def test_half_lines_carry_two_ranks() -> None:
    timeline = told()
    lines = strip.strip_lines(timeline, StripPlan(1, True, 1), 52, to_ns(24), timeline.now - 1, ascii_only=False)
    assert len(lines) == 2
    (upper, lower), blocks = (timeline.lives["late-4"], timeline.lives["big-1"]), lines[1]
    styles = [(segment.text[0], str(segment.style)) for segment in blocks if segment.text[0] in "▀▄"]
    both = (strip.colour_of(upper.letter), strip.colour_of(lower.letter))
    assert ("▀", f"{both[0]} on {both[1]}") in styles  # 16 s: late-4 on rank 2, big-1 on rank 3
    assert ("▄", both[1]) in styles  # 17 s: only rank 3 is busy


def test_a_bounded_timeline_draws_the_same_picture() -> None:
    """What the console forgets, nobody would have seen."""
    whole, bounded = Timeline(4), Timeline(4, keep_s=1.25 * 0.5)
    header = ConsoleHeader("m", "p", "0", 4, window_s=0.5)
    pairs: list[tuple[str, str]] = []

    class Compare:
        def record(self, now: int, *_: object) -> None:
            texts = [
                "\n".join(draw(t, header, now, 100, 20, look=lambda _: None).text.splitlines()[:15])
                for t in (whole, bounded)
            ]
            pairs.append((texts[0], texts[1]))

    simulate(SimConfig(EdfBestFit(), make_workload(3, 50), "made", make_cost(), 4), [whole, bounded, Compare()])
    assert len(pairs) > 100
    assert all(one == other for one, other in pairs)


def test_slack_and_reasons_come_from_the_schedulers_books() -> None:
    frames: list[str] = []

    def observers(scheduler: Scheduler) -> list[object]:
        console = Console(ConsoleHeader("m", "edf", "0" * 8, 4), scheduler=scheduler, ascii=True, stream=io.StringIO())

        class Look:
            def record(self, now: int, *_: object) -> None:
                frames.append(console.frame(100, 40).text)
                for request_id, t in scheduler.trajectories.items():
                    seen = standing(scheduler, request_id, now)
                    assert seen is not None and seen.state is t.state
                    assert (seen.slack_s is None) == (t.deadline_ns is None)

        return [console, Look()]

    simulate(SimConfig(EdfBestFit(), make_workload(6), "made", make_cost(), 4), observers)  # type: ignore[arg-type]
    assert any("no free gpu" in frame for frame in frames)
    assert any(" -" in line and " s running" in line for frame in frames for line in frame.splitlines())


def test_the_slack_of_an_untouched_request_is_its_budget_less_its_shortest_time() -> None:
    seen: list[float] = []
    request = make_request(1, 0.4, slo_s=1.5)
    scheduler_of: list[Scheduler] = []

    class Look:
        def record(self, now: int, events: object, decision: object, seconds: float) -> None:
            found = standing(scheduler_of[0], request.id, now)
            if found is not None and found.slack_s is not None and not seen:
                seen.append(found.slack_s - (request.arrival_ns - now) / 1e9)

    def observers(scheduler: Scheduler) -> list[Look]:
        scheduler_of.append(scheduler)
        return [Look()]

    simulate(SimConfig(EdfBestFit(), [request], "made", make_cost(), 4), observers)
    estimator = scheduler_of[0].estimator
    assert seen == [pytest.approx(1.5 - estimator.expand(request).alone_s, abs=1e-9)]


def test_workers_that_are_missing_show() -> None:
    timeline = Timeline(3)
    joined = [WorkerJoined(0, rank, 0) for rank in (0, 2)]
    timeline.update(to_ns(0), joined, (), ())
    timeline.update(to_ns(10), (), (), ())
    header = ConsoleHeader("m", "p", "0", 3, window_s=20)
    text = draw(timeline, header, timeline.now, 80, 24, look=lambda _: None, ascii_only=True).text
    assert "workers 2/3" in text
    assert "xxxxx" in next(line for line in text.splitlines() if line.startswith("1 "))


# ---- a real terminal --------------------------------------------------------------------------------------------


def test_a_terminal_gets_the_full_screen_and_a_pipe_does_not() -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        assert isinstance(make_console(HEADER, stream=stream), Console)
        assert isinstance(make_console(HEADER, stream=stream, plain=True), PlainLog)
    os.close(controller)
    assert isinstance(make_console(HEADER, stream=io.StringIO()), PlainLog)


class Tmux:
    """One detached terminal on a server of its own."""

    def __init__(self, folder: Path) -> None:
        self._base = ["tmux", "-S", str(folder / "s"), "-f", "/dev/null"]

    def do(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._base, *arguments], check=True, capture_output=True, text=True, timeout=PATIENCE_S
        ).stdout

    def screen(self) -> str:
        return self.do("capture-pane", "-p", "-t", "t")

    def wait_for(self, there: Callable[[str], bool]) -> str:
        """The screen once it is `there`; the last one seen when patience ends."""
        until = time.monotonic() + PATIENCE_S
        while not there(screen := self.screen()) and time.monotonic() < until:
            time.sleep(0.05)
        return screen


@pytest.fixture
def tmux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Tmux(tmp_path_factory.mktemp("t"))
    yield terminal
    subprocess.run([*terminal._base, "kill-server"], check=False, capture_output=True)


def test_on_a_terminal_it_follows_the_size_and_leaves_its_last_frame(tmux: Tmux) -> None:
    here = Path(__file__).parent
    environ = f"TERM=xterm-256color COLUMNS=70 LINES=20 PYTHONPATH={here.parents[1]}:{here}"
    command = f"trap : INT; env {environ} {sys.executable} {here / 'screens.py'} --ascii; exec cat"
    tmux.do("new-session", "-d", "-s", "t", "-x", "80", "-y", "24", command)
    keyed = replace(HEADER, attainment=(1 / 3,) * 3, hint=f"{HEADER.hint}; ? for keys")
    small, large = (frame_of(told(), *size, header=keyed).text for size in ((80, 24), (200, 60)))
    assert tmux.wait_for(lambda screen: screen == small) == small
    tmux.do("resize-window", "-t", "t", "-x", "200", "-y", "60")
    assert tmux.wait_for(lambda screen: screen == large) == large
    tmux.do("resize-window", "-t", "t", "-x", "80", "-y", "24")
    assert tmux.wait_for(lambda screen: screen == small) == small
    tmux.do("send-keys", "-t", "t", "?")
    assert "this page" in tmux.wait_for(lambda screen: "this page" in screen)
    tmux.do("send-keys", "-t", "t", "C-c")
    left = tmux.wait_for(lambda screen: "recent events" in screen and HEADER.hint not in screen)
    assert HEADER.hint not in left
    assert small.splitlines()[2] in left
    tmux.do("send-keys", "-t", "t", "echoed", "Enter")  # the terminal is as it was
    assert tmux.wait_for(lambda screen: screen.count("echoed") == 2).count("echoed") == 2


@pytest.mark.parametrize(
    ("most_s", "elapsed_s", "shown"),
    [(60, 5, 60), (60, 500, 60), (600, 5, 75), (600, 80, 150), (600, 400, 600), (600, 9000, 600), (30, 1, 30)],
)
def test_the_strip_shows_all_that_happened_and_no_more_than_it_must(
    most_s: float, elapsed_s: int, shown: float
) -> None:
    assert shown_window(most_s, to_ns(elapsed_s)) == shown
