"""The command loop of a worker: take a message, carry it out, answer. One thread, in the controller's order."""

from __future__ import annotations

import traceback
from typing import Protocol, assert_never

from gfdit.collectives import CollectiveTimeout, Key, LeaseFenced, PeerAborted, PeerDead, World
from gfdit.errors import TaskAborted, WireError
from gfdit.wire.messages import Code, Forget, Ready, Run, Shutdown, TaskDone, TaskFailed
from gfdit.worker.line import Line, Orphaned
from gfdit.worker.tasks import Task, TaskResult
from gfdit.worker.translate import done_of, endpoints_of, task_of

MESSAGE_CHARS = 2000


class Runner(Protocol):
    """What carries tasks out: a model on a device, or an emulated one."""

    def run(self, task: Task) -> TaskResult:
        """This rank's part of the task. Whatever it raises, the state before the task is still there."""
        ...

    def abort(self, epoch: int, reason: str) -> bool:
        """From any thread: stop that task if it runs here."""
        ...

    def drop(self, request_id: str) -> None: ...


def serve(runner: Runner, world: World, line: Line, ready: Ready) -> None:
    """Until the controller says `Shutdown`. `ready`: what the next controller is told if this one is gone."""
    line.aborts.listen(runner.abort)
    held: set[str] = set()  # requests that some state may be here of
    while True:
        message = line.inbox.get()
        match message:
            case Run():
                line.busy_epoch = message.epoch
                held.add(message.request_id)
                _answer(line, _carry_out(message, runner, world, line))
                line.busy_epoch = 0
            case Forget():
                runner.drop(message.request_id)
                held.discard(message.request_id)
            case Orphaned():
                for request_id in held:
                    runner.drop(request_id)
                held.clear()
                line.send(ready)
            case Shutdown():
                return
            case _:
                assert_never(message)


def _carry_out(run: Run, runner: Runner, world: World, line: Line) -> TaskDone | TaskFailed:
    task = task_of(run)
    world.update_peers(endpoints_of(run.endpoints))
    try:
        if task.epoch in line.aborts:
            _skip(task, world)
        line.aborts.check(task.epoch)
        result = runner.run(task)
    except Exception as error:  # whatever a model raises must not end the worker
        code = _code(error)
        if code == "error":
            traceback.print_exc()
        return TaskFailed(run.epoch, code, f"{type(error).__name__}: {error}"[:MESSAGE_CHARS])
    return done_of(result)


def _answer(line: Line, answer: TaskDone | TaskFailed) -> None:
    try:
        line.send(answer)
    except WireError as error:  # a state or an output beyond what a frame may carry
        line.send(TaskFailed(answer.epoch, "error", str(error)[:MESSAGE_CHARS]))


def _skip(task: Task, world: World) -> None:
    """A task given up before it began: members that did begin must not wait for this rank, now or when the slot is
    used again.
    """
    if len(task.participants) > 1:
        world.skip(Key(task.participants, task.epoch), "given up before it began")


def _code(error: Exception) -> Code:
    """An error as the controller counts it: causes here, consequences of what happened elsewhere, or what was asked
    for.
    """
    match error:
        case PeerDead():
            return "worker_lost"
        case TaskAborted() | PeerAborted() | LeaseFenced():
            return "aborted"
        case CollectiveTimeout() | TimeoutError():
            return "timeout"
        case MemoryError():
            return "out_of_memory"
        case _ if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            return "out_of_memory"
        case _:
            return "error"
