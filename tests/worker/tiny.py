"""Tiny pipelines with random weights, built in code: one of each kind of family that the worker must carry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from gfdit.models.shapes.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from gfdit.worker.guided_flux import GuidedFluxBlocks
from gfdit.worker.loading import Loaded, quiet
from gfdit.worker.tasks import Limits

PROMPT = "a red circle on a blue background"
WIDTH = 32


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


def _clip(kind: type = CLIPTextModel) -> torch.nn.Module:
    tokenizer = build_clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def _t5(kind: type = T5EncoderModel, config: type = T5Config, width: int = WIDTH) -> torch.nn.Module:
    return kind(
        config(vocab_size=len(build_t5_tokenizer()), d_model=width, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    )


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
        text_encoder=_clip(),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=build_t5_tokenizer(),
    )
    return pipe


def _qwen() -> ModularPipeline:
    from diffusers import QwenImageAutoBlocks

    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    vocab = {piece: index for index, piece in enumerate(letters)}
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocab |= {piece: len(vocab) + index for index, piece in enumerate(specials)}
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]},
        "vocab_size": len(vocab),
        "bos_token_id": vocab["<|im_start|>"],
        "eos_token_id": vocab["<|im_end|>"],
        "pad_token_id": vocab["<|endoftext|>"],
    }
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}
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
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        tokenizer=Qwen2Tokenizer(vocab=vocab, merges=[]),
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
        text_encoder=_clip(CLIPTextModelWithProjection),
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer_2=build_clip_tokenizer(),
        text_encoder_3=_t5(width=2 * WIDTH),
        tokenizer_3=build_t5_tokenizer(),
    )
    return pipe


def _wan() -> ModularPipeline:
    from diffusers import WanBlocks

    pipe = WanBlocks().init_pipeline()
    pipe.update_components(
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=WanTransformer3DModel(
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
        ),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=_t5(UMT5EncoderModel, UMT5Config),
        tokenizer=build_t5_tokenizer(),
    )
    return pipe


FAMILIES: dict[str, Callable[[], ModularPipeline]] = {"flux": _flux, "qwen": _qwen, "sd3": _sd3, "wan": _wan}
