"""Which places of a proposal can be carried out together, and on which ranks. Reads the books, and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfdit.core.decision import Move, MoveKind, Refusal
from gfdit.core.estimate import Estimator
from gfdit.core.lifecycle import State
from gfdit.core.placement import IdleRanks, choose_ranks
from gfdit.core.proposal import Because, Place
from gfdit.core.topology import Topology
from gfdit.core.trajectory import Trajectory
from gfdit.core.view import View
from gfdit.core.work import SINGLE_RANK_STAGES, Stage

# Fewer things disturbed first: who keeps its group, who gives some up, who gets more, who moves, who begins.
_PLACING_ORDER = {
    kind: n for n, kind in enumerate((None, MoveKind.SHRINK, MoveKind.GROW, MoveKind.RESUME, MoveKind.START))
}

Accepted = list[tuple[Place, Trajectory]]
Grouped = list[tuple[Place, Trajectory, tuple[int, ...]]]


def accept(
    view: View,
    places: Sequence[Place],
    live: Mapping[str, Trajectory],
    free: int,
    estimator: Estimator,
    refusals: list[Refusal],
) -> Accepted:
    """The places that can be carried out together on `free` ranks, checked one by one in the policy's order."""
    accepted: Accepted = []
    seen: set[int] = set()
    for place in places:
        request_id = view.ids[place.row]
        t = live.get(request_id)
        why = _why_not(place, t, free, place.row in seen, estimator)
        if why is not None or t is None:
            refusals.append(Refusal(request_id, why or "has ended"))
            continue
        seen.add(place.row)
        free -= place.degree
        accepted.append((place, t))
    return accepted


def group(accepted: Accepted, idle_ranks: set[int], topology: Topology, refusals: list[Refusal]) -> Grouped:
    """Ranks for each, who is disturbed least first. Those that must stay within some ranks may find too few."""
    if not accepted:
        return []
    idle = IdleRanks(idle_ranks, topology)
    groups: Grouped = []
    for place, t in sorted(accepted, key=lambda pair: _PLACING_ORDER[_intent(pair[1], pair[0])]):
        usable = idle if place.within is None else idle & place.within
        ranks = choose_ranks(place.degree, usable, t.group, topology, place.prefer)
        if not ranks:
            text = f"wants {place.degree} ranks, {len(usable)} of those it may use are free"
            refusals.append(Refusal(t.request.id, text))
            continue
        idle.take(ranks)
        groups.append((place, t, ranks))
    return groups


def _why_not(place: Place, t: Trajectory | None, free: int, again: bool, estimator: Estimator) -> str | None:
    if t is None:
        return "has ended"
    if again:
        return "is placed twice"
    if t.state not in (State.WAITING, State.READY, State.PAUSED):
        return f"is {t.state}: it cannot be placed"
    if place.degree > free:
        return f"wants {place.degree} ranks, {free} are free"
    if t.stage in SINGLE_RANK_STAGES:
        return None if place.degree == 1 else f"{t.stage} runs on 1 rank, not {place.degree}"
    if place.degree not in estimator.offered(t.request.model):
        return f"degree {place.degree} is not offered for model {t.request.model}"
    return None


def _intent(t: Trajectory, place: Place) -> MoveKind | None:
    if t.state is State.READY:
        if len(t.group) == place.degree:
            return None
        return MoveKind.SHRINK if place.degree < len(t.group) else MoveKind.GROW
    return MoveKind.RESUME if t.started else MoveKind.START


def note_move(
    t: Trajectory, before: tuple[int, ...], resumed: bool, because: Because | None, moves: list[Move]
) -> None:
    """Group changes while denoising are what people call resizes; the one-rank stages around them are not."""
    if t.stage is not Stage.DENOISE:
        return
    after = t.group
    begun, t.begun = t.begun, True
    if not begun:
        moves.append(Move(MoveKind.START, t.request.id, (), after, because))
    elif resumed:
        moves.append(Move(MoveKind.RESUME, t.request.id, (), after, because))
    elif len(after) != len(before):
        kind = MoveKind.GROW if len(after) > len(before) else MoveKind.SHRINK
        moves.append(Move(kind, t.request.id, before, after, because))
    elif set(after) != set(before):
        moves.append(Move(MoveKind.MIGRATE, t.request.id, before, after, because))
