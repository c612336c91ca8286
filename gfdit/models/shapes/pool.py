"""Second training stage: pools of encoded pictures with their prompts, one pool per picture size.

Encoding a picture costs a good part of a training step on it, so every latent is used several times; each use of a
pool first replaces a few entries by fresh ones, so that the supply never ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from gfdit.models.shapes.autoencoder import to_tensor
from gfdit.models.shapes.draw import draw
from gfdit.models.shapes.model import TOKEN_PIXELS
from gfdit.models.shapes.vocabulary import prompt, sample_scene

#: Kinds of scenes and their shares.
MIX: dict[str, float] = {"single": 0.56, "corner": 0.17, "count": 0.24, "relation": 0.03}
#: Share of a batch that is drawn afresh each time; the rest comes from the pool.
FRESH_SHARE = 0.2
#: A pool stops growing at this many tokens and replaces its oldest entries from then on.
POOL_TOKENS = 400_000

Size = tuple[int, int]


def pack(latents: Tensor) -> Tensor:
    """Batch x channels x h x w latents as batch x tokens x 4 channels, as Flux packs them."""
    batch, channels, height, width = latents.shape
    tiles = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def tokens_of(size: Size) -> int:
    """Image tokens of a (width, height) in pixels."""
    return size[0] * size[1] // TOKEN_PIXELS**2


def position_ids(size: Size) -> Tensor:
    """Rotary positions of a size's tokens: tokens x (0, row, column)."""
    columns, rows = size[0] // TOKEN_PIXELS, size[1] // TOKEN_PIXELS
    grid = torch.zeros(rows, columns, 3)
    grid[..., 1] = torch.arange(rows)[:, None]
    grid[..., 2] = torch.arange(columns)[None, :]
    return grid.reshape(-1, 3)


@dataclass(slots=True)
class Pool:
    """Encoded pictures of one (width, height)."""

    vae: AutoencoderTiny
    size: Size
    rng: Random
    latents: list[Tensor] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    oldest: int = 0

    @torch.no_grad()
    def _add(self, count: int) -> None:
        """Draw and encode count pictures; over the limit, they replace the oldest ones."""
        kinds = self.rng.choices(list(MIX), list(MIX.values()), k=count)
        scenes = [sample_scene(self.rng, kind, held_out=False) for kind in kinds]
        pixels = to_tensor([draw(scene, *self.size, self.rng) for scene in scenes])
        config = self.vae.config
        packed = pack((self.vae.encoder(pixels) - config.shift_factor) * config.scaling_factor)
        limit = POOL_TOKENS // tokens_of(self.size)
        for latent, scene in zip(packed, scenes, strict=True):
            if len(self.latents) < limit:
                self.latents.append(latent.clone())
                self.prompts.append(prompt(scene))
            else:
                self.latents[self.oldest], self.prompts[self.oldest] = latent.clone(), prompt(scene)
                self.oldest = (self.oldest + 1) % limit

    def take(self, count: int) -> tuple[Tensor, list[str]]:
        """A batch of count x tokens x channels latents with its prompts."""
        self._add(count if len(self.latents) < 4 * count else math.ceil(FRESH_SHARE * count))
        chosen = self.rng.sample(range(len(self.latents)), count)
        return torch.stack([self.latents[i] for i in chosen]), [self.prompts[i] for i in chosen]
