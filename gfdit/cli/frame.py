"""One frame of the console: a pure function of a timeline, a time and a terminal's size.

From the top: two lines of header, the strip with its time axis, the requests, recent events, a line for hints. The
strip gets the room it needs up to three fifths of what is left; then events get a third, requests the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console as Terminal
from rich.console import ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from gfdit.cli import panes, strip
from gfdit.cli.keys import Controls, Mode, Pane
from gfdit.cli.notes import STYLES, clause
from gfdit.core.lifecycle import TERMINAL, State
from gfdit.core.work import Stage
from gfdit.runtime.standing import Standing
from gfdit.runtime.timeline import Life, Note, NoteKind, Timeline
from gfdit.units import to_ns, to_s

if TYPE_CHECKING:
    from gfdit.cli.console import ConsoleHeader

Look = Callable[[str], Standing | None]
SPARKS, SPARKS_ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
SHORTEST_WINDOW_S = 60.0
SPARK_CELLS = 16
_ORDER = {State.RUNNING: 0, State.READY: 0, State.PAUSED: 1, State.WAITING: 2}


@dataclass(frozen=True, slots=True)
class Frame:
    """Lines of segments, none wider than the screen it was drawn for."""

    lines: tuple[tuple[Segment, ...], ...]

    def __rich_console__(self, terminal: Terminal, options: ConsoleOptions) -> RenderResult:
        for n, line in enumerate(self.lines):
            if n:
                yield Segment.line()
            yield from line

    @property
    def text(self) -> str:
        """Without styles; blanks at line ends are cut."""
        return "\n".join("".join(segment.text for segment in line).rstrip() for line in self.lines) + "\n"


@dataclass(frozen=True, slots=True)
class Columns:
    """Widths of the request table; `steps` and `degree` are those of the bars."""

    id: int
    class_: int
    size: int
    steps: int
    degree: int


_NARROW = Columns(id=10, class_=6, size=9, steps=6, degree=8)
_MEDIUM = Columns(id=20, class_=8, size=11, steps=10, degree=8)
_WIDE = Columns(id=28, class_=12, size=14, steps=20, degree=16)


@dataclass(frozen=True, slots=True)
class Rooms:
    """How many lines each part gets."""

    strip: int
    requests: int
    events: int


def strip_room(height: int) -> int:
    """Lines that the strip may take at most: three fifths of those that can be shared out."""
    return max(1, max(3, height - 6) * 3 // 5)


def share_out(height: int, ranks: int, plan_lines: Callable[[int], int], pane: Pane = Pane.ALL) -> Rooms:
    """`plan_lines(room)`: lines that the strip takes of `room`. Header (2), axis, titles (2) and hint are fixed; one
    part that has the screen for itself needs less."""
    match pane:
        case Pane.RANKS:
            return Rooms(plan_lines(max(1, height - 4)), 0, 0)
        case Pane.REQUESTS:
            return Rooms(0, max(1, height - 4), 0)
        case Pane.EVENTS:
            return Rooms(0, 0, max(1, height - 4))
        case Pane.ALL:
            pass
    free = max(3, height - 6)
    taken = plan_lines(strip_room(height))
    events = max(1, min(12, (free - taken) // 3))
    return Rooms(taken, max(1, free - taken - events), events)


def draw(
    timeline: Timeline,
    header: ConsoleHeader,
    now: int,
    width: int,
    height: int,
    *,
    look: Look,
    ascii_only: bool = False,
    message: str = "",
    closing: bool = False,
    controls: Controls | None = None,
) -> Frame:
    """The whole screen. `look` tells how a live request stands, if anyone knows; `message` takes the hint's place.
    `controls`: what the keys say is to be shown; they learn which requests are."""
    header = replace(header, window_s=shown_window(header.window_s, now - (timeline.began or 0)))
    pen = _Pen(timeline, header, now, width, look, ascii_only, controls or Controls())
    lines = [pen.line(pen.identity()), pen.line(pen.figures())]
    room = max(1, height - len(lines) - (not closing))
    match pen.controls.mode:
        case Mode.HELP:
            lines += [pen.line(row) for row in panes.help_lines(width, room)]
        case Mode.DETAIL:
            life = timeline.lives.get(pen.controls.selected or "")
            rows = panes.detail_lines(timeline, life, look, now, width, room, ascii_only)
            lines += [pen.line(row) for row in rows]
        case _:
            lines += _parts(pen, height)
    if not closing:
        lines = lines[: height - 1] + [pen.line(Text("")) for _ in range(height - 1 - len(lines))]
        lines.append(pen.line(pen.last(message)))
    return Frame(tuple(tuple(line) for line in lines[:height]))


def _parts(pen: _Pen, height: int) -> list[list[Segment]]:
    """Strip, requests and events, or the one of them that has the screen."""
    timeline, pane = pen.timeline, pen.controls.pane
    ranks = len(timeline.ranks)

    def lines_of(room: int) -> int:
        return strip.plan_strip(ranks, room, ascii_only=pen.ascii).lines(ranks)

    rooms = share_out(height, ranks, lines_of, pane)
    lines: list[list[Segment]] = []
    if pane in (Pane.ALL, Pane.RANKS):
        most = strip_room(height) if pane is Pane.ALL else max(1, height - 4)
        plan = strip.plan_strip(ranks, most, ascii_only=pen.ascii)
        window = to_ns(pen.header.window_s)
        lines += strip.strip_lines(timeline, plan, pen.width, window, pen.now, ascii_only=pen.ascii)
        lines.append(pen.line(pen.axis(strip.label_width(timeline.ranks, plan))))
    if pane in (Pane.ALL, Pane.REQUESTS):
        lines.append(pen.line(pen.table_head()))
        lines += [pen.line(row) for row in pen.requests(rooms.requests)]
    if pane in (Pane.ALL, Pane.EVENTS):
        lines.append(pen.line(Text("recent events".ljust(pen.width), "reverse dim")))
        lines += [pen.line(row) for row in pen.events(rooms.events)]
    return lines


def shown_window(most_s: float, elapsed_ns: int) -> float:
    """How far back the strip reaches: `most_s` halved as long as all that has happened still fits, but a minute at
    least. Halving, so that the picture stays put between two changes."""
    window = most_s
    while window / 2 >= SHORTEST_WINDOW_S and to_ns(window / 2) >= elapsed_ns:
        window /= 2
    return window


class _Pen:
    """Draws the text parts of one frame."""

    def __init__(
        self,
        timeline: Timeline,
        header: ConsoleHeader,
        now: int,
        width: int,
        look: Look,
        ascii_only: bool,
        controls: Controls,
    ) -> None:
        self.timeline, self.header, self.now, self.controls = timeline, header, now, controls
        self.width, self.look, self.ascii = width, look, ascii_only
        self._terminal = Terminal(width=width, color_system="truecolor", legacy_windows=False)
        self.wide = width >= 100
        self.gap = "   " if self.wide else "  "
        self.columns = _WIDE if width >= 140 else _MEDIUM if self.wide else _NARROW

    def line(self, text: Text) -> list[Segment]:
        """Cut or padded to the width of the screen."""
        text.truncate(self.width, overflow="crop" if self.ascii else "ellipsis", pad=True)
        return list(text.render(self._terminal, end=""))

    def last(self, message: str) -> Text:
        """What a key asks for, a message, or the hint."""
        said = self.controls.line
        if said and self.controls.mode is not Mode.NORMAL:
            return Text(said, "bold")
        if message:
            return Text(message, "bold")
        return Text(f"{said}; {self.header.hint}" if said else self.header.hint, "dim")

    # ---- header and axis ----------------------------------------------------------------------------------------

    def identity(self) -> Text:
        header, timeline = self.header, self.timeline
        policy = timeline.policy or header.policy
        appointed, _, which = timeline.swapped_to.partition("@")
        which = f"@{which}" if which else f" {header.policy_sha[:8]}"
        device = f" on {header.device}" if header.device and self.wide else ""
        alive = len(timeline.alive)
        return Text.assemble(
            (" gfdit ", "bold reverse"), " ", (header.model, "bold"), device, self.gap, "policy ", (policy, "bold"),
            (which if policy == (appointed or header.policy) else " (fallback)", "dim"), self.gap, "workers ",
            (f"{alive}/{header.ranks}", "bold" if alive >= header.ranks else "bold red"), self.gap,
            "up ", _duration(0 if timeline.began is None else self.now - timeline.began),
        )  # fmt: skip

    def figures(self) -> Text:
        timeline = self.timeline
        totals = timeline.totals
        share = totals.attainment
        sample = timeline.samples[-1] if timeline.samples else None
        text = Text(" on time ")
        text.append(f"{totals.on_time}/{totals.ended}", "bold")
        if share is not None:
            text.append(
                f" {share:.0%}", "bold green" if share >= 0.95 else "bold yellow" if share >= 0.7 else "bold red"
            )
        if self.header.attainment:
            shares = " ".join("-" if one is None else f"{one:.0%}" for one in self.header.attainment)
            text.append(f"{self.gap if self.wide else ' '}1/5/15 min ", "dim")
            text.append(shares)
        text.append(f"{self.gap}busy ")
        text.append(f"{sample.busy if sample else 0}/{len(timeline.ranks)}", "bold")
        text.append(f"{self.gap}queue ")
        text.append(str(sample.queue if sample else 0), "bold")
        if self.wide or not self.header.attainment:
            text.append(f" {self._spark()}", "cyan")
        kinds = (NoteKind.GROW, NoteKind.SHRINK, NoteKind.MIGRATE, NoteKind.PAUSE)
        counts = {kind.value: totals.moves.get(kind, 0) for kind in kinds}  # type: ignore[call-overload]
        text.append(
            self.gap + self.gap[1:].join(f"{name} {count}" for name, count in counts.items() if count or name == "grow")
        )
        return text

    def _spark(self) -> str:
        """Queue length over the window, largest value of each bucket."""
        edges = strip.bucket_edges(self.now, to_ns(self.header.window_s), SPARK_CELLS)
        values = [0] * SPARK_CELLS
        samples = list(self.timeline.samples)
        for n, sample in enumerate(samples):
            until = samples[n + 1].at if n + 1 < len(samples) else self.now + 1
            first = max(0, (sample.at - edges[0]) // (edges[1] - edges[0]))
            last = min(SPARK_CELLS - 1, (until - 1 - edges[0]) // (edges[1] - edges[0]))
            for bucket in range(first, last + 1):
                values[bucket] = max(values[bucket], sample.queue)
        signs = SPARKS_ASCII if self.ascii else SPARKS
        top = max(1, *values)
        return "".join(signs[-(-value * (len(signs) - 1) // top)] for value in values)

    def axis(self, margin: int) -> Text:
        """Time under the strip: clock seconds back from now."""
        cells = max(1, self.width - margin)
        marks = [" "] * cells
        window = self.header.window_s
        step = next((s for s in _TICKS if s * 6 >= window), window / 4)
        stamp = f"{to_s(self.now):.1f} s"
        for n in range(1, int(window / step) + 1):
            mark = f"-{_seconds(n * step)}"
            at = cells - round(cells * n * step / window)
            if 0 <= at < cells - len(mark) - len(stamp):
                marks[at : at + len(mark)] = mark
        marks[-len(stamp) :] = stamp[-cells:]
        return Text(" " * margin + "".join(marks), "dim")

    # ---- requests -----------------------------------------------------------------------------------------------

    def table_head(self) -> Text:
        c = self.columns
        cells = (
            "  ", "request".ljust(c.id), "class".ljust(c.class_), "size".ljust(c.size), "step".ljust(8 + c.steps),
            "degree".ljust(3 + c.degree), "  slack ", "state",
        )  # fmt: skip
        return Text(" ".join(cells).ljust(self.width), "reverse dim")

    def requests(self, room: int) -> list[Text]:
        """Running, then paused, then waiting, each by deadline; the last ones that ended fill what is left."""
        live = panes.chosen(sorted(self.timeline.live(), key=_urgency), self.look, self.controls)
        over = len(live) - room
        shown = _around(live, self.controls.selected, room - 1) if over > 0 else live
        rows = [self._request(life) for life in shown]
        if over > 0:
            rows.append(Text(f"   and {len(live) - len(shown)} more", "dim"))
        past = panes.chosen([life for life in reversed(self.timeline.ended()) if life.end], self.look, self.controls)
        shown = [*shown, *past[: room - len(rows)]]
        rows.extend(self._request(life) for life in shown[len(rows) :] if life.end is not None)
        # all of them can be chosen, also those for which there is no room
        self.controls.shown = [life.request.id for life in (live if over > 0 else shown)]
        return rows + [Text("")] * (room - len(rows))

    def _request(self, life: Life) -> Text:
        request = life.request
        standing = None if life.end is not None else self.look(request.id)
        name = standing.class_name if standing else request.class_name
        total = standing.steps_total if standing else request.steps
        size = f"{request.width}x{request.height}" + ("" if request.frames == 1 else f"x{request.frames}")
        row = Text(" ")
        if life.letter:
            row.append(life.letter, Style.parse("bold") if self.ascii else _letter_style(life.letter))
        else:
            row.append(" ")
        c = self.columns
        row.append(f" {_cut(request.id, c.id)} {_cut(name, c.class_, keep_end=False)} {_cut(size, c.size)} ")
        row.append_text(self._steps(life, total))
        row.append(" ")
        row.append_text(self._degree(life))
        row.append(" ")
        row.append_text(self._slack(life, standing))
        row.append(" ")
        row.append_text(self._state(life, standing))
        if life.end is not None:
            row.stylize("dim")
        if request.id == self.controls.selected:
            row.stylize("reverse")
            row = Text(">") + row[1:] if self.ascii else row
        return row

    def _steps(self, life: Life, total: int) -> Text:
        done = min(life.steps_done, total)
        cells = self.columns.steps
        share = cells * done / total
        full = int(share)
        if self.ascii:
            bar = ("#" * full).ljust(cells, "-")
        else:
            part = " ▏▎▍▌▋▊▉"[int((share - full) * 8)] if full < cells else ""
            bar = ("█" * full + part).ljust(cells)
        return Text.assemble(f"{done:>3}/{total:<3} ", (bar, "" if self.ascii else "on grey19"))

    def _degree(self, life: Life) -> Text:
        cells = self.columns.degree
        degree = len(life.group)
        if not degree:
            return Text(" " * (3 + cells))
        sign = "#" if self.ascii else "▮"
        bars = sign * degree if degree <= cells else sign * (cells - 1) + "+"
        return Text.assemble(
            (f"{degree:>2} ", "bold"), (bars.ljust(cells), "" if self.ascii else strip.colour_of(life.letter))
        )

    def _slack(self, life: Life, standing: Standing | None) -> Text:
        """Of a live request with a deadline; without the scheduler's books, the time left until the deadline."""
        slack = standing.slack_s if standing is not None else None
        if slack is None and life.deadline_ns is not None:
            slack = to_s(life.deadline_ns - self.now)
        if life.end is not None or slack is None:
            return Text(" " * 8)
        budget = 0.0 if life.deadline_ns is None else to_s(life.deadline_ns - life.request.arrival_ns)
        style = "bold red" if slack < 0 else "yellow" if slack < 0.1 * budget else "green"
        return Text(f"{slack:>+6.1f} s"[:8].rjust(8), style)

    def _state(self, life: Life, standing: Standing | None) -> Text:
        if life.end is not None:
            text, style = _ended(life)
            return Text(text, style)
        state = life.state
        if state is State.RUNNING:
            stage = life.stints[-1].stage
            text = "running" if stage is Stage.DENOISE else str(stage)
            if standing is not None and standing.cap is not None:
                text += f", to give way (cap {standing.cap})"
            return Text(text)
        reason = standing.wait_reason if standing is not None else None
        why = "" if reason is None else str(reason).replace("_", " ")
        if why and self.columns is _WIDE:
            why = f"{state}: {why}"
        return Text(why or str(state), "yellow")

    # ---- events -------------------------------------------------------------------------------------------------

    def events(self, room: int) -> list[Text]:
        """The newest last, so that they read downwards; arrivals only when nothing better fills the room."""
        notes = list(self.timeline.notes)
        telling = [note for note in notes if note.kind not in (NoteKind.ARRIVED, NoteKind.JOINED)]
        shown = (telling if len(telling) >= room else notes)[-room:]
        return [self._event(note) for note in shown] + [Text("")] * (room - len(shown))

    def _event(self, note: Note) -> Text:
        row = Text(f"{to_s(note.at):>9.2f} ")
        row.append(f"{note.kind.value:<9} ", STYLES[note.kind])
        if note.life is not None:
            letter = note.life.letter
            if letter:
                row.append(letter, "bold" if self.ascii else _letter_style(letter))
                row.append(" ")
            row.append(f"{note.life.request.id}  ")
        row.append(note.text)
        row.append(clause(note.because), "dim")
        return row


