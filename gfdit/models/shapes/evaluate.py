"""Scores a checkpoint of the embedded model with the independent judge, next to what the judge says of true pictures.

    python -m gfdit.models.shapes.evaluate --model DIR --out DIR [--prompts N] [--sizes 64x64,128x128] [--steps N]

Writes scores.json, scores.md (tables) and sheet.png: the first pictures of every size, none left out or drawn again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image

from gfdit.models.shapes.autoencoder import to_pictures, to_tensor
from gfdit.models.shapes.draw import Picture, draw
from gfdit.models.shapes.judge import Verdict, judge
from gfdit.models.shapes.model import DEFAULTS, TOKEN_PIXELS
from gfdit.models.shapes.pool import Size, tokens_of
from gfdit.models.shapes.text import say
from gfdit.models.shapes.vocabulary import Scene, prompt, sample_scene

SIZES: tuple[Size, ...] = ((64, 64), (128, 128), (256, 256), (96, 64), (128, 192))
#: Kinds of prompts and their shares of a size's prompts.
KINDS: dict[str, float] = {"single": 0.45, "corner": 0.15, "count": 0.35, "relation": 0.05}
FIELDS = (*(field.name for field in fields(Verdict)), "all")
#: Image tokens generated at once.
BATCH_TOKENS = 4096
#: Sizes with more image tokens than this get half the prompts: a picture costs more than its tokens' share.
FULL_TOKENS = 256
#: Pixels of each size on the contact sheet.
SHEET_PIXELS = 150_000
SHEET_WIDTH = 1040

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Sampler:
    """How pictures are drawn: steps and guidance as in a request; pictures i of a size has seed + i."""

    pipeline: FluxPipeline
    steps: int
    guidance: float
    seed: int = 0

    def pictures(self, prompts: list[str], size: Size) -> list[Picture]:
        """One picture per prompt; size is (width, height) in pixels."""
        at_once = max(1, BATCH_TOKENS * TOKEN_PIXELS**2 // (size[0] * size[1]))
        result: list[Picture] = []
        for start in range(0, len(prompts), at_once):
            batch = prompts[start : start + at_once]
            images = self.pipeline(
                batch,
                negative_prompt=[""] * len(batch),
                true_cfg_scale=self.guidance,
                guidance_scale=0.0,
                num_inference_steps=self.steps,
                max_sequence_length=int(DEFAULTS["max_sequence_length"]),
                width=size[0],
                height=size[1],
                generator=[torch.Generator().manual_seed(self.seed + start + i) for i in range(len(batch))],
                output_type="pt",
            ).images
            result += to_pictures(images * 2 - 1)
        return result


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """count scenes whose (colour, shape) pairs were never trained on, kinds mixed evenly through the list."""
    rng = Random(seed)
    kinds = [kind for kind, share in KINDS.items() for _ in range(round(share * count))]
    rng.shuffle(kinds)
    return [sample_scene(rng, kind, held_out=True) for kind in kinds]


def scores_of(scenes: list[Scene], pictures: list[Picture]) -> Scores:
    """Share of right verdicts by kind and field; field "prompts" is how many there were."""
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    for scene, picture in zip(scenes, pictures, strict=True):
        verdicts[scene.kind].append(judge(scene, picture))
    return {
        kind: {"prompts": float(len(given))}
        | {name: sum(getattr(verdict, name) for verdict in given) / len(given) for name in FIELDS}
        for kind, given in sorted(verdicts.items())
    }


@torch.no_grad()
def through_vae(pipeline: FluxPipeline, pictures: list[Picture]) -> list[Picture]:
    """The pictures encoded and decoded, in small batches."""
    result: list[Picture] = []
    for start in range(0, len(pictures), 20):
        pixels = to_tensor(pictures[start : start + 20])
        result += to_pictures(pipeline.vae.decoder(pipeline.vae.encoder(pixels)))
    return result


def _row(pictures: list[Picture]) -> Picture:
    """Rows of equal pictures with a margin of 4 pixels, as wide as the sheet."""
    height, width = pictures[0].shape[:2]
    per_row = max(1, SHEET_WIDTH // (width + 4))
    shown = pictures[: per_row * max(1, round(SHEET_PIXELS / (per_row * width * height)))]
    sheet = np.full((math.ceil(len(shown) / per_row) * (height + 4), SHEET_WIDTH, 3), 255, np.uint8)
    for i, picture in enumerate(shown):
        top, left = i // per_row * (height + 4), i % per_row * (width + 4)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def contact_sheet(by_size: Iterable[list[Picture]]) -> Image.Image:
    """The first pictures of every size in order, reduced to a palette so that the file stays small."""
    image = Image.fromarray(np.concatenate([_row(pictures) for pictures in by_size]))
    return image.quantize(128, dither=Image.Dither.NONE)


def markdown(results: dict[str, dict[str, Scores]]) -> str:
    """Tables of the scores: model, and in brackets the judge's verdict on true pictures after the autoencoder."""
    lines = ["| size | kind | prompts | " + " | ".join(FIELDS) + " |", "|---|---|--:|" + "--:|" * len(FIELDS)]
    for size, parts in results.items():
        for kind, scores in parts["model"].items():
            cells = [f"{scores[name]:.2f} ({parts['vae'][kind][name]:.2f})" for name in FIELDS]
            lines.append(f"| {size} | {kind} | {scores['prompts']:.0f} | " + " | ".join(cells) + " |")
    raw = min(scores["all"] for parts in results.values() for scores in parts["raw"].values())
    lines += ["", "In brackets: true pictures of the same scenes after the autoencoder, the most the model can reach. "]
    lines[-1] += f"The judge's lowest score on true pictures as drawn is {raw:.2f}."
    return "\n".join(lines) + "\n"


