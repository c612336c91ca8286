"""Defects of the supported diffusers versions that keep a family from running, mended where they are.

Each repair names what it mends; when a version without the defect becomes the oldest supported one, it goes. They are
made once a process, when a family is first run, however its pipeline came to be.
"""

from __future__ import annotations

from functools import wraps

import torch
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline


def mend(family: str) -> None:
    """Make the repairs that a family of diffusers' (`model_name` of its blocks) needs."""
    match family:
        case "ltx":
            from diffusers import LTXModularPipeline

            _mend_unguided(LTXModularPipeline)
        case "hunyuan-video-1.5":
            from diffusers import HunyuanVideo15ModularPipeline

            _mend_unguided(HunyuanVideo15ModularPipeline)
        case _ if family.startswith("wan"):
            _mend_wan()
            _mend_wan_size()


def _mend_unguided(pipeline: type[ModularPipeline]) -> None:
    """diffusers 0.42: the text encoders of LTX and HunyuanVideo 1.5 leave out the negative prompt of an unguided
    request, and later blocks require it of all requests. It encodes one that nobody looks at."""
    pipeline.requires_unconditional_embeds = property(lambda self: True)


def _mend_wan() -> None:
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


def _mend_wan_size() -> None:
    """diffusers 0.42: `WanModularPipeline` counts the VAE's halvings and not the patches before them, so that Wan 2.2
    5B makes videos of twice the height and width; the ordinary pipeline reads the VAE's configuration, as here."""
    from diffusers import WanModularPipeline

    def vae_scale_factor_spatial(self: WanModularPipeline) -> int:
        vae = getattr(self, "vae", None)
        return 8 if vae is None else int(vae.config.scale_factor_spatial)

    WanModularPipeline.vae_scale_factor_spatial = property(vae_scale_factor_spatial)
