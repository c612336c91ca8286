"""Colours of the report: a hue for each class, a shade of it for each request, so that both can be told apart.

The hues are those of Okabe and Ito, which stay apart for every common kind of colour blindness.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from gfdit.runtime.timeline import Life

HUES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c00", "#7a7a7a")
INK, FAINT, MISSED, GOOD, GROUND = "#1d2733", "#8894a3", "#c8102e", "#2b7a4b", "#ffffff"
_LIGHTNESS = (0.40, 0.66, 0.50, 0.76, 0.57)  # neighbours in starting order lie far apart

Rgb = tuple[float, float, float]


class Colours:
    """Assigns hues in the order of the class names given; unknown classes share the last one."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._hue = {name: HUES[n % len(HUES)] for n, name in enumerate(self.classes)}

    def of_class(self, name: str) -> str:
        return self._hue.get(name, HUES[-1])

    def of(self, life: Life) -> Rgb:
        """The class's hue in the shade that the request's place in the starting order gives."""
        hue, _, saturation = colorsys.rgb_to_hls(*_rgb(self.of_class(life.request.class_name)))
        shade = _LIGHTNESS[max(0, life.number) % len(_LIGHTNESS)]
        return colorsys.hls_to_rgb(hue, shade, saturation * 0.72)


def _rgb(colour: str) -> Rgb:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def ink_on(colour: Rgb) -> str:
    """Black or white, whichever reads better on `colour` (relative luminance as in WCAG, gamma 2.2)."""
    luminance = sum(weight * part**2.2 for weight, part in zip((0.2126, 0.7152, 0.0722), colour, strict=True))
    return "#ffffff" if luminance < 0.22 else INK


def paler(colour: Rgb, share: float) -> Rgb:
    """Mixed with `share` of white."""
    red, green, blue = (part + (1 - part) * share for part in colour)
    return red, green, blue
