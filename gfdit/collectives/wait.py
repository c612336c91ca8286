"""How a rank waits for a word in another rank's memory: poll briefly, yield, then sleep in the kernel on that very
word.

A futex works on a read-only shared mapping, so the waiter needs no room in the publisher's segment. No wake-up is
lost: the kernel compares the word before it sleeps, and every publication wakes. Sleeps are sliced so that aborts,
deaths and deadlines are seen even when that word never moves.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time

from gfdit.collectives.errors import UnsupportedPlatform

SPINS = 60
"""Polls before the first yield: spinning long is ruinous when ranks exceed cores."""
YIELD_S = 0.0003
"""How long to yield before sleeping."""
FIRST_SLICE_S, LAST_SLICE_S = 0.0005, 0.02
"""Bounds of one sleep; the last one bounds how late a death or an abort is seen."""

_SYS_FUTEX, _FUTEX_WAIT, _FUTEX_WAKE = 202, 0, 1
_EVERYBODY = 0x7FFFFFFF


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64)]


_libc = ctypes.CDLL(None)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p]


def require_platform() -> None:
    """Raise `UnsupportedPlatform` unless plain aligned 8-byte accesses are ordered here: x86-64 Linux."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64") or sys.maxsize < 1 << 40:
        raise UnsupportedPlatform(
            f"collectives need the memory ordering of x86-64 Linux, not {platform.machine()} on {sys.platform}",
            hint="run CPU workers on x86-64 Linux, or one worker only",
        )


def wake(address: int) -> None:
    """Wake everybody who sleeps on the word at `address`."""
    _syscall(_SYS_FUTEX, address, _FUTEX_WAKE, _EVERYBODY, None)


class Backoff:
    """One wait: `pause` after every fruitless poll; it says when the slow checks are due."""

    __slots__ = ("_polls", "_slice", "_yield_until")

    def __init__(self) -> None:
        self._polls = 0
        self._yield_until = 0.0
        self._slice = FIRST_SLICE_S

    def pause(self, address: int, seen: int, deadline: float) -> bool:
        """Wait a little; `seen` is the value of the 8-byte word at `address` that was not enough.

        True when the caller should look for aborts, deaths and its deadline (`time.monotonic` seconds) before polling
        again.
        """
        self._polls += 1
        if self._polls < SPINS:
            return False
        now = time.monotonic()
        if not self._yield_until:
            self._yield_until = now + YIELD_S
        if now < self._yield_until:
            os.sched_yield()
            return self._polls % 32 == 0
        doze = min(self._slice, max(deadline - now, 1e-6))
        self._slice = min(self._slice * 2, LAST_SLICE_S)
        limit = _Timespec(0, int(doze * 1e9))
        _syscall(_SYS_FUTEX, address, _FUTEX_WAIT, seen & 0xFFFFFFFF, ctypes.addressof(limit))
        return True
