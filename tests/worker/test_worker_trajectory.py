"""Pipelines taken apart give the pictures of pipelines left whole, bit for bit."""

from __future__ import annotations

import io

import av
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from gfdit.core.work import Stage
from gfdit.errors import InputError, ModelError, StateError
from gfdit.worker.codec import to_bytes
from gfdit.worker.context_parallel import PLANS, install
from gfdit.worker.doctor import Check, examine
from gfdit.worker.executor import Executor
from gfdit.worker.outputs import FPS, encode_output
from gfdit.worker.snapshot import Snapshot
from gfdit.worker.tasks import Task, join_state
from gfdit.worker.trajectory import Replica
from tests.worker.tiny import PROMPT, build

torch.set_num_threads(1)
SIZE = {"height": 32, "width": 48}


def test_the_doctor_reports_what_a_broken_model_raises() -> None:
    loaded = build("flux")
    loaded.pipe.transformer.proj_out = torch.nn.Identity()
    (check,) = examine(loaded)
    assert (check.name, check.passed) == ("runs", False)
    assert "RuntimeError" in check.detail


def test_a_model_without_a_plan_is_served_on_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PLANS, "SD3Transformer2DModel")
    loaded = build("sd3")
    checks = examine(loaded)
    assert all(check.passed for check in checks)
    assert checks[-1].detail == "no, for want of a plan for SD3Transformer2DModel: steps run on one rank"
    assert Executor(loaded).describe().degrees == (1,)
    with pytest.raises(ModelError, match="`SD3Transformer2DModel` has no context-parallel plan"):
        install(loaded.pipe.transformer)


def test_the_doctor_notices_pictures_of_another_size() -> None:
    """As diffusers' Wan made them with the VAE of the 5B model, before it was mended."""
    loaded = build("wan5b")
    loaded.pipe.__class__ = type("Wan", (type(loaded.pipe),), {"vae_scale_factor_spatial": 8})
    (check,) = examine(loaded)
    assert check == Check("runs", False, "made 128 x 128 pixels where 64 x 64 were asked for")


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guided_flux_is_flux_with_true_cfg(scale: float) -> None:
    loaded = build("flux")
    parts = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    reference = FluxPipeline(**{name: getattr(loaded.pipe, name) for name in parts})
    reference.set_progress_bar_config(disable=True)
    expected = reference(
        prompt=PROMPT,
        negative_prompt="a green ring",
        true_cfg_scale=scale,
        num_inference_steps=4,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        **SIZE,
    ).images
    executor = Executor(loaded)
    inputs = {"prompt": PROMPT, "negative_prompt": "a green ring", "true_cfg_scale": scale, "seed": 3, **SIZE}
    trajectory = executor.intake.start(inputs)
    replica = executor.intake.replica
    replica.encode(trajectory, 1)
    replica.prepare(trajectory, 2)
    for _ in range(4):
        replica.step(trajectory)
    replica.decode(trajectory)
    assert torch.equal(trajectory.state.values["images"], expected)
    assert encode_output(trajectory.state.values) == encode_output({"images": expected})


def test_hot_state_is_what_steps_change() -> None:
    executor = Executor(build("flux"))
    replica = executor.intake.replica
    trajectory = executor.intake.start({"prompt": PROMPT, **SIZE})
    replica.encode(trajectory, 1)
    replica.prepare(trajectory, 2)
    assert trajectory.base.changes(trajectory.flat()) == {}
    replica.step(trajectory)
    assert set(trajectory.base.changes(trajectory.flat())) == {"latents", "scheduler|_step_index"}
    assert trajectory.hot().numel() < trajectory.cold.numel()


def test_a_step_that_raises_leaves_the_state_before_it() -> None:
    executor = Executor(build("flux"))
    replica = executor.intake.replica
    trajectory = executor.intake.start({"prompt": PROMPT, **SIZE})
    replica.encode(trajectory, 1)
    replica.prepare(trajectory, 2)
    replica.step(trajectory)
    before = to_bytes(trajectory.hot())
    broken = replica.pipe.transformer.proj_out.register_forward_hook(_fail)
    with pytest.raises(RuntimeError, match="out of order"):
        replica.step(trajectory)
    broken.remove()
    assert (trajectory.stage, trajectory.done) == (Stage.DENOISE, 1)
    assert to_bytes(trajectory.hot()) == before


def _fail(*_: object) -> None:
    raise RuntimeError("out of order")


def test_writing_in_place_is_noticed_instead_of_restored() -> None:
    latents = torch.zeros(4)
    snapshot = Snapshot.take({"latents": latents, "history": [latents]})
    assert snapshot.changes({"latents": latents, "history": [latents]}) == {}
    latents.add_(1)
    assert set(snapshot.changes({"latents": latents, "history": [latents]})) == {"latents", "history"}
    with pytest.raises(StateError, match="latents was changed in place"):
        snapshot.restored()


