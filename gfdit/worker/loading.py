"""A pipeline from a local folder, ready to be stepped: blocks chosen, weights on the device, threads set, noise
silenced.

A folder is what diffusers' `save_pretrained` writes (ordinary or modular), with an optional `defaults.json` of ours
beside it: default inputs (`steps`, `true_cfg_scale`, `height`, ...), the limits `multiple_of`, `min_side`,
`max_side`, and `dtype`. Never reaches for a model hub.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from transformers.utils import logging as transformers_logging

from gfdit.errors import ModelError
from gfdit.models.folders import model_name
from gfdit.worker.tasks import Input, Limits
from gfdit.worker.trajectory import lacking, refuse_unsplittable

INDEXES = ("modular_model_index.json", "model_index.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Starts of messages that say nothing a user could act on.
_NOISE = (
    "Guiders are currently an experimental feature",
    "Cannot initialize model with low cpu memory usage",
    "The config attributes {'block_out_channels'",
    "`CLIPImageProcessor` requires torchvision",
    "`SiglipImageProcessor` requires torchvision",
)
# Ordinary pipelines whose blocks diffusers 0.42 has, and does not find.
_UNMAPPED = {"HunyuanVideo15Pipeline": "HunyuanVideo15AutoBlocks"}
# Names in defaults.json that differ from the pipeline's.
_RENAMED = {"steps": "num_inference_steps"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline and what its folder says about using it."""

    name: str
    pipe: ModularPipeline
    defaults: Mapping[str, Input]
    limits: Limits


def load(folder: Path | str, *, device: str = "cpu", dtype: str = "") -> Loaded:
    """Load the pipeline in `folder`. Raises ModelError, naming the file and the fix, if that cannot be done.

    `dtype`: a name of DTYPES; "": what defaults.json says, else float32 on a CPU and bfloat16 elsewhere.
    """
    folder = Path(folder)
    settings = _settings(folder)
    family = _index(folder).get("_class_name")
    fallback = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    wanted = dtype or settings.get("dtype") or fallback
    if wanted not in DTYPES:
        raise ModelError(f"{folder}: `dtype` must be one of {', '.join(DTYPES)}, not `{wanted}`")
    with quiet():
        try:
            pipe = _pipeline(folder, str(family))
            refuse_unsplittable(pipe)  # before its weights are read
            pipe.load_components(dtype=DTYPES[str(wanted)])
        except (OSError, ValueError, AttributeError, ImportError) as error:
            if str(error).startswith("No pipeline blocks could be resolved"):
                raise _unknown(folder, str(family)) from error
            raise ModelError(f"{folder}: cannot load a `{family}`: {error}") from error
        missing = [name for name in lacking(pipe, ("prompt",)) if name in pipe.pretrained_component_names]
        if missing:
            raise ModelError(f"{folder}: components did not load: {', '.join(missing)}", hint="is the folder complete?")
        pipe.to(device)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    limits = {name: value for name in Limits.__dataclass_fields__ if isinstance(value := settings.pop(name, None), int)}
    settings.pop("dtype", None)
    defaults = {_RENAMED.get(name, name): value for name, value in settings.items()}
    return Loaded(model_name(folder), pipe, defaults, Limits(**limits))


def set_threads(count: int) -> None:
    """CPU threads of this process's operators; one per rank when ranks share the cores."""
    torch.set_num_threads(count)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the log lines in _NOISE and the loading bars of both libraries, and nothing else."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NOISE)

    handlers = [*logging.getLogger("diffusers").handlers, *logging.getLogger("transformers").handlers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for handler in handlers:
        handler.addFilter(wanted)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(wanted)
        if bars:
            transformers_logging.enable_progress_bar()


def _pipeline(folder: Path, family: str) -> ModularPipeline:
    """The pipeline without its weights; with blocks of ours for a family whose own lack something."""
    if family in ("FluxPipeline", "FluxModularPipeline"):
        from gfdit.worker.guided_flux import GuidedFluxBlocks  # here, because importing Flux logs noise

        return GuidedFluxBlocks().init_pipeline(str(folder))
    if family in _UNMAPPED:
        return getattr(diffusers, _UNMAPPED[family])().init_pipeline(str(folder))
    return ModularPipeline.from_pretrained(str(folder))


def _unknown(folder: Path, family: str) -> ModelError:
    return ModelError(
        f"{folder}: diffusers {diffusers.__version__} has no modular form of `{family}`, so it cannot be taken apart "
        "into steps",
        hint="docs/models/families.md lists the families that can",
    )


def _index(folder: Path) -> dict[str, object]:
    for name in INDEXES:
        if (folder / name).is_file():
            return _json(folder / name)
    raise ModelError(
        f"{folder} has no {' and no '.join(INDEXES)}", hint="give the folder of a saved diffusers pipeline"
    )


def _settings(folder: Path) -> dict[str, Input]:
    path = folder / "defaults.json"
    if not path.is_file():
        return {}
    settings = _json(path)
    for name, value in settings.items():
        if not isinstance(value, str | int | float | bool | None):
            raise ModelError(f"{path}: `{name}` is not a string, number, true, false or null")
    return {name: value for name, value in settings.items() if isinstance(value, str | int | float | bool | None)}


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return content
