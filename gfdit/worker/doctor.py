"""Whether a model can be served: its steps, taken apart and carried through bytes, must give the uninterrupted picture.

This is the admission test of a model family. It runs the real pipeline in this process and compares bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from gfdit.core.work import Stage
from gfdit.errors import GfditError
from gfdit.worker.codec import to_bytes
from gfdit.worker.context_parallel import plan_of
from gfdit.worker.executor import Executor
from gfdit.worker.facts import denoisers
from gfdit.worker.inputs import Intake
from gfdit.worker.loading import Loaded
from gfdit.worker.outputs import OUTPUTS
from gfdit.worker.tasks import Input, Task
from gfdit.worker.trajectory import Replica, Trajectory

STEPS = 3
PROMPTS = ("a red circle on a blue background", "a green square on a white background")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried; `detail` says what came out."""

    name: str
    passed: bool
    detail: str


def examine(loaded: Loaded, inputs: Mapping[str, Input] | None = None) -> list[Check]:
    """Try a model. `inputs` override the prompt, size and number of steps of the trial."""
    executor = Executor(loaded)
    facts, intake = executor.describe(), executor.intake
    side = max(intake.limits.min_side, 4 * max(facts.token_height, facts.token_width))
    frames = {"num_frames": facts.frame_factor + 1} if facts.video else {}
    trial: dict[str, Input] = {"height": side, "width": side, "num_inference_steps": STEPS, **frames, **(inputs or {})}
    trials = [{"prompt": prompt, "seed": seed, **trial} for seed, prompt in enumerate(PROMPTS)]
    size = f"{trial['width']} x {trial['height']}"
    try:
        whole = [_uninterrupted(intake, one) for one in trials]
    except Exception as error:  # whatever the model raises is the finding
        return [Check("runs", False, f"{type(error).__name__}: {error}")]
    made = _size(whole[0])
    if made != size:
        return [Check("runs", False, f"made {made} pixels where {size} were asked for")]
    return [
        Check("runs", True, f"{len(whole)} {'videos' if facts.video else 'pictures'} of {size} pixels"),
        _try("stepwise", lambda: _equal([_stepwise(intake, one) for one in trials], whole)),
        _try("through bytes", lambda: _equal([_carried(intake, one) for one in trials], whole)),
        _try("interleaved", lambda: _equal(_interleaved(intake, trials), whole)),
        _try("rerun", lambda: _rerun(executor, trials[0])),
        _splits(loaded, facts.heads),
    ]


def _try(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *check())
    except (GfditError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _uninterrupted(intake: Intake, inputs: Mapping[str, Input]) -> np.ndarray:
    """The picture of the pipeline's own call."""
    trajectory = intake.start(inputs)
    pipe = intake.replica.pipe
    for name, component in trajectory.components.items():
        setattr(pipe, name, component)
    given = {name: trajectory.state.values[name] for name in pipe.default_call_parameters if name is not None}
    return _picture(pipe(**given).values)


def _stages(replica: Replica, trajectory: Trajectory) -> list[Callable[[Trajectory], None]]:
    """Encode, prepare, as many steps as asked for, decode."""
    steps = int(str(trajectory.state.values["num_inference_steps"]))
    return [
        lambda state: replica.encode(state, 1),
        lambda state: replica.prepare(state, 2),
        *[replica.step] * steps,
        replica.decode,
    ]


def _stepwise(intake: Intake, inputs: Mapping[str, Input]) -> np.ndarray:
    trajectory = intake.start(inputs)
    for stage in _stages(intake.replica, trajectory):
        stage(trajectory)
    return _picture(trajectory.state.values)


def _carried(intake: Intake, inputs: Mapping[str, Input]) -> np.ndarray:
    """Every stage runs on a trajectory that was made from the bytes of the one before."""
    trajectory = intake.start(inputs)
    for stage in _stages(intake.replica, trajectory):
        stage(trajectory)
        assert trajectory.cold is not None
        trajectory = intake.replica.restore(to_bytes(trajectory.cold), to_bytes(trajectory.hot()))
    return _picture(trajectory.state.values)


def _interleaved(intake: Intake, trials: list[dict[str, Input]]) -> list[np.ndarray]:
    """All trials take turns on one replica."""
    trajectories = [intake.start(one) for one in trials]
    for turn in zip(*(_stages(intake.replica, trajectory) for trajectory in trajectories), strict=True):
        for stage, trajectory in zip(turn, trajectories, strict=True):
            stage(trajectory)
    return [_picture(trajectory.state.values) for trajectory in trajectories]


def _rerun(executor: Executor, inputs: Mapping[str, Input]) -> tuple[bool, str]:
    """The last steps run twice, as after a lost result, give one state."""
    ranks, name = (0,), "doctor"
    executor.run(Task(1, name, Stage.ENCODE, ranks, inputs=inputs))
    total = executor.run(Task(2, name, Stage.PREPARE, ranks)).total or 0
    first, second = (
        executor.run(Task(epoch, name, Stage.DENOISE, ranks, first_step=0, steps=total)).hot for epoch in (3, 4)
    )
    executor.drop(name)
    return first == second, f"{total} steps run again gave {'the same' if first == second else 'another'} state"


def _splits(loaded: Loaded, heads: int) -> Check:
    without = [type(model).__name__ for model in denoisers(loaded.pipe) if plan_of(model) is None]
    if without:
        return Check("splits", True, f"no, for want of a plan for {', '.join(without)}: steps run on one rank")
    return Check("splits", True, f"sequence parallel by plan, {heads} heads")


def _picture(values: Mapping[str, object]) -> np.ndarray:
    decoded = next(values[name] for name in OUTPUTS if values.get(name) is not None)
    return decoded.float().cpu().numpy() if isinstance(decoded, torch.Tensor) else np.asarray(decoded)


def _size(picture: np.ndarray) -> str:
    """Width x height; channels stand before them in tensors and behind them in arrays."""
    height, width = picture.shape[-3:-1] if picture.shape[-1] == 3 != picture.shape[-3] else picture.shape[-2:]
    return f"{width} x {height}"


def _equal(got: list[np.ndarray], expected: list[np.ndarray]) -> tuple[bool, str]:
    if all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True)):
        return True, "equal to the uninterrupted pictures, bit for bit"
    worst = max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))
    return False, f"differs from the uninterrupted pictures by up to {worst:.3g}"
