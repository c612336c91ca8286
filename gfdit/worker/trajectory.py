"""A modular diffusers pipeline, run one stage or one denoising step at a time, with its state in the open.

Every family's blocks flatten to leaves with one loop among them. Leaves before the loop encode (or, under `denoise.`,
prepare), leaves after it finish (`denoise.`) and decode. A step is the loop's own call with every iteration but one
skipped, so no model code is repeated here. What a request carries from step to step is its pipeline state plus the
variables of components that remember something (the sampler, the guider): each trajectory has its own of these, and any
number of trajectories may take turns on one replica.

Knows diffusers' modular API and nothing of groups, tasks or messages.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines.modular_pipeline import (
    BlockState,
    LoopSequentialPipelineBlocks,
    ModularPipeline,
    ModularPipelineBlocks,
    PipelineState,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image

from gfdit.core.work import Stage
from gfdit.errors import ModelError, StateError
from gfdit.worker.codec import pack, unpack
from gfdit.worker.repairs import mend
from gfdit.worker.snapshot import Snapshot

#: Families whose loop carries state between iterations outside the pipeline state.
UNSPLITTABLE = frozenset({"helios", "helios-pyramid", "minimax-music3", "wan-animate-2", "wan-animate-2-distilled"})

# Configuration, which every replica has, and what the loop sets afresh before each use: not part of a state.
_VOLATILE = frozenset(
    {"_internal_dict", "_diffusers_load_id", "_step", "_num_inference_steps", "_timestep", "_count_prepared"}
)
_OWNER = "|"  # separates a component from its variable in flat names; no identifier contains it


class StepGate:
    """Takes the place of a loop's `loop_step`: lets one iteration through while a step is set, all of them otherwise.

    Runs the same blocks, without logging the exceptions that pass: whoever runs the step decides what they mean.
    """

    def __init__(self, loop: LoopSequentialPipelineBlocks) -> None:
        self.loop = loop
        self.step: int | None = None
        loop.loop_step = self

    def __call__(
        self, components: ModularPipeline, state: BlockState, **kwargs: object
    ) -> tuple[ModularPipeline, BlockState]:
        if self.step is None or kwargs["i"] == self.step:
            for block in self.loop.sub_blocks.values():
                components, state = block(components, state, **kwargs)
        return components, state

    def run(self, pipe: ModularPipeline, state: PipelineState, step: int) -> None:
        self.step = step
        try:
            self.loop(pipe, state)
        finally:
            self.step = None


@dataclass(frozen=True, slots=True)
class Division:
    """One pipeline's blocks by stage, for requests that give one set of inputs."""

    encode: tuple[ModularPipelineBlocks, ...]
    prepare: tuple[ModularPipelineBlocks, ...]
    gate: StepGate
    decode: tuple[ModularPipelineBlocks, ...]


@dataclass(slots=True)
class Trajectory:
    """The state of one request. `given`: names of its inputs, which select the blocks. `cold` is the packed state that
    its last stage left, `base` the same as values: what differs from it is the hot state."""

    given: tuple[str, ...]
    state: PipelineState
    components: dict[str, SchedulerMixin | BaseGuidance]
    stage: Stage | None = None
    done: int = 0
    cold: torch.Tensor | None = None
    cold_id: int = 0
    base: Snapshot = field(default_factory=lambda: Snapshot.take({}))

    @property
    def total(self) -> int | None:
        """Denoising steps of the whole trajectory; None before it is prepared."""
        timesteps = self.state.values.get("timesteps")
        return None if timesteps is None or self.stage in (None, Stage.ENCODE) else len(timesteps)

    def flat(self) -> dict[str, object]:
        """The whole state: values, then which of them are keyword groups, then the components' variables."""
        flat: dict[str, object] = dict(self.state.values)
        for kind, names in self.state.kwargs_mapping.items():
            flat[f"{_OWNER}{kind}"] = list(dict.fromkeys(names))
        for owner, component in self.components.items():
            for name, value in vars(component).items():
                if name not in _VOLATILE:
                    flat[f"{owner}{_OWNER}{name}"] = value
        return flat

    def assign(self, flat: Mapping[str, object]) -> None:
        """Make `flat` the whole state."""
        self.state.values.clear()
        self.state.kwargs_mapping.clear()
        for component in self.components.values():
            for name in [name for name in vars(component) if name not in _VOLATILE]:
                del vars(component)[name]
        for key, value in flat.items():
            owner, separator, name = key.partition(_OWNER)
            if not separator:
                self.state.values[key] = value
            elif not owner:
                self.state.kwargs_mapping[name] = list(value) if isinstance(value, list) else []
            elif owner in self.components:
                vars(self.components[owner])[name] = value
            else:
                raise StateError(f"the state belongs to a pipeline with a component `{owner}`; this one has none")

    def rebase(self, cold_id: int) -> None:
        """Declare the present state the cold one, under a number that no other cold state of this request has."""
        flat = self.flat()
        self.base, self.cold_id = Snapshot.take(flat), cold_id
        self.cold = pack({"id": cold_id, "given": list(self.given), "stage": str(self.stage), "state": flat})

    def hot(self) -> torch.Tensor:
        """What changed since the cold state, packed, with the position it belongs to."""
        return pack({"stage": str(self.stage), "done": self.done, "state": self.base.changes(self.flat())})

    def apply_hot(self, packed: bytes | torch.Tensor, device: torch.device) -> None:
        """Move to the state that `packed` (made by `hot` on a rank with the same cold state) describes."""
        hot = unpack(packed, device)
        changes = hot["state"]
        if not isinstance(changes, dict):
            raise StateError("a hot state holds no values")
        self.assign({**self.base.restored(), **changes})
        self.stage, self.done = Stage(str(hot["stage"])), int(str(hot["done"]))


