"""The entry of a worker process: one rank, one incarnation, one device. Imports torch only for devices that need it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gfdit.collectives import World
from gfdit.errors import GfditError, UsageError
from gfdit.wire.messages import Facts, Goodbye, Hello, Ready, Unfit
from gfdit.worker.line import Line
from gfdit.worker.loop import MESSAGE_CHARS, Runner, serve
from gfdit.worker.translate import endpoint_to_wire, facts_to_wire

DEVICES = ("cpu", "cuda", "emulated")


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker of a fleet is: text and numbers, so that any way of starting processes can carry it.

    `model`: folder of the pipeline (not for emulated devices). `cost_model`, `time_scale`: the table of an emulated
    device, as JSON, and how many of its seconds pass in one of ours. `threads`: CPU threads a rank. `dtype`:
    what the model computes in, "": its default. `grace_s`: how long a worker whose controller is gone waits for
    another one, with its model loaded; 0: it ends with it.
    """

    device: str
    model: str = ""
    cost_model: str = ""
    time_scale: float = 1.0
    heartbeat_s: float = 1.0
    threads: int = 1
    dtype: str = ""
    grace_s: float = 0.0

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UsageError(f"device must be one of {', '.join(DEVICES)}, not `{self.device}`")
        needed = "cost_model" if self.device == "emulated" else "model"
        if not getattr(self, needed):
            raise UsageError(f"a worker with device `{self.device}` needs a `{needed}`")

    @property
    def preload(self) -> tuple[str, ...]:
        """What a fork server imports once for all workers."""
        return ("gfdit.worker.emulated", __name__) if self.device == "emulated" else ("gfdit.worker.executor", __name__)


def run_worker(spec: WorkerSpec, rank: int, incarnation: int, identity: bytes, address: str, log_file: str) -> None:
    """The life of a worker process; returns after an orderly shutdown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the controller, which drains and then tells us
    with suppress(PermissionError):  # already a leader
        os.setsid()
    Path("/proc/self/comm").write_text(f"gfdit-rank-{rank}")  # what `ps` and `pkill` call it; 15 characters at most
    _redirect_output(log_file)
    line = Line(address, identity, spec.heartbeat_s, spec.grace_s)
    line.start()
    line.send(Hello(os.getpid()))
    world = World.create(rank=rank, incarnation=incarnation)
    try:
        try:
            runner, facts = _runner(spec, rank, world, line)
        except Exception as error:
            said = str(error) if isinstance(error, GfditError) else f"{type(error).__name__}: {error}"
            line.send(Unfit(said[:MESSAGE_CHARS]))
            raise
        ready = Ready(endpoint_to_wire(world.endpoint), facts)
        line.send(ready)
        serve(runner, world, line, ready)
        line.send(Goodbye())
    finally:
        line.close()
        world.close()


def _runner(spec: WorkerSpec, rank: int, world: World, line: Line) -> tuple[Runner, Facts | None]:
    if spec.device == "emulated":
        from gfdit.worker.emulated import EmulatedExecutor

        return EmulatedExecutor(spec.cost_model, spec.time_scale, world, line.aborts), None
    from tqdm import tqdm  # type: ignore[import-untyped]

    from gfdit.worker.executor import Executor

    tqdm.set_lock(threading.RLock())  # by default a named semaphore, which would outlive a worker that is killed
    executor = Executor(spec.model, device=_device(spec, rank), world=world, threads=spec.threads, dtype=spec.dtype)
    return executor, facts_to_wire(executor.describe())


def _device(spec: WorkerSpec, rank: int) -> str:
    if spec.device != "cuda":
        return spec.device
    import torch

    if not torch.cuda.is_available():
        raise UsageError("no CUDA device is available", hint="use --device cpu")
    return f"cuda:{rank % torch.cuda.device_count()}"


def _redirect_output(log_file: str) -> None:
    """Whatever libraries print goes to the rank's log, never into the console that the controller draws."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
