"""A row of the table: what was done, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.live.faultbench.watch import Blow


@dataclass(frozen=True, slots=True)
class Row:
    """`faults`: how many were done. `lost`: requests that did not get the end they were promised; `duplicates`: ends
    beyond the first; `hash_mismatches`: results that differ from the run without faults. Detection is from the fault
    until the controller knows, recovery until the request that lost its task runs again; None: not of this test."""

    test: str
    faults: int
    requests: int
    lost: int
    duplicates: int
    hash_mismatches: int
    detect_p50_ms: float | None
    detect_p99_ms: float | None
    recover_p50_ms: float | None
    recover_p99_ms: float | None
    seed: int

    @property
    def good(self) -> bool:
        return self.lost == self.duplicates == self.hash_mismatches == 0


def times_ms(blows: Sequence[Blow], scale: float) -> tuple[float | None, float | None, float | None, float | None]:
    """Detection and recovery, the median and the 99th percentile of each, in milliseconds of the wall."""
    detected = [(blow.lost_at - blow.at) / scale / 1e6 for blow in blows if blow.lost_at is not None]
    recovered = [(at - blow.at) / scale / 1e6 for blow in blows for at in blow.back_at.values()]
    return *_percentiles(detected), *_percentiles(recovered)


def _percentiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return float(np.percentile(values, 50)), float(np.percentile(values, 99))
