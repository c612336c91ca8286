"""Real worker processes for the tests: each owns a world and runs one program; nothing can hang past the limit."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from gfdit.collectives import Endpoint, World

Program = Callable[..., object]
LIMIT_S = 300.0  # a guard against hanging, not a measure
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "gfdit.collectives", "tests.collectives.ranks"])


@dataclass
class Here:
    """What a program gets: its world, and a line to the test."""

    world: World
    line: Connection

    def tell(self, value: object = None) -> None:
        """Send a plain value to the test."""
        self.line.send(("told", value))

    def ask(self) -> Any:
        """Wait for a plain value from the test."""
        return self.line.recv()


def _main(line: Connection, program: Program, rank: int, incarnation: int, arena: int, args: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        with World.create(rank, incarnation, arena) as world:
            line.send(("told", world.endpoint))
            world.update_peers(line.recv())
            line.send(("done", program(Here(world, line), *args)))
            line.recv()  # the segment lives until everybody is done with it
    except (EOFError, ConnectionError):
        pass  # the test ended first, and says why
    except BaseException:
        line.send(("failed", traceback.format_exc()))


class Worker:
    """One rank as the test sees it."""

    def __init__(self, rank: int, program: Program, *args: object, incarnation: int = 1, arena: int = 8 << 20):
        self.rank, self._deadline = rank, time.monotonic() + LIMIT_S
        self._line, theirs = _context.Pipe()
        self.process: ForkServerProcess = _context.Process(
            target=_main, args=(theirs, program, rank, incarnation, arena, args), daemon=True
        )
        self.process.start()
        theirs.close()
        self.endpoint: Endpoint = self.hear()

    def tell(self, value: object = None) -> None:
        """Send a plain value to the program."""
        self._line.send(value)

    def _next(self) -> tuple[str, Any]:
        if not self._line.poll(max(0.0, self._deadline - time.monotonic())):
            self.end()
            raise TimeoutError(f"rank {self.rank} said nothing within {LIMIT_S} s")
        kind, value = self._line.recv()
        assert kind != "failed", f"rank {self.rank} failed:\n{value}"
        return kind, value

    def hear(self) -> Any:
        """The next value that the program tells."""
        kind, value = self._next()
        assert kind == "told", f"rank {self.rank} ended early with {value!r}"
        return value

    def result(self) -> Any:
        """What the program returned."""
        kind, value = self._next()
        assert kind == "done", f"rank {self.rank} told {value!r} instead of returning"
        return value

    def end(self, *, let: bool = False) -> None:
        """End the process, in good order when `let`."""
        if let:
            self._line.send(None)
        else:
            self.process.kill()
        self.process.join(LIMIT_S)
        self.process.close()
        self._line.close()


def start(programs: Sequence[Program], *args: object, arena: int = 8 << 20, introduce: bool = True) -> list[Worker]:
    """One worker a program, ranks 0.., introduced to each other."""
    workers = [Worker(rank, program, *args, arena=arena) for rank, program in enumerate(programs)]
    if introduce:
        for worker in workers:
            worker.tell([other.endpoint for other in workers])
    return workers


def run(n: int, program: Program, *args: object, arena: int = 8 << 20) -> list[Any]:
    """The same program on `n` ranks; what each returned."""
    workers = start([program] * n, *args, arena=arena)
    results = [worker.result() for worker in workers]
    for worker in workers:
        worker.end(let=True)
    return results
