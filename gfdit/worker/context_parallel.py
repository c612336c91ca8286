"""Lets diffusers' transformers run with their sequence split over ranks, by hooks alone.

`install` marks a transformer's attention processors, makes an attention backend of ours the active one, and hooks the
modules named by the transformer's context-parallel plan. All of it does nothing until a formation is current
(`gfdit.worker.formation`): then planned inputs are cut to this rank's share, marked attention runs over all shares, and
planned outputs are gathered. The experimental parts of diffusers that this stands on are named here and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

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


class _Marker(Enum):
    """Models hand a processor's `_parallel_config` to the dispatcher for attention over the split sequence, None
    otherwise. The value says what the attention's mask is."""

    KEYS = "says which keys are seen"
    PAIRS = "has a row per query, though all that it says is which tokens are padding"


class _Backend(Enum):
    """A key of our own in diffusers' registry of attention backends."""

    SPLIT = "gfdit"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to split and what to gather, in the form of diffusers' `_cp_plan`. `whole`: submodules (with wildcards)
    whose attention has keys that are not split. `direct`: processors call torch's attention, all of it over the split
    sequence. `mask`: what the masks of split attention are."""

    parts: Mapping[str, object]
    whole: tuple[str, ...] = ()
    direct: bool = False
    mask: _Marker = _Marker.KEYS


def plan_of(transformer: torch.nn.Module) -> Plan | None:
    """The plan of a transformer, one of ours before diffusers' own; None if it cannot be split."""
    ours = PLANS.get(type(transformer).__name__)
    if ours is not None:
        return ours(transformer)
    parts = getattr(transformer, "_cp_plan", None)
    return Plan(parts) if parts else None


def install(transformer: torch.nn.Module) -> None:
    """Prepare a transformer once, for any later formation. Raises ModelError if nobody wrote a plan for it."""
    plan = plan_of(transformer)
    if plan is None:
        raise ModelError(f"`{type(transformer).__name__}` has no context-parallel plan; it runs on one rank only")
    _install_backend()
    for name, module in transformer.named_modules():
        processor = getattr(module, "processor", None)
        whole = any(fnmatchcase(name, pattern) for pattern in plan.whole)
        if processor is not None and hasattr(processor, "_parallel_config") and not whole:
            processor._parallel_config = plan.mask
    for name, part in plan.parts.items():
        for module in _modules(transformer, name):
            hook = _Split(part, None) if isinstance(part, dict) else _Gather(_as_list(part), None)
            HookRegistry.check_if_exists_or_initialize(module).register_hook(
                hook, f"gfdit_{type(hook).__name__}_{name}"
            )
    if plan.direct:
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
        if _parallel_config is _Marker.PAIRS and attn_mask is not None:
            attn_mask = attn_mask.any(dim=-2, keepdim=True)  # what padding itself sees changes nothing that is kept
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


def _sd3(transformer: torch.nn.Module) -> Plan:
    return Plan(
        {
            "pos_embed": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)},
            "context_embedder": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)},
            "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        },
        direct=True,
    )


def _z_image(transformer: torch.nn.Module) -> Plan | None:
    """Three stacks of blocks, for the picture, the caption and both: each is entered with its share of a sequence and
    left with the whole of it."""
    parts: dict[str, object] = {}
    for name in ("noise_refiner", "context_refiner", "layers"):
        blocks = len(getattr(transformer, name))
        if blocks < 2:  # one block would have to be both, and hooks of a module run in one order only
            return None
        parts[f"{name}.0"] = {"x": ContextParallelInput(split_dim=1, expected_dims=3)}
        parts[f"{name}.*"] = {
            "attn_mask": ContextParallelInput(split_dim=1, expected_dims=2),
            "freqs_cis": ContextParallelInput(split_dim=1, expected_dims=3),
        }
        parts[f"{name}.{blocks - 1}"] = ContextParallelOutput(gather_dim=1, expected_dims=3)
    return Plan(parts)


def _hunyuan_video15(transformer: torch.nn.Module) -> Plan:
    """Text tokens are sorted by validity after they were refined, so they are split at the first block."""
    positions = ContextParallelInput(split_dim=0, expected_dims=2, split_output=True)
    tokens = ContextParallelInput(split_dim=1, expected_dims=3)
    return Plan(
        {
            "rope": {0: positions, 1: positions},
            "transformer_blocks.0": {"hidden_states": tokens, "encoder_hidden_states": tokens},
            "transformer_blocks.*": {"attention_mask": ContextParallelInput(split_dim=1, expected_dims=2)},
            "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        },
        whole=("context_embedder.*",),
        mask=_Marker.PAIRS,
    )


def _ltx(transformer: torch.nn.Module) -> Plan:
    """diffusers' plan splits the captions too, so that the cross attention has shares of keys that are not those of the
    queries; captions are short, and whole on every rank they cost no exchange."""
    positions = ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)
    return Plan(
        {
            "": {
                "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
                "timestep": ContextParallelInput(split_dim=1, expected_dims=2),  # one a token, from image to video
            },
            "rope": {0: positions, 1: positions},
            "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        },
        whole=("*.attn2",),
    )


#: Plans for transformers that diffusers ships without one, or with one that does not hold.
PLANS: dict[str, Callable[[torch.nn.Module], Plan | None]] = {
    "HunyuanVideo15Transformer3DModel": _hunyuan_video15,
    "LTXVideoTransformer3DModel": _ltx,
    "SD3Transformer2DModel": _sd3,
    "ZImageTransformer2DModel": _z_image,
}
