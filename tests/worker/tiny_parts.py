"""What the tiny pipelines are made of: text encoders with random weights and tokenizers that need no files."""

from __future__ import annotations

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
)

from gfdit.models.shapes.tokenizers import build_clip_tokenizer, build_t5_tokenizer

WIDTH = 32
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LETTERS = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
_VOCAB = {piece: index for index, piece in enumerate([*_LETTERS, *_SPECIALS])}
#: Every message in the form of Qwen's: a role, a text that is a string or a list of parts, an end.
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def clip(kind: type = CLIPTextModel) -> torch.nn.Module:
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


def t5(kind: type = T5EncoderModel, config: type = T5Config, width: int = WIDTH) -> torch.nn.Module:
    return kind(
        config(vocab_size=len(build_t5_tokenizer()), d_model=width, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    )


def chars() -> Qwen2Tokenizer:
    """A token a letter, with a chat template."""
    return Qwen2Tokenizer(vocab=dict(_VOCAB), merges=[], chat_template=_CHAT)


def _qwen_text(width: int, layers: int) -> dict[str, object]:
    return {
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(_VOCAB),
        "bos_token_id": _VOCAB["<|im_start|>"],
        "eos_token_id": _VOCAB["<|im_end|>"],
        "pad_token_id": _VOCAB["<|endoftext|>"],
    }


def qwen25(layers: int = 1) -> Qwen2_5_VLForConditionalGeneration:
    """Sees pictures too."""
    text = {**_qwen_text(WIDTH, layers), "rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]}}
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def qwen3(kind: type, layers: int, width: int = WIDTH) -> torch.nn.Module:
    return kind(Qwen3Config(**_qwen_text(width, layers), head_dim=8))
