"""Defects of the supported diffusers versions that keep a family from running, mended where they are.

Each repair names what it mends; when a version without the defect becomes the oldest supported one, it goes.
"""

from __future__ import annotations

from functools import wraps

import torch


def mend_wan() -> None:
    """diffusers 0.42: `WanTextEncoderStep.encode_prompt` reads a variable that it only sets for guided requests, and
    later blocks require it of all requests. An unguided one encodes a negative prompt that nobody looks at."""
    from diffusers.modular_pipelines.wan.encoders import WanTextEncoderStep  # here: it imports what only Wan needs

    original = WanTextEncoderStep.encode_prompt
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def encode_prompt(
        *args: object, prepare_unconditional_embeds: bool = True, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return original(*args, prepare_unconditional_embeds=True, **kwargs)

    WanTextEncoderStep.encode_prompt = staticmethod(encode_prompt)
