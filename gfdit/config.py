"""Settings of a run as one typed value, and the only reader of the process environment.

Environment variables, all optional:

    GFDIT_URL    the server that `gfdit submit`, `status` and `top` talk to
    GFDIT_API_KEY  the key that they send to a server that wants one
    GFDIT_ADMIN_TOKEN  the token that `gfdit policy` sends to a server that wants one
    GFDIT_COST   the cost model that `gfdit run` uses when `--cost` is not given
    NO_COLOR     (when not empty) text without colors
    GFDIT_HOME   where `gfdit profile` keeps what it measured (default: `gfdit` in the user's data folder)

Knows no policy, model or worker; it checks what can be checked without them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from gfdit.errors import UsageError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_QUEUE = 1000
MAX_WORKERS = 1024
SHORTEST_KEY = 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Device(StrEnum):
    """What workers compute on. `emulated`: on nothing, in the time that a cost table says."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    EMULATED = "emulated"


class Dtype(StrEnum):
    """What a model's weights are computed in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment says."""

    url: str
    api_key: str
    admin_token: str
    cost: Path | None
    home: Path
    no_color: bool = False

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """From `variables`, the process's own by default."""
        given = os.environ if variables is None else variables
        data = Path(given.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        cost = given.get("GFDIT_COST")
        return cls(
            url=given.get("GFDIT_URL") or f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
            api_key=given.get("GFDIT_API_KEY", ""),
            admin_token=given.get("GFDIT_ADMIN_TOKEN", ""),
            cost=Path(cost) if cost else None,
            home=Path(given.get("GFDIT_HOME") or data / "gfdit"),
            no_color=bool(given.get("NO_COLOR")),
        )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What `gfdit run` was asked for. `workers` None: as many as the device has. `model` None: the embedded one;
    `revision`: which one of a hub id; `dtype` None: the model's default. `params`: `--set name=value`, as written; the
    policy gives them their types. `max_queue`: how many requests over HTTP may wait for their first task.
    `api_key_file`: keys of which HTTP clients must send one, None: no keys. `admin_token_file`: tokens of which
    commands about the policy must carry one, None: they must come from this machine. `policy_key`: whose signature
    pushed policies must carry, None: nobody's. Raises UsageError."""

    policy: str
    params: Mapping[str, str] = field(default_factory=dict)
    workload: Path | None = None
    out: Path = Path("out")
    device: Device = Device.AUTO
    workers: int | None = None
    model: Path | None = None
    revision: str | None = None
    dtype: Dtype | None = None
    cost: str | None = None
    time_scale: float = 1.0
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    max_queue: int = DEFAULT_QUEUE
    api_key_file: Path | None = None
    admin_token_file: Path | None = None
    policy_key: Path | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise UsageError(f"`--workers` must be `auto` or from 1 to {MAX_WORKERS}, not {self.workers}")
        if not 0 < self.time_scale <= 1e6:
            raise UsageError(f"`--time-scale` must be above 0 and at most 1e6, not {self.time_scale:g}")
        if self.time_scale != 1.0 and self.device is not Device.EMULATED:
            raise UsageError(
                f"`--time-scale {self.time_scale:g}` needs emulated devices: real ones take the time they take",
                hint="add `--device emulated`",
            )
        if not 0 <= self.port <= 65535:
            raise UsageError(f"`--port` must be from 0 to 65535, not {self.port}")
        if self.max_queue < 1:
            raise UsageError(f"`--max-queue` must be 1 or more, not {self.max_queue}")
        if self.device is Device.EMULATED and self.model is not None:
            raise UsageError("`--model` and `--device emulated` exclude each other: emulated devices load no model")
        if self.device is Device.EMULATED and self.dtype is not None:
            raise UsageError("`--dtype` and `--device emulated` exclude each other: emulated devices load no model")
        if self.model is None and self.revision is not None:
            raise UsageError(f"`--revision {self.revision}` goes with `--model org/name`")


def read_keys(path: Path) -> tuple[str, ...]:
    """API keys, one a line; empty lines and comments (`#`) are skipped. Raises UsageError for a file that others may
    read, or that holds no key or an unusable one."""
    try:
        if path.stat().st_mode & 0o077:
            raise UsageError(f"`{path}` can be read by others than its owner", hint=f"chmod 600 {path}")
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the API keys in `{path}`: {error}") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise UsageError(f"`{path}` holds no API key", hint="write one a line")
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
            raise UsageError(
                f"API key {number} in `{path}` is not usable: at least {SHORTEST_KEY} printable ASCII characters",
                hint="such as `openssl rand -hex 32` prints",
            )
    return keys


def parse_workers(text: str) -> int | None:
    """`auto` is None. Raises UsageError."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"`--workers` must be `auto` or a number, not `{text}`") from None


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` in pixels as (width, height). Raises UsageError."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()) or len(text) > 11:
        raise UsageError(f"size must look like `128x128` (width x height in pixels), not `{text}`")
    return int(width), int(height)
