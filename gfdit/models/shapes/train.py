"""Trains the embedded model from nothing on pictures drawn by code.

    python -m gfdit.models.shapes.train --out DIR [--minutes N] [--resume] [--seed N] [--processes N]

Stages: the autoencoder; pools of its latents, refilled as training goes; the transformer with both text encoders.
DIR receives vae/ (the finished autoencoder), state.safetensors with state.json (to resume), log.jsonl, and pipeline/
(the averaged weights in diffusers form). Every file is replaced as a whole: a kill at any time leaves a usable folder.
"""

from __future__ import annotations

import argparse
import copy
import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gfdit.models.shapes.autoencoder import train_autoencoder
from gfdit.models.shapes.model import Parts, build_parts, export, load_vae, save_vae
from gfdit.models.shapes.optim import Optimizer
from gfdit.models.shapes.parallel import Exchange, start
from gfdit.models.shapes.pool import Pool, Size, position_ids, tokens_of
from gfdit.models.shapes.text import PromptReader, disturbed, random_length, say

#: Picture sizes by cost: each step takes one batch of some of the groups.
GROUPS: dict[str, dict[Size, float]] = {
    "small": {(64, 64): 0.64, (96, 64): 0.18, (64, 96): 0.18},
    "medium": {(128, 128): 0.7, (192, 128): 0.15, (128, 192): 0.15},
    "large": {(256, 256): 1.0},
}
#: (from this share of the run on, chance of a batch per group and step).
CURRICULUM: tuple[tuple[float, dict[str, float]], ...] = (
    (0.00, {"small": 1.0, "medium": 0.4, "large": 0.0}),
    (0.15, {"small": 1.0, "medium": 0.8, "large": 0.1}),
    (0.40, {"small": 0.8, "medium": 1.0, "large": 0.35}),
    (0.70, {"small": 0.7, "medium": 1.0, "large": 0.6}),
    (0.86, {"small": 0.4, "medium": 0.6, "large": 1.0}),
)
#: Image tokens in one batch, all processes together.
TOKEN_BUDGET = 2048
MUON_RATE, ADAM_RATE = 3.5e-3, 1e-3
WARMUP_STEPS = 60
#: Rates fall linearly to a fiftieth over the last part of the run.
DECAY_FROM = 0.7
AVERAGE_DECAY = 0.998
UNIFORM_TIMES = 0.2
#: Shift of the noise levels at 64 tokens.
SMALLEST_SHIFT = 2.0
SAVE_SECONDS = 240.0
REPORT_STEPS = 50


