"""What a tick settled, and what the policy was asked on it. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gfdit.core.commands import Command
from gfdit.core.proposal import Because, Proposal, Verdict
from gfdit.core.view import I8, View
from gfdit.core.watchdog import Ejection


class MoveKind(StrEnum):
    START = "start"
    GROW = "grow"
    SHRINK = "shrink"
    MIGRATE = "migrate"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Move:
    """A group changed. `before` and `after` are ordered ranks; one of them is () for start, resume and pause."""

    kind: MoveKind
    request_id: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    because: Because | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Part of a proposal that the core did not carry out, and why."""

    request_id: str
    why: str


class NewsKind(StrEnum):
    ERROR = "error"
    GUARD = "guard"
    EJECT = "eject"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class PolicyNews:
    """The policy failed, one of its guards has just broken, it lost its place, or it reacted to something."""

    kind: NewsKind
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What one tick settled. `next_tick_at`: tick again by then (ns), `None` when events alone decide."""

    commands: tuple[Command, ...]
    next_tick_at: int | None
    moves: tuple[Move, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    policy_news: tuple[PolicyNews, ...] = ()
    ejection: Ejection | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """What was asked of new requests, and the answers."""

    view: View
    rows: I8
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the policy was asked on one tick, and its answers; None for what it was not asked, or failed at."""

    admission: Admission | None = None
    view: View | None = None
    proposal: Proposal | None = None
