"""The trainer in miniature: it learns, stops and resumes, and leaves a pipeline that loads."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import load_file

from gfdit.models.shapes import train as training
from gfdit.models.shapes.autoencoder import to_pictures, to_tensor
from gfdit.models.shapes.model import build_scheduler, build_transformer
from gfdit.models.shapes.optim import orthogonalize
from gfdit.models.shapes.parallel import Exchange
from gfdit.models.shapes.pool import pack, position_ids, tokens_of
from gfdit.models.shapes.text import PromptReader

TINY = {"small": {(64, 64): 1.0}}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "GROUPS", TINY)
    monkeypatch.setattr(training, "CURRICULUM", ((0.0, {"small": 1.0}),))
    monkeypatch.setattr(training, "TOKEN_BUDGET", 256)
    monkeypatch.setattr(training, "REPORT_STEPS", 2)
    monkeypatch.setattr(training, "WARMUP_STEPS", 1)


def test_a_stopped_run_resumes_where_it_was(tmp_path: Path, tiny: None) -> None:
    plan = training.Plan(tmp_path / "run", max_steps=4, vae_steps=2)
    first = training.train(plan)
    before = load_file(plan.out / "state.safetensors")
    vae = (plan.out / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert first.steps == 4
    assert first.pictures == 16

    with pytest.raises(FileExistsError, match=r"already has a state\.json; give --resume"):
        training.train(plan)
    again = training.train(training.Plan(plan.out, max_steps=6, vae_steps=2), resume=True)
    after = load_file(plan.out / "state.safetensors")

    assert (again.steps, int(after["steps"])) == (6, 6)
    assert again.pictures == 24
    assert again.cpu_seconds > first.cpu_seconds
    assert (plan.out / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == vae
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("value/"))
    steps = [json.loads(line)["steps"] for line in (plan.out / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]
    assert not list(plan.out.rglob("*.new"))


def test_loading_the_state_restores_every_tensor(tmp_path: Path, tiny: None) -> None:
    plan = training.Plan(tmp_path / "run", max_steps=2, vae_steps=2)
    progress = training.train(plan)
    trainer = training.Trainer(plan, training.prepare_vae(plan, progress), progress)
    saved, restored = load_file(plan.out / "state.safetensors"), trainer.optimizer.state()
    assert saved.keys() == restored.keys()
    assert all(torch.equal(saved[name], restored[name]) for name in saved)


def test_the_same_seed_trains_the_same_weights(tmp_path: Path, tiny: None) -> None:
    runs = []
    for name in ("one", "two"):
        plan = training.Plan(tmp_path / name, max_steps=2, vae_steps=2, seed=3)
        training.train(plan)
        runs.append(load_file(plan.out / "state.safetensors"))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_the_exported_pipeline_holds_the_averaged_weights(tmp_path: Path, tiny: None) -> None:
    plan = training.Plan(tmp_path / "run", max_steps=2, vae_steps=2)
    training.train(plan)
    average = load_file(plan.out / "state.safetensors")
    pipeline = FluxPipeline.from_pretrained(plan.out / "pipeline")
    for name, value in pipeline.transformer.named_parameters():
        assert value.dtype is torch.float32
        torch.testing.assert_close(value, average[f"average/transformer.{name}"].half().float())
    assert pipeline.vae.config.scaling_factor > 0


def test_ranks_end_up_with_the_mean_gradient() -> None:
    barrier, gradients = threading.Barrier(2), torch.zeros(2, 5)
    ranks = [Exchange(rank, 2, barrier, gradients, torch.zeros(2), torch.zeros(1)) for rank in range(2)]  # type: ignore[arg-type]
    held = [[torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1, 2))] for _ in ranks]
    for rank, (first, second) in enumerate(held):
        first.grad = torch.tensor([1.0, 2.0, 3.0]) * (rank + 1)
        second.grad = torch.ones(1, 2) if rank == 0 else None
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: pair[0].average_gradients(pair[1]), zip(ranks, held, strict=True)))
    for first, second in held:
        assert torch.equal(first.grad, torch.tensor([1.5, 3.0, 4.5]))
        assert torch.equal(second.grad, torch.full((1, 2), 0.5))


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path) -> None:
    plan = training.Plan(tmp_path / "run", max_steps=2, vae_steps=2, processes=2)
    progress = training.train(plan)
    assert progress.steps == 2
    assert FluxPipeline.from_pretrained(plan.out / "pipeline").transformer.proj_out.weight.abs().max() > 0


def test_resume_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no state\.json; leave out --resume"):
        training.train(training.Plan(tmp_path, max_steps=1), resume=True)


def test_packing_and_positions_are_the_pipelines_own() -> None:
    latents = torch.randn(2, 4, 16, 24)
    packed = FluxPipeline._pack_latents(latents, 2, 4, 16, 24)
    assert torch.equal(pack(latents), packed)
    ids = FluxPipeline._prepare_latent_image_ids(2, 8, 12, torch.device("cpu"), torch.float32)
    assert torch.equal(position_ids((96, 64)), ids)
    assert tokens_of((96, 64)) == packed.size(1)


def test_more_tokens_are_trained_and_sampled_at_higher_noise() -> None:
    torch.manual_seed(0)
    few, many = training.sample_times(4000, 64), training.sample_times(4000, 1024)
    assert 0 <= few.min() < few.max() <= 1
    assert few.median() < many.median()
    assert (many < 0.5).float().mean() > 0.05  # the uniform share reaches low levels whatever the size
    config = build_scheduler().config
    shifts = [
        calculate_shift(n, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
        for n in (64, 256, 1024)
    ]
    assert shifts == sorted(shifts)
    assert shifts[0] == pytest.approx(config.base_shift)


def test_a_fresh_transformer_predicts_zero() -> None:
    torch.manual_seed(0)
    transformer = build_transformer()
    output = transformer(
        hidden_states=torch.randn(1, 64, 16),
        encoder_hidden_states=torch.randn(1, 16, 96),
        pooled_projections=torch.randn(1, 64),
        timestep=torch.tensor([0.5]),
        img_ids=position_ids((64, 64)),
        txt_ids=torch.zeros(16, 3),
    ).sample
    assert output.abs().max() == 0


def test_muon_updates_are_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    for rows, columns in ((16, 64), (64, 16)):
        singular = torch.linalg.svdvals(orthogonalize(torch.randn(3, rows, columns)))
        assert singular.min() > 0.4
        assert singular.max() < 1.4


def test_reader_pads_and_cuts_as_the_pipeline_does() -> None:
    reader, prompt = PromptReader(), "a small yellow square in the top left corner on a black background"
    for length in (8, 16, 24):
        _, ids = reader.read([prompt, ""], length)
        theirs = reader._t5([prompt, ""], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        assert torch.equal(ids, theirs.input_ids)
    clip, _ = reader.read([prompt, ""], 16)
    theirs = reader._clip([prompt, ""], padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    assert torch.equal(clip, theirs.input_ids)


def test_pictures_survive_the_way_to_tensors_and_back() -> None:
    pictures = [torch.randint(0, 256, (8, 6, 3), dtype=torch.uint8).numpy() for _ in range(2)]
    assert all((a == b).all() for a, b in zip(pictures, to_pictures(to_tensor(pictures)), strict=True))
