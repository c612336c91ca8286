"""Data parallelism for training on one host: processes of one thread each, gradients averaged in shared memory.

Two such processes waste far less of two shared cores than one process of two threads, which waits for the slower
thread in every operation; these meet only once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier

import torch
from torch import Tensor, multiprocessing
from torch.nn import Parameter

#: A process that waits this long for the others concludes that one of them has died.
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the processes of one run share; every process holds a copy with its own rank.

    gradients: ranks x parameters. seconds: processor seconds used by each rank. done: share of the run, set by rank 0.
    """

    rank: int
    ranks: int
    barrier: Barrier
    gradients: Tensor
    seconds: Tensor
    done: Tensor

    def meet(self) -> None:
        """Wait until every rank is here. Raises BrokenBarrierError when one does not come."""
        if self.ranks > 1:
            self.barrier.wait(PATIENCE_SECONDS)

    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace every gradient by its mean over the ranks; a rank without one counts as zero. Meets twice."""
        if self.ranks == 1:
            return
        held = list(parameters)
        own = [torch.zeros_like(value) if value.grad is None else value.grad for value in held]
        torch.cat([gradient.flatten() for gradient in own], out=self.gradients[self.rank])
        self.meet()
        mean = self.gradients.mean(dim=0)
        self.meet()
        for value, part in zip(held, mean.split([value.numel() for value in held]), strict=True):
            value.grad = part.view_as(value)


def start(ranks: int, parameters: int, work: Callable[[Exchange], None]) -> tuple[Exchange, list[BaseProcess]]:
    """Start ranks - 1 processes that call work (which must be picklable) with their exchange; returns rank 0's own.

    parameters: how many numbers a full gradient has.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(ranks)
    gradients = torch.zeros(ranks if ranks > 1 else 0, parameters).share_memory_()
    seconds = torch.zeros(ranks, dtype=torch.float64).share_memory_()
    done = torch.zeros(1, dtype=torch.float64).share_memory_()
    exchanges = [Exchange(rank, ranks, barrier, gradients, seconds, done) for rank in range(ranks)]
    others: list[BaseProcess] = [
        context.Process(target=work, args=(exchange,), daemon=True) for exchange in exchanges[1:]
    ]
    for process in others:
        process.start()
    return exchanges[0], others
