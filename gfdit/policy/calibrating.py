"""Measures the constants of `costing` on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from gfdit.core.proposal import Fate, Verdict
from gfdit.policy.costing import Constants


def calibrate(rounds: int = 7) -> Constants:
    """The constants of this machine: of `rounds` measurements of each, the median. Takes about a second."""
    small, large = np.arange(4.0), np.arange(100_000.0)
    picks = np.arange(0, 100_000, 2)
    call = _seconds(lambda: _closures(small), rounds) / 3000
    element = _seconds(lambda: _vectors(large, picks), rounds) / (3 * len(large) + len(picks))
    made = _seconds(lambda: large.tolist(), rounds) / len(large)
    return Constants(call, element, made, _seconds(_visits, rounds) / 1000)


def _seconds(work: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        begin = time.thread_time()  # of this thread alone: a busy machine must not count
        work()
        found.append(time.thread_time() - begin)
    return sorted(found)[rounds // 2]


def _closures(x: np.ndarray) -> None:
    """3,000 calls, nested as compiled expressions are."""
    compiled = _nested(_nested(_nested(lambda frame: frame)))
    for _ in range(1000):
        compiled(x)


def _nested(inner: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda frame: np.add(inner(frame), 1.0)


def _vectors(x: np.ndarray, picks: np.ndarray) -> None:
    np.logical_not(np.less(np.add(x, x), 3.0))
    x[picks]


def _visits() -> None:
    """1,000 steps: a call, a decision object, an entry of a table."""
    table: dict[int, Verdict] = {}
    for row in range(1000):
        table[row] = Verdict(row, Fate.ADMIT, "class", message=str(row))
