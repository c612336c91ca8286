"""Which code computed a result: a digest of the sources that results depend on, so that stale ones are not used again.

Whatever the scheduler, the policies and the simulated world are made of counts, a comment in it too; what only shows or
compares results does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
WORKLOADS = (
    "core/cost.py",
    "core/work.py",
    "runtime/costfile.py",
    "runtime/geometry.py",
    "runtime/workload.py",
    "sim/generate.py",
    "sim/profiles.py",
    "_data/production/*.json",
    "units.py",
)
ENGINE = (
    "core/*.py",
    "lang/*",
    "policy/*.py",
    "runtime/driver.py",
    "runtime/summary.py",
    "sim/f*.py",
    "sim/run.py",
)
NOT_ENGINE = ("sim/fidelity.py",)


@cache
def engine_digest() -> str:
    """Of the code that a simulation's result depends on."""
    return _digest({*_files(ENGINE), *_files(WORKLOADS)} - {*_files(NOT_ENGINE)})


@cache
def bound_digest() -> str:
    """Of the code that a bound depends on."""
    return _digest({*_files(WORKLOADS), *_files(("sim/bounds.py", "sim/jobs.py", "sim/prices.py"))})


def _files(patterns: Iterable[str]) -> list[Path]:
    return [path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()]


def _digest(files: Iterable[Path]) -> str:
    """Names and contents, in the order of the names."""
    found = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        found.update(f"{path.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()
