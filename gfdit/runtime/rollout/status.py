"""The rollout as data: what `GET /gfdit/policy/status` answers and `gfdit policy status` prints.

Times are seconds of the system's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gfdit.runtime.rollout.canary import CanaryReport
from gfdit.runtime.rollout.shadow import ShadowReport
from gfdit.runtime.rollout.versions import Version

FORMAT: Literal["gfdit-rollout/1"] = "gfdit-rollout/1"


@dataclass(frozen=True, slots=True)
class InCharge:
    """The policy in charge. `how` it came to be; `strikes` within the last minute, of `strikes_allowed`;
    `broken_guards`: those that do not hold now."""

    name: str
    version: int
    sha: str
    how: str
    since_s: float
    strikes: int
    strikes_allowed: int
    broken_guards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ejected:
    """The policy that lost its place to the one in charge, and why. Only `arm` or `rollback` ends that."""

    name: str
    version: int
    sha: str
    at_s: float
    cause: str
    text: str
    blame: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy that was pushed and waits for `arm`. `tests` of it passed; `findings`: what `gfdit check --format short`
    says that is no error."""

    name: str
    version: int
    sha: str
    since_s: float
    tests: int
    findings: tuple[str, ...]
    shadow: ShadowReport


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """The whole answer. `history`: the latest stays in charge, newest first. `signed_only`: unsigned is refused.
    `problem`: why the last good version is not on disk, empty when it is."""

    now_s: float
    in_charge: InCharge
    ejected: Ejected | None
    candidate: Candidate | None
    canary: CanaryReport | None
    last_good: str | None
    signed_only: bool
    problem: str
    history: tuple[Version, ...]
    format: Literal["gfdit-rollout/1"] = FORMAT
