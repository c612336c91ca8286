"""Two policies asked about the same views: where they disagree on order, degree or fate, and why each says so.

One may drive a run while the other only watches; nothing that the watcher answers is carried out. Compares what
policies propose; knows nothing of runs or files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from gfdit.core.proposal import Because, Policy, Proposal, Verdict, WaitReason
from gfdit.core.view import I8, View
from gfdit.policy.planner import CompiledPolicy


class Aspect(StrEnum):
    FATE = "fate"
    ORDER = "order"
    DEGREE = "degree"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one policy says: a place in the order, a degree or a fate, as text, and the clause behind it."""

    text: str
    because: Because | WaitReason | None = None


@dataclass(frozen=True, slots=True)
class Disagreement:
    at_s: float
    request: str
    aspect: Aspect
    a: Answer
    b: Answer


@dataclass(slots=True)
class Comparison:
    """All that two policies were asked. `first` holds the disagreements of the first tick that has any; `requests`
    those concerned, by aspect, with the number of ticks."""

    a: CompiledPolicy
    b: CompiledPolicy
    ticks: int = 0
    differing: int = 0
    first: list[Disagreement] = field(default_factory=list)
    requests: dict[Aspect, Counter[str]] = field(default_factory=lambda: {aspect: Counter() for aspect in Aspect})

    @property
    def equal(self) -> bool:
        return not any(self.requests.values())

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        """Ask both about new requests; the answer is A's."""
        a, b = self.a.admit(view, rows), self.b.admit(view, rows)
        self._note(list(fate_differences(view, a, b)))
        return a

    def plan(self, view: View) -> Proposal:
        """Ask both for a plan; the answer is A's."""
        self.ticks += 1
        orders = self.a.order(view), self.b.order(view)
        a, b = self.a.plan(view), self.b.plan(view)
        found = [*order_differences(view, *orders), *degree_differences(view, a, b)]
        self.differing += bool(found)
        self._note(found)
        return a

    def _note(self, found: list[Disagreement]) -> None:
        if found and (not self.first or self.first[0].at_s == found[0].at_s):
            self.first += found
        for one in found:
            self.requests[one.aspect][one.request] += 1


class Driven:
    """The driving one of a comparison as a scheduler's policy: A decides, B watches.

    The fallback of A takes over without a watcher: from then on nothing is compared.
    """

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        driver = comparison.a
        self.name, self.version, self.sha = driver.name, driver.version, driver.sha
        self.limits, self.tick_every_s, self.tick_on = driver.limits, driver.tick_every_s, driver.tick_on
        self.fallback: Policy | None = driver.fallback

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        return self._comparison.admit(view, rows)

    def plan(self, view: View) -> Proposal:
        return self._comparison.plan(view)


class Watched:
    """Any policy drives, both of a comparison watch."""

    def __init__(self, driver: Policy, comparison: Comparison) -> None:
        self.driver = driver
        self._comparison = comparison
        self.name, self.version, self.sha = driver.name, driver.version, driver.sha
        self.limits, self.tick_every_s, self.tick_on = driver.limits, driver.tick_every_s, driver.tick_on
        self.fallback: Policy | None = None if driver.fallback is None else Watched(driver.fallback, comparison)

    def admit(self, view: View, rows: I8) -> list[Verdict]:
        self._comparison.admit(view, rows)
        return self.driver.admit(view, rows)

    def plan(self, view: View) -> Proposal:
        self._comparison.plan(view)
        return self.driver.plan(view)


def fate_differences(view: View, a: list[Verdict], b: list[Verdict]) -> Iterator[Disagreement]:
    for one, other in zip(a, b, strict=True):
        answers = [Answer(_fate(verdict), verdict.because) for verdict in (one, other)]
        if answers[0].text != answers[1].text:
            yield Disagreement(view.now_s, view.ids[one.row], Aspect.FATE, *answers)


def _fate(verdict: Verdict) -> str:
    """Admitted, deferred or rejected, and with what it was degraded to."""
    degraded = [] if verdict.steps is None else [f"{verdict.steps} steps"]
    degraded += [] if verdict.cache is None else [f"cache {verdict.cache:.0%}"]
    return verdict.fate.name.lower() + (f" with {' and '.join(degraded)}" if degraded else "")


def order_differences(view: View, a: list[int], b: list[int]) -> Iterator[Disagreement]:
    if a == b:
        return
    place_in_b = {row: place for place, row in enumerate(b, 1)}
    for place, row in enumerate(a, 1):
        if place_in_b[row] != place:
            answers = Answer(f"{place} of {len(a)}"), Answer(f"{place_in_b[row]} of {len(b)}")
            yield Disagreement(view.now_s, view.ids[row], Aspect.ORDER, *answers)


def degree_differences(view: View, a: Proposal, b: Proposal) -> Iterator[Disagreement]:
    """Rows that get another number of ranks, are capped otherwise, or are turned away by one of the two."""
    answers = [_answers(proposal) for proposal in (a, b)]
    for row in sorted({*answers[0], *answers[1]}):
        mine, theirs = (one.get(row, Answer("0 gpu")) for one in answers)
        if mine.text != theirs.text:
            turned = "reject" in (mine.text, theirs.text)
            yield Disagreement(view.now_s, view.ids[row], Aspect.FATE if turned else Aspect.DEGREE, mine, theirs)


def _answers(proposal: Proposal) -> dict[int, Answer]:
    found: dict[int, Answer] = {row: Answer("0 gpu", reason) for row, reason in proposal.waits.items()}
    found |= {place.row: Answer(f"{place.degree} gpu", place.because) for place in proposal.places}
    found |= {cap.row: Answer(f"{cap.degree} gpu from its next boundary", cap.because) for cap in proposal.caps}
    found |= {turn.row: Answer("reject", turn.because) for turn in proposal.turns}
    return found
