"""What a pipeline decoded, as the bytes of a file: a picture as PNG, a video as MP4 (H.264).

Equal frames give equal bytes: one encoder thread, fixed settings, no times of day in the file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import torch
from PIL import Image

from gfdit.errors import ModelError
from gfdit.runtime.geometry import DEFAULT_FPS

FPS = "output_fps"  # the name in a trajectory's state; no pipeline has an input of it
OUTPUTS = ("images", "videos")
#: Visually lossless, in the colours of high-definition television (ITU-R BT.709).
_X264 = {"crf": "18", "preset": "medium", "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709"}
#: RGB to Y, Cb, Cr of limited range, all 8 bits, in 65536ths: BT.709's luma weights, scaled to 219 and 224 levels.
_TO_YUV = np.array([[11966, 40254, 4064], [-6596, -22189, 28784], [28784, -26145, -2639]], dtype=np.int32)


def encode_output(values: Mapping[str, object]) -> bytes:
    """The first picture or video among a pipeline's decoded values, as a file. Raises ModelError if there is none."""
    decoded = next((values[name] for name in OUTPUTS if values.get(name) is not None), None)
    if decoded is None:
        raise ModelError(f"the pipeline decoded neither {' nor '.join(OUTPUTS)}")
    frames = _frames(decoded)
    if frames.ndim == 3:
        return _png(frames)
    fps = values.get(FPS)
    return _mp4(frames, fps if isinstance(fps, int) else DEFAULT_FPS)


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG")
    return out.getvalue()


def _mp4(frames: np.ndarray, fps: int) -> bytes:
    """H.264 halves the colour planes, so both sides must be even: an odd one loses its last pixel."""
    import av  # here, because models of pictures do without it

    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options=_X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(_yuv420(frame), format="yuv420p")))
        file.mux(stream.encode(None))
    return out.getvalue()


def _yuv420(frame: np.ndarray) -> np.ndarray:
    """(height, width, 3) RGB as planes below each other: (3/2 height, width). In whole numbers, and not by libswscale,
    because what floating point and vector units round depends on where in memory a frame lies."""
    height, width = frame.shape[:2]
    planes = frame.astype(np.int32) @ _TO_YUV.T
    luma = (planes[..., 0] + (1 << 15) >> 16) + 16
    chroma = planes[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).sum(axis=(1, 3))
    chroma = (chroma + (1 << 17) >> 18) + 128
    flat = np.concatenate([luma.reshape(-1), chroma[..., 0].reshape(-1), chroma[..., 1].reshape(-1)])
    return flat.reshape(-1, width).astype(np.uint8)


def _frames(decoded: object) -> np.ndarray:
    """The first item of a batch as bytes: (height, width, 3), or (frame, height, width, 3) for a video. Tensors are
    (batch, [frame,] channel, height, width).
    """
    first = decoded[0] if isinstance(decoded, list | tuple | torch.Tensor | np.ndarray) else decoded
    if isinstance(first, Image.Image):
        return np.asarray(first.convert("RGB"))
    if isinstance(first, torch.Tensor):
        first = first.float().cpu().numpy()
        first = np.moveaxis(first, -3, -1)
    if not isinstance(first, np.ndarray) or first.ndim not in (3, 4):
        raise ModelError(f"decoded pictures of type {type(first).__name__} cannot be written")
    pixels: np.ndarray = (first * 255).round().clip(0, 255).astype(np.uint8)
    return pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
