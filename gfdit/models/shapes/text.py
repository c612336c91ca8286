"""Prompts as token ids for training, with the habits that make the text encoders forgiving.

A tenth of the prompts is emptied (for guidance), a few get a nonsense word, and the padded length varies, because
Flux pipelines let padding take part in attention.
"""

from __future__ import annotations

import sys
from random import Random

import torch
from torch import Tensor

from gfdit.models.shapes.tokenizers import CLIP_LENGTH, T5_LENGTH, build_clip_tokenizer, build_t5_tokenizer

EMPTY_SHARE = 0.1
NONSENSE_SHARE = 0.03
#: The longest prompt of the grammar, end token included, rounded up.
SHORT_LENGTH = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def say(text: str) -> None:
    """One line of progress on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class PromptReader:
    """Turns prompts into the ids that both text encoders take; remembers what it has tokenized."""

    def __init__(self) -> None:
        self._clip, self._t5 = build_clip_tokenizer(), build_t5_tokenizer()
        self._known: dict[str, tuple[list[int], list[int]]] = {}

    def _ids(self, prompt: str) -> tuple[list[int], list[int]]:
        if prompt not in self._known:
            clip = self._clip(prompt, truncation=True, max_length=CLIP_LENGTH).input_ids
            self._known[prompt] = (clip, self._t5(prompt).input_ids)
        return self._known[prompt]

    def read(self, prompts: list[str], t5_length: int) -> tuple[Tensor, Tensor]:
        """CLIP ids (batch x CLIP_LENGTH) and T5 ids (batch x t5_length), padded as the pipeline pads them."""
        clip = torch.full((len(prompts), CLIP_LENGTH), self._clip.pad_token_id)
        t5 = torch.full((len(prompts), t5_length), self._t5.pad_token_id)
        for row, prompt in enumerate(prompts):
            clip_ids, t5_ids = self._ids(prompt)
            clip[row, : len(clip_ids)] = torch.tensor(clip_ids)
            kept = t5_ids[: t5_length - 1] + t5_ids[-1:] if len(t5_ids) > t5_length else t5_ids
            t5[row, : len(kept)] = torch.tensor(kept)
        return clip, t5


def disturbed(prompts: list[str], rng: Random) -> list[str]:
    """The prompts with a share emptied and a share given one nonsense word at a random place."""
    result = []
    for prompt in prompts:
        draw = rng.random()
        if draw < EMPTY_SHARE:
            prompt = ""
        elif draw < EMPTY_SHARE + NONSENSE_SHARE:
            words = prompt.split()
            words.insert(rng.randrange(len(words) + 1), "".join(rng.choices(_LETTERS, k=rng.randint(2, 4))))
            prompt = " ".join(words)
        result.append(prompt)
    return result


def random_length(rng: Random) -> int:
    """A padded T5 length: often the shortest (cheapest), often the shipped default, at times much longer."""
    return rng.choices((SHORT_LENGTH, T5_LENGTH, rng.randint(SHORT_LENGTH, 64)), (0.5, 0.38, 0.12))[0]
