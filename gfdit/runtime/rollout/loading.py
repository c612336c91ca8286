"""Makes the policies that swaps name. One that was prepared is ready at once; any other is checked and compiled then.

`prepare` may be called from any thread, the loader itself is called by the scheduler.
"""

from __future__ import annotations

from gfdit.core.events import PolicySwapped
from gfdit.core.proposal import Policy
from gfdit.policy.planner import CompiledPolicy
from gfdit.runtime.recipe import policy_of
from gfdit.runtime.rollout.vetting import Key, Vetted, key_of


class Loader:
    """A `PolicyLoader`. Equal to `recipe.swapped_in`, which a replay uses, but for the time it takes."""

    def __init__(self) -> None:
        self._ready: dict[Key, CompiledPolicy] = {}

    def prepare(self, vetted: Vetted) -> None:
        """The next swap to it will cost nothing but taking over what is carried."""
        self._ready[vetted.key] = vetted.fresh()

    def __call__(self, event: PolicySwapped, earlier: Policy) -> CompiledPolicy:
        policy = self._ready.pop(key_of(event), None) or policy_of(event.policies, event.params)
        if isinstance(earlier, CompiledPolicy):
            policy.inherit(earlier)
        return policy
