"""What the embedded model can be asked for: shapes, colours, backgrounds, counts, places and the prompt grammar.

Plain data and pure functions: no drawing, no torch. The grammar, in full:

    prompt     := scene "on a" BACKGROUND "background"
    scene      := ARTICLE [SIZE] COLOUR SHAPE [place]
                | COUNT COLOUR SHAPES
                | ARTICLE COLOUR SHAPE RELATION ARTICLE COLOUR SHAPE
    place      := "in the" ("top" | "bottom") ("left" | "right") "corner"
    RELATION   := "left of" | "right of" | "above" | "below"

Anything else is read word by word; words the tokenizers do not know become the unknown token.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

Rgb = tuple[int, int, int]

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")

COLOURS: dict[str, Rgb] = {
    "red": (220, 30, 35),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 40),
    "green": (30, 160, 60),
    "cyan": (40, 205, 215),
    "blue": (35, 75, 215),
    "purple": (125, 45, 165),
    "pink": (250, 130, 185),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}

BACKGROUNDS: dict[str, Rgb] = {
    "white": COLOURS["white"],
    "black": COLOURS["black"],
    "gray": (128, 128, 128),
    "blue": COLOURS["blue"],
    "green": COLOURS["green"],
    "yellow": COLOURS["yellow"],
}

COUNTS: dict[int, str] = {2: "two", 3: "three", 4: "four"}
SIZES: tuple[str, ...] = ("small", "large")
CORNERS: tuple[tuple[str, str], ...] = (("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right"))
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")

#: (colour, shape) pairs that are never drawn in training: a tenth of the 80, each shape and each colour about once.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "star"),
        ("orange", "square"),
        ("yellow", "heart"),
        ("green", "circle"),
        ("cyan", "diamond"),
        ("blue", "triangle"),
        ("purple", "cross"),
        ("pink", "ring"),
    }
)

#: Every lower-case word of the grammar; the tokenizers give each a token of its own.
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        ["a", "an", "on", "in", "the", "of", "background", "corner", "top", "bottom", "left", "right", "above", "below"]
        + [*SIZES, *COUNTS.values(), *COLOURS, *BACKGROUNDS, *SHAPES]
        + [shape + ("es" if shape == "cross" else "s") for shape in SHAPES]
    )
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What one picture shows.

    colour, shape: of the object, or of every object when count > 1, or of the first one of a relation.
    size: "small", "large" or "" for neither. corner: a member of CORNERS, or None.
    relation: None, or (relation, colour, shape) of the second object.
    """

    colour: str
    shape: str
    background: str
    count: int = 1
    size: str = ""
    corner: tuple[str, str] | None = None
    relation: tuple[str, str, str] | None = None

    @property
    def kind(self) -> str:
        """Which of "single", "corner", "count" and "relation" this is; the evaluation groups by it."""
        if self.relation is not None:
            return "relation"
        if self.count > 1:
            return "count"
        return "single" if self.corner is None else "corner"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def plural(shape: str) -> str:
    """The plural of a member of SHAPES."""
    return shape + ("es" if shape == "cross" else "s")


def prompt(scene: Scene) -> str:
    """The sentence of the grammar that asks for this scene."""
    if scene.count > 1:
        body = f"{COUNTS[scene.count]} {scene.colour} {plural(scene.shape)}"
    else:
        words = [word for word in (scene.size, scene.colour, scene.shape) if word]
        body = " ".join([_article(words[0]), *words])
    if scene.corner is not None:
        body += f" in the {scene.corner[0]} {scene.corner[1]} corner"
    if scene.relation is not None:
        relation, colour, shape = scene.relation
        body += f" {relation} {_article(colour)} {colour} {shape}"
    return f"{body} on a {scene.background} background"


def _pair(rng: Random, background: str, held_out: bool | None) -> tuple[str, str]:
    """A (colour, shape) pair whose colour differs from the background; held_out None draws from all pairs."""
    while True:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        if colour != background and (held_out is None or ((colour, shape) in HELD_OUT) == held_out):
            return colour, shape


def sample_scene(rng: Random, kind: str, held_out: bool | None = False) -> Scene:
    """A random scene of one kind ("single", "corner", "count" or "relation").

    held_out: False never draws a held-out pair (training), True only those, None any pair.
    """
    background = rng.choice(list(BACKGROUNDS))
    colour, shape = _pair(rng, background, held_out)
    match kind:
        case "single":
            return Scene(colour, shape, background, size=rng.choice(("", "", "small", "large")))
        case "corner":
            return Scene(colour, shape, background, size=rng.choice(("", "small")), corner=rng.choice(CORNERS))
        case "count":
            return Scene(colour, shape, background, count=rng.choice(list(COUNTS)))
        case "relation":
            second = _pair(rng, background, held_out)
            while second[0] == colour:
                second = _pair(rng, background, held_out)
            return Scene(colour, shape, background, relation=(rng.choice(RELATIONS), *second))
        case _:
            raise ValueError(f"kind: {kind!r} is not a kind of scene; use single, corner, count or relation")
