"""The keys of the console: what each does, on screens of both sizes, on a real terminal, and against a real server."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stories import tell

from gfdit.api.policies import Control
from gfdit.api.server import HttpServer
from gfdit.cli.console import ConsoleHeader
from gfdit.cli.frame import draw
from gfdit.cli.keys import Action, Controls, Mode, Pane, Sort, decode
from gfdit.cli.server_client import command
from gfdit.cli.service import LiveService
from gfdit.cli.shipped import find_cost
from gfdit.core.work import Outcome, Request
from gfdit.live.system import LiveConfig, LiveSystem, start_live
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.timeline import Timeline

WAIT_S = 60
HEADER = ConsoleHeader("shapes", "slo", "3f2a9c1d77", 4, "cpu", "hint", window_s=24, attainment=(0.5, None, 1.0))


@pytest.fixture
def timeline() -> Timeline:
    timeline = Timeline(4)
    tell(timeline.record)
    return timeline


def screen(timeline: Timeline, controls: Controls, width: int = 80, height: int = 24) -> list[str]:
    frame = draw(timeline, HEADER, timeline.now, width, height, look=lambda _: None, ascii_only=True, controls=controls)
    assert len(frame.lines) == height
    assert all(sum(segment.cell_length for segment in line) == width for line in frame.lines)
    return frame.text.splitlines()


def press(controls: Controls, *keys: str) -> Action | None:
    action = None
    for key in keys:
        action = controls.press(key)
    return action


def test_bytes_of_a_terminal_become_keys() -> None:
    assert decode(b"a\x1b[A\x1b[B\r\t\x7f\x1b[5~q") == ["a", "up", "down", "enter", "tab", "backspace", "q"]
    assert decode(b"\x1b") == ["esc"]
    assert decode("ä?".encode()) == ["ä", "?"]
    assert decode(b"\xff\x00\x1b[") == []


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
@pytest.mark.parametrize("pane", Pane)
@pytest.mark.parametrize("mode", Mode)
def test_every_screen_fits(timeline: Timeline, width: int, height: int, pane: Pane, mode: Mode) -> None:
    controls = Controls(True, pane=pane)
    screen(timeline, controls)
    press(controls, "down", "down")
    controls.mode = mode
    assert screen(timeline, controls, width, height)[1].count("1/5/15 min 50% - 100%") == 1


def test_up_and_down_choose_among_what_is_shown(timeline: Timeline) -> None:
    controls = Controls()
    screen(timeline, controls)
    assert len(controls.shown) > 2
    press(controls, "down")
    assert controls.selected == controls.shown[0]
    press(controls, "j", "j", "k")
    assert controls.selected == controls.shown[1]
    press(controls, *["down"] * 50)
    assert controls.selected == controls.shown[-1]
    assert sum(line.startswith(">") for line in screen(timeline, controls)) == 1


def test_a_filter_leaves_what_it_names_and_esc_forgets_it(timeline: Timeline) -> None:
    controls = Controls()
    screen(timeline, controls)
    every, wanted = set(controls.shown), controls.shown[0]
    press(controls, "/", *wanted)
    assert screen(timeline, controls)[-1].startswith(f"/{wanted}_")
    press(controls, "q", "backspace", "enter")
    assert controls.mode is Mode.NORMAL and controls.filter == wanted
    screen(timeline, controls)
    assert wanted in controls.shown and set(controls.shown) < every
    press(controls, "esc")
    screen(timeline, controls)
    assert set(controls.shown) == every


def test_orders_go_round(timeline: Timeline) -> None:
    controls = Controls()
    for sort in (*list(Sort)[1:], Sort.URGENCY):
        press(controls, "s")
        screen(timeline, controls)
        assert controls.sort is sort
        if sort is Sort.ARRIVAL:
            live = [timeline.lives[name] for name in controls.shown if timeline.lives[name].end is None]
            arrivals = [life.request.arrival_ns for life in live]
            assert arrivals == sorted(arrivals)


def test_one_request_tells_its_groups(timeline: Timeline) -> None:
    controls = Controls()
    life = next(life for life in timeline.lives.values() if life.resizes and life.stints)
    screen(timeline, controls)
    controls.selected = life.request.id
    press(controls, "enter")
    text = "\n".join(screen(timeline, controls, 120, 50))
    assert f"request {life.request.id}" in text and "degree and ranks" in text
    for stint in life.stints:
        assert f"ranks {','.join(map(str, stint.ranks))}" in text
    press(controls, "esc")
    assert controls.mode is Mode.NORMAL


def test_cancelling_wants_a_yes_and_a_system_that_listens(timeline: Timeline) -> None:
    controls = Controls(may_cancel=True)
    screen(timeline, controls)
    assert press(controls, "c") is None and controls.mode is Mode.NORMAL, "nothing is chosen"
    press(controls, "down", "c")
    assert "y: yes" in screen(timeline, controls)[-1]
    assert press(controls, "n") is None and controls.mode is Mode.NORMAL
    assert press(controls, "c", "y") == Action(cancel=controls.selected)
    deaf = Controls()
    screen(timeline, deaf)
    press(deaf, "down", "c")
    assert deaf.mode is Mode.NORMAL


def test_help_names_every_key_and_q_leaves(timeline: Timeline) -> None:
    controls = Controls()
    press(controls, "?")
    text = "\n".join(screen(timeline, controls))
    assert all(word in text for word in ("enter", "sort", "cancel", "tab", "esc"))
    press(controls, "x")
    assert controls.mode is Mode.NORMAL
    assert press(controls, "q") == Action()


# ---- a real terminal, a real server -----------------------------------------------------------------------------


@contextmanager
def served() -> Iterator[tuple[LiveSystem, str]]:
    """Emulated workers behind HTTP that takes commands from this machine."""
    config = LiveConfig(load_policy("slo"), load_cost_model(find_cost("qwen-h20")), "emulated", workers=2)
    with start_live(config) as system:
        service, rollout = LiveService(system, None), system.rollout({})
        loop = threading.Thread(target=system.run, args=(service.observers, (rollout,)))
        loop.start()
        try:
            with HttpServer(service, "127.0.0.1", 0, control=Control(rollout)) as server:
                yield system, server.url
        finally:
            system.drain(cancel=True)
            loop.join(WAIT_S)


@pytest.mark.timeout(120)
def test_keys_on_a_terminal_cancel_a_request() -> None:
    with served() as (system, url):
        ticket = system.submit(Request("endless", "qwen-image", "any", 0, 512, 512, 2000, tokens=1024))
        cancel_from_a_terminal(url, "endless")
        assert ticket.wait(WAIT_S)
        assert ticket.progress.outcome is Outcome.CANCELLED
        status, content = command(url, "/gfdit/requests/endless/cancel", {})
        assert status == 404 and b"request_not_found" in content


def cancel_from_a_terminal(url: str, name: str) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2])}
    command_line = [sys.executable, "-m", "gfdit", "top", "--url", url]
    with subprocess.Popen(command_line, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        read_until(master, name.encode())
        os.write(master, b"jc")
        read_until(master, f"cancel {name}?".encode())
        os.write(master, b"y")
        read_until(master, b"is cancelled")
        os.write(master, b"q")
        read_until(master, b"")
        assert process.wait(WAIT_S) == 0
    assert termios.tcgetattr(slave)[:4] == before[:4], "the terminal is as it was"
    os.close(slave)
    os.close(master)


def read_until(master: int, wanted: bytes) -> None:
    """Read what the terminal shows until it contains that; b"": what there is now."""
    until, seen = time.monotonic() + WAIT_S, b""
    while time.monotonic() < until:
        if not select.select([master], [], [], 1.0)[0]:
            if not wanted:
                return
            continue
        seen += os.read(master, 1 << 16)
        if wanted and wanted in seen:
            return
    raise AssertionError(f"{wanted!r} was never shown: {seen[-500:]!r}")
