"""From a bundle of texts to a policy that may be put in charge: checked, compiled, tested, and asked once.

Nothing of the running system is touched. What is refused comes back with the reasons, as `gfdit check` and `gfdit test`
give them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gfdit.core.events import PolicySwapped, PolicyText
from gfdit.core.proposal import Policy
from gfdit.core.view import View
from gfdit.errors import GfditError, PolicyError
from gfdit.lang.check import check
from gfdit.lang.diagnostics import Diagnostic
from gfdit.lang.grammar import grammar_sha
from gfdit.lang.program import Program
from gfdit.lang.render import render
from gfdit.lang.source import Source
from gfdit.policy import library
from gfdit.policy.builtin import BUILTIN_FCFS, BUILTIN_NAME
from gfdit.policy.bundle import Bundle
from gfdit.policy.extending import expanded_with
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.testing import run_tests
from gfdit.policy.vocabulary import schema
from gfdit.runtime.recipe import texts_of

Key = tuple[tuple[PolicyText, ...], tuple[tuple[str, str], ...]]


class Refused(PolicyError):
    """A policy that is not taken. `code`: policy_invalid, policy_tests_failed or policy_fails; `diagnostics`: findings
    of the checker; `failures`: of its tests, one a line."""

    def __init__(
        self, code: str, message: str, diagnostics: tuple[Diagnostic, ...] = (), failures: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.diagnostics = diagnostics
        self.failures = failures


@dataclass(frozen=True, slots=True, eq=False)
class Vetted:
    """A policy that may be put in charge. `model`: it and its fallbacks, to be copied; `tests`: how many passed;
    `warnings`: what the checker found that is no error."""

    bundle: Bundle
    model: CompiledPolicy
    tests: int = 0
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def program(self) -> Program:
        return self.model.program

    @property
    def native(self) -> bool:
        """Whether it, or one that it may fall back to, plans in Python: then its bundle does not say it all."""
        return any(text.native for text in texts_of(self.model))

    @property
    def key(self) -> Key:
        """What a swap to it is known by."""
        return texts_of(self.model), tuple(sorted(self.bundle.params.items()))

    def swap(self, how: str, at: int = 0) -> PolicySwapped:
        return PolicySwapped(at, texts_of(self.model), dict(self.bundle.params), self.program.label, how)

    def fresh(self) -> CompiledPolicy:
        """A new one, with its fallbacks, that has not been asked anything. Costs no parse and no check."""
        links: list[CompiledPolicy] = []
        link: Policy | None = self.model
        while isinstance(link, CompiledPolicy):
            links.append(link.afresh())
            link = link.fallback
        for link, fallback in pairwise(links):
            link.fallback = fallback
        return links[0]


def key_of(event: PolicySwapped) -> Key:
    return event.policies, tuple(sorted(event.params.items()))


def as_started(policy: CompiledPolicy, params: Mapping[str, str]) -> Vetted:
    """The policy that a system was started with: whoever starts it has checked it."""
    sources: dict[str, str] = {}
    link: Policy | None = policy
    while isinstance(link, CompiledPolicy):
        sources[f"{link.name}{library.SUFFIX}"] = link.program.source.text
        link = link.fallback
    return Vetted(Bundle(f"{policy.name}{library.SUFFIX}", sources, params), policy)


def vet(bundle: Bundle, gpus: int, view: View | None = None) -> Vetted:
    """Check, compile and test the policy of a bundle, and ask it for one plan for `view`. Raises Refused."""
    programs, warnings = _checked(bundle, gpus)
    model: CompiledPolicy | None = None
    for program in reversed(programs):
        model = CompiledPolicy(program, model)
    assert model is not None
    vetted = Vetted(bundle, model, len(programs[0].tests), warnings)
    _test(vetted)
    if view is not None:
        _ask(vetted.fresh(), view)
    return vetted


def _checked(bundle: Bundle, gpus: int) -> tuple[tuple[Program, ...], tuple[Diagnostic, ...]]:
    """The program and those of its fallbacks, all checked against this cluster, and the findings about the first."""
    known = {name.removesuffix(library.SUFFIX) for name in bundle.sources} | set(library.names())
    programs: list[Program] = []
    warnings: tuple[Diagnostic, ...] = ()
    name, text = bundle.main, bundle.sources[bundle.main]
    while True:
        first = not programs
        source = Source(expanded_with(text, bundle.find), name)
        checked = check(source, schema(), bundle.params if first else {}, gpus=gpus, policies=known)
        if checked.program is None:
            raise Refused("policy_invalid", render(checked.diagnostics) + _older(bundle), checked.diagnostics)
        warnings = checked.diagnostics if first else warnings
        programs.append(checked.program)
        if name == BUILTIN_NAME:
            return tuple(programs), warnings
        wanted = checked.program.fallback.policy
        if wanted in [program.name for program in programs]:
            circle = " -> ".join([*(program.name for program in programs), wanted])
            raise Refused("policy_invalid", f"fallbacks go round in a circle: {circle}")
        name, text = _fallback(bundle, wanted)


def _older(bundle: Bundle) -> str:
    if not bundle.grammar:
        return ""
    return f"\n  = help: it was built for grammar {bundle.grammar[:12]}, this gfdit reads {grammar_sha()[:12]}"


def _fallback(bundle: Bundle, name: str) -> tuple[str, str]:
    """Its name for messages, and its text: one that travels along, or a shipped one."""
    if name == BUILTIN_NAME:
        return BUILTIN_NAME, BUILTIN_FCFS
    found = bundle.find(name)
    if found is not None:
        return f"{name}{library.SUFFIX}", found
    path = library.shipped_policy(name)  # the checker knows that there is one
    return path.name, path.read_text("utf-8")


def _test(vetted: Vetted) -> None:
    try:
        results = run_tests(vetted.fresh())
    except GfditError as error:
        raise Refused("policy_tests_failed", f"a test of `{vetted.program.name}` cannot be run: {error}") from None
    failures = tuple(f"`{result.title}`: {failure}" for result in results for failure in result.failures)
    if failures:
        counted = "1 expectation" if len(failures) == 1 else f"{len(failures)} expectations"
        message = f"{counted} of the tests of `{vetted.program.name}` do not hold:\n" + "\n".join(failures)
        raise Refused("policy_tests_failed", message, failures=failures)


def _ask(policy: CompiledPolicy, view: View) -> None:
    """One admission of everybody and one plan, both thrown away."""
    try:
        policy.admit(view, np.arange(view.size))
        policy.plan(view)
    except Exception as error:  # a policy may be anyone's: whatever it raises, it would have raised in charge
        what = f"{type(error).__name__}: {error}"
        raise Refused("policy_fails", f"asked about the present requests, `{policy.name}` fails: {what}") from None
