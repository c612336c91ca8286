"""Lets diffusers' transformers run with their sequence split over ranks, by hooks alone.

`install` marks a transformer's attention processors, makes an attention backend of ours the active one, and hooks the
modules named by the transformer's context-parallel plan. All of it does nothing until a formation is current
(`gfdit.worker.formation`): then planned inputs are cut to this rank's share, marked attention runs over all shares, and
planned outputs are gathered. The experimental parts of diffusers that this stands on are named here and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum

import torch
from diffusers.hooks.context_parallel import (
    ContextParallelGatherHook,
    ContextParallelSplitHook,
    _get_submodule_by_name,
)
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch.overrides import TorchFunctionMode

from gfdit.errors import ModelError
from gfdit.worker.attention import parallel_attention
from gfdit.worker.formation import sequence_groups

# Models hand a processor's `_parallel_config` to the dispatcher for attention over the split sequence, None otherwise.
_MARKER = object()


class _Backend(Enum):
    """A key of our own in diffusers' registry of attention backends."""

    SPLIT = "gfdit"


#: Plans for transformers that diffusers ships without one.
PLANS: dict[str, dict[str, object]] = {
    "SD3Transformer2DModel": {
        "pos_embed": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)},
        "context_embedder": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    },
}
#: Transformers whose processors call torch's attention directly, all of it over the split sequence.
DIRECT = frozenset({"SD3Transformer2DModel"})


def plan_of(transformer: torch.nn.Module) -> dict[str, object] | None:
    """What to split and what to gather; None if the model cannot be split."""
    return getattr(transformer, "_cp_plan", None) or PLANS.get(type(transformer).__name__)


def install(transformer: torch.nn.Module) -> None:
    """Prepare a transformer once, for any later formation. Raises ModelError if nobody wrote a plan for it."""
    plan = plan_of(transformer)
    if plan is None:
        raise ModelError(f"`{type(transformer).__name__}` has no context-parallel plan; it runs on one rank only")
    _install_backend()
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if processor is not None and hasattr(processor, "_parallel_config"):
            processor._parallel_config = _MARKER
    for name, part in plan.items():
        for module in _modules(transformer, name):
            hook = _Split(part, None) if isinstance(part, dict) else _Gather(_as_list(part), None)
            HookRegistry.check_if_exists_or_initialize(module).register_hook(
                hook, f"gfdit_{type(hook).__name__}_{name}"
            )
    if type(transformer).__name__ in DIRECT:
        HookRegistry.check_if_exists_or_initialize(transformer).register_hook(_DirectAttention(), "gfdit_direct")


def _modules(transformer: torch.nn.Module, name: str) -> Iterable[torch.nn.Module]:
    """The modules that a plan's name stands for; none if this model was built without them."""
    try:
        found = _get_submodule_by_name(transformer, name)
    except ValueError:
        return []
    return found if isinstance(found, list) else [found]


def _as_list(part: object) -> list[object]:
    return list(part) if isinstance(part, list | tuple) else [part]


class _Split(ContextParallelSplitHook):
    """Cuts planned arguments or outputs to this rank's share."""

    def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> tuple[tuple, dict]:
        return (args, kwargs) if sequence_groups() is None else super().pre_forward(module, *args, **kwargs)

    def post_forward(self, module: torch.nn.Module, output: object) -> object:
        return output if sequence_groups() is None else super().post_forward(module, output)

    def _prepare_cp_input(self, x: torch.Tensor, cp_input: ContextParallelInput) -> torch.Tensor:
        groups = sequence_groups()
        if groups is None or (cp_input.expected_dims is not None and x.dim() != cp_input.expected_dims):
            return x
        if (tokens := x.shape[cp_input.split_dim]) < groups.size:
            raise ModelError(f"{tokens} tokens cannot be split over {groups.size} ranks", hint="use a smaller group")
        return groups.split(x, cp_input.split_dim)


class _Gather(ContextParallelGatherHook):
    """Makes planned outputs whole again, on every rank."""

    def post_forward(
        self, module: torch.nn.Module, output: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        groups = sequence_groups()
        if groups is None:
            return output
        outputs = [output] if isinstance(output, torch.Tensor) else list(output)
        for i, part in enumerate(self.metadata):
            if part is not None:
                outputs[i] = groups.gather(outputs[i], part.gather_dim)
        return outputs[0] if isinstance(output, torch.Tensor) else tuple(outputs)


@functools.cache
def _install_backend() -> None:
    """Put our backend in front of the active one, once a process."""
    inner_key, inner = _AttentionBackendRegistry.get_active_backend()
    known = _AttentionBackendRegistry._supported_arg_names[inner_key]

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        _parallel_config: object = None,
    ) -> torch.Tensor:
        options: dict[str, object] = {"dropout_p": dropout_p, "is_causal": is_causal, "enable_gqa": enable_gqa}

        def attend(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float | None
        ) -> torch.Tensor:
            given = {"attn_mask": mask, "scale": scale, **options}
            return inner(q, k, v, **{name: given[name] for name in given if name in known})

        groups = sequence_groups() if _parallel_config is not None else None
        if groups is None:
            return attend(query, key, value, attn_mask, scale)
        if is_causal or dropout_p:
            raise ModelError("causal attention or dropout over a split sequence is not supported")
        options["enable_gqa"] = False  # parallel_attention gives every query head a key head
        return parallel_attention(attend, groups, query, key, value, attn_mask, scale)

    _AttentionBackendRegistry.register(_Backend.SPLIT, supports_context_parallel=True)(attention)
    _AttentionBackendRegistry.set_active_backend(_Backend.SPLIT)


class _DirectAttention(ModelHook):
    """Runs a forward with torch's own attention function redirected, when a formation is current."""

    def new_forward(self, module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        mode: AbstractContextManager = nullcontext() if sequence_groups() is None else _Redirect()
        with mode:
            return self.fn_ref.original_forward(*args, **kwargs)


class _Redirect(TorchFunctionMode):
    """Sends every scaled_dot_product_attention to the parallel one."""

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> torch.Tensor:
        groups = sequence_groups()
        if func is not torch.nn.functional.scaled_dot_product_attention or groups is None:
            return func(*args, **(kwargs or {}))
        query, key, value = (tensor.transpose(1, 2) for tensor in args[:3])
        options = kwargs or {}
        if len(args) > 3 or options.get("is_causal") or options.get("dropout_p"):
            raise ModelError("causal attention or dropout over a split sequence is not supported")

        def attend(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float | None
        ) -> torch.Tensor:
            q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
            return func(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)

        out = parallel_attention(attend, groups, query, key, value, options.get("attn_mask"), options.get("scale"))
        return out.transpose(1, 2)
