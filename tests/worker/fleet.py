"""Real worker processes for tests: an executor and a world each, driven by tasks that the test sends over pipes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from gfdit.worker.tasks import Input, Task, TaskResult

if TYPE_CHECKING:
    from gfdit.worker.executor import Executor

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.worker.tiny", "gfdit.worker.executor"])  # imports once, then forks quickly
ANSWER_S = 300.0  # a guard against hanging, not a measure: four processes may be importing torch on one core


def _serve(rank: int, family: str, pipe: Connection) -> None:
    """One worker: exchanges endpoints, then runs what it is told until the pipe closes."""
    from gfdit.collectives import World
    from gfdit.worker.executor import Executor
    from tests.worker.tiny import build

    with World.create(rank) as world:
        pipe.send(world.endpoint)
        world.update_peers(pipe.recv())
        executor = Executor(build(family), world=world)
        faults = Faults(executor)
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                return
            if name == "use":
                executor = Executor(build(*arguments), world=world)
                faults = Faults(executor)
                pipe.send((True, None))
                continue
            try:
                pipe.send((True, getattr(faults if name in FAULTS else executor, name)(*arguments)))
            except Exception as error:
                pipe.send((False, f"{type(error).__name__}: {error}"))


FAULTS = ("break_after", "abort_after", "starve_after", "starve_decoder")


class Faults:
    """Makes something happen on a rank when it makes a prediction's n-th linear layer run: in the middle of a step."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def break_after(self, calls: int) -> None:
        """Raise."""
        self._after(calls, self._fail)

    def abort_after(self, calls: int, epoch: int, reason: str) -> None:
        """Abort the running epoch, as another thread would."""
        self._after(calls, lambda: self._executor.abort(epoch, reason))

    def starve_after(self, calls: int) -> None:
        """Run out of memory, in the words of a CPU tensor that cannot be made."""
        self._after(calls, lambda: torch.empty(1 << 50))

    def starve_decoder(self, also_in_tiles: bool) -> None:
        """From now on decoding runs out of memory as on a GPU, unless it is done in tiles, or even then."""
        vae = self._executor.intake.replica.pipe.vae

        def hook(*_: object) -> None:
            if also_in_tiles or not vae.use_tiling:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nThis is not real.")

        vae.decoder.register_forward_pre_hook(hook)

    def _fail(self) -> None:
        raise RuntimeError("broken on purpose")

    def _after(self, calls: int, action: Callable[[], object]) -> None:
        block = self._executor.intake.replica.pipe.transformer.single_transformer_blocks[0]
        left = calls

        def hook(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                handle.remove()
                action()

        handle = block.register_forward_pre_hook(hook)


class Fleet:
    """`size` workers with the same tiny model. Epochs are counted here."""

    def __init__(self, size: int, family: str) -> None:
        self._epoch = 0
        pipes = [_context.Pipe() for _ in range(size)]
        self._processes = [
            _context.Process(target=_serve, args=(rank, family, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        self._pipes = [ours for ours, _ in pipes]
        for _, theirs in pipes:
            theirs.close()
        endpoints = [self._receive(rank) for rank in range(size)]
        for pipe in self._pipes:
            pipe.send(endpoints)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(ANSWER_S)

    def _receive(self, rank: int) -> object:
        assert self._pipes[rank].poll(ANSWER_S), f"rank {rank} did not answer"
        return self._pipes[rank].recv()

    def outcomes(self, request_id: str, stage: str, ranks: tuple[int, ...], **fields: object) -> dict[int, object]:
        """Run one task on all ranks it names: each one's result, or its error as text."""
        self._epoch += 1
        task = Task(self._epoch, request_id, stage, ranks, **fields)
        named = [rank for rank in dict.fromkeys(task.ranks + task.sources) if self._processes[rank].is_alive()]
        for rank in named:
            self._pipes[rank].send(("run", (task,)))
        answers = {rank: self._receive(rank) for rank in named}
        return {rank: answer[1] for rank, answer in answers.items()}

    def run(self, request_id: str, stage: str, ranks: tuple[int, ...], **fields: object) -> dict[int, TaskResult]:
        """Run one task that must succeed."""
        outcomes = self.outcomes(request_id, stage, ranks, **fields)
        failed = {rank: outcome for rank, outcome in outcomes.items() if not isinstance(outcome, TaskResult)}
        assert not failed, failed
        return {rank: outcome for rank, outcome in outcomes.items() if isinstance(outcome, TaskResult)}

    def call(self, rank: int, name: str, *arguments: object) -> object:
        """Call a method of one rank's executor."""
        self._pipes[rank].send((name, arguments))
        done, value = self._receive(rank)
        assert done, value
        return value

    def use(self, family: str) -> None:
        """Give every rank another tiny model."""
        for rank in range(len(self._pipes)):
            self.call(rank, "use", family)

    def break_after(self, rank: int, calls: int) -> None:
        """Make a rank raise in the middle of its `calls`-th prediction from now."""
        self.call(rank, "break_after", calls)

    def abort_after(self, rank: int, calls: int, reason: str) -> None:
        """Abort the next task from the inside of a rank's `calls`-th prediction."""
        self.call(rank, "abort_after", calls, self._epoch + 1, reason)

    def kill(self, rank: int) -> None:
        """End a worker as a crash would."""
        self._processes[rank].kill()
        self._processes[rank].join(ANSWER_S)

    def serial(self, request_id: str, inputs: Mapping[str, Input], rank: int = 0) -> tuple[bytes, bytes, bytes]:
        """Cold state, last hot state and PNG of a request that one rank runs without interruption."""
        self.run(request_id, "encode", (rank,), inputs=inputs)
        prepared = self.run(request_id, "prepare", (rank,))[rank]
        last = self.run(request_id, "denoise", (rank,), steps=prepared.total)[rank]
        self.run(request_id, "decode", (rank,))
        png = self.run(request_id, "finalize", (rank,))[rank].output
        self.call(rank, "drop", request_id)
        assert prepared.cold and last.hot and png
        return prepared.cold, last.hot, png