@dataclass(frozen=True, slots=True)
class Mark:
    """A trajectory's position and state at one moment, to go back to."""

    stage: Stage | None
    done: int
    cold: torch.Tensor | None
    cold_id: int
    base: Snapshot
    snapshot: Snapshot

    @classmethod
    def of(cls, trajectory: Trajectory) -> Mark:
        now = trajectory
        return cls(now.stage, now.done, now.cold, now.cold_id, now.base, Snapshot.take(now.flat()))

    def restore(self, trajectory: Trajectory) -> None:
        """Raises StateError if a step wrote into a tensor of this moment."""
        trajectory.assign(self.snapshot.restored())
        trajectory.stage, trajectory.done = self.stage, self.done
        trajectory.cold, trajectory.cold_id, trajectory.base = self.cold, self.cold_id, self.base


def refuse_unsplittable(pipe: ModularPipeline) -> str:
    """The pipeline's family. Raises ModelError if it is one whose steps cannot be told apart."""
    family = str(pipe._blocks.model_name or type(pipe).__name__)
    if family in UNSPLITTABLE:
        raise ModelError(
            f"the loop of family `{family}` keeps state between steps that it does not show",
            hint="this family cannot be split into steps; run it whole, or use another",
        )
    return family


def lacking(pipe: ModularPipeline, given: Iterable[str]) -> list[str]:
    """Components that requests with these inputs need, and that the pipeline was loaded without."""
    parts = pipe.blocks.get_execution_blocks(**dict.fromkeys(given, True)).expected_components
    return [part.name for part in parts if getattr(pipe, part.name, None) is None]


