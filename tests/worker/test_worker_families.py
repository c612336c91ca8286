"""Every family that is said to work: taken apart, spread over ranks that change, and counted right."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gfdit.core.parallel import Parallel
from gfdit.errors import InputError
from gfdit.worker.codec import unpack
from gfdit.worker.context_parallel import plan_of
from gfdit.worker.doctor import examine
from gfdit.worker.executor import Executor
from gfdit.worker.facts import denoisers
from gfdit.worker.outputs import encode_output
from gfdit.worker.tasks import Input, ModelFacts, Task, join_state
from gfdit.worker.trajectory import Trajectory
from tests.worker.fleet import Fleet
from tests.worker.tiny import FAMILIES, PROMPT, build

torch.set_num_threads(1)
RANKS = 4
STEPS = 6
# One rank, two, three, a full grid, two branches, one again on a rank that has not seen the request's end.
JOURNEY = [
    ((1,), Parallel()),
    ((1, 2), Parallel(ulysses=2)),
    ((2, 3, 0), Parallel(ring=3)),
    ((3, 1, 0, 2), Parallel(cfg=2, ulysses=2)),
    ((2, 0), Parallel(cfg=2)),
    ((3,), Parallel()),
]


def asked(facts: ModelFacts, **more: Input) -> dict[str, Input]:
    """A picture of 8 x 6 tokens, or three latent frames of it: shares of three ranks are uneven with the text's."""
    size = {"height": 8 * facts.token_height, "width": 6 * facts.token_width}
    frames = {"num_frames": 2 * facts.frame_factor + 1} if facts.video else {}
    return {"prompt": PROMPT, "seed": 3, "num_inference_steps": STEPS, "true_cfg_scale": 4.0, **size, **frames, **more}


# Without guidance those whose blocks have a way of their own for it.
UNGUIDED = [(name, 1.0) for name in ("hunyuan", "ltx", "wan", "z-image")]


@pytest.mark.parametrize(("family", "scale"), [*((name, 3.0) for name in FAMILIES), *UNGUIDED])
def test_families_conform(family: str, scale: float) -> None:
    loaded = build(family)
    checks = examine(loaded, {"true_cfg_scale": scale})
    assert [check.name for check in checks] == ["runs", "stepwise", "through bytes", "interleaved", "rerun", "splits"]
    assert [check for check in checks if not check.passed] == []
    assert all(plan_of(model) is not None for model in denoisers(loaded.pipe))


#: Families that start from a picture too. HunyuanVideo 1.5 needs an encoder of pictures that its tiny form lacks.
FROM_IMAGE = [name for name in FAMILIES if name not in ("hunyuan", "wan", "wan22", "wan5b")]


