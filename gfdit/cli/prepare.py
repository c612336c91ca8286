"""From what was asked for to what can be started: policy, cost model, model folder, device, workload.

All that can be wrong in files and flags is found here, before any worker starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gfdit.cli.shipped import COST_SUFFIX, find_cost, find_workload
from gfdit.config import Device, Environment, RunConfig
from gfdit.core.cost import CostModel
from gfdit.core.work import Request
from gfdit.errors import UsageError
from gfdit.live.system import LiveConfig, default_workers
from gfdit.models.folders import model_folder, model_name
from gfdit.policy.bundle import BUNDLE_SUFFIX, public_key, read_bundle
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_bundle, load_policy
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.geometry import tokens_of
from gfdit.runtime.workload import load_workload
from gfdit.worker.devices import cuda_devices

EMULATED_COST = "qwen-h20"


@dataclass(frozen=True, slots=True)
class Prepared:
    """`params`: of the policy, as text. `requests`: of the workload, () without one. `model`: what people call it.
    `cost_from`: why this table."""

    policy: CompiledPolicy
    params: Mapping[str, str]
    cost: CostModel
    cost_from: str
    device: Device
    workers: int
    model: str
    live: LiveConfig
    requests: tuple[Request, ...]


def prepare(config: RunConfig, environment: Environment) -> Prepared:
    """Raises UsageError, PolicyError, CostModelError or WorkloadError."""
    policy, params = first_policy(config)
    device = pick_device(config.device)
    folder = None if device is Device.EMULATED else model_folder(config.model, config.revision)
    path, origin = cost_file(config.cost, folder, device, environment)
    cost = load_cost_model(path)
    requests: tuple[Request, ...] = ()
    if config.workload is not None:
        requests = tuple(load_workload(find_workload(str(config.workload)), tokens_of))
        for request in requests:
            cost.stages(request.model)  # an unknown model is an error now, not in the middle
    live = LiveConfig(
        policy=policy,
        cost=cost,
        device=str(device),
        model=folder,
        workers=config.workers,
        time_scale=config.time_scale,
        dtype=config.dtype,
    )
    workers = default_workers(str(device)) if config.workers is None else config.workers
    model = ", ".join(cost.models) if folder is None else model_name(folder)
    return Prepared(policy, params, cost, origin, device, workers, model, live, requests)


def first_policy(config: RunConfig) -> tuple[CompiledPolicy, Mapping[str, str]]:
    """The policy to start with, and its params. A bundle brings its own, which `--set` changes; where a policy key is
    configured, it must be signed. Raises UsageError, PolicyError or BundleError."""
    if not config.policy.endswith(BUNDLE_SUFFIX):
        return load_policy(config.policy, config.params), config.params
    key = None if config.policy_key is None else public_key(config.policy_key)
    bundle = read_bundle(Path(config.policy), key)
    params = {**bundle.params, **config.params}
    return compile_bundle(bundle, params), params


def pick_device(asked: Device) -> Device:
    """`auto` is CUDA when there is a GPU. Raises UsageError for CUDA without one."""
    match asked:
        case Device.AUTO:
            return Device.CUDA if cuda_devices() else Device.CPU
        case Device.CUDA if not cuda_devices():
            raise UsageError(
                "`--device cuda`: torch sees no GPU on this machine", hint="use `--device cpu` or `emulated`"
            )
        case _:
            return asked


def model_settings(folder: Path | None) -> dict[str, str | int | float | bool | None]:
    """The folder's `defaults.json`, {} without one."""
    path = None if folder is None else folder / "defaults.json"
    if path is None or not path.is_file():
        return {}
    settings: dict[str, str | int | float | bool | None] = json.loads(path.read_text("utf-8"))
    return settings


def cost_file(given: str | None, folder: Path | None, device: Device, environment: Environment) -> tuple[Path, str]:
    """The cost model to use, and why that one. Raises UsageError."""
    if given is not None:
        return find_cost(given), "--cost"
    if environment.cost is not None:
        return find_cost(str(environment.cost)), "GFDIT_COST"
    if folder is None:
        return find_cost(EMULATED_COST), "shipped"
    measured = profile_path(environment, model_name(folder), device)
    if measured.is_file():
        return measured, "measured on this machine"
    try:
        return find_cost(model_name(folder)), "shipped; `gfdit profile` measures this machine"
    except UsageError:
        hint = f"measure it with `gfdit profile --model {folder}`, or give `--cost`"
        raise UsageError(f"there is no cost model for `{model_name(folder)}`", hint=hint) from None


def profile_path(environment: Environment, model: str, device: Device) -> Path:
    """Where `gfdit profile` keeps what it measured."""
    return environment.home / "cost" / f"{model}-{device}{COST_SUFFIX}"
