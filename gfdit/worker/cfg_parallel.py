"""Guidance branches on different ranks.

A guider prepares one batch of inputs per branch, the pipeline predicts each, the guider combines. With a branch group
current, `divide` makes a guider prepare the batch of this rank's branch only, and fetch the others' predictions from
the ranks that made them before it combines. Combining then happens everywhere on equal numbers, so the result is
bit-equal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines.modular_pipeline import BlockState

from gfdit.errors import ModelError
from gfdit.worker.formation import branch_group

#: Branches that can be divided: the conditional and the unconditional one.
BRANCHES = 2


class DividedGuidance(BaseGuidance):
    """Mixin before a guider class; see `divide`."""

    _divided_batches: list[BlockState] | None = None

    def prepare_inputs(self, *args: object, **kwargs: object) -> list[BlockState]:
        return self._mine(super().prepare_inputs, *args, **kwargs)

    def prepare_inputs_from_block_state(self, *args: object, **kwargs: object) -> list[BlockState]:
        return self._mine(super().prepare_inputs_from_block_state, *args, **kwargs)

    def _mine(self, prepare: Callable[..., list[BlockState]], *args: object, **kwargs: object) -> list[BlockState]:
        batches, group = prepare(*args, **kwargs), branch_group()
        if group is None or len(batches) == 1:  # guidance may be off at this step: every rank predicts the same
            return batches
        if len(batches) != group.size:
            raise ModelError(f"{len(batches)} guidance branches cannot be divided over {group.size} ranks")
        self._divided_batches = batches
        self._count_prepared = group.index  # prepare_models counts it up: is_conditional must mean this branch
        return [batches[group.index]]

    def __call__(self, data: list[BlockState]) -> object:
        batches = self.__dict__.pop(
            "_divided_batches", None
        )  # off the guider again: its variables are a request's state
        group = branch_group()
        if group is None or batches is None:
            return super().__call__(data)
        for batch, prediction in zip(batches, group.all_gather(data[0].noise_pred), strict=True):
            batch.noise_pred = prediction
        return super().__call__(batches)


def divide(guider: BaseGuidance) -> BaseGuidance:
    """Make a guider ready for branch groups, in place. It behaves as before while none is current."""
    if not isinstance(guider, DividedGuidance):
        guider.__class__ = _divided(type(guider))  # type: ignore[arg-type]  # mypy sees Any, not a class
    return guider


@functools.cache
def _divided(guider_class: type) -> type:
    return type(guider_class.__name__, (DividedGuidance, guider_class), {"__module__": guider_class.__module__})


def can_divide(guider: BaseGuidance) -> bool:
    """Whether the guider has exactly the two branches of classifier-free guidance."""
    names: list[str] | None = guider._input_predictions
    return names is not None and len(names) == BRANCHES
