"""What a run costs the server's own process (API and controller, not the workers): CPU time, memory, descriptors.

Read from the operating system, so only for a server on this machine that belongs to the same user; steps are counted
by its `/metrics`. On any other server there are no such figures.
"""

from __future__ import annotations

import asyncio
import socket
import urllib.parse
from dataclasses import dataclass

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

EVERY_S = 0.5
STEPS, STAGE = "gfdit_step_duration_seconds_count", "denoise"


@dataclass(frozen=True, slots=True)
class Cost:
    """`cpu_s`: user and system time of the server's process during the run; `steps`: denoising steps that ended in it.
    Memory is resident bytes at the beginning, at its peak and at the end."""

    cpu_s: float
    steps: int
    rss_before: int
    rss_peak: int
    rss_after: int
    descriptors_before: int
    descriptors_after: int


def find_server(url: str) -> psutil.Process | None:
    """The process that listens at `url`, if it is on this machine and ours to look at."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        if not _is_here(parts.hostname or ""):
            return None
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return psutil.Process(connection.pid)
    except (OSError, psutil.Error):
        pass  # not ours to look at
    return None


def _is_here(host: str) -> bool:
    """Whether the name is an address of this machine: one that can be listened on."""
    address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(address[0], socket.SOCK_STREAM) as probe:
        try:
            probe.bind(address[4])
        except OSError:
            return False
    return True


class Meter:
    """Measures from `start` to `stop`; in between it looks at the memory every half second."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {key}"} if key else {}
        self._process = find_server(url)
        self._watching: asyncio.Task[None] | None = None
        self._before: tuple[float, int, int, int] | None = None
        self._peak = 0

    async def start(self) -> None:
        if self._process is not None:
            self._before = await self._look(self._process)
            self._watching = asyncio.create_task(self._watch(self._process))

    async def stop(self) -> Cost | None:
        """None: nothing is known of the server's process."""
        if self._process is None or self._watching is None or self._before is None:
            return None
        self._watching.cancel()
        try:
            after = await self._look(self._process)
        except psutil.Error:
            return None  # it is gone
        cpu_s, steps, rss, descriptors = self._before
        peak = max(self._peak, rss, after[2])
        return Cost(after[0] - cpu_s, after[1] - steps, rss, peak, after[2], descriptors, after[3])

    async def _look(self, process: psutil.Process) -> tuple[float, int, int, int]:
        """(CPU seconds, steps, resident bytes, descriptors)."""
        async with httpx.AsyncClient(base_url=self._url, headers=self._headers) as client:
            response = await client.get("/metrics")
        steps = _steps(response.text) if response.status_code == 200 else 0
        times = process.cpu_times()
        return times.user + times.system, steps, process.memory_info().rss, process.num_fds()

    async def _watch(self, process: psutil.Process) -> None:
        while True:
            try:
                self._peak = max(self._peak, process.memory_info().rss)
            except psutil.Error:
                return
            await asyncio.sleep(EVERY_S)


def _steps(exposition: str) -> int:
    """0 for what is no exposition: another's server."""
    try:
        samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]
    except ValueError:
        return 0
    return round(sum(one.value for one in samples if one.name == STEPS and one.labels.get("stage") == STAGE))
