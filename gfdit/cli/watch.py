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
from urllib.parse import quote

from rich.console import Console as Terminal
from rich.live import Live

from gfdit.cli.console import FRAMES_PER_S, WINDOW_S, ConsoleHeader
from gfdit.cli.frame import Frame, draw
from gfdit.cli.keys import Controls, Keys, reading
from gfdit.cli.server_client import command, get_status, refusal
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

HINT = "? for keys, q leaves"


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

    @property
    def may_cancel(self) -> bool: ...
    def view(self) -> View: ...
    def cancel(self, request_id: str) -> str:
        """What came of it, for people."""
        ...


class ServerSource:
    """A running server. One that stops answering leaves its last view on the screen, with a message."""

    may_cancel = True

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
            attainment=tuple(one.share for one in status.attainment if one.seconds is not None),
        )
        self._last = View(picture.timeline, header, to_ns(status.now_s), picture.standings.get)
        return self._last

    def cancel(self, request_id: str) -> str:
        try:
            status, content = command(self._url, f"/gfdit/requests/{quote(request_id, safe='')}/cancel", {})
        except GfditError as error:
            return error.message
        return f"{request_id} is cancelled" if status == 200 else refusal(status, content)


class JournalSource:
    """A journal, replayed at `speed`, or at once as it ended (`at_end`). Raises JournalError for a bad one."""

    may_cancel = False

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

    def cancel(self, request_id: str) -> str:
        return "what is over cannot be cancelled"

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
    """Draw until somebody leaves, or the source is over and nobody can press keys. `once`: one frame, as ordinary
    output, of `size` where the stream is no terminal."""
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    terminal = Terminal(file=stream, highlight=False, _environ=environ)
    plain = ascii_only or terminal.color_system is None or not terminal.encoding.startswith("utf")
    if once:
        width, height = terminal.size if terminal.is_terminal else size
        frame = _frame(source.view(), width, height, plain, closing=True)
        terminal.print(frame) if terminal.is_terminal else stream.write(frame.text)
        return
    view = source.view()  # what cannot be had is said before the screen is taken
    controls = Controls(may_cancel=source.may_cancel)
    screen = Live(console=terminal, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with reading() as keys, screen as live:
        view = _interact(source, view, controls, keys, terminal, live, plain)
    width, height = terminal.size
    terminal.print(_frame(view, width, min(height, 24), plain, closing=True))


def _interact(
    source: Source, view: View, controls: Controls, keys: Keys, terminal: Terminal, live: Live, plain: bool
) -> View:
    """Draw, a few times a second and after every key, until somebody leaves; the last view. What is over stays on the
    screen for those who have keys."""
    message, due = "", time.monotonic() + 1 / FRAMES_PER_S
    try:
        while True:
            shown = replace(view, message=message) if message else view
            width, height = terminal.size
            live.update(_frame(shown, width, height, plain, controls=controls), refresh=True)
            if view.over and not keys.here:
                return view
            for key in keys.wait(max(0.0, due - time.monotonic())):
                action, message = controls.press(key), ""
                if action is not None and action.cancel is None:
                    return view
                if action is not None and action.cancel is not None:
                    message = source.cancel(action.cancel)
            if time.monotonic() >= due:  # keys alone are answered from what is known
                view, due = source.view(), time.monotonic() + 1 / FRAMES_PER_S
    except KeyboardInterrupt:
        return view  # the other way to leave


def _frame(
    view: View, width: int, height: int, ascii_only: bool, *, closing: bool = False, controls: Controls | None = None
) -> Frame:
    return draw(
        view.timeline, view.header, view.now, width, height, look=view.look, ascii_only=ascii_only,
        message=view.message, closing=closing, controls=controls,
    )  # fmt: skip
