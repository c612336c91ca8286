"""Tiny video pipelines with random weights; see tests/worker/tiny.py."""

from __future__ import annotations

from collections.abc import Callable

from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanTransformer3DModel
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from transformers import UMT5Config, UMT5EncoderModel

from gfdit.models.shapes.tokenizers import build_t5_tokenizer
from tests.worker.tiny_parts import WIDTH, chars, qwen25, t5


def _wan_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )


def _wan_parts() -> dict[str, object]:
    return {
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        "transformer": _wan_transformer(),
        "vae": AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "text_encoder": t5(UMT5EncoderModel, UMT5Config),
        "tokenizer": build_t5_tokenizer(),
    }


def _wan() -> ModularPipeline:
    from diffusers import WanBlocks

    pipe = WanBlocks().init_pipeline()
    pipe.update_components(**_wan_parts())
    return pipe


def _wan22() -> ModularPipeline:
    """Two experts: the first for the noisy steps, the second for the rest."""
    from diffusers import Wan22Blocks

    pipe = Wan22Blocks().init_pipeline()
    pipe.update_components(**_wan_parts(), transformer_2=_wan_transformer())
    return pipe


def _wan5b() -> ModularPipeline:
    """The small Wan 2.2: one expert, and a VAE that halves each side once more before it begins."""
    from diffusers import WanBlocks

    pipe = WanBlocks().init_pipeline()
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    pipe.update_components(**{**_wan_parts(), "vae": vae})
    return pipe


def _ltx() -> ModularPipeline:
    """Eight frames a latent frame, 16 x 16 pixels a token; the real one has 32 x 32."""
    from diffusers import AutoencoderKLLTXVideo, LTXAutoBlocks, LTXVideoTransformer3DModel

    pipe = LTXAutoBlocks().init_pipeline()
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        transformer=LTXVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=WIDTH,
        ),
        vae=AutoencoderKLLTXVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            patch_size=2,
        ),
        text_encoder=t5(),
        tokenizer=build_t5_tokenizer(),
    )
    return pipe


def _hunyuan() -> ModularPipeline:
    """Most of its text tokens are padding that attention has to leave out; the real one has 1,985 of them."""
    from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15AutoBlocks, HunyuanVideo15Transformer3DModel

    pipe = HunyuanVideo15AutoBlocks().init_pipeline()
    shorter = {
        "system_message": "." * 90,
        "tokenizer_max_length": 96,
        "tokenizer_2_max_length": 8,
        "vision_num_semantic_tokens": 6,
    }
    pipe.__class__ = type(type(pipe).__name__, (type(pipe),), shorter)
    pipe.update_components(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_refiner_layers=1,
            text_embed_dim=WIDTH,
            text_embed_2_dim=WIDTH,
            image_embed_dim=WIDTH,
            rope_axes_dim=(4, 6, 6),
        ),
        vae=AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
        ),
        text_encoder=qwen25(layers=2).model.language_model,
        tokenizer=chars(),
        text_encoder_2=t5(),
        tokenizer_2=build_t5_tokenizer(),
    )
    return pipe


VIDEO_FAMILIES: dict[str, Callable[[], ModularPipeline]] = {
    "hunyuan": _hunyuan,
    "ltx": _ltx,
    "wan": _wan,
    "wan22": _wan22,
    "wan5b": _wan5b,
}
