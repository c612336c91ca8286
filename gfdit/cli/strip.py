"""The rank x time strip: which request had which rank in each time bucket, as character cells.

A cell belongs to whoever held the rank longest in its bucket, so a finished bucket never changes and the picture
scrolls by whole cells. Every stint begins with its request's letter and its degree (`B4`): a group that grows or
shrinks is a new label on more or fewer lines, and the picture reads without colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from itertools import groupby

from rich.segment import Segment
from rich.style import Style

from gfdit.core.work import SINGLE_RANK_STAGES
from gfdit.runtime.timeline import LETTERS, Stint, Timeline

# Eight hues that stay apart for every common kind of colour blindness (after Okabe and Ito).
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#b8b8b8")
DARK = {"#0072b2", "#009e73", "#d55e00"}  # these carry white letters
IDLE = "·"
IDLE_ASCII = "."
GONE = "x"
MAX_ROW_LINES = 3
_PALER = 0.55  # one-rank stages are drawn in the request's colour, mixed with this much black


class Empty(Enum):
    """Why nobody holds a rank."""

    IDLE = auto()
    GONE = auto()


Holder = Stint | Empty


def colour_of(letter: str) -> str:
    return PALETTE[LETTERS.index(letter) % len(PALETTE)]


@lru_cache(maxsize=256)
def _style(letter: str, single: bool) -> Style:
    colour = colour_of(letter)
    if single:
        return Style(color="#ffffff", bgcolor=_mixed_with_black(colour))
    return Style(color="#ffffff" if colour in DARK else "#000000", bgcolor=colour, bold=True)


_EMPTY_STYLES = {Empty.IDLE: Style(dim=True), Empty.GONE: Style(color="red", dim=True)}


def style_of(holder: Holder) -> Style:
    if isinstance(holder, Empty):
        return _EMPTY_STYLES[holder]
    return _style(holder.life.letter, holder.stage in SINGLE_RANK_STAGES)


def _mixed_with_black(colour: str) -> str:
    parts = (round(int(colour[at : at + 2], 16) * _PALER) for at in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)


def bucket_edges(now: int, window_ns: int, width: int) -> list[int]:
    """Edges of `width` buckets; the last one contains `now`. They lie on multiples of the bucket's length."""
    length = max(1, window_ns // width)
    last = now // length + 1
    return [(last - width + n) * length for n in range(width + 1)]


def lane_holders(timeline: Timeline, rank: int, edges: Sequence[int], now: int) -> list[Holder]:
    """Who held the rank in each bucket, oldest first: the longest holder, or nobody if mostly idle."""
    width, begin, length = len(edges) - 1, edges[0], edges[1] - edges[0]
    holders: list[Holder] = [Empty.IDLE] * width
    longest: dict[int, int] = {}  # bucket that is not one stint's alone -> the longest hold in it, ns
    total: dict[int, int] = {}
    for stint in reversed(timeline.lanes.get(rank, ())):
        end = now if stint.end is None else stint.end
        if end < begin:
            break
        low, high = max(0, (stint.start - begin) // length), min(width - 1, (end - begin) // length)
        for n in {low, high} if low <= high else ():
            overlap = min(end, edges[n + 1]) - max(stint.start, edges[n])
            total[n] = total.get(n, 0) + overlap
            if overlap > longest.get(n, 0):
                longest[n], holders[n] = overlap, stint
        if high - low > 1:
            holders[low + 1 : high] = [stint] * (high - low - 1)
    for n, busy in total.items():
        if 2 * busy < min(now, edges[n + 1]) - edges[n]:
            holders[n] = Empty.IDLE
    for start, until in timeline.outages.get(rank, ()):
        low = max(0, (max(start, timeline.began or 0) - begin + length // 2) // length)
        high = width if until is None else min(width, (until - begin + length // 2) // length)
        for n in range(low, high):
            if holders[n] is Empty.IDLE:
                holders[n] = Empty.GONE
    return holders


def run_text(holder: Holder, length: int, *, ascii_only: bool, named: bool = True) -> str:
    """The characters of `length` cells in a row with one holder: the name, then filling.

    Lower case letters: a stage that takes one rank, whatever the degree.
    """
    if isinstance(holder, Empty):
        return (GONE if holder is Empty.GONE else IDLE_ASCII if ascii_only else IDLE) * length
    if holder.stage in SINGLE_RANK_STAGES:
        letter = holder.life.letter.lower()
        return letter * length if ascii_only else (letter if named else "").ljust(length)
    name = f"{holder.life.letter}{holder.degree}" if named else holder.life.letter if ascii_only else ""
    return name[:length].ljust(length, "=" if ascii_only else " ")


@dataclass(frozen=True, slots=True)
class StripPlan:
    """How ranks map to lines. `fold` ranks share one row of cells; `halves`: two rows of cells in one line (its upper
    and lower half); `height`: lines a row of cells."""

    fold: int
    halves: bool
    height: int

    def rows(self, ranks: int) -> int:
        return -(-ranks // self.fold)

    def lines(self, ranks: int) -> int:
        rows = self.rows(ranks)
        return -(-rows // 2) if self.halves else rows * self.height


def plan_strip(ranks: int, room: int, *, ascii_only: bool) -> StripPlan:
    """The most readable layout within `room` lines: tall rows, else single ones, else half lines, else folded."""
    room = max(1, room)
    if ranks <= room:
        return StripPlan(1, False, min(MAX_ROW_LINES, room // max(1, ranks)))
    if ascii_only:
        return StripPlan(-(-ranks // room), False, 1)
    return StripPlan(-(-ranks // (2 * room)), True, 1)


def strip_lines(
    timeline: Timeline, plan: StripPlan, width: int, window_ns: int, now: int, *, ascii_only: bool
) -> list[list[Segment]]:
    """The strip, one list of segments a line, each `width` wide with a label of the ranks in front."""
    ranks = timeline.ranks
    margin = label_width(ranks, plan)
    edges = bucket_edges(now, window_ns, max(1, width - margin))
    rows = [ranks[at : at + plan.fold] for at in range(0, len(ranks), plan.fold)]
    holders = [_folded([lane_holders(timeline, rank, edges, now) for rank in row]) for row in rows]
    lines: list[list[Segment]] = []
    if plan.halves:
        for at in range(0, len(rows), 2):
            below = holders[at + 1] if at + 1 < len(rows) else None
            members = [rank for row in rows[at : at + 2] for rank in row]
            lines.append([_rank_label(members, margin), *_half_line(holders[at], below)])
        return lines
    for row, line in zip(rows, holders, strict=True):
        for part in range(plan.height):
            label = _rank_label(row, margin) if part == 0 else Segment(" " * margin)
            lines.append([label, *_whole_line(line, named=part == 0, ascii_only=ascii_only)])
    return lines


def label_width(ranks: Sequence[int], plan: StripPlan) -> int:
    """Columns that the rank labels take, the blank behind them included."""
    digits = len(str(max(ranks, default=0)))
    together = plan.fold * (2 if plan.halves else 1)
    return (digits if together == 1 else 2 * digits + 1) + 1


def _rank_label(ranks: Sequence[int], margin: int) -> Segment:
    text = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
    return Segment(text.rjust(margin - 1) + " ", Style(dim=True))


def _folded(rows: Sequence[list[Holder]]) -> list[Holder]:
    """Several ranks as one row: the holder of most of them shows."""
    if len(rows) == 1:
        return rows[0]
    return [max(column, key=column.count) for column in zip(*rows, strict=True)]


def _whole_line(holders: Sequence[Holder], *, named: bool, ascii_only: bool) -> list[Segment]:
    segments: list[Segment] = []
    for holder, run in groupby(holders):
        text = run_text(holder, len(list(run)), ascii_only=ascii_only, named=named)
        segments.append(Segment(text, None if ascii_only else style_of(holder)))
    return segments


def _half_line(above: Sequence[Holder], below: Sequence[Holder] | None) -> list[Segment]:
    """Two rows in one line: the upper half block in the colour of the first, over the colour of the second."""
    segments: list[Segment] = []
    for (upper, lower), run in groupby(zip(above, below or [Empty.IDLE] * len(above), strict=True)):
        length = len(list(run))
        top, bottom = _fill(upper), _fill(lower)
        if upper is lower or (top is None and bottom is None):
            segments.append(Segment(run_text(upper, length, ascii_only=False), style_of(upper)))
        elif top is None:
            segments.append(Segment("▄" * length, Style(color=bottom)))
        else:
            segments.append(Segment("▀" * length, Style(color=top, bgcolor=bottom)))
    return segments


def _fill(holder: Holder) -> str | None:
    """The colour of a half cell; None: nothing to draw."""
    if isinstance(holder, Empty):
        return None
    background = style_of(holder).bgcolor
    return None if background is None else background.name
