"""A folder becomes a model that runs; a folder that is wrong says what is wrong with it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

import gfdit.models.shapes
from gfdit.errors import ModelError
from gfdit.worker.executor import Executor
from gfdit.worker.facts import denoisers
from gfdit.worker.loading import Loaded, load, quiet
from gfdit.worker.tasks import Task
from tests.worker.tiny import PROMPT, build

EMBEDDED = Path(gfdit.models.shapes.__file__).parent / "checkpoint"
SETTINGS = {
    "steps": 2,
    "true_cfg_scale": 2.0,
    "max_sequence_length": 16,
    "multiple_of": 8,
    "min_side": 16,
    "max_side": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Flux pipeline as diffusers saves it, with defaults of ours beside it."""
    target = tmp_path_factory.mktemp("models") / "tiny"
    parts = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    pipe = build("flux").pipe
    with quiet():
        FluxPipeline(**{name: getattr(pipe, name) for name in parts}).save_pretrained(target)
    (target / "defaults.json").write_text(json.dumps(SETTINGS))
    return target


def test_a_saved_pipeline_runs_by_its_defaults(folder: Path) -> None:
    executor = Executor(folder)
    facts = executor.describe()
    assert (facts.name, facts.family, facts.heads, facts.supports_cfg) == ("tiny", "flux", 6, True)
    assert facts.degrees[:4] == (1, 2, 3, 4)
    assert facts.tokens(32, 48) == 96
    assert facts.defaults == {"num_inference_steps": 2, "true_cfg_scale": 2.0, "max_sequence_length": 16}
    executor.run(Task(1, "r", "encode", (0,), inputs={"prompt": PROMPT, "height": 16, "width": 24}))
    assert executor.run(Task(2, "r", "prepare", (0,))).total == 2
    assert torch.get_num_threads() == 1


def test_loading_says_nothing(folder: Path) -> None:
    code = f"from gfdit.worker.loading import load; load({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_only_known_noise_is_dropped() -> None:
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    root, log = logging.getLogger("diffusers"), logging.getLogger("diffusers.somewhere")
    root.addHandler(handler)
    try:
        with quiet():
            log.warning("Guiders are currently an experimental feature and so on")
            log.warning("something that matters")
        log.warning("Guiders are currently back")
    finally:
        root.removeHandler(handler)
    assert shown.getvalue().splitlines() == ["something that matters", "Guiders are currently back"]


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no modular_model_index.json and no model_index.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("model_index.json", "{", "not readable JSON"),
        ("model_index.json", "[]", "does not hold a JSON object"),
        ("defaults.json", '{"steps": [1]}', "`steps` is not a string, number"),
        ("vae/config.json", None, "did not load: vae"),
    ],
)
def test_damaged_folders_name_the_file(folder: Path, tmp_path: Path, name: str, text: str | None, message: str) -> None:
    for source in folder.rglob("*"):
        target = tmp_path / source.relative_to(folder)
        target.mkdir() if source.is_dir() else target.hardlink_to(source)
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("HeliosPipeline", "family `helios` keeps state between steps that it does not show"),
        ("PixArtSigmaPipeline", "has no modular form of `PixArtSigmaPipeline`, so it cannot be taken apart into steps"),
    ],
)
def test_families_that_cannot_be_stepped_are_refused_before_their_weights(
    tmp_path: Path, family: str, message: str
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": family}))
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_the_type_is_asked_for_or_the_folders(folder: Path) -> None:
    assert load(folder).pipe.transformer.dtype == torch.float32
    assert load(folder, dtype="bfloat16").pipe.transformer.dtype == torch.bfloat16
    with pytest.raises(ModelError, match="`dtype` must be one of float32, bfloat16, float16, not `int8`"):
        load(folder, dtype="int8")


ORDINARY = {
    "flux2": ("Flux2KleinPipeline", {"is_distilled": False}),
    "hunyuan": ("HunyuanVideo15Pipeline", {}),
    "ltx": ("LTXPipeline", {}),
    "qwen": ("QwenImagePipeline", {}),
    "sd3": ("StableDiffusion3Pipeline", {}),
    "wan": ("WanPipeline", {}),
    "wan22": ("WanPipeline", {"boundary_ratio": 0.875}),
    "wan5b": ("WanPipeline", {"expand_timesteps": True}),
    "z-image": ("ZImagePipeline", {}),
}


@pytest.mark.parametrize("family", ORDINARY)
def test_ordinary_pipelines_load_as_their_modular_form(tmp_path: Path, family: str) -> None:
    """As hubs keep them: the same weights make the same latents."""
    name, configs = ORDINARY[family]
    kind = getattr(diffusers, name)
    made = build(family)
    parts = {part: made.pipe.components[part] for part in kind._get_signature_types() if part in made.pipe.components}
    with quiet():
        kind(**parts, **configs).save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded.pipe._blocks) is type(made.pipe._blocks)
    assert len(denoisers(loaded.pipe)) == len(denoisers(made.pipe))
    if family == "hunyuan":  # only the tiny one, not its folder, says that it has fewer text tokens
        loaded.pipe.__class__ = type(made.pipe)
    # Weights that were read from a file lie elsewhere in memory, and vector units round by where things lie.
    np.testing.assert_allclose(_latents(loaded), _latents(made), atol=1e-4)


def _latents(loaded: Loaded) -> np.ndarray:
    executor = Executor(loaded)
    facts = executor.describe()
    size = {"height": 4 * facts.token_height, "width": 4 * facts.token_width}
    frames = {"num_frames": facts.frame_factor + 1} if facts.video else {}
    inputs = {"prompt": PROMPT, "num_inference_steps": 2, "max_sequence_length": 16, **size, **frames}
    known = {name: value for name, value in inputs.items() if name in executor.intake.names()}
    executor.run(Task(1, "r", "encode", (0,), inputs=known))
    executor.run(Task(2, "r", "prepare", (0,)))
    executor.run(Task(3, "r", "denoise", (0,), steps=2))
    return executor._held["r"].trajectory.state.values["latents"].numpy()


@pytest.mark.skipif(not (EMBEDDED / "model_index.json").is_file(), reason="the embedded checkpoint is not here")
def test_the_embedded_model_draws() -> None:
    executor = Executor(EMBEDDED)
    facts = executor.describe()
    assert (facts.name, facts.heads, facts.tokens(128, 128)) == ("shapes", 8, 256)
    executor.run(Task(1, "r", "encode", (0,), inputs={"prompt": PROMPT, "height": 64, "width": 64}))
    total = executor.run(Task(2, "r", "prepare", (0,))).total
    assert total == facts.defaults["num_inference_steps"]
    executor.run(Task(3, "r", "denoise", (0,), steps=total))
    png = executor.run(Task(4, "r", "finalize", (0,))).output
    assert png is not None
    assert png.startswith(b"\x89PNG")
