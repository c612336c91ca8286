"""The prompt grammar: sentences, held-out pairs, and the kinds of scenes."""

from __future__ import annotations

from random import Random

import pytest

from gfdit.models.shapes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SHAPES,
    WORDS,
    Scene,
    prompt,
    sample_scene,
)

KINDS = ("single", "corner", "count", "relation")


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        (Scene("red", "circle", "blue"), "a red circle on a blue background"),
        (Scene("orange", "ring", "gray", size="large"), "a large orange ring on a gray background"),
        (Scene("orange", "heart", "white"), "an orange heart on a white background"),
        (Scene("green", "star", "white", count=3), "three green stars on a white background"),
        (Scene("pink", "cross", "black", count=2), "two pink crosses on a black background"),
        (
            Scene("yellow", "square", "black", size="small", corner=("top", "left")),
            "a small yellow square in the top left corner on a black background",
        ),
        (
            Scene("red", "circle", "white", relation=("left of", "orange", "diamond")),
            "a red circle left of an orange diamond on a white background",
        ),
    ],
)
def test_prompt_follows_the_grammar(scene: Scene, sentence: str) -> None:
    assert prompt(scene) == sentence


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_scenes_use_known_words_and_are_of_their_kind(kind: str) -> None:
    rng = Random(1)
    for _ in range(200):
        scene = sample_scene(rng, kind, held_out=None)
        assert scene.kind == kind
        assert scene.colour != scene.background
        assert set(prompt(scene).split()) <= set(WORDS)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_pairs_never_occur_in_training_and_always_in_the_test(kind: str) -> None:
    rng = Random(2)
    for _ in range(300):
        scene = sample_scene(rng, kind, held_out=False)
        second = scene.relation[1:] if scene.relation else (scene.colour, scene.shape)
        assert not {(scene.colour, scene.shape), second} & HELD_OUT
        scene = sample_scene(rng, kind, held_out=True)
        assert (scene.colour, scene.shape) in HELD_OUT


def test_held_out_is_a_tenth_of_the_pairs_and_has_every_shape() -> None:
    assert len(HELD_OUT) * 10 == len(COLOURS) * len(SHAPES)
    assert {shape for _, shape in HELD_OUT} == set(SHAPES)
    assert len({colour for colour, _ in HELD_OUT}) == len(HELD_OUT)


def test_unknown_kind_names_itself_and_the_fix() -> None:
    with pytest.raises(ValueError, match="'pair' is not a kind of scene; use single"):
        sample_scene(Random(0), "pair")


def test_every_background_can_carry_every_kind() -> None:
    rng = Random(3)
    seen = {(scene.background, scene.kind) for kind in KINDS for scene in [sample_scene(rng, kind) for _ in range(100)]}
    assert len(seen) == len(BACKGROUNDS) * len(KINDS)
