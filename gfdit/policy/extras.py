"""What reactions and batches change of a plan before ranks are handed out: an order, and who is not asked at all.

May not place anything. A policy that has neither clause makes one empty `Extra` a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gfdit.core import proposal as core
from gfdit.core.proposal import Because, Place, WaitReason
from gfdit.core.view import I8, View
from gfdit.policy.batching import CompiledBatch, told
from gfdit.policy.columns import Tick
from gfdit.policy.ranking import Hint, Ranking
from gfdit.policy.reacting import Reactions
from gfdit.policy.regrouped import Batches, Regrouped
from gfdit.policy.triaging import SetAside


@dataclass(slots=True)
class Extra:
    """Of one plan. `held`: rows that are not asked, and why; `until_s`: when the first of them is to be asked again."""

    notes: tuple[str, ...] = ()
    held: dict[int, WaitReason] = field(default_factory=dict)
    batches: Sequence[core.Batch] = ()
    until_s: float = float("inf")
    _limited: dict[int, tuple[int, Because]] = field(default_factory=dict)
    _groups: Callable[[Sequence[int]], Sequence[tuple[int, ...]]] | None = None
    """the members of every batch that some rows are in"""

    def limits(self) -> dict[int, int]:
        """Row -> the most ranks that it may have."""
        return {row: most for row, (most, _) in self._limited.items()}

    def reasons(self, others: dict[int, Because]) -> dict[int, Because]:
        """Row -> why a reaction makes it wait; with those that others give."""
        return others | {row: because for row, (most, because) in self._limited.items() if most < 1}

    def limit(self, reactions: Reactions, order: Ranking, view: View) -> Ranking:
        """Who is shrunk; the order without those that are paused."""
        self._limited = reactions.limits(view)
        paused = [row for row, (most, _) in self._limited.items() if most < 1]
        if not paused:
            return order
        asked = np.ones(view.size, dtype=bool)
        asked[paused] = False
        self.held |= dict.fromkeys(set(paused).intersection(order.rows.tolist()), WaitReason.POLICY_WAITS)
        return order.part(asked)

    def group(self, batch: CompiledBatch, tick: Tick, order: Ranking, aside: SetAside | None) -> Ranking:
        """Batches; the order in which their members stand together, without those that wait for more."""
        apart = np.zeros(tick.view.size, dtype=bool) if aside is None else aside.mask
        if not batch.holds:  # nobody waits for company: only the batches that the plan comes to have to be known
            regrouped = Regrouped(tick, order, batch, apart)
            self.batches = Batches(lambda: batch.listed(batch.form(tick, order.all(), apart), tick.view.now_s))
            self._groups = lambda rows: regrouped.groups
            return regrouped
        formed = batch.form(tick, order.all(), apart)
        self.batches = Batches(lambda: batch.listed(formed, tick.view.now_s))
        self.until_s = min(self.until_s, formed.until_s)
        self._groups = formed.around
        self.held |= dict.fromkeys(formed.held.tolist(), WaitReason.BATCH_WINDOW)
        return _listed(tick, formed.order[~np.isin(formed.order, formed.held)])

    def told(self, places: tuple[Place, ...], view: View) -> tuple[Place, ...]:
        """The places, with a word on whose batch it is and what a reaction left it."""
        if self._limited:
            places = tuple(self._limited_place(place) for place in places)
        if self._groups is None:
            return places
        return told(places, self._groups([place.row for place in places]), view.ids)

    def _limited_place(self, place: Place) -> Place:
        most, because = self._limited.get(place.row, (None, None))
        return replace(place, because=because) if place.degree == most else place


def _listed(tick: Tick, rows: I8) -> Ranking:
    """An order that is written down already."""
    position = np.zeros(tick.view.size)
    position[rows] = np.arange(len(rows))
    return Ranking(tick, np.sort(rows), (lambda frame: position.take(frame.rows),), Hint())
