"""The shipped checkpoint: its size, form and defaults, that it loads offline, and that it draws what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from safetensors import safe_open

from gfdit.models import embedded_defaults, embedded_model_path
from gfdit.models.shapes.evaluate import Sampler
from gfdit.models.shapes.judge import judge
from gfdit.models.shapes.vocabulary import Scene, prompt

LIMIT_BYTES = 8_000_000


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    torch.set_num_threads(1)
    loaded = DiffusionPipeline.from_pretrained(embedded_model_path(), local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_fits_its_limit_and_is_stored_in_half_precision() -> None:
    files = [path for path in embedded_model_path().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 4
    for path in weights:
        with safe_open(path, "pt") as held:
            assert {held.get_slice(name).get_dtype() for name in held.keys()} == {"F16"}  # noqa: SIM118
    assert {path.suffix for path in files} <= {".safetensors", ".json"}


def test_it_loads_as_float32_with_the_promised_shape(pipeline: FluxPipeline) -> None:
    modules = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {module.dtype for module in modules} == {torch.float32}
    config = pipeline.transformer.config
    assert (config.num_attention_heads, config.attention_head_dim) == (8, 24)
    assert pipeline.transformer._cp_plan is not None
    assert pipeline.vae_scale_factor * 2 == embedded_defaults()["multiple_of"]


def test_defaults_are_complete() -> None:
    defaults = embedded_defaults()
    assert defaults["steps"] == 16
    assert defaults["true_cfg_scale"] == 3.0
    assert defaults["max_sequence_length"] == 24
    assert defaults["dtype"] == "float32"


def test_a_missing_checkpoint_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gfdit.models.files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"checkpoint has no model_index\.json; reinstall"):
        embedded_model_path()


@pytest.mark.parametrize("text", ["A Zebra, flying?!", "", "7", "ein roter Kreis — на синем фоне " * 5])
def test_any_text_makes_a_picture(pipeline: FluxPipeline, text: str) -> None:
    (picture,) = Sampler(pipeline, steps=4, guidance=1.0).pictures([text], (64, 64))
    assert picture.shape == (64, 64, 3)


def test_capitals_change_nothing(pipeline: FluxPipeline) -> None:
    sampler = Sampler(pipeline, steps=2, guidance=1.0)
    low, high = (sampler.pictures([text], (64, 64))[0] for text in ("a red star", "A RED Star"))
    assert (low == high).all()


def test_it_draws_what_is_asked(pipeline: FluxPipeline) -> None:
    """Ten easy prompts, two of them held-out pairs; two pictures may fail before the test does."""
    scenes = [
        Scene("red", "circle", "blue"),
        Scene("yellow", "square", "black"),
        Scene("white", "triangle", "blue"),
        Scene("orange", "ring", "white"),
        Scene("blue", "diamond", "yellow"),
        Scene("black", "cross", "white"),
        Scene("pink", "heart", "black"),
        Scene("cyan", "circle", "gray"),
        Scene("red", "star", "white"),
        Scene("green", "circle", "black"),
    ]
    pictures = Sampler(pipeline, steps=8, guidance=3.0).pictures([prompt(scene) for scene in scenes], (64, 64))
    verdicts = [judge(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
    assert sum(verdict.background and verdict.colour for verdict in verdicts) >= 9
    assert sum(verdict.shape for verdict in verdicts) >= 8
