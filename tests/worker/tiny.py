"""Tiny pipelines with random weights, built in code: one of each kind of family that the worker must carry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
)
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from transformers import CLIPTextModelWithProjection, Qwen3ForCausalLM, Qwen3Model

from gfdit.models.shapes.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from gfdit.worker.guided_flux import GuidedFluxBlocks
from gfdit.worker.loading import Loaded, quiet
from gfdit.worker.tasks import Limits
from tests.worker.tiny_parts import WIDTH, chars, clip, qwen3, qwen25, t5
from tests.worker.tiny_video import VIDEO_FAMILIES

PROMPT = "a red circle on a blue background"


def build(family: str) -> Loaded:
    """A loaded tiny model; equal weights in every process."""
    torch.manual_seed(0)
    with quiet():
        pipe = FAMILIES[family]()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    defaults = {"num_inference_steps": 4, "max_sequence_length": 16}
    return Loaded(f"tiny-{family}", pipe, defaults, Limits())


def _flux() -> ModularPipeline:
    pipe = GuidedFluxBlocks().init_pipeline()
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=6,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(2, 2, 4),
        ),
        vae=AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=4,
            shift_factor=0.0,
        ),
        text_encoder=clip(),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=build_t5_tokenizer(),
    )
    return pipe


def _qwen() -> ModularPipeline:
    from diffusers import QwenImageAutoBlocks

    pipe = QwenImageAutoBlocks().init_pipeline()
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=qwen25(),
        tokenizer=chars(),
    )
    return pipe


def _sd3() -> ModularPipeline:
    from diffusers import StableDiffusion3AutoBlocks

    pipe = StableDiffusion3AutoBlocks().init_pipeline()
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=32,
            qk_norm="rms_norm",
        ),
        vae=AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            shift_factor=0.1,
            scaling_factor=1.5,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=build_clip_tokenizer(),
        text_encoder_3=t5(width=2 * WIDTH),
        tokenizer_3=build_t5_tokenizer(),
    )
    return pipe


def _flux2() -> ModularPipeline:
    from diffusers import AutoencoderKLFlux2, Flux2KleinBaseAutoBlocks, Flux2Transformer2DModel

    pipe = Flux2KleinBaseAutoBlocks().init_pipeline()
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=48,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        ),
        vae=AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
        ),
        text_encoder=qwen3(Qwen3ForCausalLM, layers=27, width=16),  # layers 9, 18 and 27 are what the model reads
        tokenizer=chars(),
    )
    return pipe


def _z_image() -> ModularPipeline:
    from diffusers import ZImageAutoBlocks, ZImageTransformer2DModel

    pipe = ZImageAutoBlocks().init_pipeline()
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=2,
            n_heads=4,
            n_kv_heads=4,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 2, 2],
            axes_lens=[128, 64, 64],
        ),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            shift_factor=0.1,
            scaling_factor=1.5,
        ),
        text_encoder=qwen3(Qwen3Model, layers=2),
        tokenizer=chars(),
    )
    pipe.image_processor.register_to_config(vae_scale_factor=4)  # pixels of a token; 16 in the real one
    return pipe


FAMILIES: dict[str, Callable[[], ModularPipeline]] = {
    "flux": _flux,
    "flux2": _flux2,
    "qwen": _qwen,
    "sd3": _sd3,
    "z-image": _z_image,
    **VIDEO_FAMILIES,
}
