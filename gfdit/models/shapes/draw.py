"""Draws scenes: antialiased silhouettes on a plain background. Pure numpy and PIL; randomness only through a seed.

Lengths are fractions of the picture's shorter side until the last moment, so one scene has the same look at every
size and aspect ratio.
"""

from __future__ import annotations

import math
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gfdit.models.shapes.vocabulary import BACKGROUNDS, COLOURS, Rgb, Scene

Picture = NDArray[np.uint8]
Point = tuple[float, float]

#: Coverage is counted on a grid this many times finer than the pixels.
SUPERSAMPLING = 4
#: Share of pictures that vary in position, radius, rotation (degrees) and tint (of 255); the rest are canonical.
FREE_SHARE, FREE_DEGREES, FREE_TINT = 0.2, 8.0, 8
_RADIUS = {"single": 0.30, "corner": 0.225, "count": 0.19, "relation": 0.19}
_SIZE_FACTOR = {"": 1.0, "small": 0.72, "large": 1.36}


def _regular(points: int, start: float = -90.0) -> list[Point]:
    angles = [math.radians(start + 360 * i / points) for i in range(points)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def _heart() -> list[Point]:
    """The usual sine-power heart curve, scaled to a radius of about one and centred."""
    curve = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        curve.append((math.sin(t) ** 3, -(y + 2.5) / 16))
    return curve


@cache
def outlines(shape: str) -> tuple[tuple[tuple[Point, ...], bool], ...]:
    """Polygons of a shape of radius about one: (points, filled), later ones over earlier; False cuts a hole.

    Raises KeyError for a name that is not in SHAPES.
    """
    star = [(x * r, y * r) for (x, y), r in zip(_regular(10), (1.08, 0.45) * 5, strict=True)]
    arm, reach = 0.32, 0.95
    cross = [
        (-arm, -reach), (arm, -reach), (arm, -arm), (reach, -arm), (reach, arm), (arm, arm),
        (arm, reach), (-arm, reach), (-arm, arm), (-reach, arm), (-reach, -arm), (-arm, -arm),
    ]  # fmt: skip
    square = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    disc = _regular(48)
    table: dict[str, list[tuple[list[Point], bool]]] = {
        "circle": [(disc, True)],
        "square": [(square, True)],
        "triangle": [([(0.0, -0.92), (1.0, 0.82), (-1.0, 0.82)], True)],
        "star": [(star, True)],
        "ring": [(disc, True), ([(0.55 * x, 0.55 * y) for x, y in disc], False)],
        "cross": [(cross, True)],
        "diamond": [([(0.0, -1.08), (0.78, 0.0), (0.0, 1.08), (-0.78, 0.0)], True)],
        "heart": [(_heart(), True)],
    }
    return tuple((tuple(points), filled) for points, filled in table[shape])


def coverage(
    shape: str, placed: list[tuple[float, float, float]], width: int, height: int, degrees: float = 0.0
) -> Picture:
    """Coverage (0 to 255, height x width) of copies of a shape; placed: (centre x, centre y, radius) in pixels."""
    scale = SUPERSAMPLING
    canvas = Image.new("L", (width * scale, height * scale), 0)
    pen = ImageDraw.Draw(canvas)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for x0, y0, radius in placed:
        for points, filled in outlines(shape):
            turned = [(x0 + radius * (x * cos - y * sin), y0 + radius * (x * sin + y * cos)) for x, y in points]
            pen.polygon([(x * scale - 0.5, y * scale - 0.5) for x, y in turned], fill=255 if filled else 0)
    return np.asarray(canvas.reduce(scale))


def _centres(scene: Scene, width: int, height: int) -> list[Point]:
    """Centres of the scene's objects, in pixels, before jitter."""
    short, aspect = min(width, height), width / height
    if scene.relation is not None:
        ends = [(0.26, 0.5), (0.74, 0.5)] if scene.relation[0].endswith("of") else [(0.5, 0.26), (0.5, 0.74)]
        if scene.relation[0] in ("right of", "below"):
            ends.reverse()
        return [(x * width, y * height) for x, y in ends]
    if scene.corner is not None:
        vertical, horizontal = scene.corner
        inset = 0.27 * short
        return [(inset if horizontal == "left" else width - inset, inset if vertical == "top" else height - inset)]
    match scene.count, 0 if 2 / 3 < aspect < 3 / 2 else (1 if aspect > 1 else -1):
        case 1, _:
            cells = [(0.5, 0.5)]
        case 2, elongated if elongated >= 0:
            cells = [(0.26, 0.5), (0.74, 0.5)]
        case 3, 0:
            cells = [(0.5, 0.27), (0.26, 0.73), (0.74, 0.73)]
        case 3, 1:
            cells = [(0.18, 0.5), (0.5, 0.5), (0.82, 0.5)]
        case 4, _:
            cells = [(0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)]
        case count, _:
            cells = [(0.5, (i + 0.5) / count) for i in range(count)]
    return [(x * width, y * height) for x, y in cells]


def _tinted(colour: Rgb, rng: Random, amount: int) -> Rgb:
    red, green, blue = (max(0, min(255, channel + rng.randint(-amount, amount))) for channel in colour)
    return red, green, blue


def draw(scene: Scene, width: int, height: int, rng: Random | None = None) -> Picture:
    """The scene as a height x width x 3 picture. With rng, some vary a little."""
    short = min(width, height)
    radius = _RADIUS[scene.kind] * _SIZE_FACTOR[scene.size] * short
    placed = [(x, y, radius) for x, y in _centres(scene, width, height)]
    degrees, tint = 0.0, 0
    if rng is not None and rng.random() < FREE_SHARE:
        slack = (0.04 if scene.kind == "single" else 0.015) * short
        placed = [
            (x + rng.uniform(-slack, slack), y + rng.uniform(-slack, slack), r * rng.uniform(0.93, 1.07))
            for x, y, r in placed
        ]
        degrees, tint = rng.uniform(-FREE_DEGREES, FREE_DEGREES), FREE_TINT
    objects = [(scene.colour, scene.shape, placed)]
    if scene.relation is not None:
        objects = [(scene.colour, scene.shape, placed[:1]), (*scene.relation[1:], placed[1:])]
    tints = rng or Random(0)
    picture = np.full((height, width, 3), _tinted(BACKGROUNDS[scene.background], tints, tint), np.float32)
    for colour, shape, where in objects:
        alpha = coverage(shape, where, width, height, degrees)[..., None].astype(np.float32) / 255
        picture += alpha * (np.asarray(_tinted(COLOURS[colour], tints, tint), np.float32) - picture)
    return np.rint(picture).astype(np.uint8)