@dataclass(slots=True)
class Progress:
    """How far a run has come, over all its sittings.

    seconds: wall time of the transformer stage. cpu_seconds: processor time of every process, the autoencoder's
    included when it was trained in the same sitting. vae_seconds: wall time of the autoencoder stage.
    """

    seed: int
    steps: int = 0
    pictures: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    vae_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run was asked to do. max_steps and vae_steps, when set, end the stages instead of the clock."""

    out: Path
    minutes: float = 110.0
    vae_minutes: float = 10.0
    seed: int = 0
    processes: int = 1
    max_steps: int | None = None
    vae_steps: int | None = None


def sample_times(count: int, tokens: int) -> Tensor:
    """Noise levels in 0 ... 1: logit-normal, shifted by the root of the number of tokens, and some uniform ones.

    Many tokens of a flat picture drown in noise only near level 1, and there the shape is decided; the uniform
    share keeps the low levels in practice.
    """
    shift = SMALLEST_SHIFT * (tokens / 64) ** 0.5
    level = torch.randn(count).sigmoid()
    shifted = shift * level / (1 + (shift - 1) * level)
    return torch.where(torch.rand(count) < UNIFORM_TIMES, torch.rand(count), shifted)


def is_matrix(name: str, value: Parameter) -> bool:
    """Whether Muon updates this parameter: the matrices inside the blocks, less the modulations."""
    return name.startswith("transformer.") and "_blocks." in name and value.ndim == 2 and ".norm" not in name


class Float32Attention(TorchFunctionMode):
    """Runs attention and the norms before it in float32 inside bfloat16 autocast.

    On CPU the backward of bfloat16 attention is several times slower, and the norm has no fused bfloat16 form.
    """

    FUNCTIONS = (F.scaled_dot_product_attention, F.rms_norm)

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> Tensor:
        """Pass every call through, those of FUNCTIONS with their tensors converted."""
        kwargs = kwargs or {}
        if func not in self.FUNCTIONS:
            return func(*args, **kwargs)
        tensors = [value.float() if isinstance(value, Tensor) else value for value in args]
        named = {name: value.float() if isinstance(value, Tensor) else value for name, value in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return func(*tensors, **named)


class Trainer:
    """The transformer stage on one rank: model, optimizer and pools; rank 0 also writes the folder."""

    def __init__(self, plan: Plan, vae: AutoencoderTiny, progress: Progress) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.progress = plan, progress
        self.parts: Parts = build_parts()
        self.parts.vae = vae.eval().requires_grad_(False)
        modules = {"transformer": self.parts.transformer, "clip": self.parts.clip, "t5": self.parts.t5}
        named = {f"{kind}.{name}": p for kind, module in modules.items() for name, p in module.named_parameters()}
        self.optimizer = Optimizer(named, is_matrix)
        self.reader = PromptReader()
        self.pools: dict[Size, Pool] = {}
        if progress.steps:
            self.optimizer.load_state(load_file(plan.out / "state.safetensors"))

    def _loss(self, size: Size, rank: int, ranks: int) -> Tensor:
        """Mean squared velocity error on one rank's share of a batch of a size."""
        tokens, count = tokens_of(size), max(1, TOKEN_BUDGET // (tokens_of(size) * ranks))
        rng = Random(f"{self.plan.seed} {self.progress.steps} {rank} {size}")
        pool = self.pools.setdefault(size, Pool(self.parts.vae, size, rng))
        clean, prompts = pool.take(count)
        self.progress.pictures += count * ranks
        clip_ids, t5_ids = self.reader.read(disturbed(prompts, rng), random_length(rng))
        times, noise = sample_times(count, tokens), torch.randn_like(clean)
        noisy = clean + times[:, None, None] * (noise - clean)
        with torch.autocast("cpu", torch.bfloat16), Float32Attention():
            velocity = self.parts.transformer(
                hidden_states=noisy,
                timestep=times,
                pooled_projections=self.parts.clip(clip_ids).pooler_output,
                encoder_hidden_states=self.parts.t5(t5_ids)[0],
                txt_ids=torch.zeros(t5_ids.size(1), 3),
                img_ids=position_ids(size),
                return_dict=False,
            )[0]
        return (velocity.float() - (noise - clean)).square().mean()

    def _rate(self, done: float) -> float:
        warm = min(1.0, (self.progress.steps + 1) / WARMUP_STEPS)
        return warm * (1.0 if done < DECAY_FROM else max(0.02, (1 - done) / (1 - DECAY_FROM)))

    def step(self, exchange: Exchange) -> dict[str, float]:
        """One update, together with the other ranks; returns this rank's loss of each group that took part."""
        done, rank, ranks = exchange.done.item(), exchange.rank, exchange.ranks
        torch.manual_seed((self.plan.seed * 1_000_003 + self.progress.steps) * 64 + rank)
        shared = Random(f"{self.plan.seed} {self.progress.steps}")  # the ranks take batches of the same sizes
        chances = [chances for since, chances in CURRICULUM if done >= since][-1]
        groups = [group for group, chance in chances.items() if shared.random() < chance]
        losses = {}
        for group in groups:
            sizes = GROUPS[group]
            loss = self._loss(shared.choices(list(sizes), list(sizes.values()))[0], rank, ranks)
            (loss / len(groups)).backward()
            losses[group] = loss.item()
        exchange.average_gradients(self.optimizer.parameters.values())
        rate = self._rate(done)
        self.optimizer.step(rate * MUON_RATE, rate * ADAM_RATE, AVERAGE_DECAY)
        self.progress.steps += 1
        return losses

    def averaged_parts(self) -> Parts:
        """Copies of the parts that hold the averaged weights."""
        parts = copy.deepcopy(self.parts)
        for kind, module in (("transformer", parts.transformer), ("clip", parts.clip), ("t5", parts.t5)):
            own = {name: self.optimizer.average[f"{kind}.{name}"] for name, _ in module.named_parameters()}
            module.load_state_dict(own, strict=False)
        return parts

    def save(self) -> None:
        """Write the resumable state, then the pipeline."""
        replace_tensors(self.plan.out / "state.safetensors", self.optimizer.state())
        replace_text(self.plan.out / "state.json", json.dumps(asdict(self.progress), indent=2))
        export(self.averaged_parts(), self.plan.out / "pipeline", asdict(self.progress))


def replace_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Save tensors to a file, or leave the old file whole."""
    beside = path.with_name(path.name + ".new")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside)
    beside.replace(path)


def replace_text(path: Path, text: str) -> None:
    """Write a text file, or leave the old one whole."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def prepare_vae(plan: Plan, progress: Progress) -> AutoencoderTiny:
    """The plan's autoencoder: the finished one of its folder, or a newly trained one."""
    folder = plan.out / "vae"
    finished = folder / "seconds.json"
    if not finished.is_file():
        vae, seconds = train_autoencoder(60 * plan.vae_minutes, plan.seed, say, plan.vae_steps)
        save_vae(vae, folder)
        replace_text(finished, json.dumps(seconds))
    progress.vae_seconds = json.loads(finished.read_text())
    return load_vae(folder)


class Stop:
    """Inside it, SIGINT and SIGTERM only set asked: finish the step, save, leave."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def report(plan: Plan, progress: Progress, done: float, sums: dict[str, list[float]]) -> None:
    """Print and log the mean losses since the last report."""
    means = {group: sum(values) / len(values) for group, values in sums.items() if values}
    text = " ".join(f"{group} {value:.4f}" for group, value in means.items())
    say(
        f"step {progress.steps} {100 * done:.1f} % {text} | {progress.pictures} pictures, "
        f"{progress.seconds / 60:.1f} min, {progress.cpu_seconds / 3600:.2f} core-hours"
    )
    with (plan.out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(asdict(progress) | {"losses": means}) + "\n")


def work(plan: Plan, progress: Progress, exchange: Exchange) -> None:
    """What every rank but the first does: steps, until rank 0 says that the run is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    trainer = Trainer(plan, load_vae(plan.out / "vae"), progress)
    exchange.meet()
    while exchange.done.item() < 1:
        exchange.seconds[exchange.rank] = time.process_time()
        trainer.step(exchange)
        exchange.meet()


def lead(trainer: Trainer, exchange: Exchange, stop: Stop) -> None:
    """What rank 0 does: steps, and the clock, reports and saves between them; sets done to 1 or more at the end."""
    plan, progress = trainer.plan, trainer.progress
    wall, cpu, saved = time.monotonic(), float(exchange.seconds.sum()), time.monotonic()
    sums: dict[str, list[float]] = {group: [] for group in GROUPS}
    while True:
        exchange.seconds[0] = time.process_time()
        now, used = time.monotonic(), float(exchange.seconds.sum())
        progress.seconds, progress.cpu_seconds = progress.seconds + now - wall, progress.cpu_seconds + used - cpu
        wall, cpu = now, used
        done = progress.seconds / (60 * plan.minutes) if plan.max_steps is None else progress.steps / plan.max_steps
        exchange.done[0] = 1.0 if stop.asked else done
        exchange.meet()
        if exchange.done.item() >= 1:
            return
        for group, loss in trainer.step(exchange).items():
            sums[group].append(loss)
        if progress.steps % REPORT_STEPS == 0:
            report(plan, progress, done, sums)
            sums = {group: [] for group in GROUPS}
        if now - saved > SAVE_SECONDS:
            trainer.save()
            saved = now


def train(plan: Plan, resume: bool = False) -> Progress:
    """Run a plan to its end, or until asked to stop; returns the progress made, which is also saved.

    Raises FileExistsError when the folder holds a run and resume is false, FileNotFoundError for the reverse.
    """
    state = plan.out / "state.json"
    if state.exists() != resume:
        kind = FileNotFoundError if resume else FileExistsError
        raise kind(f"out: {plan.out} {'has no' if resume else 'already has a'} state.json; "
                   f"{'leave out' if resume else 'give'} --resume or name another folder")  # fmt: skip
    torch.set_num_threads(plan.processes)
    plan.out.mkdir(parents=True, exist_ok=True)
    progress = Progress(**json.loads(state.read_text())) if resume else Progress(plan.seed)
    with Stop() as stop:
        vae = prepare_vae(plan, progress)
        torch.set_num_threads(1)
        trainer = Trainer(plan, vae, progress)
        numbers = sum(value.numel() for value in trainer.optimizer.parameters.values())
        exchange, others = start(plan.processes, numbers, partial(work, plan, copy.copy(progress)))
        lead(trainer, exchange, stop)
        for process in others:
            process.join()
        trainer.save()
    say(f"{'stopped' if stop.asked else 'done'} after {progress.steps} steps; pipeline in {plan.out / 'pipeline'}")
    return progress


def main() -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m gfdit.models.shapes.train", description="train the embedded model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--minutes", type=float, default=110.0, help="length of the transformer stage; rates fall near its end"
    )
    parser.add_argument("--vae-minutes", type=float, default=10.0, help="before these, for the autoencoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    given = parser.parse_args()
    plan = Plan(given.out, given.minutes, given.vae_minutes, given.seed, given.processes)
    train(plan, given.resume)


if __name__ == "__main__":
    main()
