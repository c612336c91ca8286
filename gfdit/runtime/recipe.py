"""What a scheduler is made from, as JSON: the header of a journal, from which a replay makes an equal scheduler.

Everything is inside (the texts of the policy and its fallbacks, the cost table, the models' facts).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter, ValidationError

from gfdit.core.cost import CostModel
from gfdit.core.estimate import Estimator
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import Scheduler
from gfdit.core.topology import Topology
from gfdit.core.work import ModelFacts
from gfdit.errors import JournalError
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import checked_program
from gfdit.runtime.costfile import cost_model_to_json, parse_cost_model


@dataclass(frozen=True, slots=True)
class PolicyText:
    """One policy of the chain of fallbacks; `name` as messages show it."""

    name: str
    text: str


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

    def scheduler(self) -> Scheduler:
        """A fresh one. Raises PolicyError or CostModelError for texts that this version does not take any more."""
        policy: CompiledPolicy | None = None
        for index, entry in reversed(list(enumerate(self.policies))):
            params = self.params if index == 0 else {}
            policy = CompiledPolicy(checked_program(entry.text, entry.name, params), policy)
        if policy is None:
            raise JournalError("the journal's header names no policy")
        estimator = Estimator(parse_cost_model(self.cost), self.gpus)
        return Scheduler(policy, Topology.uniform(self.gpus, self.gpus_per_node), estimator, self.models)

    def to_json(self) -> dict[str, object]:
        body: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return {"recipe": body}


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
    return Recipe(
        tuple(_chain(policy)), dict(params), cost_model_to_json(cost), gpus, gpus_per_node, models, about or {}
    )


def _chain(policy: Policy | None) -> list[PolicyText]:
    chain: list[PolicyText] = []
    while isinstance(policy, CompiledPolicy):
        source = policy.program.source
        chain.append(PolicyText(source.name, source.text))
        policy = policy.fallback
    return chain
