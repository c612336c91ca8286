"""Every version that was in charge, in order, and its text as a bundle beside the journal.

`FOLDER/NAME@VERSION-SHA.polb` is written before a version takes over. `FOLDER/last-good.polb` is the newest one that
was neither ejected nor rolled back: the one in charge, as a rule. Files of earlier runs are left alone.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from gfdit.policy.bundle import BUNDLE_SUFFIX, pack
from gfdit.runtime.rollout.vetting import Key, Vetted

LAST_GOOD = f"last-good{BUNDLE_SUFFIX}"
CANARY, ROLLBACK = "canary", "rollback"
MOST_TOLD = 20
MOST_KEPT = 64


@dataclass(frozen=True, slots=True)
class Version:
    """One stay in charge. `how` it came (start, push, arm, canary, canary over, rollback); `ended`: why it left, empty
    while it stays. Times are seconds of the system's clock."""

    name: str
    version: int
    sha: str
    how: str
    since_s: float
    until_s: float | None = None
    ended: str = ""


@dataclass(slots=True)
class _Stay:
    vetted: Vetted
    version: Version
    good: bool = True


@dataclass(slots=True)
class Versions:
    """`folder` None: nothing is kept on disk. `problem`: why the last good version is not."""

    folder: Path | None = None
    problem: str = ""
    _stays: deque[_Stay] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))
    _known: dict[Key, Vetted] = field(default_factory=dict)

    def keep(self, vetted: Vetted) -> None:
        """Write its bundle, before it takes over. Raises OSError."""
        self._known.pop(vetted.key, None)
        self._known[vetted.key] = vetted
        for key in list(self._known)[:-MOST_KEPT]:
            del self._known[key]
        if self.folder is not None and not vetted.native:
            program = vetted.program
            name = f"{program.name}@{program.version}-{program.sha[:8]}{BUNDLE_SUFFIX}"
            _write(self.folder / name, pack(vetted.bundle))

    def known(self, key: Key) -> Vetted:
        """One of the latest that were kept."""
        return self._known[key]

    def took_over(self, vetted: Vetted, how: str, now_s: float) -> None:
        """It is in charge from now on; the one before left in good standing, unless it was ejected or rolled back."""
        if self._stays and self._stays[-1].version.until_s is None:
            self._stays[-1].good = how != ROLLBACK
            self._end(now_s, f"{how}: {vetted.program.label}")
        program = vetted.program
        version = Version(program.name, program.version, program.sha, how, now_s)
        self._stays.append(_Stay(vetted, version))
        self._keep_last_good()

    def ejected(self, now_s: float, why: str) -> None:
        """The one in charge is not good."""
        if self._stays and self._stays[-1].version.until_s is None:
            self._stays[-1].good = False
            self._end(now_s, f"ejected: {why}")
            self._keep_last_good()

    @property
    def last_good(self) -> Vetted | None:
        """The newest one that is not the one in charge, and whose last stay ended well. A canary is only a try."""
        seen = {self._stays[-1].vetted.key} if self._stays else set()
        for stay in reversed(self._stays):
            if stay.good and stay.version.how == CANARY:
                continue
            if stay.good and stay.vetted.key not in seen:
                return stay.vetted
            seen.add(stay.vetted.key)
        return None

    def told(self) -> tuple[Version, ...]:
        """The latest, newest first."""
        return tuple(stay.version for stay in list(self._stays)[: -MOST_TOLD - 1 : -1])

    def _end(self, now_s: float, why: str) -> None:
        stay = self._stays[-1]
        stay.version = replace(stay.version, until_s=now_s, ended=why)

    def _keep_last_good(self) -> None:
        if self.folder is None:
            return
        present = self._stays[-1]
        good = present.vetted if present.good and present.version.how != CANARY else self.last_good
        if good is None or good.native:
            return
        try:
            _write(self.folder / LAST_GOOD, pack(good.bundle))
            self.problem = ""
        except OSError as error:  # the system goes on: what is in charge is in memory
            self.problem = f"{LAST_GOOD} is not up to date: {error}"


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
