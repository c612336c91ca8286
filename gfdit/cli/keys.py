"""The keys of the console: how they come from a terminal, and what they do to what is shown. No drawing here.

`Controls` is a small state machine: a key goes in, sometimes an `Action` comes out. It never looks at a terminal, so
that every path through it can be tried without one.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

Choice = TypeVar("Choice", bound=StrEnum)


class Pane(StrEnum):
    """What the screen shows under the header."""

    ALL = "all"
    RANKS = "ranks"
    REQUESTS = "requests"
    EVENTS = "events"


class Sort(StrEnum):
    """By what requests are ordered; `urgency`: running, paused, waiting, each by deadline."""

    URGENCY = "urgency"
    ARRIVAL = "arrival"
    DEADLINE = "deadline"
    STEPS = "steps left"
    DEGREE = "degree"
    CLASS = "class"


class Mode(StrEnum):
    NORMAL = "normal"
    FILTER = "filter"  # a text is being typed
    DETAIL = "detail"  # one request
    CONFIRM = "confirm"  # whether to cancel it
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Action:
    """What the loop is to do. `cancel`: the request that was confirmed; None: leave."""

    cancel: str | None = None


HELP = (
    ("up down, k j", "choose a request"),
    ("enter", "open it: its groups step by step, and why it waited"),
    ("/", "show only requests with this text in id, class, model, state or reason to wait; empty: all"),
    ("s", "sort by urgency, arrival, deadline, steps left, degree, class"),
    ("tab, 1-4", "everything, ranks, requests, events"),
    ("c", "cancel the chosen request, after asking"),
    ("esc", "back, or forget the filter"),
    ("?", "this page"),
    ("q, Ctrl-C", "leave"),
)


@dataclass(slots=True)
class Controls:
    """`selected`: a request's id, None: nobody chose yet. `may_cancel`: whether what is watched can be told to."""

    may_cancel: bool = False
    mode: Mode = Mode.NORMAL
    pane: Pane = Pane.ALL
    sort: Sort = Sort.URGENCY
    filter: str = ""
    selected: str | None = None
    shown: Sequence[str] = field(default_factory=tuple)  # ids on the screen, from the top; the drawing tells
    _back: Mode = Mode.NORMAL

    def press(self, key: str) -> Action | None:
        """`key`: a character, or a name of `NAMES`."""
        match self.mode:
            case Mode.FILTER:
                self._type(key)
                return None
            case Mode.CONFIRM:
                return self._answer(key)
            case Mode.HELP:
                self.mode = self._back
                return Action() if key == "q" else None
            case _:
                return self._command(key)

    def _command(self, key: str) -> Action | None:
        match key:
            case "q":
                return Action()
            case "up" | "k":
                self._choose(-1)
            case "down" | "j":
                self._choose(1)
            case "enter" if self.selected is not None:
                self.mode = Mode.NORMAL if self.mode is Mode.DETAIL else Mode.DETAIL
            case "/":
                self.mode = Mode.FILTER
            case "s":
                self.sort = _after(Sort, self.sort)
            case "tab":
                self.pane = _after(Pane, self.pane)
            case "1" | "2" | "3" | "4":
                self.pane = list(Pane)[int(key) - 1]
            case "c" if self.may_cancel and self.selected is not None:
                self._back, self.mode = self.mode, Mode.CONFIRM
            case "?" | "h":
                self._back, self.mode = self.mode, Mode.HELP
            case "esc":
                self.filter = self.filter if self.mode is Mode.DETAIL else ""
                self.mode = Mode.NORMAL
            case _:
                pass
        return None

    def _choose(self, by: int) -> None:
        if not self.shown:
            return
        at = self.shown.index(self.selected) + by if self.selected in self.shown else 0
        self.selected = self.shown[max(0, min(len(self.shown) - 1, at))]

    def _type(self, key: str) -> None:
        match key:
            case "enter":
                self.mode = Mode.NORMAL
            case "esc":
                self.filter, self.mode = "", Mode.NORMAL
            case "backspace":
                self.filter = self.filter[:-1]
            case _ if len(key) == 1 and key.isprintable() and len(self.filter) < 60:
                self.filter += key
            case _:
                pass

    def _answer(self, key: str) -> Action | None:
        """Only `y` is a yes."""
        self.mode = self._back
        return Action(cancel=self.selected) if key == "y" else None

    @property
    def line(self) -> str:
        """The last line of the screen, where there is something to say; "" leaves it to the hint."""
        match self.mode:
            case Mode.FILTER:
                return f"/{self.filter}_"
            case Mode.CONFIRM:
                return f"cancel {self.selected}? y: yes, any other key: no"
            case _:
                told = [f"only `{self.filter}`"] if self.filter else []
                told += [f"by {self.sort}"] if self.sort is not Sort.URGENCY else []
                return ", ".join(told)


def _after(members: type[Choice], one: Choice) -> Choice:
    every = list(members)
    return every[(every.index(one) + 1) % len(every)]


# ---- from a terminal --------------------------------------------------------------------------------------------

NAMES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\r": "enter", b"\n": "enter",
    b"\t": "tab", b"\x1b": "esc", b"\x7f": "backspace", b"\x08": "backspace",
}  # fmt: skip


def decode(content: bytes) -> list[str]:
    """Keys of what a terminal sent; sequences that are not known are left out whole."""
    keys: list[str] = []
    while content:
        if content.startswith((b"\x1b[", b"\x1bO")):
            end = next((n for n in range(2, len(content)) if 0x40 <= content[n] <= 0x7E), len(content) - 1) + 1
            name = NAMES.get(content[:end])
            keys += [name] if name else []
            content = content[end:]
        elif content[:1] in NAMES:
            keys.append(NAMES[content[:1]])
            content = content[1:]
        else:
            run = content.partition(b"\x1b")[0]
            first = run.decode("utf-8", "ignore")[:1]
            keys += [first] if first.isprintable() and first else []
            content = content[max(1, len(first.encode())) :]
    return keys


class Keys:
    """Keys of standard input while it is read key by key. `wait`: those that come within `seconds`; none at all where
    standard input is no terminal."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @property
    def here(self) -> bool:
        """Whether any may come."""
        return self._descriptor is not None

    def wait(self, seconds: float) -> list[str]:
        """Returns as soon as there is one."""
        if self._descriptor is None:
            select.select([], [], [], seconds)
            return []
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        content = os.read(self._descriptor, 1024)
        if not content:  # its other end is closed: there will be no more
            self._descriptor = None
        return decode(content)


def _in_background(descriptor: int) -> bool:
    """Whether the system would stop us for touching the terminal."""
    try:
        return os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:
        return False  # it is not the one that controls us


@contextmanager
def reading() -> Iterator[Keys]:
    """Ctrl-C stays what it is; the terminal is as before afterwards."""
    descriptor = sys.stdin.fileno() if sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty() else None
    if descriptor is None or _in_background(descriptor):
        yield Keys(None)
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