class Replica:
    """One loaded pipeline and what is worth keeping between its trajectories."""

    def __init__(self, pipe: ModularPipeline) -> None:
        self.pipe = pipe
        self.family = refuse_unsplittable(pipe)
        mend(self.family)
        self._inputs = tuple(pipe._blocks.inputs)
        self.takes_image = "image" in self.input_names and not lacking(pipe, ("prompt", "image"))
        self._stateful = {
            name: component
            for name, component in pipe.components.items()
            if isinstance(component, SchedulerMixin | BaseGuidance)
        }
        for loop in _loops(pipe._blocks):
            loop.set_progress_bar_config(disable=True)
        self._blocks = pipe.blocks  # a copy, so that gates leave the pipeline's own call alone
        self._divisions: dict[tuple[str, ...], Division] = {}
        self._gates: dict[int, StepGate] = {}

    @property
    def device(self) -> torch.device:
        return self.pipe._execution_device

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs that the pipeline's blocks declare."""
        return tuple(param.name for param in self._inputs if param.name)

    def guiders(self) -> dict[str, BaseGuidance]:
        """The guider components, by name."""
        return {name: part for name, part in self._stateful.items() if isinstance(part, BaseGuidance)}

    def start(self, inputs: Mapping[str, object], guiders: Mapping[str, BaseGuidance] | None = None) -> Trajectory:
        """A trajectory before its first stage. `guiders` replace the pipeline's own, by name, for this request."""
        state = PipelineState()
        for param in self._inputs:  # as ModularPipeline.__call__ does
            if param.name is not None:
                state.set(param.name, inputs.get(param.name, param.default), param.kwargs_type)
        given = tuple(sorted(name for name, value in inputs.items() if value is not None))
        components = {name: copy.deepcopy(component) for name, component in self._stateful.items()}
        return Trajectory(given, state, {**components, **(guiders or {})})

    def restore(self, cold: bytes | torch.Tensor, hot: bytes | torch.Tensor | None = None) -> Trajectory:
        """A trajectory from its packed state. Raises StateError if the bytes do not decode or belong to another
        pipeline.
        """
        tree = unpack(cold, self.device)
        given, flat, cold_id = tree.get("given"), tree.get("state"), tree.get("id")
        if not isinstance(given, list) or not isinstance(flat, dict) or not isinstance(cold_id, int):
            raise StateError("a cold state lacks its inputs, its values or its number")
        components = {name: copy.copy(component) for name, component in self._stateful.items()}
        trajectory = Trajectory(tuple(str(name) for name in given), PipelineState(), components)
        trajectory.assign(flat)
        trajectory.stage, trajectory.cold_id = Stage(str(tree["stage"])), cold_id
        trajectory.base = Snapshot.take(flat)
        trajectory.cold = torch.frombuffer(bytearray(cold), dtype=torch.uint8) if isinstance(cold, bytes) else cold
        if hot is not None:
            trajectory.apply_hot(hot, self.device)
        return trajectory

    def encode(self, trajectory: Trajectory, cold_id: int) -> None:
        """Prompts to embeddings. `cold_id` numbers the cold state that this leaves."""
        self._leaves(trajectory, self._division(trajectory).encode, Stage.ENCODE)
        for name, value in trajectory.state.values.items():
            if isinstance(value, Image.Image):  # encoded by now, and not a value that travels
                trajectory.state.values[name] = None
        trajectory.rebase(cold_id)

    def prepare(self, trajectory: Trajectory, cold_id: int) -> None:
        """Embeddings to everything that the first step needs: noise, timesteps, positions."""
        self._leaves(trajectory, self._division(trajectory).prepare, Stage.PREPARE)
        if trajectory.state.values.get("timesteps") is None:
            raise ModelError(f"family `{self.family}` prepares no `timesteps`, so its steps cannot be counted")
        trajectory.rebase(cold_id)

    def step(self, trajectory: Trajectory) -> None:
        """Denoising step number `trajectory.done`; if it raises, the trajectory is as it was before."""
        gate, before = self._division(trajectory).gate, Mark.of(trajectory)
        self._activate(trajectory)
        try:
            with torch.no_grad():
                gate.run(self.pipe, trajectory.state, trajectory.done)
        except BaseException:
            before.restore(trajectory)
            raise
        trajectory.stage, trajectory.done = Stage.DENOISE, trajectory.done + 1

    def decode(self, trajectory: Trajectory) -> None:
        """Latents to pictures."""
        self._leaves(trajectory, self._division(trajectory).decode, Stage.DECODE)

    def _leaves(self, trajectory: Trajectory, leaves: tuple[ModularPipelineBlocks, ...], stage: Stage) -> None:
        before = Mark.of(trajectory)
        self._activate(trajectory)
        try:
            with torch.no_grad():
                for leaf in leaves:
                    leaf(self.pipe, trajectory.state)
        except BaseException:
            before.restore(trajectory)
            raise
        trajectory.stage = stage

    def _activate(self, trajectory: Trajectory) -> None:
        """Blocks reach components through the pipeline: show them this trajectory's sampler and guider."""
        for name, component in trajectory.components.items():
            setattr(self.pipe, name, component)

    def _division(self, trajectory: Trajectory) -> Division:
        if trajectory.given not in self._divisions:
            self._divisions[trajectory.given] = self._divide(trajectory.given)
        return self._divisions[trajectory.given]

    def _divide(self, given: tuple[str, ...]) -> Division:
        leaves = self._blocks.get_execution_blocks(**dict.fromkeys(given, True)).sub_blocks
        loops = [name for name, leaf in leaves.items() if isinstance(leaf, LoopSequentialPipelineBlocks)]
        if len(loops) != 1:
            raise ModelError(f"family `{self.family}` has {len(loops)} denoising loops, not one; it cannot be split")
        names = list(leaves)
        at = names.index(loops[0])
        before = [(name.startswith("denoise."), leaves[name]) for name in names[:at]]
        loop = leaves[loops[0]]
        if id(loop) not in self._gates:
            self._gates[id(loop)] = StepGate(loop)
        return Division(
            encode=tuple(leaf for inside, leaf in before if not inside),
            prepare=tuple(leaf for inside, leaf in before if inside),
            gate=self._gates[id(loop)],
            decode=tuple(leaves[name] for name in names[at + 1 :]),
        )


def _loops(blocks: ModularPipelineBlocks) -> Iterator[LoopSequentialPipelineBlocks]:
    """All loops below `blocks`, whether or not a request would choose them."""
    if isinstance(blocks, LoopSequentialPipelineBlocks):
        yield blocks
    else:
        for block in (blocks.sub_blocks or {}).values():
            yield from _loops(block)
