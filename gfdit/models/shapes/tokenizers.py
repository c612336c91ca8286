"""Both tokenizers of the embedded model, built by code from the vocabulary: no files, no downloads.

CLIP's is a byte-pair encoding whose merges make one token of every known word; T5's is a unigram model with one
piece per known word, in lower case, Capitalised and UPPER case. May not read or write files itself.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from transformers import CLIPTokenizer, T5TokenizerFast

from gfdit.models.shapes.vocabulary import WORDS

CLIP_LENGTH = 20
T5_LENGTH = 24
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_END = "</w>"


def _apply(merges: list[tuple[str, str]], word: str) -> list[str]:
    """The pieces of a word under ordered merges, as the byte-pair encoder makes them."""
    pieces = [*word[:-1], word[-1] + _END]
    rank = {pair: index for index, pair in enumerate(merges)}
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: rank.get(pair, len(merges)))
        if best not in rank:
            return pieces
        at = next(i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == best)
        pieces[at : at + 2] = ["".join(best)]
    return pieces


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    """Merges that make one piece of every word.

    Built by replaying them: a merge made for one word also fires inside later ones, so each word's next merge is
    taken from what the merges so far leave of it. Later merges never undo an earlier word: it is whole before
    any of them is reached.
    """
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        while len(pieces := _apply(merges, word)) > 1:
            merges.append((pieces[0], pieces[1]))
    return tuple(merges)


def build_clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer: begin, end and padding are three different tokens, unknown characters a fourth."""
    specials = ["<|startoftext|>", "<|endoftext|>", "<|pad|>", "<|unknown|>"]
    pieces = [*specials, *_LETTERS, *(letter + _END for letter in _LETTERS), *("".join(pair) for pair in _merges())]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))},
        merges=[tuple(pair) for pair in _merges()],
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        model_max_length=CLIP_LENGTH,
    )


def case_variants() -> dict[str, str]:
    """Capitalised and UPPER case T5 pieces, each with the lower-case piece that means the same."""
    return {"▁" + form: "▁" + word for word in WORDS for form in (word.capitalize(), word.upper()) if form != word}


def build_t5_tokenizer() -> T5TokenizerFast:
    """T5's tokenizer; a word it does not know is one unknown token.

    Case variants are pieces of their own because the tokenizer loses a lower-casing normalizer when reloaded.
    """
    words = dict.fromkeys(["▁" + word for word in WORDS] + list(case_variants()))
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -12.0)] + [(word, -2.0) for word in words]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)