def picture(width: int, height: int) -> str:
    """Coloured noise as a PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("family", FROM_IMAGE)
def test_families_conform_from_a_picture(family: str) -> None:
    inputs = {"height": 64, "width": 64, "image": picture(64, 64), "num_inference_steps": 4}
    checks = examine(build(family), inputs)
    assert [check for check in checks if not check.passed] == []
    assert "64 x 64" in checks[0].detail
    executor = Executor(build(family))
    executor.run(Task(1, "r", "encode", (0,), inputs={"prompt": PROMPT, **inputs}))
    values = executor._held["r"].trajectory.state.values
    assert values["image_latents"] is not None
    assert values["image"] is None  # files do not travel


def test_a_picture_is_asked_of_those_that_take_one() -> None:
    intake = Executor(build("hunyuan")).intake
    with pytest.raises(InputError, match="has no input `image`"):
        intake.start(asked(intake.facts, image=picture(8, 8)))
    intake = Executor(build("flux")).intake
    with pytest.raises(InputError, match="`image` must be a PNG or JPEG file in base64"):
        intake.start(asked(intake.facts, image="AAAA"))
    with pytest.raises(InputError, match="`image` is 9000 x 1 pixels, too large"):
        intake.start(asked(intake.facts, image="data:image/png;base64," + picture(9000, 1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_transformer(family: str) -> None:
    executor = Executor(build(family))
    pipe, facts = executor.intake.replica.pipe, executor.describe()
    # Z-Image pads to whole multiples of 32: 8 x 8 tokens need no padding.
    inputs = asked(facts, width=8 * facts.token_width, num_inference_steps=1)
    name = next(name for name in ("noise_refiner", "transformer_blocks", "blocks") if hasattr(pipe.transformer, name))
    seen = []

    def hook(block: torch.nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.ndim == 3]
        seen.append(tensors[0].shape[1])

    getattr(pipe.transformer, name)[0].register_forward_pre_hook(hook, with_kwargs=True)
    _run(executor, inputs)
    frames = inputs.get("num_frames", 1)
    assert set(seen) == {facts.tokens(inputs["height"], inputs["width"], frames)}
    assert len(seen) == facts.branches == 2


def _run(executor: Executor, inputs: Mapping[str, Input]) -> Trajectory:
    executor.run(Task(1, "r", "encode", (0,), inputs=inputs))
    total = executor.run(Task(2, "r", "prepare", (0,))).total
    executor.run(Task(3, "r", "denoise", (0,), steps=total))
    executor.run(Task(4, "r", "decode", (0,)))
    return executor._held["r"].trajectory


def test_the_second_expert_takes_over_at_the_boundary() -> None:
    executor = Executor(build("wan22"))
    pipe = executor.intake.replica.pipe
    ran: list[int] = []
    for number, model in enumerate((pipe.transformer, pipe.transformer_2)):
        model.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    trajectory = _run(executor, asked(executor.describe()))
    expected = [int(t < 0.875 * 1000) for t in trajectory.state.values["timesteps"]]
    assert ran == [expert for expert in expected for _ in range(2)]  # two branches a step
    assert set(expected) == {0, 1}
    scales = {name: guider.guidance_scale for name, guider in trajectory.components.items() if "guider" in name}
    assert scales == {"guider": 4.0, "guider_2": 4.0}  # one scale asked for is for both
    own = executor.intake.start({**asked(executor.describe(), guidance_scale_2=2.0), "true_cfg_scale": 5.0})
    assert (own.components["guider"].guidance_scale, own.components["guider_2"].guidance_scale) == (5.0, 2.0)


@pytest.mark.parametrize(("family", "fps"), [("hunyuan", 24), ("ltx", 25), ("wan", 16)])
def test_videos_have_their_familys_pace_and_frames(family: str, fps: int) -> None:
    executor = Executor(build(family))
    facts = executor.describe()
    trajectory = _run(executor, asked(facts, num_inference_steps=1))
    assert trajectory.state.values.get("frame_rate", fps) == fps
    with av.open(io.BytesIO(encode_output(trajectory.state.values))) as file:
        (stream,) = file.streams
        shapes = [frame.to_ndarray(format="rgb24").shape for frame in file.decode(stream)]
    assert stream.average_rate == fps
    assert shapes == [(8 * facts.token_height, 6 * facts.token_width, 3)] * (2 * facts.frame_factor + 1)
    with pytest.raises(InputError, match=f"1 more than a multiple of {facts.frame_factor}"):
        executor.intake.start(asked(facts, num_frames=facts.frame_factor))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(RANKS, "qwen") as fleet:
        yield fleet


def _travel(fleet: Fleet, name: str, cold: bytes, shift: int = 0) -> tuple[bytes, list[int]]:
    """The last hot state of a journey, and the collectives of a member of each of its groups."""
    before: tuple[int, ...] = ()
    counts = []
    for step, (places, parallel) in enumerate(JOURNEY):
        ranks = tuple((rank + shift) % RANKS for rank in places)
        how = {"sources": before} if before else {"restore": join_state(cold)}
        result = fleet.run(name, "denoise", ranks, first_step=step, parallel=parallel, **how)[ranks[0]]
        counts.append(result.collectives)
        before = ranks
    assert result.hot is not None
    return result.hot, counts


def _latents(hot: bytes) -> np.ndarray:
    state = unpack(hot)["state"]
    assert isinstance(state, dict)
    return state["latents"].numpy()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "flux"])  # test_worker_elastic has flux
def test_families_travel(fleet: Fleet, family: str) -> None:
    """Over groups of every kind: what one rank makes, and the same bits wherever groups of the same kinds are."""
    fleet.use(family)
    facts = fleet.call(0, "describe")
    assert isinstance(facts, ModelFacts)
    inputs = asked(facts)
    if family in ("flux2", "ltx", "sd3"):  # a reference beside the latents, a first frame, a picture to change
        inputs["image"] = picture(64, 64)
    if family == "sd3":
        inputs["strength"] = 1.0  # all of the steps
    cold, expected, _ = fleet.serial("serial", inputs)
    hot, counts = _travel(fleet, "journey", cold)
    assert np.abs(_latents(hot) - _latents(expected)).max() < 1e-4
    assert (counts[0], counts[4]) == (0, 1)  # alone; the predictions of two branches, and no hand-over
    assert min(counts[1:4]) > 6  # two for a hand-over, and some for every block of either branch
    again, _ = _travel(fleet, "elsewhere", cold, shift=1)
    assert again == hot
