"""What a loaded pipeline tells about itself, read from its configuration."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.models.modeling_utils import ModelMixin
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline

from gfdit.errors import ModelError
from gfdit.worker.cfg_parallel import BRANCHES, can_divide
from gfdit.worker.context_parallel import plan_of
from gfdit.worker.loading import Loaded
from gfdit.worker.tasks import MAX_DEGREE, Input, ModelFacts
from gfdit.worker.trajectory import Replica

# What pipelines call the pixels of a latent pixel, and the frames of a latent frame.
_SPATIAL = ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio")
_TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
# Inputs whose declared default is told to clients, and under which name.
_TOLD = {
    "height": "height",
    "width": "width",
    "num_frames": "num_frames",
    "num_inference_steps": "num_inference_steps",
    "frame_rate": "fps",
}
#: Frames a second that families were trained on and their pipelines do not say, from the models' cards.
_FPS = {"hunyuan-video-1.5": 24}
#: The guider and its scale of families that change model on the way.
SECOND_GUIDER, SECOND_SCALE = "guider_2", "guidance_scale_2"


def denoisers(pipe: ModularPipeline) -> list[ModelMixin]:
    """The transformers that steps run: more than one where a family changes model on the way. Raises ModelError if
    none.
    """
    found = [
        component
        for name, component in pipe.components.items()
        if name.startswith("transformer") and isinstance(component, ModelMixin)
    ]
    if not found:
        raise ModelError(f"`{type(pipe).__name__}` has no transformer to denoise with")
    return found


def facts_of(loaded: Loaded, replica: Replica) -> ModelFacts:
    """The facts of a loaded model. Its defaults are what its folder says, then what its pipeline declares."""
    transformers = denoisers(loaded.pipe)
    config = transformers[0].config
    splits = all(plan_of(transformer) is not None for transformer in transformers)
    guiders = replica.guiders().values()
    height, width = _patch(loaded.pipe, config)
    spatial = _first(loaded.pipe, _SPATIAL, 8)
    return ModelFacts(
        name=loaded.name,
        family=replica.family,
        heads=int(config.get("num_attention_heads", config.get("n_heads", 1))),
        degrees=tuple(range(1, MAX_DEGREE + 1)) if splits else (1,),
        branches=BRANCHES if guiders and all(can_divide(guider) for guider in guiders) else 1,
        token_height=spatial * height,
        token_width=spatial * width,
        frame_factor=_first(loaded.pipe, _TEMPORAL, 1),
        defaults={**_declared(loaded.pipe, replica), **loaded.defaults},
        video="num_frames" in replica.input_names,
    )


def _declared(pipe: ModularPipeline, replica: Replica) -> dict[str, Input]:
    """What the pipeline does when a client does not say: guidance, sizes, steps, frames a second."""
    scales = {name: _scale_of(guider) for name, guider in replica.guiders().items()}
    found: dict[str, Input] = {}
    if scales:
        found["true_cfg_scale"] = scales.get("guider", next(iter(scales.values())))
    if SECOND_GUIDER in scales:
        found[SECOND_SCALE] = scales[SECOND_GUIDER]
    for param in pipe._blocks.inputs:
        if param.name in _TOLD and isinstance(param.default, int):
            found[_TOLD[param.name]] = param.default
    if replica.family in _FPS:
        found["fps"] = _FPS[replica.family]
    return found


def _scale_of(guider: BaseGuidance) -> float:
    return float(guider.config.get("guidance_scale", 1.0)) if guider._enabled else 1.0


def _first(pipe: ModularPipeline, names: tuple[str, ...], otherwise: int) -> int:
    return int(next((getattr(pipe, name) for name in names if hasattr(pipe, name)), otherwise))


def _patch(pipe: ModularPipeline, config: Mapping[str, object]) -> tuple[int, int]:
    """Latent pixels of a token: the transformer's patch, or the 2 x 2 that the pipeline packs before it."""
    patch = config.get("patch_size", 1)
    patches = config.get("all_patch_size")  # Z-Image's; its pipeline asks for the first
    if isinstance(patches, list | tuple):
        patch = patches[0]
    if isinstance(patch, list | tuple):
        return int(patch[-2]), int(patch[-1])
    vae = getattr(pipe, "vae", None)
    latent = None if vae is None else vae.config.get("latent_channels", vae.config.get("z_dim"))
    if latent is not None and config.get("in_channels") == 4 * latent:
        return 2, 2
    side = patch if isinstance(patch, int) else 1
    return side, side
