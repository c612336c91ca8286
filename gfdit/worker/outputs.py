"""Decoded pictures to PNG bytes; a video becomes an animated PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from gfdit.errors import ModelError

FRAME_MS = 62  # of an animated PNG: 16 frames a second
OUTPUTS = ("images", "videos")


def encode_png(values: Mapping[str, object]) -> bytes:
    """The first picture or video among a pipeline's decoded values, as a PNG file. Raises ModelError if there is
    none.
    """
    decoded = next((values[name] for name in OUTPUTS if values.get(name) is not None), None)
    if decoded is None:
        raise ModelError(f"the pipeline decoded neither {' nor '.join(OUTPUTS)}")
    frames = [Image.fromarray(frame) for frame in _frames(decoded)]
    out = io.BytesIO()
    if len(frames) == 1:
        frames[0].save(out, format="PNG")
    else:
        frames[0].save(out, format="PNG", save_all=True, append_images=frames[1:], duration=FRAME_MS)
    return out.getvalue()


def _frames(decoded: object) -> list[np.ndarray]:
    """Frames of the first item of a batch, (height, width, 3) bytes; tensors are (batch, [frame,] channel, height,
    width).
    """
    first = decoded[0] if isinstance(decoded, list | tuple | torch.Tensor | np.ndarray) else decoded
    if isinstance(first, Image.Image):
        return [np.asarray(first.convert("RGB"))]
    if isinstance(first, torch.Tensor):
        first = first.float().cpu().numpy()
        first = np.moveaxis(first, -3, -1)
    if not isinstance(first, np.ndarray) or first.ndim not in (3, 4):
        raise ModelError(f"decoded pictures of type {type(first).__name__} cannot be written")
    pixels = (first * 255).round().clip(0, 255).astype(np.uint8)
    return [pixels] if pixels.ndim == 3 else list(pixels)
