"""Says what a picture shows, without the model: border colour, connected components, palette, template overlap.

Depends on the vocabulary and on the silhouettes only, never on torch, so it cannot share the model's mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from gfdit.models.shapes.draw import Picture, coverage
from gfdit.models.shapes.vocabulary import BACKGROUNDS, COLOURS, SHAPES, Rgb, Scene

Floats = NDArray[np.float64]

#: A pixel at least this far (RGB distance) from the border's colour may belong to an object.
FOREGROUND_DISTANCE = 45.0
#: A palette colour further away than this is not named.
PALETTE_DISTANCE = 75.0
#: A component smaller than this share of the largest one is a speck, not an object ...
SPECK_SHARE = 0.2
#: ... and so is one smaller than this share of the picture.
SPECK_AREA = 0.004
#: Below this overlap (soft intersection over union) with every template, a component has no shape.
MIN_OVERLAP = 0.62
_TEMPLATE = 24


@dataclass(frozen=True, slots=True)
class Found:
    """One object: palette colour and shape ("" when none is near), centre as fractions of width and height."""

    colour: str
    shape: str
    x: float
    y: float
    area: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture shows: background ("" when no palette colour is near) and objects, largest first."""

    background: str
    objects: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which fields of a scene a picture gets right; place is true where the scene asks for none."""

    background: bool
    colour: bool
    shape: bool
    count: bool
    place: bool

    @property
    def all(self) -> bool:
        """Whether every field is right."""
        return self.background and self.colour and self.shape and self.count and self.place


def _nearest(colour: Floats, palette: dict[str, Rgb]) -> str:
    distance, name = min((float(np.linalg.norm(colour - np.asarray(rgb))), name) for name, rgb in palette.items())
    return name if distance <= PALETTE_DISTANCE else ""


def _fitted(alpha: Floats) -> Floats:
    """Alpha cropped to where it exceeds one half and stretched to the template's size."""
    rows, columns = np.nonzero((alpha > 0.5).any(axis=1))[0], np.nonzero((alpha > 0.5).any(axis=0))[0]
    crop = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image = Image.fromarray(np.rint(crop * 255).astype(np.uint8))
    return np.asarray(image.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.BILINEAR), np.float64) / 255


@cache
def _templates() -> tuple[tuple[str, Floats], ...]:
    """Every silhouette upright and slightly turned either way: stretching to a box undoes size, not rotation."""
    return tuple(
        (shape, _fitted(coverage(shape, [(48, 48, 40)], 96, 96, degrees) / 255.0))
        for shape in SHAPES
        for degrees in (-7.0, 0.0, 7.0)
    )


def _shape(alpha: Floats) -> str:
    fitted = _fitted(alpha)
    overlap, shape = max(
        (float(np.minimum(fitted, template).sum() / np.maximum(fitted, template).sum()), shape)
        for shape, template in _templates()
    )
    return shape if overlap >= MIN_OVERLAP else ""


def _object(pixels: Floats, border: Floats, inside: NDArray[np.bool_]) -> Found:
    """Describe one component: its colour is its core's median, its alpha the way from the border's colour to that."""
    core = ndimage.binary_erosion(inside)
    colour = np.median(pixels[core if core.any() else inside], axis=0)
    way = colour - border
    alpha = np.clip((pixels - border) @ way / max(float(way @ way), 1.0), 0.0, 1.0)
    near = ndimage.binary_dilation(inside, iterations=2)
    own = np.where(near, alpha, 0.0)
    y, x = ndimage.center_of_mass(inside)
    shape = _shape(own) if (own > 0.5).any() else ""
    height, width = inside.shape
    return Found(_nearest(colour, COLOURS), shape, float(x + 0.5) / width, float(y + 0.5) / height, int(inside.sum()))


def look(picture: Picture) -> Seen:
    """What a height x width x 3 picture shows."""
    pixels = picture.astype(np.float64)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    border = np.median(edge, axis=0)
    labels, total = ndimage.label(np.linalg.norm(pixels - border, axis=2) > FOREGROUND_DISTANCE, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=total + 1)[1:]
    keep = [i + 1 for i in np.argsort(-areas) if areas[i] >= max(SPECK_SHARE * areas.max(), SPECK_AREA * labels.size)]
    return Seen(_nearest(border, BACKGROUNDS), tuple(_object(pixels, border, labels == label) for label in keep))


def _placed(scene: Scene, objects: tuple[Found, ...]) -> bool:
    if scene.corner is not None:
        vertical, horizontal = scene.corner
        first = objects[0]
        return (first.y < 0.5) == (vertical == "top") and (first.x < 0.5) == (horizontal == "left")
    if scene.relation is not None and len(objects) == 2:
        first, second = objects if objects[0].colour == scene.colour else objects[::-1]
        return {
            "left of": first.x < second.x,
            "right of": first.x > second.x,
            "above": first.y < second.y,
            "below": first.y > second.y,
        }[scene.relation[0]]
    return scene.relation is None


def judge(scene: Scene, picture: Picture) -> Verdict:
    """Compare what a picture shows with what was asked for.

    Colour and shape must be right for every object found (for the largest one where one was asked for).
    """
    seen = look(picture)
    background = seen.background == scene.background
    if not seen.objects:
        return Verdict(background, colour=False, shape=False, count=False, place=False)
    if scene.relation is not None:
        wanted = sorted([(scene.colour, scene.shape), scene.relation[1:]])
        found = sorted((found.colour, found.shape) for found in seen.objects)
        colour = [c for c, _ in found] == [c for c, _ in wanted]
        return Verdict(background, colour, found == wanted, len(found) == 2, _placed(scene, seen.objects))
    judged = seen.objects[:1] if scene.count == 1 else seen.objects
    return Verdict(
        background=background,
        colour=all(found.colour == scene.colour for found in judged),
        shape=all(found.shape == scene.shape for found in judged),
        count=len(seen.objects) == scene.count,
        place=_placed(scene, seen.objects),
    )
