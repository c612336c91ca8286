"""First training stage: the autoencoder, on small crops of drawn scenes that hold an edge.

A convolution sees a neighbourhood only, so crops teach as much as whole pictures and flat areas teach nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from gfdit.models.shapes.draw import Picture, draw
from gfdit.models.shapes.model import build_vae
from gfdit.models.shapes.vocabulary import sample_scene

CROP = 32
BATCH = 48
LEARNING_RATE = 3e-3
#: Noise on the latents while training: the decoder must forgive the transformer small mistakes.
LATENT_NOISE = 0.03
#: Weight of the pull of the latents towards mean 0 and mean square 1, which diffusion wants.
LATENT_WEIGHT = 0.01
_SIDES = (64, 64, 64, 128, 256)
_KINDS = ("single", "corner", "count", "relation")


def to_tensor(pictures: list[Picture]) -> Tensor:
    """Pictures of one size as a batch x 3 x height x width tensor in -1 ... 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pictures(images: Tensor) -> list[Picture]:
    """The inverse of to_tensor; values outside -1 ... 1 are clipped."""
    scaled = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return list(scaled.permute(0, 2, 3, 1).numpy())


def _crops(rng: Random, count: int) -> Tensor:
    """Crops around random edge pixels, every eighth anywhere; four from each picture."""
    crops: list[Picture] = []
    while len(crops) < count:
        side = rng.choice(_SIDES)
        picture = draw(sample_scene(rng, rng.choice(_KINDS), None), side, side, rng)
        steps = np.abs(np.diff(picture.astype(np.int16), axis=0)).sum(axis=2)
        rows, columns = np.nonzero(steps)
        for _ in range(4):
            x = y = rng.randrange(side)
            if rows.size and rng.random() > 0.125:
                pick = rng.randrange(rows.size)
                x, y = int(columns[pick]), int(rows[pick])
            left = min(max(0, x - rng.randrange(CROP)), side - CROP)
            top = min(max(0, y - rng.randrange(CROP)), side - CROP)
            crops.append(picture[top : top + CROP, left : left + CROP])
    return to_tensor(crops[:count])


def train_autoencoder(
    seconds: float, seed: int, say: Callable[[str], None], max_steps: int | None = None
) -> tuple[AutoencoderTiny, float]:
    """Train for this many seconds; return the autoencoder, scaled to unit latents, and the seconds taken.

    The latents' mean and deviation, measured at the end, become its shift and scaling factor.
    """
    torch.manual_seed(seed)
    rng = Random(seed)
    vae = build_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    average = {name: value.detach().clone() for name, value in vae.named_parameters()}
    began = time.monotonic()
    step = 0
    while True:
        spent = time.monotonic() - began
        done = spent / seconds if max_steps is None else step / max_steps
        if done >= 1:
            break
        warm = min(1.0, (step + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)
        pixels = _crops(rng, BATCH).contiguous(memory_format=torch.channels_last)
        # Half precision is nearly twice as fast; the last stretch polishes in full precision.
        with torch.autocast("cpu", torch.bfloat16, enabled=done < 0.85):
            latents = vae.encoder(pixels)
            restored = vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        latents, error = latents.float(), restored.float() - pixels
        moments = latents.mean((0, 2, 3)).square().mean() + (latents.square().mean((0, 2, 3)) - 1).square().mean()
        loss = error.abs().mean() + error.square().mean() + LATENT_WEIGHT * moments
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in vae.named_parameters():
                average[name].lerp_(value, 1 - min(0.995, step / (step + 10)))
        step += 1
        if step % 100 == 0:
            psnr = -10 * math.log10(error.square().mean().item() / 4 + 1e-12)
            say(f"autoencoder step {step} loss {loss.item():.4f} psnr {psnr:.1f} dB, {spent:.0f} s of {seconds:.0f} s")
    vae.load_state_dict(average, strict=False)
    return _with_unit_latents(vae, Random(seed + 1)), time.monotonic() - began


@torch.no_grad()
def _with_unit_latents(vae: AutoencoderTiny, rng: Random) -> AutoencoderTiny:
    pictures = [draw(sample_scene(rng, rng.choice(_KINDS), False), 128, 128, rng) for _ in range(48)]
    latents = vae.encoder(to_tensor(pictures))
    scaled = build_vae(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    scaled.load_state_dict(vae.state_dict())
    return scaled.eval()
