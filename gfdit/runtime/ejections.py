"""Files about ejected policies: what the policy last saw, what it last said, how it came to that, and who is to blame.

An observer, so the file is there before the fallback's first command is carried out. Changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from gfdit.core.events import Event
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Policy, Proposal
from gfdit.core.scheduler import Decision
from gfdit.core.view import View
from gfdit.core.watchdog import Ejection
from gfdit.core.work import STAGES
from gfdit.policy.planner import CompiledPolicy
from gfdit.units import to_s

FORMAT = "gfdit-ejection/1"
_STATES = tuple(State)
_BY_SLOT = ("slots", "memory_of_slot")  # not by row
_NAMED = {"model": "model", "class_code": "class", "tag": "tag", "tenant": "tenant"}


class EjectionFiles:
    """Writes `FOLDER/001-POLICY-CAUSE.json` and so on. `say` is told of each in a line; one that cannot be written is
    said, too, and does not stop the system."""

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None) -> None:
        self._folder = folder
        self._say = say or (lambda text: None)
        self.written: list[Path] = []

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        ejection = decision.ejection
        if ejection is None:
            return
        path = self._folder / f"{len(self.written) + 1:03}-{ejection.policy.name}-{ejection.cause}.json"
        head = f"policy {ejection.policy.name} is ejected: {ejection.text}; {ejection.successor} takes over"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(ejection_to_json(ejection), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            self._say(f"{head}; the report cannot be written: {error}")
            return
        self.written.append(path)
        self._say(f"{head}; the {ejection.blame} is to blame: {ejection.blame_text}; see {path}")


def ejection_to_json(ejection: Ejection) -> dict[str, object]:
    """The whole record as JSON values; what is not finite is null."""
    policy, view, proposal = ejection.policy, ejection.view, ejection.proposal
    return {
        "format": FORMAT,
        "at_s": to_s(ejection.at),
        "policy": {"name": policy.name, "version": policy.version, "sha": policy.sha},
        "successor": ejection.successor,
        "cause": ejection.cause,
        "text": ejection.text,
        "blame": ejection.blame,
        "blame_text": ejection.blame_text,
        "strikes": [asdict(strike) for strike in ejection.strikes],
        "view": None if view is None else view_to_json(view),
        "plan": None if proposal is None or view is None else _plan(view, proposal),
        "trace": None if view is None else _trace(policy, view),
    }


def view_to_json(view: View) -> dict[str, object]:
    """The cluster, and one object a request; codes are replaced by their names, tables are lists by degree."""
    columns: dict[str, list[object]] = {}
    for field in fields(view):
        values = getattr(view, field.name)
        if not isinstance(values, np.ndarray) or field.name in _BY_SLOT:
            continue
        listed: list[object] = values.tolist()
        if field.name in _NAMED:
            kind = _NAMED[field.name]
            columns[kind] = [view.names[kind][code] for code in values]
        elif field.name == "state":
            columns["state"] = [_STATES[code] for code in values]
        elif field.name == "stage":
            columns["stage"] = [STAGES[code] for code in values]
        else:
            columns[field.name] = [_finite(value) for value in listed]
    return {
        "now_s": view.now_s,
        "gpus": view.gpus,
        "free": view.free,
        "degrees": list(view.degrees),
        "ranks": list(view.ranks),
        "idle": list(view.idle),
        "reservations": [asdict(reservation) for reservation in view.reservations],
        "requests": [
            {"id": view.ids[row]} | {name: column[row] for name, column in columns.items()} for row in range(view.size)
        ],
    }


def _finite(value: object) -> object:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plan(view: View, proposal: Proposal) -> dict[str, object]:
    """What it last proposed, by request id. It may name rows that do not exist: it is on trial."""

    def name(row: int) -> str:
        return view.ids[row] if 0 <= row < view.size else f"row {row}"

    return {
        "places": [
            {"id": name(p.row), "degree": p.degree, "because": None if p.because is None else asdict(p.because)}
            for p in proposal.places
        ],
        "caps": [{"id": name(c.row), "degree": c.degree, "winner": name(c.winner)} for c in proposal.caps],
        "rejects": [{"id": name(turn.row), "message": turn.message} for turn in proposal.turns],
        "waits": {name(row): reason for row, reason in proposal.waits.items()},
        "reservations": [asdict(reservation) for reservation in proposal.reservations],
        "guards": [alarm.guard for alarm in proposal.alarms],
        "wake_at_s": proposal.wake_at_s,
    }


def _trace(policy: Policy, view: View) -> dict[str, object]:
    """How the policy orders what it was shown, key by key; the error it raises when that is what it does."""
    if not isinstance(policy, CompiledPolicy):
        return {"order": None, "error": None}
    try:
        ranked = policy.ranking(view)
    except Exception as error:  # it was ejected for something
        return {"order": None, "error": f"{type(error).__name__}: {error}"}
    order = [{"id": view.ids[one.row], "keys": dict(one.keys), "set_aside": one.aside} for one in ranked]
    return {"order": order, "error": None}