def test_generators_go_back_too() -> None:
    generator = torch.Generator().manual_seed(1)
    snapshot = Snapshot.take({"generator": generator})
    first = torch.rand(2, generator=generator)
    assert list(snapshot.changes({"generator": generator})) == ["generator"]
    assert snapshot.restored() == {"generator": generator}
    assert torch.equal(torch.rand(2, generator=generator), first)


def test_families_with_hidden_loop_state_are_refused() -> None:
    from diffusers import HeliosAutoBlocks

    with pytest.raises(ModelError, match="keeps state between steps"):
        Replica(HeliosAutoBlocks().init_pipeline())


def test_a_state_of_another_pipeline_is_refused() -> None:
    flux, qwen = Executor(build("flux")), Executor(build("qwen"))
    cold = flux.run(Task(1, "r", "encode", (0,), inputs={"prompt": PROMPT, **SIZE})).cold
    qwen.intake.replica._stateful.pop("guider")
    with pytest.raises(StateError, match="a component `guider`"):
        qwen.run(Task(1, "r", "prepare", (0,), restore=join_state(cold)))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"promt": "x"}, "did you mean `prompt`"),
        ({"prompt": "x", "height": 33}, "`height` must be a multiple of 4, not 33"),
        ({"prompt": "x", "width": 4096 * 4096}, "`width` must be from"),
        ({"prompt": "x", "width": True}, "`width` must be a whole number"),
        ({}, "`prompt` must be a text"),
        ({"prompt": "x", "seed": -1}, "`seed` must be a whole number from 0 on, not -1"),
        ({"prompt": "x", "num_inference_steps": 0}, "`num_inference_steps` must be a whole number from 1 on"),
        ({"prompt": "x", "true_cfg_scale": float("inf")}, "guidance scale"),
    ],
)
def test_bad_inputs_name_field_value_and_fix(inputs: dict[str, object], message: str) -> None:
    executor = Executor(build("flux"))
    with pytest.raises(InputError) as caught:
        executor.run(Task(1, "r", "encode", (0,), inputs=inputs))
    assert message in str(caught.value)


def test_tasks_out_of_place_are_refused() -> None:
    executor = Executor(build("flux"))
    with pytest.raises(StateError, match="is not here"):
        executor.run(Task(1, "r", "denoise", (0,)))
    executor.run(Task(2, "r", "encode", (0,), inputs={"prompt": PROMPT, **SIZE}))
    executor.run(Task(3, "r", "prepare", (0,)))
    with pytest.raises(StateError, match="is at prepare with 0 steps done"):
        executor.run(Task(4, "r", "denoise", (0,), first_step=2))
    with pytest.raises(StateError, match="do not fit into a trajectory of 4"):
        executor.run(Task(5, "r", "denoise", (0,), steps=5))
    with pytest.raises(ModelError, match="runs alone"):
        executor.run(Task(6, "r", "denoise", (0, 1)))
    assert executor.held() == {"r": (Stage.PREPARE, 0)}
    executor.drop("r")
    assert executor.held() == {}


def test_finalize_from_a_checkpoint_decodes_first() -> None:
    executor = Executor(build("flux"))
    executor.run(Task(1, "r", "encode", (0,), inputs={"prompt": PROMPT, **SIZE}))
    cold = executor.run(Task(2, "r", "prepare", (0,))).cold
    hot = executor.run(Task(3, "r", "denoise", (0,), steps=4)).hot
    executor.run(Task(4, "r", "decode", (0,)))
    png = executor.run(Task(5, "r", "finalize", (0,))).output
    executor.drop("r")
    assert executor.run(Task(6, "r", "finalize", (0,), restore=join_state(cold, hot))).output == png
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (48, 32))


def test_videos_become_mp4_files() -> None:
    """H.264 and its colour planes lose little of flat grey."""
    grey = torch.tensor([0.2, 0.5, 0.8])
    content = encode_output({"videos": grey[None, :, None, None, None].expand(1, 3, 3, 16, 33), FPS: 8})
    with av.open(io.BytesIO(content)) as file:
        (stream,) = file.streams
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 8)
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert [frame.shape for frame in frames] == [(16, 32, 3)] * 3
    assert [round(float(frame.mean()) / 255, 1) for frame in frames] == [0.2, 0.5, 0.8]


def test_one_frame_is_a_picture() -> None:
    content = encode_output({"videos": torch.zeros(1, 1, 3, 8, 16)})
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("PNG", (16, 8))


def test_what_was_not_decoded_is_not_written() -> None:
    with pytest.raises(ModelError, match="neither images nor videos"):
        encode_output({"latents": torch.zeros(1)})
