"""Events, commands and decisions as JSON and back: strict, no field guessed, one adapter a type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from gfdit.core.commands import Command
from gfdit.core.events import Event
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import Decision, Move, PolicyNews
from gfdit.errors import JournalError
from gfdit.units import to_ns

Json = Mapping[str, object]
T = TypeVar("T")

_EVENTS: dict[str, TypeAdapter[Event]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Event)}
_COMMANDS: dict[str, TypeAdapter[Command]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Command)}
_MOVE = TypeAdapter(Move)
_NEWS = TypeAdapter(PolicyNews)


def _tagged(value: Event | Command) -> dict[str, object]:
    return {"kind": type(value).__name__, **asdict(value)}


def _untagged(body: Json, adapters: Mapping[str, TypeAdapter[T]], what: str) -> T:
    fields = dict(body)
    adapter = adapters.get(str(fields.pop("kind", None)))
    if adapter is None:
        raise JournalError(f"unknown kind of {what}: `{body.get('kind')}`")
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise JournalError(f"bad {what} `{body.get('kind')}`: field `{where}`: {first['msg']}") from None


def event_to_json(event: Event) -> dict[str, object]:
    return _tagged(event)


def event_from_json(body: Json) -> Event:
    """Raises JournalError naming the kind and the field."""
    return _untagged(body, _EVENTS, "event")


@dataclass(frozen=True, slots=True)
class TickRecord:
    """One tick as journalled, and which policy decided it. `seconds` is wall time and not part of what a replay must
    reproduce."""

    now: int
    commands: tuple[Command, ...]
    moves: tuple[Move, ...]
    next_tick_at: int | None
    policy: str
    policy_news: tuple[PolicyNews, ...]
    seconds: float
    policy_version: int = 0
    policy_sha: str = ""

    def same_decision(self, other: Decision) -> bool:
        return (self.commands, self.moves, self.next_tick_at) == (other.commands, other.moves, other.next_tick_at)


def tick_to_json(decision: Decision, policy: Policy, seconds: float) -> dict[str, object]:
    return {
        "commands": [_tagged(command) for command in decision.commands],
        "moves": [asdict(move) for move in decision.moves],
        "next_tick_at": decision.next_tick_at,
        "policy": policy.name,
        "policy_version": policy.version,
        "policy_sha": policy.sha,
        "policy_news": [asdict(news) for news in decision.policy_news],
        "refusals": [asdict(refusal) for refusal in decision.refusals],
        "tick_ns": to_ns(seconds),
    }


def tick_from_json(now: int, body: Json) -> TickRecord:
    """Raises JournalError naming the kind and the field."""
    commands = body["commands"]
    moves = body["moves"]
    assert isinstance(commands, list) and isinstance(moves, list)
    next_tick_at, news, tick_ns = body["next_tick_at"], body["policy_news"], body["tick_ns"]
    assert isinstance(news, list)
    return TickRecord(
        now=now,
        commands=tuple(_untagged(command, _COMMANDS, "command") for command in commands),
        moves=tuple(_MOVE.validate_python(move) for move in moves),
        next_tick_at=next_tick_at if isinstance(next_tick_at, int) else None,
        policy=str(body["policy"]),
        policy_news=tuple(_NEWS.validate_python(one) for one in news),
        seconds=float(str(tick_ns)) / 1e9,
        policy_version=int(str(body.get("policy_version", 0))),
        policy_sha=str(body.get("policy_sha", "")),
    )
