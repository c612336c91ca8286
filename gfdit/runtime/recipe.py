"""What a scheduler is made from, as JSON: the header of a journal, from which a replay makes an equal scheduler.

Everything is inside (the texts of the policy and its fallbacks, the cost table, the models' facts).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter, ValidationError

from gfdit.core.cost import CostModel
from gfdit.core.estimate import Estimator
from gfdit.core.events import PolicySwapped, PolicyText
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import PolicyLoader, Scheduler
from gfdit.core.topology import Topology
from gfdit.core.work import ModelFacts
from gfdit.errors import JournalError
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import checked_program
from gfdit.runtime.costfile import cost_model_to_json, parse_cost_model


@dataclass(frozen=True, slots=True)
class Recipe:
    """`policies`: the policy and its fallbacks, first to last; `params` are the first one's, as text. `cost`: the table
    as JSON text. `models` None: as the cost model describes them. `about`: for people (device, workload, seed)."""

    policies: tuple[PolicyText, ...]
    params: Mapping[str, str]
    cost: str
    gpus: int
    gpus_per_node: int = 8
    models: Mapping[str, ModelFacts] | None = None
    about: Mapping[str, str | int | float | None] = field(default_factory=dict)

    def scheduler(self, load: PolicyLoader | None = None) -> Scheduler:
        """A fresh one; swaps in the journal are carried out by `load`, as they were in the run by default.

        Raises PolicyError or CostModelError for texts that this version does not take any more.
        """
        policy = policy_of(self.policies, self.params)
        estimator = Estimator(parse_cost_model(self.cost), self.gpus)
        topology = Topology.uniform(self.gpus, self.gpus_per_node)
        return Scheduler(policy, topology, estimator, self.models, load=load or swapped_in)

    def to_json(self) -> dict[str, object]:
        body: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return {"recipe": body}


def policy_of(policies: Sequence[PolicyText], params: Mapping[str, str]) -> CompiledPolicy:
    """A fresh policy; `policies`: it and its fallbacks, first to last; `params` are the first one's.

    Raises PolicyError, or JournalError for a native one, whose code is nowhere.
    """
    policy: CompiledPolicy | None = None
    for index, entry in reversed(list(enumerate(policies))):
        if entry.native:
            raise JournalError(
                f"policy `{entry.name}` plans in Python, and a journal holds no code",
                hint="runs of native policies can be neither replayed nor explained",
            )
        policy = CompiledPolicy(checked_program(entry.text, entry.name, params if index == 0 else {}), policy)
    if policy is None:
        raise JournalError("the journal names no policy")
    return policy


def swapped_in(event: PolicySwapped, earlier: Policy) -> CompiledPolicy:
    """The policy that a swap names, with what it carries on from the one before. Raises PolicyError."""
    policy = policy_of(event.policies, event.params)
    if isinstance(earlier, CompiledPolicy):
        policy.inherit(earlier)
    return policy


_ADAPTER = TypeAdapter(Recipe)


def recipe_from_json(header: Mapping[str, object]) -> Recipe:
    """From a journal's header. Raises JournalError."""
    if "recipe" not in header:
        raise JournalError(
            "the journal does not say what its scheduler was made from", hint="it is not from `gfdit run` or `sim`"
        )
    try:
        return _ADAPTER.validate_python(header["recipe"])
    except ValidationError as error:
        first = error.errors()[0]
        raise JournalError(f"the journal's header: `{'.'.join(map(str, first['loc']))}`: {first['msg']}") from None


def recipe_of(
    policy: CompiledPolicy,
    params: Mapping[str, str],
    cost: CostModel,
    gpus: int,
    gpus_per_node: int = 8,
    models: Mapping[str, ModelFacts] | None = None,
    about: Mapping[str, str | int | float | None] | None = None,
) -> Recipe:
    """The recipe of a scheduler made from these."""
    return Recipe(texts_of(policy), dict(params), cost_model_to_json(cost), gpus, gpus_per_node, models, about or {})


def texts_of(policy: Policy | None) -> tuple[PolicyText, ...]:
    """The policy and its fallbacks, first to last."""
    chain: list[PolicyText] = []
    while isinstance(policy, CompiledPolicy):
        source = policy.program.source
        chain.append(PolicyText(source.name, source.text, policy.native))
        policy = policy.fallback
    return tuple(chain)
