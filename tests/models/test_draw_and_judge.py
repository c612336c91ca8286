"""The renderer and the independent judge: the judge must read true pictures without one mistake."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from gfdit.models.shapes.draw import coverage, draw
from gfdit.models.shapes.judge import judge, look
from gfdit.models.shapes.vocabulary import BACKGROUNDS, COLOURS, SHAPES, Scene, sample_scene

SIZES = [(64, 64), (96, 64), (64, 128), (128, 128)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("kind", ["single", "corner", "count", "relation"])
def test_judge_reads_every_true_picture(kind: str, size: tuple[int, int]) -> None:
    rng = Random(f"{kind}{size}")
    wrong = []
    for _ in range(60):
        scene = sample_scene(rng, kind, held_out=None)
        if not judge(scene, draw(scene, *size, rng)).all:
            wrong.append(scene)
    assert wrong == []


@pytest.mark.parametrize("shape", SHAPES)
def test_judge_tells_every_shape_from_every_other(shape: str) -> None:
    picture = draw(Scene("red", shape, "white"), 64, 64)
    verdicts = {other: judge(Scene("red", other, "white"), picture).shape for other in SHAPES}
    assert verdicts == {other: other == shape for other in SHAPES}


def test_judge_sees_each_wrong_field_alone() -> None:
    picture = draw(Scene("red", "star", "white", corner=("top", "left")), 128, 128)
    assert not judge(Scene("red", "star", "black", corner=("top", "left")), picture).background
    assert not judge(Scene("pink", "star", "white", corner=("top", "left")), picture).colour
    assert not judge(Scene("red", "star", "white", corner=("bottom", "left")), picture).place
    assert not judge(Scene("red", "star", "white", corner=("top", "right")), picture).place
    assert not judge(Scene("red", "star", "white", count=2), picture).count


def test_judge_sees_a_swapped_relation() -> None:
    picture = draw(Scene("red", "star", "white", relation=("left of", "blue", "ring")), 128, 64)
    assert judge(Scene("blue", "ring", "white", relation=("right of", "red", "star")), picture).all
    assert not judge(Scene("red", "star", "white", relation=("right of", "blue", "ring")), picture).place
    assert not judge(Scene("blue", "star", "white", relation=("left of", "red", "ring")), picture).shape


def test_an_empty_picture_and_noise_are_nothing_asked_for() -> None:
    scene = Scene("red", "circle", "white")
    assert look(np.full((64, 64, 3), 250, np.uint8)).objects == ()
    assert not judge(scene, np.full((64, 64, 3), 250, np.uint8)).colour
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert not judge(scene, noise).all


def test_drawing_is_antialiased_and_seeded() -> None:
    disc = coverage("circle", [(32.0, 32.0, 20.0)], 64, 64)
    assert 0.97 < disc.sum() / 255 / (np.pi * 400) < 1.03
    assert np.count_nonzero((disc > 0) & (disc < 255)) > 60
    scene = Scene("cyan", "heart", "black")
    assert np.array_equal(draw(scene, 64, 96, Random(7)), draw(scene, 64, 96, Random(7)))
    assert draw(scene, 64, 96).shape == (96, 64, 3)


def test_plain_areas_have_exactly_the_palette_colours() -> None:
    picture = draw(Scene("purple", "circle", "yellow"), 64, 64)
    assert tuple(picture[0, 0]) == BACKGROUNDS["yellow"]
    assert tuple(picture[32, 32]) == COLOURS["purple"]
