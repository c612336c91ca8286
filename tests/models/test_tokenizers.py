"""Both tokenizers: one token per known word, saving and loading, case, and words outside the grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer, T5TokenizerFast

from gfdit.models.shapes.tokenizers import CLIP_LENGTH, T5_LENGTH, build_clip_tokenizer, build_t5_tokenizer
from gfdit.models.shapes.vocabulary import WORDS

LONGEST = "a red triangle right of an orange triangle on a yellow background"


def test_every_word_is_one_token_of_its_own() -> None:
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    clip_ids = [tuple(clip(word).input_ids) for word in WORDS]
    t5_ids = [tuple(t5(word).input_ids) for word in WORDS]
    assert {len(ids) for ids in clip_ids} == {3}
    assert {len(ids) for ids in t5_ids} == {2}
    assert len(set(clip_ids)) == len(set(t5_ids)) == len(WORDS)


@pytest.mark.parametrize(
    "text", [LONGEST, "A Red Circle on a BLUE background", "héllo, wörld 42!", "", "  two  stars "]
)
def test_saved_tokenizers_read_alike(text: str, tmp_path: Path) -> None:
    for built, kind in ((build_clip_tokenizer(), CLIPTokenizer), (build_t5_tokenizer(), T5TokenizerFast)):
        built.save_pretrained(tmp_path / kind.__name__)
        loaded = kind.from_pretrained(tmp_path / kind.__name__)
        assert loaded(text).input_ids == built(text).input_ids


def test_known_sentences_come_back_and_fit() -> None:
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    assert clip.decode(clip(LONGEST).input_ids, skip_special_tokens=True) == LONGEST
    assert t5.decode(t5(LONGEST).input_ids, skip_special_tokens=True) == LONGEST
    assert len(clip(LONGEST).input_ids) <= CLIP_LENGTH
    assert len(t5(LONGEST).input_ids) <= T5_LENGTH


def test_clip_ignores_case_and_t5_has_pieces_for_it() -> None:
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    assert clip("RED Circle").input_ids == clip("red circle").input_ids
    assert t5.unk_token_id not in t5("RED Circle").input_ids


def test_unknown_words_are_unknown_tokens() -> None:
    t5 = build_t5_tokenizer()
    ids = t5("a zebra on a blue background").input_ids
    assert t5.unk_token_id in ids
    assert ids[-5:] == t5("on a blue background").input_ids
