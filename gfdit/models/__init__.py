"""Models that ship inside the package, found without torch and without a network."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

Defaults = dict[str, int | float | str]


def embedded_model_path() -> Path:
    """Folder of the shipped "shapes" pipeline, for ``DiffusionPipeline.from_pretrained``.

    Raises FileNotFoundError when the installation lacks it.
    """
    folder = Path(str(files("gfdit.models.shapes").joinpath("checkpoint")))
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"embedded model: {folder} has no model_index.json; reinstall the package")
    return folder


def embedded_defaults() -> Defaults:
    """Request defaults of the shipped pipeline: steps, true_cfg_scale, max_sequence_length, sizes (pixels), dtype."""
    defaults: Defaults = json.loads((embedded_model_path() / "defaults.json").read_text(encoding="utf-8"))
    return defaults
