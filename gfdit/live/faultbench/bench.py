"""The rows, their sizes, and the table as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gfdit.live.faultbench import outside, restarts, strangers, workers
from gfdit.live.faultbench.row import Row
from gfdit.live.faultbench.stage import Setting


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of each fault. `overload_s`: seconds of ten times the load."""

    kills: int = 1000
    restarts: int = 200
    stops: int = 50
    poison: int = 20
    frames: int = 1_000_000
    clients: int = 600
    overload_s: float = 60.0
    swaps: int = 200


QUICK = Sizes(kills=12, restarts=1, stops=4, poison=2, frames=4000, clients=24, overload_s=2.0, swaps=8)
Make = Callable[[Setting, Sizes], Row]

TESTS: Mapping[str, Make] = {
    "kills": lambda setting, sizes: workers.kills(setting, sizes.kills),
    "restarts": lambda setting, sizes: restarts.restarts(setting, sizes.restarts),
    "stops": lambda setting, sizes: workers.stops(setting, sizes.stops),
    "poison": lambda setting, sizes: workers.poison(setting, sizes.poison),
    "frames": lambda setting, sizes: strangers.strangers(setting, sizes.frames),
    "clients": lambda setting, sizes: outside.clients(setting, sizes.clients),
    "overload": lambda setting, sizes: outside.overload(setting, sizes.overload_s),
    "swaps": lambda setting, sizes: outside.swaps(setting, sizes.swaps),
}


def as_json(rows: list[Row]) -> dict[str, Any]:
    """As `gfdit bench faults --json` prints it."""
    return {"bench": "faults", "rows": [asdict(row) for row in rows]}
