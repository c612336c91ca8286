"""From what a client asks to what a pipeline takes: defaults, checks, the seed, and guidance as a component.

Messages name the field, the value and the fix, because a client reads them.
"""

from __future__ import annotations

import base64
import difflib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.guiders.guider_utils import BaseGuidance
from PIL import Image

from gfdit.errors import InputError
from gfdit.runtime.geometry import DEFAULT_FPS
from gfdit.worker.facts import SECOND_GUIDER, SECOND_SCALE
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
    "image",
    "strength",
)
_FROM_IMAGE = ("image", "strength")
MAX_PICTURE_SIDE = 8192
_SCALES = ("true_cfg_scale", "guidance_scale")
_FRAME_RATE = "frame_rate"  # what pipelines that take the pace of time into account call it


@dataclass(frozen=True, slots=True)
class Intake:
    """Starts trajectories on one replica."""

    replica: Replica
    facts: ModelFacts
    limits: Limits

    def names(self) -> tuple[str, ...]:
        """What a client may ask for."""
        own = [name for name in OFFERED if name in self.replica.input_names]
        if not self.replica.takes_image:
            own = [name for name in own if name not in _FROM_IMAGE]
        fps = ("fps",) if self.facts.video else ()
        guiders = self.replica.guiders()
        scales = (*_SCALES, SECOND_SCALE) if SECOND_GUIDER in guiders else _SCALES if guiders else ()
        return tuple(dict.fromkeys([*own, "seed", *fps, *scales]))

    def start(self, inputs: Mapping[str, Input]) -> Trajectory:
        """A trajectory for a client's `inputs`. Raises InputError for what the model does not take."""
        for name in inputs:
            if name not in self.names():
                close = difflib.get_close_matches(name, self.names(), n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"it takes {', '.join(self.names())}"
                raise InputError(f"model `{self.facts.name}` has no input `{name}`", hint=hint)
        given = {name: value for name, value in inputs.items() if value is not None}
        merged: dict[str, object] = {**self.facts.defaults, **given}
        if SECOND_SCALE not in given and any(name in given for name in _SCALES):
            merged.pop(SECOND_SCALE, None)  # one scale asked for is for both
        self._check_sizes(merged)
        guiders = self._guiders(merged)
        seed = _whole(merged.pop("seed", 0), "seed", least=0)
        merged["generator"] = torch.Generator("cpu").manual_seed(seed)  # the CPU's: the same noise on every device
        merged["output_type"] = "pt"
        if "image" in merged:
            merged["image"] = _picture(merged["image"], self.limits.max_side)
        known = self.replica.input_names
        fps = _whole(merged.pop("fps", DEFAULT_FPS), "fps", least=1)
        trajectory = self.replica.start({name: value for name, value in merged.items() if name in known}, guiders)
        if _FRAME_RATE in known:
            trajectory.state.values[_FRAME_RATE] = fps
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
        if "num_frames" in inputs:
            frames, group = _whole(inputs["num_frames"], "num_frames", least=1), self.facts.frame_factor
            if (frames - 1) % group:
                hint = f"ask for {round((frames - 1) / group) * group + 1}"
                raise InputError(f"`num_frames` must be 1 more than a multiple of {group}, not {frames}", hint=hint)
        if "num_inference_steps" in inputs:
            _whole(inputs["num_inference_steps"], "num_inference_steps", least=1)
        prompt = inputs.get("prompt")
        if "prompt" in self.replica.input_names and not isinstance(prompt, str):
            raise InputError(f"`prompt` must be a text, not {prompt!r}")

    def _guiders(self, inputs: dict[str, object]) -> dict[str, BaseGuidance]:
        """Guiders of the scale asked for, switched on. A pipeline that itself takes `guidance_scale` means something
        else by it."""
        names = [name for name in _SCALES if name == "true_cfg_scale" or name not in self.replica.input_names]
        scales = [_scale(scale) for name in names if (scale := inputs.pop(name, None)) is not None]
        second = inputs.pop(SECOND_SCALE, None)
        if not scales:
            return {}
        changes = dict.fromkeys(self.replica.guiders(), scales[0])
        if second is not None:
            changes[SECOND_GUIDER] = _scale(second)
        with quiet():
            return {
                name: guider.new(guidance_scale=changes[name], enabled=True)
                for name, guider in self.replica.guiders().items()
            }


def _scale(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise InputError(f"the guidance scale must be a number from 0 on, not {value!r}")
    return float(value)


def _picture(value: object, max_side: int) -> Image.Image:
    """The picture of a PNG or JPEG file in base64, with or without `data:...;base64,` before it."""
    try:
        content = base64.b64decode(str(value).rpartition(",")[2], validate=True)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            if max(picture.size) > min(max_side, MAX_PICTURE_SIDE):
                raise InputError(f"`image` is {picture.width} x {picture.height} pixels, too large to start from")
            return picture.convert("RGB")
    except (ValueError, OSError) as error:
        raise InputError(f"`image` must be a PNG or JPEG file in base64: {error}") from None


def _whole(value: object, name: str, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"`{name}` must be a whole number from {least} on, not {value!r}")
    return value
