"""Tries properties of plans: in every small world, one by one, then in random larger ones until the time is over.

Random worlds are drawn and made smaller by Hypothesis, which is imported here only: checking a policy need not wait for
it. Equal seeds try equal worlds; a longer budget tries more of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gfdit.core.work import Stage
from gfdit.lang.program import Program
from gfdit.policy.proving.cases import NAMES, Ask, Case, Plans, Shape, small_cases, tags_of
from gfdit.policy.proving.findings import Counterexample
from gfdit.policy.proving.properties import Property

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

ROUND = 60  # random worlds between two looks at the clock
MOST_RANDOM_GPUS = 8
MOST_RANDOM_REQUESTS = 6


@dataclass(slots=True)
class Budget:
    """Seconds of wall time, from now. `tell` is called with the share of it that is spent (progress bars)."""

    seconds: float
    tell: Callable[[float], None] = lambda share: None
    _begin: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        return time.monotonic() - self._begin

    def part(self, share: float) -> Budget:
        """A share of what is left, beginning now."""
        return Budget(max(0.0, self.seconds - self.spent) * share, lambda part: self.tell(self.spent / self.seconds))

    @property
    def over(self) -> bool:
        spent = self.spent
        self.tell(min(1.0, spent / self.seconds) if self.seconds > 0 else 1.0)
        return spent >= self.seconds


@dataclass(slots=True)
class Tried:
    """How far one property was tried. `complete`: in every small world."""

    small: int = 0
    searched: int = 0
    complete: bool = False
    counterexample: Counterexample | None = None


def try_small(
    program: Program | None, plans: Plans, properties: tuple[Property, ...], budget: Budget
) -> dict[str, Tried]:
    """Each property in every small world, until it is refuted or the budget is over."""
    tried = {one.name: Tried() for one in properties}
    for case in small_cases(program):
        standing = [one for one in properties if tried[one.name].counterexample is None]
        if not standing or budget.over:
            return tried
        for one in standing:
            tried[one.name].small += 1
            tried[one.name].counterexample = refutation(plans, one, case)
    for result in tried.values():
        result.complete = result.counterexample is None
    return tried


def refutation(plans: Plans, one: Property, case: Case) -> Counterexample | None:
    """What refutes the property in this case. A policy that fails there refutes every property."""
    try:
        return one.refute(plans, plans.of(case))
    except Exception as error:  # the policy on trial may be anyone's code
        text = f"the policy fails: {type(error).__name__}: {error}"
        return Counterexample(text, case, (f"{case.asks[0].name}.sp >= 0 gpu",), "the policy does not fail")


def try_random(
    program: Program | None, plans: Plans, one: Property, tried: Tried, budget: Budget, seed: int, share_s: float
) -> None:
    """Random worlds for `share_s` seconds of the budget; a counterexample is made as small as it gets."""
    from hypothesis import HealthCheck, find, settings
    from hypothesis.errors import NoSuchExample

    quiet = settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    until, rounds = budget.spent + share_s, 0

    def refutes(case: Case) -> bool:
        tried.searched += 1
        return refutation(plans, one, case) is not None

    while not budget.over and budget.spent < until:
        try:
            case = find(random_cases(program), refutes, settings=quiet, random=random.Random(f"{seed} {rounds}"))
        except NoSuchExample:
            rounds += 1
            continue
        tried.counterexample = refutation(plans, one, case)
        return


def random_cases(program: Program | None) -> SearchStrategy[Case]:
    """Cases with up to 6 requests on up to 8 GPUs, in any stage, with few distinct values so that ties are common."""
    from hypothesis import strategies as st

    shapes = st.builds(
        Shape,
        st.sampled_from((256, 4096, 16384, 1024, 64)),
        st.sampled_from(tags_of(program)[::-1]),
        st.sampled_from((None, 30.0, 8.0, 3.0, 0.5)),
        st.sampled_from((0, 5, 100)),
    )
    asks = st.builds(
        _drawn_ask,
        shapes,
        st.sampled_from((1.0, 0.0, 2.0, 5.0, 90.0, 700.0)),
        st.sampled_from((Stage.DENOISE, Stage.ENCODE, Stage.PREPARE, Stage.DECODE, Stage.FINALIZE)),
        st.sampled_from((4, 1, 2, 20)),
        st.integers(0, 19),
        st.sampled_from((0, 1, 2, 4)),
        st.booleans(),
    )
    gpus = st.integers(1, MOST_RANDOM_GPUS)
    return st.builds(_fitting, gpus, st.lists(asks, min_size=1, max_size=MOST_RANDOM_REQUESTS))


def _drawn_ask(shape: Shape, age_s: float, stage: Stage, total: int, done: int, sp: int, running: bool) -> Ask:
    """What the numbers drawn mean in this stage."""
    if stage in (Stage.DECODE, Stage.FINALIZE):
        done, sp = total, min(sp, 1)
    elif stage is Stage.DENOISE:
        done = done % total
    else:
        done = 0
        sp = min(sp, 1) if running or stage is not Stage.ENCODE else 0
    return Ask("", shape, age_s, stage, total, done, sp, running and sp > 0)


def _fitting(gpus: int, asks: list[Ask]) -> Case:
    """Oldest first, named in that order; groups that do not fit into the cluster are left out."""
    left, kept = gpus, []
    for name, ask in zip(NAMES, sorted(asks, key=lambda ask: -ask.age_s), strict=False):
        sp = ask.sp if ask.sp <= left else 0
        left -= sp
        kept.append(replace(ask, name=name, sp=sp, running=ask.running and sp > 0))
    return Case(gpus, tuple(kept))
