"""The parts of the embedded pipeline: their configurations, initial weights, and export in diffusers form.

May import torch, diffusers and transformers; knows nothing of training data.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from gfdit.models.shapes.tokenizers import CLIP_LENGTH, build_clip_tokenizer, build_t5_tokenizer, case_variants

#: Pixels along one side of a transformer token: the VAE halves twice, the pipeline packs 2 x 2 latents.
TOKEN_PIXELS = 8
LATENT_CHANNELS = 4
POOLED_WIDTH = 64
JOINT_WIDTH = 96

#: What a caller should ask for unless told otherwise; written beside the checkpoint as defaults.json.
DEFAULTS: dict[str, int | float | str] = {
    "steps": 16,
    "true_cfg_scale": 3.0,
    "negative_prompt": "",
    "guidance_scale": 0.0,
    "max_sequence_length": 24,
    "width": 128,
    "height": 128,
    "multiple_of": TOKEN_PIXELS,
    "min_side": 64,
    "max_side": 512,
    "dtype": "float32",
}

#: Not kept in the autoencoder's configuration: a setting that it derives from others, writes, and complains of when
#: reading it, and the folder that it happened to be read from.
UNWANTED = ("block_out_channels", "_name_or_path")


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Flow matching with Flux's dynamic shift, re-based to 64 ... 4,096 tokens of 8 x 8 pixels."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.65, max_shift=4.4, base_image_seq_len=64, max_image_seq_len=4096
    )


def build_vae(scaling_factor: float = 1.0, shift_factor: float = 0.0) -> AutoencoderTiny:
    """Autoencoder of factor 4 with 4 latent channels."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    )


def build_transformer() -> FluxTransformer2DModel:
    """One double and three single Flux blocks, width 192 = 8 heads x 24; identity-like at the start.

    The adaLN and output projections are zeroed by hand, which diffusers leaves out: without it early training
    is spent on undoing random gates.
    """
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=1,
        num_single_layers=3,
        attention_head_dim=24,
        num_attention_heads=8,
        joint_attention_dim=JOINT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(4, 10, 10),
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name == "proj_out" or ".norm" in name or name.startswith("norm_out"):
                nn.init.zeros_(module.weight)
    return transformer


def build_clip_encoder() -> CLIPTextModel:
    """One-layer CLIP text encoder; its pooled output feeds the transformer's modulation."""
    tokenizer = build_clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=POOLED_WIDTH,
            projection_dim=POOLED_WIDTH,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def build_t5_encoder() -> T5EncoderModel:
    """Two-layer T5 encoder; its states are the transformer's text tokens."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(build_t5_tokenizer()),
            d_model=JOINT_WIDTH,
            d_kv=24,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
            dtype="float32",
        )
    )


@dataclass(slots=True)
class Parts:
    """The trained modules of the pipeline."""

    transformer: FluxTransformer2DModel
    vae: AutoencoderTiny
    clip: CLIPTextModel
    t5: T5EncoderModel


def build_parts() -> Parts:
    """Fresh modules, initialised from torch's global generator."""
    return Parts(build_transformer(), build_vae(), build_clip_encoder(), build_t5_encoder())


def _copy_case_variants(t5: T5EncoderModel) -> None:
    """Make "Red" and "RED" mean "red": they have tokens of their own and never occur in training."""
    tokenizer = build_t5_tokenizer()
    weight = t5.get_input_embeddings().weight
    with torch.no_grad():
        for variant, word in case_variants().items():
            weight[tokenizer.convert_tokens_to_ids(variant)] = weight[tokenizer.convert_tokens_to_ids(word)]


def build_pipeline(parts: Parts) -> FluxPipeline:
    """A pipeline around the parts, with the tokenizers and the scheduler."""
    return FluxPipeline(
        scheduler=build_scheduler(),
        vae=parts.vae,
        text_encoder=parts.clip,
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=parts.t5,
        tokenizer_2=build_t5_tokenizer(),
        transformer=parts.transformer,
    )


def _edit_json(path: Path, change: dict[str, str], drop: tuple[str, ...] = ()) -> None:
    held = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop} | change
    path.write_text(json.dumps(held, indent=2) + "\n")


def save_vae(vae: AutoencoderTiny, folder: Path) -> None:
    """Write the autoencoder alone, in full precision."""
    vae.save_pretrained(folder)
    _edit_json(folder / "config.json", {}, UNWANTED)


def load_vae(folder: Path) -> AutoencoderTiny:
    """Read what save_vae wrote."""
    return AutoencoderTiny.from_pretrained(folder, low_cpu_mem_usage=False)


def export(parts: Parts, folder: Path, provenance: dict[str, int | float | str]) -> None:
    """Write the pipeline to folder in diffusers form, weights in float16, replacing what is there file by file.

    The parts are converted in place (the caller passes copies). Every file is written beside its place and then
    moved over it, so that a reader sees old or new bytes of a file, never half of one.
    """
    _copy_case_variants(parts.t5)
    pipeline = build_pipeline(parts)
    for module in (parts.transformer, parts.vae, parts.clip, parts.t5):
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.half() if tensor.is_floating_point() else tensor.data
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        pipeline.save_pretrained(scratch)
        for name in ("text_encoder", "text_encoder_2"):  # else transformers would load half precision on CPU
            _edit_json(Path(scratch, name, "config.json"), {"dtype": "float32"})
        _edit_json(Path(scratch, "vae", "config.json"), {}, UNWANTED)
        Path(scratch, "defaults.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
        Path(scratch, "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
        for source in sorted(Path(scratch).rglob("*")):
            if source.is_file():
                target = folder / source.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                beside = target.with_name(target.name + ".new")
                shutil.copyfile(source, beside)
                beside.replace(target)
