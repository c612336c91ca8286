"""Policies written out by hand against the core's own protocol, so that the core is tested without the language."""

from __future__ import annotations

import random

import numpy as np

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Cap, Fate, Limits, Place, Proposal, Verdict, WaitReason
from gfdit.core.view import I8, STAGE_CODE, STATE_CODE, View
from gfdit.core.work import SINGLE_RANK_STAGES, STAGES, Stage


class AdmitAll:
    name = "admit_all"
    version = 1
    sha = "0"
    limits = Limits()
    fallback = None
    tick_every_s = None
    tick_on = None

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        return [Verdict(int(row), Fate.ADMIT, view.names["class"][view.class_code[row]]) for row in rows]


def is_single(view: View, row: int) -> bool:
    return STAGES[int(view.stage[row])] in SINGLE_RANK_STAGES


class EdfBestFit(AdmitAll):
    """Deadline, priority, arrival; the smallest degree that is on time, else the earliest finish; surplus to the most
    urgent."""

    name = "edf_literal"

    def plan(self, view: View) -> Proposal:
        rows = [int(row) for row in np.flatnonzero(view.plannable)]
        rows.sort(key=lambda row: (view.deadline_s[row], -view.priority[row], view.arrival_s[row], view.ids[row]))
        free = view.free
        chosen: dict[int, int] = {}
        for row in rows:
            column = self._choose(view, row, free)
            if column is not None:
                chosen[row] = column
                free -= view.degrees[column]
        for row, column in chosen.items():
            if is_single(view, row):
                continue
            for wider in range(column + 1, len(view.degrees)):
                extra = view.degrees[wider] - view.degrees[chosen[row]]
                if extra <= free and view.remaining_s[row, wider] < view.remaining_s[row, chosen[row]]:
                    free -= extra
                    chosen[row] = wider
        places = tuple(Place(row, view.degrees[column]) for row, column in chosen.items())
        return Proposal(places, waits={row: WaitReason.NO_FREE_GPU for row in rows if row not in chosen})

    def _choose(self, view: View, row: int, free: int) -> int | None:
        fitting = [c for c, degree in enumerate(view.degrees) if degree <= free and np.isfinite(view.step_s[row, c])]
        if not fitting:
            return None
        if is_single(view, row):
            return 0
        finish = {c: view.now_s + view.remaining_s[row, c] for c in fitting}
        on_time = [c for c in fitting if finish[c] <= view.deadline_s[row]]
        return on_time[0] if on_time else min(fitting, key=lambda c: finish[c])


class Reckless(AdmitAll):
    """Random proposals, many of them impossible: the core must refuse those and stay sound. Seeded."""

    name = "reckless"

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def plan(self, view: View) -> Proposal:
        pick = self._random
        if pick.random() < 0.02:
            raise ValueError("a policy that fails now and then")
        rows = list(range(view.size))
        pick.shuffle(rows)
        places = []
        for row in rows:
            if pick.random() < 0.8:
                single = is_single(view, row) and pick.random() < 0.9
                places.append(Place(row, 1 if single else pick.choice((1, 2, 3, 4, 8))))
        if places and pick.random() < 0.1:
            places.append(places[0])
        running = [row for row in rows if view.state[row] == STATE_CODE[State.RUNNING]]
        caps = tuple(Cap(row, pick.choice((0, 1)), winner=row) for row in running if pick.random() < 0.1)
        return Proposal(tuple(places), caps=caps, wake_at_s=view.now_s + 0.05)


__all__ = ["STAGE_CODE", "AdmitAll", "EdfBestFit", "Reckless", "Stage"]
