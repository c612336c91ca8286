"""Triage: the largest set of requests that can still be on time (Moore-Hodgson on GPU-seconds).

Walk the requests in `by` order and add up the GPU-seconds each still needs at the cheapest degree that meets its
deadline. Where the sum passes margin x GPUs x (deadline - now), set aside the one walked so far whose `shed` key is
largest (or smallest). A request that no degree brings home in time is set aside too; one without a deadline never is,
and needs no room.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from gfdit.core.view import F8
from gfdit.lang.program import Triage
from gfdit.lang.schema import Level
from gfdit.policy.columns import LIVE, Frame, Tick
from gfdit.policy.compile import Compiler


@dataclass(frozen=True, slots=True)
class SetAside:
    """Rows given up for now, and by how many GPU-seconds each broke its limit (+inf: no degree is on time)."""

    over: dict[int, float]


def moore_hodgson(need: F8, room: F8, shed: F8) -> dict[int, float]:
    """Positions to set aside, with the GPU-seconds by which the sum passed the room when each was given up.

    `need[i]` in walking order, `room[i]` what may be used up to and including i, `shed[i]` larger goes first; of equals
    the later one. O(n log n), one cumulative sum when nothing has to go.
    """
    if bool(np.all(np.cumsum(need) <= room)):
        return {}
    kept: list[tuple[float, int]] = []
    aside: dict[int, float] = {}
    used = 0.0
    needs = need.tolist()
    for position, (one, limit, key) in enumerate(zip(needs, room.tolist(), shed.tolist(), strict=True)):
        used += one
        heapq.heappush(kept, (-key, -position))
        while used > limit and kept:
            over = used - limit
            gone = -heapq.heappop(kept)[1]
            aside[gone] = over
            used -= needs[gone]
    return aside


class CompiledTriage:
    """`triage` ready to run on a tick."""

    def __init__(self, triage: Triage, compiler: Compiler) -> None:
        self.clause = triage.clause
        self.message = triage.reject_because
        self._margin = triage.margin
        self._by = compiler.key(triage.by)
        self._shed = compiler.expr(triage.shed, Level.REQUEST)
        self._sign = 1.0 if triage.shed_most else -1.0

    def evaluate(self, tick: Tick) -> SetAside:
        """Every admitted request is walked, running ones too: their work needs room like any other."""
        view = tick.view
        rows = np.flatnonzero(LIVE[view.state] & np.isfinite(view.deadline_s))
        over: dict[int, float] = {}
        if not len(rows):
            return SetAside(over)
        frame = Frame(tick, rows)
        on_time = frame.column("#remaining") <= frame.column("deadline")[:, None]
        need = np.where(on_time, frame.column("#gpu"), np.inf).min(axis=1)
        lost = ~np.isfinite(need)
        for row in rows[lost].tolist():
            over[row] = np.inf
        rows, need = rows[~lost], need[~lost]
        if not len(rows):
            return SetAside(over)
        frame = Frame(tick, rows, {"gpu_time": need})
        walk = np.argsort(np.broadcast_to(self._by(frame), rows.shape), kind="stable")
        room = self._margin * view.gpus * frame.column("deadline")
        shed = self._sign * np.broadcast_to(self._shed(frame), rows.shape)
        for position, by in moore_hodgson(need[walk], room[walk], shed[walk]).items():
            over[int(rows[walk[position]])] = by
        return SetAside(over)
