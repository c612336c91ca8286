"""Between which values the names and functions of the vocabulary lie, for the checks that follow from it.

Base units, infinity where there is no bound; instants are relative to `now`. A name that is missing can be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from types import MappingProxyType

from gfdit.lang.intervals import Interval

_POSITIVE = Interval(1e-9, inf)  # the clock counts nanoseconds
_FROM_0, _FROM_1 = Interval(0.0, inf), Interval(1.0, inf)
_RATIO = Interval(0.0, 1.0)
_ANY = Interval(-inf, inf)
_VAGUE = Interval(-inf, inf, True)  # infinity less infinity: without a deadline, at a degree that is not offered

RANGES: Mapping[str, Interval] = MappingProxyType(
    {
        "now": Interval(0.0, 0.0),
        "arrival": Interval(-inf, 0.0),
        "deadline": _ANY,
        "lateness": _ANY,
        "priority": _ANY,
        "tier": _ANY,
        **dict.fromkeys(("alone", "slo", "weight", "gpu_mem"), _POSITIVE),
        **dict.fromkeys(("tokens", "pixels", "width", "height", "frames", "steps_total", "sp_best", "next"), _FROM_1),
        **dict.fromkeys(("gpus",), _FROM_1),
        **dict.fromkeys(("text_tokens", "steps_done", "steps_left", "sp", "last_gpus", "free"), _FROM_0),
        **dict.fromkeys(("age", "waited", "paused_for", "preemptions", "rank"), _FROM_0),
        **dict.fromkeys(("load", "arrival_gap", "arrival_rate", "gpu_time", "window"), _FROM_0),
        **dict.fromkeys(("miss", "cache"), _RATIO),
        "step_time()": _POSITIVE,
        **dict.fromkeys(("remaining()", "finish()"), _FROM_0),
        **dict.fromkeys(("slack()", "gain()"), _VAGUE),
        **dict.fromkeys(("queued()", "longest_wait()", "free()", "backlog()"), _FROM_0),
        **dict.fromkeys(("busy()", "miss_rate()"), _RATIO),
        "mem()": _ANY,  # below everything where the cost model does not say
    }
)
