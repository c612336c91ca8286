"""How large a latent token is, by model: what turns a size in pixels into the tokens that costs are looked up by.

For workloads and emulated devices, which have no model at hand; a loaded model tells its own geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_FPS = 16  # of the Wan models


@dataclass(frozen=True, slots=True)
class Geometry:
    """Pixels that one latent token covers; `frame_factor`: frames that one latent frame covers (1 for images)."""

    token_height: int
    token_width: int
    frame_factor: int = 1

    def tokens(self, height: int, width: int, frames: int = 1) -> int:
        latent_frames = (frames - 1) // self.frame_factor + 1
        return (height // self.token_height) * (width // self.token_width) * latent_frames


# VAE factor x patch, from the models' published configurations.
KNOWN = {
    "shapes": Geometry(8, 8),
    "qwen-image": Geometry(16, 16),
    "flux.1-dev": Geometry(16, 16),
    "sd3-medium": Geometry(16, 16),
    "hunyuanvideo": Geometry(16, 16, 4),
    "wan2.2-ti2v-5b": Geometry(32, 32, 4),
}


def tokens_of(model: str, height: int, width: int, frames: int) -> int | None:
    """Latent tokens of one output of `model`, or None when its geometry is not known here."""
    geometry = KNOWN.get(model)
    return None if geometry is None else geometry.tokens(height, width, frames)
