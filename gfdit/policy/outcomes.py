"""What a policy learns by looking: how requests ended (`miss_rate`), and what the cost model does not say of memory.

All of it comes from the views, so that a replay rebuilds it. May not decide anything.
"""

from __future__ import annotations

import numpy as np

from gfdit.core.view import View
from gfdit.policy.columns import Tick

REMEMBERED = 50  # ends that a rate is about
ANY = "any"


class MissRates:
    """The share of missed requests, by class and of all: a plain mean at first, then one that moves."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = (ANY, *classes)
        self._rates: dict[str, tuple[float, int]] = {}  # class -> (rate, ends so far)

    def note(self, view: View) -> None:
        """Take in what ended since the latest plan."""
        for class_name, missed in view.ends:
            for name in (class_name, ANY):
                rate, count = self._rates.get(name, (0.0, 0))
                self._rates[name] = rate + (float(missed) - rate) / min(count + 1, REMEMBERED), count + 1

    def enter(self, tick: Tick) -> None:
        """Put every rate where expressions read it."""
        for name in self._classes:
            tick.scalars[f"carried missed {name}"] = self._rates.get(name, (0.0, 0))[0]

    def inherit(self, earlier: MissRates) -> None:
        """What is known of classes holds whichever policy asks."""
        self._rates = dict(earlier._rates)


class BlindSpots:
    """Tells once that conditions on memory hold because nobody knows better."""

    def __init__(self) -> None:
        self._looked_at: set[str] = set()
        self._told_of_gpus = False

    def noticed(self, view: View) -> tuple[str, ...]:
        """A line for what was not seen before."""
        notes: list[str] = []
        if not self._told_of_gpus and np.isinf(view.gpu_memory_bytes):
            self._told_of_gpus = True
            notes.append("the cost model does not say how much memory a GPU has: `gpu_mem` is unbounded")
        models = view.names["model"]
        if len(models) > len(self._looked_at):
            for code, model in enumerate(models):
                rows = np.flatnonzero(view.model == code)
                if model in self._looked_at or not len(rows):
                    continue
                self._looked_at.add(model)
                if bool(np.isneginf(view.memory_of(rows[:1])).all()):
                    notes.append(f"the cost model does not say how much memory `{model}` needs: limits on `mem` hold")
        return tuple(notes)
