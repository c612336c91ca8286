"""`preempt ... do migrate`: victims move to other ranks, so that a wide group finds an aligned block.

A winner may have ranks enough and no block of neighbours among them. Of the blocks whose other ranks belong to victims
alone, the one with the fewest to move is cleared: victims between two steps go on beside it at once, running ones after
their step, and the winner waits for the last of them. Counts do not change: for every rank of the block that a victim
leaves there is one outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Because, Cap, WaitReason
from gfdit.core.view import STATE_CODE, View
from gfdit.policy.allocate import Draft

RUNNING, READY = STATE_CODE[State.RUNNING], STATE_CODE[State.READY]
WIDEST_BLOCK = 8  # ranks of a node are aligned in blocks of 2, 4 and 8


@dataclass(slots=True)
class Migration:
    """A block that is being cleared. `victims`: those that ran in it when it was chosen."""

    arrival_s: float
    block: frozenset[int]
    until_s: float
    victims: frozenset[str]
    because: Because


class Migrations:
    """All of one policy, carried from tick to tick."""

    def __init__(self) -> None:
        self._by_winner: dict[str, Migration] = {}

    @property
    def victims(self) -> set[str]:
        return {victim for migration in self._by_winner.values() for victim in migration.victims}

    def waits_for(self, request_id: str) -> bool:
        return request_id in self._by_winner

    def reasons(self, view: View) -> dict[int, Because]:
        """Why each winner waits that is not placed yet."""
        rows = ((view.row_of(winner, one.arrival_s), one.because) for winner, one in self._by_winner.items())
        return {row: because for row, because in rows if row is not None}

    def enter(self, draft: Draft) -> None:
        """Withhold the free ranks of every block from all but its winner; forget what is over."""
        view = draft.view
        for winner, migration in list(self._by_winner.items()):
            row = view.row_of(winner, migration.arrival_s)
            if row is None or view.state[row] == RUNNING or view.now_s >= migration.until_s:
                del self._by_winner[winner]
            elif draft.plans(row):
                draft.blocks[row] = migration.block
                draft.promised[row] = len(migration.block & set(view.idle))
                if not migration.block <= set(view.idle):
                    draft.limits[row] = 0  # not before the last victim has left it

    def leave(self, draft: Draft) -> tuple[Cap, ...]:
        """What holds of the plan: caps name the reason for victims that still run."""
        view = draft.view
        caps: list[Cap] = []
        for winner, migration in list(self._by_winner.items()):
            row = view.row_of(winner, migration.arrival_s)
            if row is None or not draft.plans(row):
                continue
            self._say_why(draft, migration)
            if row in draft.places:
                del self._by_winner[winner]
                continue
            draft.waits[row] = WaitReason.MIGRATING
            draft.gathering[row] = draft.promised.get(row, 0), migration.until_s
            for other in _rows_of(view, migration.victims):
                if view.state[other] == RUNNING:
                    caps.append(Cap(other, int(view.sp[other]), row, migration.because))
        return tuple(caps)

    @staticmethod
    def _say_why(draft: Draft, migration: Migration) -> None:
        """Victims that leave the block now do it for the winner's sake."""
        groups = draft.view.groups()
        for row in _rows_of(draft.view, migration.victims):
            if row in draft.places and not migration.block.isdisjoint(groups.get(draft.view.ids[row], ())):
                draft.places[row] = draft.places[row][0], migration.because

    def clear(self, draft: Draft, row: int, victims: list[int], left: int, until_s: float, because: Because) -> int:
        """Clear a block for `row`, which is placed without one, out of groups of `victims`; how many had to move."""
        degree, _ = draft.places[row]
        groups = draft.view.groups()
        block = _best_block(draft, row, degree, {draft.view.ids[victim] for victim in victims}, groups)
        if block is None:
            return 0
        moved = [victim for victim in victims if not block.isdisjoint(_kept(draft, victim, groups))]
        if not 0 < len(moved) <= left:
            return 0
        draft.blocks[row] = block
        for victim in moved:
            if victim in draft.places:
                draft.resize(victim, draft.places[victim][0], because)
        running = [draft.view.ids[victim] for victim in moved if victim not in draft.places]
        if running:
            draft.unplace(row, WaitReason.MIGRATING)
            draft.promised[row] = len(block & set(draft.view.idle))
            arrival_s = float(draft.view.arrival_s[row])
            ids = frozenset(draft.view.ids[victim] for victim in moved)
            self._by_winner[draft.view.ids[row]] = Migration(arrival_s, block, until_s, ids, because)
        return len(moved)


def needs_block(draft: Draft, row: int) -> bool:
    """Whether the row has a place of two ranks or more that makes a new group, and no aligned block to make it of."""
    degree, _ = draft.places[row]
    view = draft.view
    if degree < 2 or degree > WIDEST_BLOCK or degree & (degree - 1) or row in draft.blocks:
        return False
    if draft.continuing(row) and degree == view.sp[row]:
        return False
    loose = _loose(draft, row, view.groups())
    return not any(block <= loose for block in _blocks(draft, degree))


def _best_block(
    draft: Draft, row: int, degree: int, victims: Set[str], groups: Mapping[str, tuple[int, ...]]
) -> frozenset[int] | None:
    """The block with the fewest ranks to be left, of equals the lowest; None when there is none for victims alone."""
    loose = _loose(draft, row, groups)
    holder = {rank: request_id for request_id, ranks in groups.items() for rank in ranks}
    best: tuple[int, int] | None = None
    for block in _blocks(draft, degree):
        taken = block - loose
        if all(holder.get(rank) in victims for rank in taken) and (best is None or (len(taken), min(block)) < best):
            best = len(taken), min(block)
    return None if best is None else frozenset(range(best[1], best[1] + degree))


def _blocks(draft: Draft, degree: int) -> Iterable[frozenset[int]]:
    """Aligned blocks of live ranks, of this plan's pool, that nobody else is promised."""
    usable = set(draft.within or draft.view.ranks).difference(*draft.blocks.values())
    for start in sorted({rank - rank % degree for rank in usable}):
        block = frozenset(range(start, start + degree))
        if block <= usable:
            yield block


def _loose(draft: Draft, row: int, groups: Mapping[str, tuple[int, ...]]) -> set[int]:
    """Idle ranks that nobody but `row` keeps: a group that is placed again keeps what it has, as far as it needs."""
    kept: set[int] = set()
    for other in draft.places:
        if other != row:
            kept.update(_kept(draft, other, groups))
    return set(draft.view.idle) - kept


def _kept(draft: Draft, row: int, groups: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The ranks that a row has and goes on with."""
    view = draft.view
    if row in draft.places and view.state[row] != READY:
        return ()
    own = groups.get(view.ids[row], ())
    return own[: draft.places[row][0]] if row in draft.places else own


def _rows_of(view: View, ids: Set[str]) -> list[int]:
    return [row for row, request_id in enumerate(view.ids) if request_id in ids] if ids else []
