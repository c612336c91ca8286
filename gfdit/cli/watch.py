"""What `gfdit top` draws, and how: sources of pictures, and the loop that puts them on the screen.

A source is asked for the picture of this moment, as often as the screen is drawn; it paces itself by the wall clock
that it is given.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console as Terminal
from rich.live import Live

from gfdit.cli.console import FRAMES_PER_S, WINDOW_S, ConsoleHeader
from gfdit.cli.frame import Frame, draw
from gfdit.cli.server_client import get_status
from gfdit.core.events import Event
from gfdit.errors import GfditError
from gfdit.runtime.costfile import parse_cost_model
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.recipe import Recipe, recipe_from_json
from gfdit.runtime.records import TickRecord
from gfdit.runtime.standing import Standing
from gfdit.runtime.status import picture_of
from gfdit.runtime.timeline import Timeline
from gfdit.units import to_ns, to_s

HINT = "Ctrl-C leaves"


@dataclass(frozen=True, slots=True)
class View:
    """What to draw at one moment. `over`: nothing will change any more."""

    timeline: Timeline
    header: ConsoleHeader
    now: int
    look: Callable[[str], Standing | None]
    message: str = ""
    over: bool = False


class Source(Protocol):
    """Where views come from. Raises GfditError when the first one cannot be had."""

    def view(self) -> View: ...


class ServerSource:
    """A running server. One that stops answering leaves its last view on the screen, with a message."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._last: View | None = None

    def view(self) -> View:
        try:
            status = get_status(self._url, detail=True)
        except GfditError as error:
            if self._last is None:
                raise
            last = self._last
            return View(last.timeline, last.header, last.now, last.look, f"{error.message}; still trying")
        picture = picture_of(status)
        header = ConsoleHeader(
            model=status.model,
            policy=status.policy.name,
            policy_sha=status.policy.sha,
            ranks=status.workers.expected,
            device=status.device,
            hint=f"{self._url}{'' if status.accepting else ', draining'}; {HINT}",
            window_s=WINDOW_S if status.recent is None else status.recent.window_s,
        )
        self._last = View(picture.timeline, header, to_ns(status.now_s), picture.standings.get)
        return self._last


class JournalSource:
    """A journal, replayed at `speed`, or at once as it ended (`at_end`). Raises JournalError for a bad one."""

    def __init__(
        self, path: Path, speed: float, *, at_end: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._speed, self._at_end, self._clock = speed, at_end, clock
        self._reader = JournalReader(path)
        recipe = recipe_from_json(self._reader.meta)
        scale = recipe.about.get("time_scale")
        self._window_s = WINDOW_S * (scale if isinstance(scale, int | float) else 1.0)
        self._timeline = Timeline(recipe.gpus, keep_s=1.25 * self._window_s)
        self._ticks = self._read()
        self._next = next(self._ticks, None)
        self._name, self._header = path.name, _journal_header(recipe, self._window_s)
        self._origin: tuple[float, int] | None = None  # ours, and the journal's time that belongs to it

    def view(self) -> View:
        now = self._now()
        while self._next is not None and (self._at_end or self._next[1].now <= now):
            events, tick = self._next
            self._timeline.update(tick.now, events, tick.commands, tick.moves, tick.policy, tick.policy_news)
            self._next = next(self._ticks, None)
        over = self._next is None
        now = self._timeline.now if over else now
        speed = "" if self._speed == 1 else f" at {self._speed:g}x"
        hint = f"{self._name}{speed}, {'the end' if over else f'{to_s(now):.0f} s'}; {HINT}"
        return View(self._timeline, replace(self._header, hint=hint), now, lambda _: None, over=over)

    def _now(self) -> int:
        """The journal's time at this moment; it starts with its first tick."""
        if self._next is None:
            return self._timeline.now
        if self._origin is None:
            self._origin = (self._clock(), self._next[1].now)
        began, at = self._origin
        return at + to_ns((self._clock() - began) * self._speed)

    def _read(self) -> Iterator[tuple[list[Event], TickRecord]]:
        events: list[Event] = []
        for record in self._reader.records():
            if isinstance(record, TickRecord):
                yield events, record
                events = []
            else:
                events.append(record)
        self._reader.close()


def _journal_header(recipe: Recipe, window_s: float) -> ConsoleHeader:
    policy = recipe.scheduler().policy
    models = ", ".join(recipe.models or ()) or parse_cost_model(recipe.cost).name
    device = str(recipe.about.get("device") or "")
    return ConsoleHeader(models, policy.name, policy.sha, recipe.gpus, device, window_s=window_s)


def watch(source: Source, stream: TextIO, *, once: bool, ascii_only: bool, size: tuple[int, int]) -> None:
    """Draw until the source is over or Ctrl-C. `once`: one frame, as ordinary output, of `size` where the stream is no
    terminal."""
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    terminal = Terminal(file=stream, highlight=False, _environ=environ)
    plain = ascii_only or terminal.color_system is None or not terminal.encoding.startswith("utf")
    if once:
        width, height = terminal.size if terminal.is_terminal else size
        frame = _frame(source.view(), width, height, plain, closing=True)
        terminal.print(frame) if terminal.is_terminal else stream.write(frame.text)
        return
    view = source.view()  # what cannot be had is said before the screen is taken
    with Live(console=terminal, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        try:
            while True:
                width, height = terminal.size
                live.update(_frame(view, width, height, plain), refresh=True)
                if view.over:
                    break
                time.sleep(1 / FRAMES_PER_S)
                view = source.view()
        except KeyboardInterrupt:
            pass  # the way to leave
    width, height = terminal.size
    terminal.print(_frame(view, width, min(height, 24), plain, closing=True))


def _frame(view: View, width: int, height: int, ascii_only: bool, *, closing: bool = False) -> Frame:
    return draw(
        view.timeline, view.header, view.now, width, height, look=view.look, ascii_only=ascii_only,
        message=view.message, closing=closing,
    )  # fmt: skip
