"""Time in integer nanoseconds: the only unit the scheduler, the journal and the wire know.

Policies compute in float seconds; the conversions are here and nowhere else.
"""

from __future__ import annotations

NS_PER_S = 1_000_000_000


def to_ns(seconds: float) -> int:
    """Seconds to the nearest nanosecond."""
    return round(seconds * NS_PER_S)


def to_s(ns: int) -> float:
    """Nanoseconds to seconds."""
    return ns / NS_PER_S


def human_s(seconds: float) -> str:
    """A duration as people read it: `850 us`, `12.5 ms`, `3.21 s`, `4 min 05 s`."""
    if seconds < 0:
        return "-" + human_s(-seconds)
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
