"""A counterexample as a test that anybody can run: whether the printed block fails, and with how few requests."""

from __future__ import annotations

from dataclasses import replace

from gfdit.core.proposal import Policy
from gfdit.errors import GfditError
from gfdit.lang.check import check
from gfdit.lang.frozen import changed
from gfdit.lang.source import Source
from gfdit.policy.native import NativePolicy, compiled
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.proving.cases import Ask
from gfdit.policy.proving.findings import Counterexample
from gfdit.policy.testing import run_tests
from gfdit.policy.vocabulary import schema


def reproduced(found: Counterexample, policy: Policy) -> tuple[Counterexample, bool | None]:
    """The counterexample without the requests that its test can do without, and whether that test fails.

    None: the policy has no text, so `gfdit test` does not run it.
    """
    if not isinstance(policy, CompiledPolicy):
        return found, None
    telling = next((one for one in (found, *found.others) if fails(policy, one)), None)
    if telling is None:
        return found, False
    found = telling
    # an exact number may be wrong for another reason without the others
    left_out = () if any(" == " in text for text in found.expectations) else found.case.asks
    for ask in left_out:
        if any(f"{ask.name}.sp" in text for text in found.expectations):
            continue
        rest = tuple(other for other in found.case.asks if other is not ask and other.name != ask.name)
        fewer = replace(found, case=replace(found.case, asks=rest))
        if rest and fails(policy, fewer):
            found = fewer
    rounded = replace(found, case=replace(found.case, asks=tuple(_rounded(ask) for ask in found.case.asks)))
    return (rounded if fails(policy, rounded) else found), True


def _rounded(ask: Ask) -> Ask:
    """To tenths of a second."""
    waited_s = None if ask.waited_s is None else round(ask.waited_s, 1)
    return replace(ask, age_s=round(ask.age_s, 1), waited_s=waited_s)


def fails(policy: CompiledPolicy, found: Counterexample) -> bool:
    """Whether `gfdit test` fails on the counterexample's block, put at the end of the policy."""
    program = policy.program
    text = f"{program.source.text.rstrip()}\n\n{found.test_block()}\n"
    checked = check(Source(text, program.source.name), schema()).program
    if checked is None:
        return False
    alone = changed(checked, tests=checked.tests[-1:])
    try:
        return any(
            not result.passed
            for result in run_tests(compiled(alone, policy.function if isinstance(policy, NativePolicy) else None))
        )
    except GfditError:
        return False
    except Exception:  # the policy on trial fails in this world, and so does its test
        return True