_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)


def _around(lives: Sequence[Life], selected: str | None, room: int) -> Sequence[Life]:
    """As many as there is room for, the chosen one among them."""
    at = next((n for n, life in enumerate(lives) if life.request.id == selected), 0)
    first = max(0, at - room + 1)
    return lives[first : first + room]


def _urgency(life: Life) -> tuple[int, float, int, str]:
    deadline = life.deadline_ns
    return (
        _ORDER.get(life.state, 3),
        float("inf") if deadline is None else deadline,
        life.request.arrival_ns,
        life.request.id,
    )


def _ended(life: Life) -> tuple[str, str]:
    assert life.end is not None and life.state in TERMINAL
    if life.state is not State.COMPLETED:
        return str(life.state), "red"
    seconds = f"{to_s(life.latency_ns or 0):.1f} s"
    return (f"done {seconds}", "green") if life.end.on_time else (f"missed {seconds}", "bold red")


def _letter_style(letter: str) -> Style:
    colour = strip.colour_of(letter)
    return Style(color="#ffffff" if colour in strip.DARK else "#000000", bgcolor=colour, bold=True)


def _cut(text: str, width: int, *, keep_end: bool = True) -> str:
    """Padded or cut to `width`; the end of an id tells more than its beginning."""
    if len(text) <= width:
        return text.ljust(width)
    return "~" + text[1 - width :] if keep_end else text[: width - 1] + "~"


def _seconds(value: float) -> str:
    return f"{value:g} s" if value < 600 else f"{value / 60:g} min"


def _duration(ns: int) -> str:
    seconds = int(max(0, ns) // 1_000_000_000)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
