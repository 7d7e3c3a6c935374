"""Which source pieces and words a translation looked at, in the Pharaoh format: `0-0 2-1`, source before target."""

from __future__ import annotations

from collections.abc import Iterable

from nmt.experiment.translation import Floats, Translation
from nmt.text.tokenizer import word_of_piece

Pairs = list[tuple[int, int]]
"""Positions of source and target, counted from 0, in ascending order."""


def align_pieces(attention: Floats) -> Pairs:
    """For every target piece the source piece that it looked at most, of equal ones the first.

    `attention` is [target, source] with the end of the sentence in both; the ends are aligned with nothing.
    """
    chosen = attention[:-1, :-1].argmax(1)
    return sorted((int(source), target) for target, source in enumerate(chosen))


def align_words(pairs: Pairs, source_pieces: Iterable[str], target_pieces: Iterable[str]) -> Pairs:
    """Words are aligned where any of their pieces are; words are what spaces separate."""
    source_words, target_words = word_of_piece(list(source_pieces)), word_of_piece(list(target_pieces))
    return sorted({(source_words[source], target_words[target]) for source, target in pairs})


def align(translation: Translation, unit: str) -> Pairs:
    """The alignment of a translation over `pieces` or `words`; it must have kept its attention."""
    assert translation.attention is not None, "translated without attention"
    pairs = align_pieces(translation.attention)
    return pairs if unit == "pieces" else align_words(pairs, translation.source_pieces, translation.pieces)


def pharaoh(pairs: Pairs) -> str:
    """`0-0 2-1`."""
    return " ".join(f"{source}-{target}" for source, target in pairs)
