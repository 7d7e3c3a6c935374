"""Augmentation of training pairs: upper case, title case and typing errors.

A pair has several variants, and a variant is a number: 0 is the pair as it stands, and the bits UPPER, TITLE and TYPOS
name the changes.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from nmt.config.schema import AugmentationConfig

UPPER, TITLE, TYPOS = 1, 2, 4
CASES = UPPER | TITLE
VARIANTS = 8
"""All variants are below it."""
NO_AUGMENTATION = AugmentationConfig()
WORDS_WITH_TYPOS = 0.1
"""Share of the words of four letters or more that get a typing error in a source with errors."""

_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_WORD_START = re.compile(r"(?<!\S)[^\w\s]*\w")

Variants = npt.NDArray[np.int64]


def draw_variants(options: AugmentationConfig, count: int, rng: np.random.Generator) -> Variants:
    """Draws the variant of each of so many pairs. Upper case and title case exclude each other."""
    chances = rng.random(count)
    upper, title = options.upper_case, options.upper_case + options.title_case
    cases = np.where(chances < upper, UPPER, np.where(chances < title, TITLE, 0))
    drawn: Variants = cases + TYPOS * (rng.random(count) < options.typos)
    return drawn


def change_pairs(
    sources: Sequence[str], targets: Sequence[str], variants: Variants, typing: random.Random
) -> tuple[list[str], list[str]]:
    """Returns the variants of these pairs: both sides in another case, typing errors in the source alone.

    Spaces stay where they are, so that words keep their alignments.
    """
    numbers = variants.tolist()
    misspelt = [
        with_typos(text, typing) if variant & TYPOS else text for text, variant in zip(sources, numbers, strict=True)
    ]
    return change_case(misspelt, numbers), change_case(targets, numbers)


def change_case(texts: Sequence[str], variants: Iterable[int]) -> list[str]:
    """Returns the texts, those of a variant UPPER or TITLE in upper case or title case."""
    return [
        text.upper() if variant & UPPER else title_case(text) if variant & TITLE else text
        for text, variant in zip(texts, variants, strict=True)
    ]


def title_case(text: str) -> str:
    """Returns the text with a capital at the beginning of every word; other letters stay as they are."""
    return _WORD_START.sub(lambda start: start[0].upper(), text)


def with_typos(text: str, typing: random.Random) -> str:
    """Returns the text with typing errors in a share of its words of four letters or more (Belinkov 2018, 3.2).

    Two neighbouring letters are swapped, or a letter is left out or doubled. The first and the last letter of a word
    stay, and no letter is added that the word does not have.
    """

    def misspell(match: re.Match[str]) -> str:
        word = match[0]
        if typing.random() >= WORDS_WITH_TYPOS:
            return word
        change = int(3 * typing.random())
        if change == 0:
            at = 1 + int((len(word) - 3) * typing.random())
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        at = 1 + int((len(word) - 2) * typing.random())
        return word[:at] + word[at] * (0 if change == 1 else 2) + word[at + 1 :]

    return _LONG_WORD.sub(misspell, text)


def capitals(characters: Iterable[str]) -> list[str]:
    """Returns the characters that these become in upper case, each once and in order; those without case have none.

    Composed as well, as SentencePiece normalizes text: two accents may become a letter with an accent, and an accent.
    """
    changed = {character.upper() for character in set(characters) if character.upper() != character}
    return sorted({letter for text in changed for letter in text + unicodedata.normalize("NFC", text)})
