"""Bytes that no worker of ours would send: from a stranger's socket, under dead and stolen names, and out of turn."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Sequence

import zmq

from gfdit.core.events import Event
from gfdit.core.scheduler import Decision
from gfdit.live.faultbench.row import Row
from gfdit.live.faultbench.stage import Setting, Stage, perform
from gfdit.wire.codec import MAX_HEADER, TO_CONTROLLER
from gfdit.wire.messages import Goodbye, Heartbeat, Hello, TaskDone, TaskFailed

A_TICK = 64  # frames that a live worker's name is misused for between two ticks
LINGER_MS = 30_000
_MESSAGES = (TaskDone(1, done=3, hot=b"x" * 64), TaskFailed(2, "error", "no"), Heartbeat(5), Goodbye())


def malformed(pick: random.Random) -> list[bytes]:
    """Frames that are no message: noise, cut or altered messages, wrong types, too large, too many."""
    match pick.randrange(7):
        case 0:
            return [pick.randbytes(pick.randrange(0, 300)) for _ in range(pick.randint(1, 3))]
        case 1:
            header, *blobs = TO_CONTROLLER.encode(pick.choice(_MESSAGES))
            return [header[: pick.randrange(len(header))], *blobs]
        case 2:
            header, *blobs = TO_CONTROLLER.encode(_MESSAGES[0])
            return [header, *(blob + b"?" for blob in blobs)]  # not the size that was announced
        case 3:
            said = json.loads(TO_CONTROLLER.encode(pick.choice(_MESSAGES))[0])
            said["message"][pick.choice(("epoch", "type", "more"))] = pick.choice((None, [], "x", -1, 1e300, {}))
            return [json.dumps(said).encode()]
        case 4:
            return [b"{}"] * pick.randint(6, 12)
        case 5:
            return [b'{"message":' + b"[" * pick.choice((10, 2000)) + b"}"]
        case _:
            return [b" " * (MAX_HEADER + 1)] if pick.random() < 0.01 else [b""]


def forged(pick: random.Random, epoch: int) -> list[bytes]:
    """A message that would count if it came from whom it claims to."""
    done = TaskDone(epoch, done=pick.randrange(50), hot=b"forged", output=b"forged")
    return TO_CONTROLLER.encode(
        pick.choice((done, TaskFailed(epoch, "error", "forged"), Goodbye(), Hello(os.getpid())))
    )


class Impostor:
    """An observer that, in the controller's own thread, says nonsense in the name of workers that are alive."""

    def __init__(self, stage: Stage, count: int) -> None:
        self.left, self._stage, self._pick = count, stage, random.Random(stage.pick.random())
        self.over = threading.Event()

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        fleet = self._stage.system.fleet
        lives = list(fleet.supervisor.lives.values())
        for _ in range(min(A_TICK, self.left) if lives else 0):
            unheard_of = TO_CONTROLLER.encode(TaskDone((1 << 39) + self.left, done=1))
            frames = malformed(self._pick) if self._pick.random() < 0.9 else unheard_of
            fleet.take_frames(self._pick.choice(lives).identity, frames)
            self.left -= 1
        if self.left == 0:
            self.over.set()


def strangers(setting: Setting, count: int) -> Row:
    """Half from sockets of their own, half in the name of live workers. None may change anything."""

    def act(stage: Stage) -> int:
        counters = stage.system.fleet.counters
        impostor = Impostor(stage, count // 2)
        stage.watch.guest = impostor
        _shout(stage, count - count // 2)
        with stage.watch.changed:
            stage.wait(impostor.over.is_set, "the last of the impostor's frames")
        stage.watch.guest = None
        stage.unmet += counters["bad_messages"] != count // 2  # each was told from a message, and counted
        return count

    return perform("malformed, forged and replayed frames", setting, act)


def _shout(stage: Stage, count: int) -> None:
    """Under no name, an unknown one, that of a worker that is dead, and that of one that lives and is connected."""
    dead = _kill_one(stage)
    with stage.watch.changed:  # a name that is in use: one that was given out and is not would be theirs for the taking
        alive = stage.system.fleet.supervisor.lives[next(iter(stage.watch.alive))].identity
    context = zmq.Context()
    sockets = []
    for name in (b"", b"nobody", dead, alive):
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        if name:
            socket.setsockopt(zmq.IDENTITY, name)
        socket.connect(stage.system.fleet.address)
        sockets.append(socket)
    for number in range(count):
        with stage.watch.changed:
            epoch = next(iter(stage.watch.flights), number + 1)
        frames = malformed(stage.pick) if stage.pick.random() < 0.5 else forged(stage.pick, epoch)
        socket = sockets[number % 3]
        socket.send_multipart(frames)
        if number % 50 == 0 and int(sockets[3].getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            sockets[3].send_multipart(frames, zmq.NOBLOCK)
    for socket in sockets[:3]:
        socket.close()
    sockets[3].close(linger=0)  # its name is taken: nobody reads it
    context.term()


def _kill_one(stage: Stage) -> bytes:
    """The name of a worker that was just killed."""
    with stage.watch.changed:
        stage.wait(lambda: bool(stage.watch.flights), "a task in flight")
        rank = next(iter(stage.watch.alive))
        identity = stage.system.fleet.supervisor.lives[rank].identity
        blow = stage.signal(rank, signal.SIGKILL)
        stage.wait(lambda: blow.lost_at is not None, "the loss of a worker")
    return identity
