"""What came of trying a property: how far it holds, or the world in which it does not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gfdit.policy.proving.cases import Case


class Status(StrEnum):
    PROVED = "proved"  # every small world was tried
    SEARCHED = "searched"  # some worlds were tried, not every small one
    REFUTED = "refuted"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A world in which the property does not hold. `expectations`: what a policy with the property would satisfy there;
    this one does not, so the test block fails until the policy is changed. `others`: other moments of the same story,
    for when what the policy carries from earlier ticks keeps the first from being told in a test."""

    text: str
    case: Case
    expectations: tuple[str, ...]
    title: str
    others: tuple[Counterexample, ...] = ()

    def test_block(self) -> str:
        return self.case.test_block(self.title, self.expectations)


@dataclass(frozen=True, slots=True)
class Finding:
    """`small`: small worlds that were tried one by one; `searched`: random ones beyond. `reason`: why it does not
    apply. `reproduced`: the printed test fails on the policy, None where a test cannot be run."""

    name: str
    title: str
    status: Status
    small: int = 0
    searched: int = 0
    reason: str = ""
    counterexample: Counterexample | None = None
    reproduced: bool | None = None
