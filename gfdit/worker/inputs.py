"""From what a client asks to what a pipeline takes: defaults, checks, the seed, and guidance as a component.

Messages name the field, the value and the fix, because a client reads them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.guiders.guider_utils import BaseGuidance

from gfdit.errors import InputError
from gfdit.runtime.geometry import DEFAULT_FPS
from gfdit.worker.loading import quiet
from gfdit.worker.outputs import FPS
from gfdit.worker.tasks import Input, Limits, ModelFacts
from gfdit.worker.trajectory import Replica, Trajectory

#: What a client may ask of a pipeline that takes it; the rest of a pipeline's inputs are tensors or internals.
OFFERED = (
    "prompt",
    "prompt_2",
    "negative_prompt",
    "height",
    "width",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "max_sequence_length",
)
_SCALES = ("true_cfg_scale", "guidance_scale")


@dataclass(frozen=True, slots=True)
class Intake:
    """Starts trajectories on one replica."""

    replica: Replica
    facts: ModelFacts
    limits: Limits

    def names(self) -> tuple[str, ...]:
        """What a client may ask for."""
        own = [name for name in OFFERED if name in self.replica.input_names]
        more = ("seed", *(("fps",) if self.facts.video else ()), *(_SCALES if self.replica.guiders() else ()))
        return tuple(dict.fromkeys([*own, *more]))

    def start(self, inputs: Mapping[str, Input]) -> Trajectory:
        """A trajectory for a client's `inputs`. Raises InputError for what the model does not take."""
        for name in inputs:
            if name not in self.names():
                close = difflib.get_close_matches(name, self.names(), n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"it takes {', '.join(self.names())}"
                raise InputError(f"model `{self.facts.name}` has no input `{name}`", hint=hint)
        given = {name: value for name, value in inputs.items() if value is not None}
        merged: dict[str, object] = {**self.facts.defaults, **given}
        self._check_sizes(merged)
        guiders = self._guiders(merged)
        seed = _whole(merged.pop("seed", 0), "seed", least=0)
        merged["generator"] = torch.Generator("cpu").manual_seed(seed)  # the CPU's: the same noise on every device
        merged["output_type"] = "pt"
        known = self.replica.input_names
        fps = _whole(merged.pop("fps", DEFAULT_FPS), "fps", least=1)
        trajectory = self.replica.start({name: value for name, value in merged.items() if name in known}, guiders)
        if self.facts.video:
            trajectory.state.values[FPS] = fps  # travels with the state, to the rank that writes the file
        return trajectory

    def _check_sizes(self, inputs: Mapping[str, object]) -> None:
        limits = self.limits
        for side, token in (("height", self.facts.token_height), ("width", self.facts.token_width)):
            if side not in inputs:
                continue
            pixels, multiple = _whole(inputs[side], side, least=1), math.lcm(token, limits.multiple_of)
            if pixels % multiple:
                hint = f"ask for {max(1, round(pixels / multiple)) * multiple}"
                raise InputError(f"`{side}` must be a multiple of {multiple}, not {pixels}", hint=hint)
            if not limits.min_side <= pixels <= limits.max_side:
                raise InputError(f"`{side}` must be from {limits.min_side} to {limits.max_side} pixels, not {pixels}")
        if "num_inference_steps" in inputs:
            _whole(inputs["num_inference_steps"], "num_inference_steps", least=1)
        prompt = inputs.get("prompt")
        if "prompt" in self.replica.input_names and not isinstance(prompt, str):
            raise InputError(f"`prompt` must be a text, not {prompt!r}")

    def _guiders(self, inputs: dict[str, object]) -> dict[str, BaseGuidance]:
        """Guiders of the scale asked for. A pipeline that itself takes `guidance_scale` means something else by it."""
        names = [name for name in _SCALES if name == "true_cfg_scale" or name not in self.replica.input_names]
        scales = [scale for name in names if (scale := inputs.pop(name, None)) is not None]
        if not scales:
            return {}
        scale = scales[0]
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 <= scale < float("inf"):
            raise InputError(f"the guidance scale must be a number from 0 on, not {scale!r}")
        with quiet():
            return {name: guider.new(guidance_scale=float(scale)) for name, guider in self.replica.guiders().items()}


def _whole(value: object, name: str, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"`{name}` must be a whole number from {least} on, not {value!r}")
    return value
