"""Whether this machine can serve: what workers need of the operating system, tried and not guessed."""

from __future__ import annotations

import os
import resource
import sys

import torch
import zmq

from gfdit.collectives import World
from gfdit.errors import GfditError
from gfdit.worker.devices import cuda_devices
from gfdit.worker.doctor import Check

FEWEST_FILES = 1024


def machine_checks() -> list[Check]:
    """One after the other; none of them leaves anything behind."""
    return [_versions(), _cores(), _gpus(), _shared_memory(), _files(), _curve()]


def _versions() -> Check:
    python = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), f"Python {python}, torch {torch.__version__}")


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    return Check("cores", True, f"{cores}; on a CPU each runs one rank best")


def _gpus() -> Check:
    count = cuda_devices()
    if not count:
        return Check("gpus", True, "none: `--device cpu` and `emulated` work")
    return Check("gpus", True, ", ".join(torch.cuda.get_device_name(n) for n in range(count)))


def _shared_memory() -> Check:
    """A world of one rank needs all that a larger one needs: a memfd, its mapping, the word for waking."""
    try:
        with World.create(0, arena_bytes=1 << 20) as world:
            endpoint = world.endpoint
        return Check("shared memory", True, f"memfd of process {endpoint.pid} mapped")
    except (OSError, GfditError) as error:
        return Check("shared memory", False, f"{error}: workers exchange tensors through memfd segments")


def _files() -> Check:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"{limit} open files a process"
    if limit < FEWEST_FILES:
        return Check("open files", False, f"{detail}, fewer than {FEWEST_FILES}: raise `ulimit -n`")
    return Check("open files", True, detail)


def _curve() -> Check:
    if zmq.has("curve"):
        return Check("encryption", True, f"ZeroMQ {zmq.zmq_version()} with CURVE")
    return Check("encryption", False, f"ZeroMQ {zmq.zmq_version()} without CURVE: workers on other hosts cannot join")