def evaluate(sampler: Sampler, sizes: Iterable[Size], count: int) -> tuple[dict[str, dict[str, Scores]], Image.Image]:
    """Scores by size name and part ("model", "vae", "raw"), and the contact sheet."""
    results: dict[str, dict[str, Scores]] = {}
    drawn: list[list[Picture]] = []
    for size in sizes:
        began, name = time.monotonic(), f"{size[0]}x{size[1]}"
        scenes = held_out_scenes(count if tokens_of(size) <= FULL_TOKENS else count // 2, sampler.seed)
        rng = Random(sampler.seed)
        truth = [draw(scene, *size, rng) for scene in scenes]
        drawn.append(sampler.pictures([prompt(scene) for scene in scenes], size))
        results[name] = {
            "model": scores_of(scenes, drawn[-1]),
            "vae": scores_of(scenes, through_vae(sampler.pipeline, truth)),
            "raw": scores_of(scenes, truth),
        }
        right = {kind: f"{scores['all']:.2f}" for kind, scores in results[name]["model"].items()}
        say(f"{name}: all fields right {right}, {time.monotonic() - began:.0f} s")
    return results, contact_sheet(drawn)


def main() -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m gfdit.models.shapes.evaluate", description="score the model")
    parser.add_argument("--model", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--out", type=Path, help="folder for the results (default: the model's)")
    parser.add_argument("--prompts", type=int, default=200, help="prompts at each size, half as many at large ones")
    parser.add_argument("--sizes", default=",".join(f"{w}x{h}" for w, h in SIZES), help="WxH,WxH,...")
    parser.add_argument("--steps", type=int, default=int(DEFAULTS["steps"]))
    parser.add_argument("--guidance", type=float, default=float(DEFAULTS["true_cfg_scale"]))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pipeline = FluxPipeline.from_pretrained(given.model, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    sizes = [(int(w), int(h)) for w, h in (size.split("x") for size in given.sizes.split(","))]
    results, sheet = evaluate(Sampler(pipeline, given.steps, given.guidance, given.seed), sizes, given.prompts)
    out = given.out or given.model
    out.mkdir(parents=True, exist_ok=True)
    described = {"steps": given.steps, "guidance": given.guidance, "seed": given.seed, "scores": results}
    (out / "scores.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (out / "scores.md").write_text(markdown(results), encoding="utf-8")
    sheet.save(out / "sheet.png", optimize=True)
    say(markdown(results))


if __name__ == "__main__":
    main()
