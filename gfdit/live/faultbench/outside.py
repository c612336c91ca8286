"""What comes in over HTTP: clients that are slow, vanish or talk nonsense; more requests than fit; new policies."""

from __future__ import annotations

import base64
import itertools
import json
import random
import socket
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gfdit.api.load.client import Fate, Manner
from gfdit.api.load.measure import drive
from gfdit.api.load.plan import PICTURES, Like, shots_at
from gfdit.errors import GfditError
from gfdit.live.faultbench.row import Row
from gfdit.live.faultbench.stage import MODEL, PATIENCE_S, POLICY, SCALE, WORKERS, Setting, Stage, perform
from gfdit.live.faultbench.stage import SIDE as SIZE
from gfdit.policy.bundle import Bundle
from gfdit.runtime.rollout.vetting import Refused

AT_ONCE = 16  # clients
SLOW_S = 0.3
TIMES = 10.0  # too much
STEPS = 50  # long requests: ten times too much of them is still little for HTTP
QUEUE = 8

# ---- clients ----------------------------------------------------------------------------------------------------


def clients(setting: Setting, count: int) -> Row:
    """Clients that vanish in the middle of a request or of an answer, dribble, read slowly, send noise; and among them
    some that behave, each of which has to get its picture."""

    def act(stage: Stage) -> int:
        kinds = itertools.islice(itertools.cycle((*_MANNERS, _behaved)), count)
        jobs = [(kind, random.Random(stage.pick.random())) for kind in kinds]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            broken = list(pool.map(lambda job: job[0](stage, job[1]), jobs))
        stage.unmet += sum(broken)
        with stage.watch.changed:  # those that nobody waits for any more are cancelled
            stage.wait(lambda: all(stage.watch.ends[name] for name in stage.watch.requests if name.startswith("img-")),
                       "the end of a client's request")  # fmt: skip
        return sum(kind is not _behaved for kind, _ in jobs)

    return perform("slow, vanishing and noisy HTTP clients", setting, act)


def _behaved(stage: Stage, pick: random.Random) -> bool:
    """True: it was not served as it should."""
    return not _is_right(stage, _read_all(_sent(stage, _asking(pick))))


def _slow_reader(stage: Stage, pick: random.Random) -> bool:
    """A byte now and then, after a while the rest."""
    connection = _sent(stage, _asking(pick))
    begin = connection.recv(1)
    for _ in range(3):
        stage.rest(SLOW_S)
        begin += connection.recv(1)
    return not _is_right(stage, begin + _read_all(connection))


def _dribbler(stage: Stage, pick: random.Random) -> bool:
    """Its request comes in small pieces."""
    content = _asking(pick)
    connection = _connect(stage)
    for at in range(0, len(content), 50):
        connection.sendall(content[at : at + 50])
        stage.rest(0.02)
    return not _is_right(stage, _read_all(connection))


def _half_a_request(stage: Stage, pick: random.Random) -> bool:
    content = _asking(pick)
    _sent(stage, content[: pick.randrange(1, len(content))]).close()
    return False


def _gone_after_asking(stage: Stage, pick: random.Random) -> bool:
    """Its request is cancelled."""
    connection = _sent(stage, _asking(pick, stream=pick.random() < 0.5))
    stage.rest(pick.uniform(0, SLOW_S))
    connection.close()
    return False


def _noise(stage: Stage, pick: random.Random) -> bool:
    """Answered with an error, or not at all."""
    connection = _sent(stage, pick.randbytes(pick.randint(1, 2000)) + b"\r\n\r\n")
    connection.settimeout(SLOW_S)
    try:
        return connection.recv(64).startswith(b"HTTP/1.1 2")
    except OSError:
        return False
    finally:
        connection.close()


_MANNERS: tuple[Callable[[Stage, random.Random], bool], ...] = (
    _slow_reader,
    _dribbler,
    _half_a_request,
    _gone_after_asking,
    _noise,
)


def _asking(pick: random.Random, stream: bool = False) -> bytes:
    asked = {
        "prompt": "a", "model": MODEL, "size": f"{SIZE}x{SIZE}", "num_inference_steps": pick.randint(2, 5),
        "seed": pick.randrange(1 << 30), "stream": stream,
    }  # fmt: skip
    body = json.dumps(asked).encode()
    head = f"POST {PICTURES} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


def _connect(stage: Stage) -> socket.socket:
    parts = urllib.parse.urlsplit(stage.url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), PATIENCE_S)


def _sent(stage: Stage, content: bytes) -> socket.socket:
    connection = _connect(stage)
    connection.sendall(content)
    return connection


def _read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def _is_right(stage: Stage, answer: bytes) -> bool:
    """Whether it is the picture of the run without faults."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return False
    said = json.loads(body)
    with stage.watch.changed:
        request = stage.watch.requests[said["gfdit"]["id"]]
    return base64.b64decode(said["data"][0]["b64_json"]) == stage.expected(request)


# ---- too much ---------------------------------------------------------------------------------------------------


def overload(setting: Setting, seconds: float) -> Row:
    """Ten times what four ranks can do. Who is accepted is served, who is not is told when to come back."""
    shape = Like(model=MODEL, size=(SIZE, SIZE), steps=STEPS)

    def act(stage: Stage) -> int:
        one = replace(stage.request("size"), steps=STEPS)
        rate = TIMES * WORKERS / (stage.system.scheduler.estimator.expand(one).alone_s / SCALE)
        answers = drive(shots_at(rate, seconds, shape, setting.seed, SCALE, stream=False), Manner(stage.url)).answers
        away = [answer for answer in answers if answer.fate is Fate.TURNED_AWAY]
        stage.unmet += sum(answer.retry_after_s is None for answer in away)
        stage.unmet += sum(answer.fate in (Fate.FAILED, Fate.TIMED_OUT) for answer in answers)
        return len(away)

    return perform("ten times the load (faults: turned away with 429)", setting, act, queue=QUEUE, feed=False)


# ---- policies ---------------------------------------------------------------------------------------------------

_BROKEN = ('policy broken version 1 "x"\norder by deadlin, arrival', "nothing", "")


def swaps(setting: Setting, count: int) -> Row:
    """Policies pushed under load, every other one broken: that is refused, and the one in charge stays."""

    def act(stage: Stage) -> int:
        for number in range(count):
            base = ("srtf", "edf_best_fit", "fcfs_static", "slo")[number // 2 % 4]
            text = _BROKEN[number // 2 % 3] if number % 2 else POLICY.format(base=base)
            name = "broken" if number % 2 else f"calm_{base}"
            stage.unmet += _push(stage, name, text) is not (number % 2 == 0)
            stage.unmet += number % 2 == 0 and stage.system.scheduler.policy.name != name
        return count

    return perform("policy swaps, every other one broken", setting, act)


def _push(stage: Stage, name: str, text: str) -> bool:
    """Whether it was taken."""
    try:
        stage.rollout.push(Bundle(f"{name}.pol", {f"{name}.pol": text}), now=True)
    except (Refused, GfditError):
        return False
    return True
