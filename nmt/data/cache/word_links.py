"""Word alignments in the Pharaoh format -> columns: the links, and the word of each piece."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from nmt.data.cache.columns import Ragged, flatten
from nmt.data.tokenizer import Tokenizer, TokenizerPair, count_words, words_of_spans

LINKS, SOURCE_WORDS, TARGET_WORDS = "links", "source_words", "target_words"
"""Columns: the source and the target word of each link in turn, and the word of each piece of either side. Pairs
without links have nothing in any of them."""
WORD_TYPE = np.uint16
"""Of the numbers of words."""
MOST_WORDS = 1 << 16

_LINK = re.compile(r"(\d+)-(\d+)", re.ASCII)


def encode_links(
    alignments: Sequence[str], sources: Sequence[str], targets: Sequence[str], tokenizers: TokenizerPair
) -> tuple[dict[str, Ragged], list[tuple[int, str]]]:
    """Returns the columns of the alignments of these pairs, and the row and fault of each one that is faulty."""
    links: list[list[int]] = []
    problems: list[tuple[int, str]] = []
    for row, (alignment, source, target) in enumerate(zip(alignments, sources, targets, strict=True)):
        try:
            links.append(parse_links(alignment, count_words(source), count_words(target)) if alignment else [])
        except ValueError as error:
            links.append([])
            problems.append((row, str(error)))

    def words(texts: Sequence[str], tokenizer: Tokenizer) -> Ragged:
        return flatten(
            [words_of(text, tokenizer) if linked else [] for text, linked in zip(texts, links, strict=True)], WORD_TYPE
        )

    columns = {
        LINKS: flatten(links, WORD_TYPE),
        SOURCE_WORDS: words(sources, tokenizers.source),
        TARGET_WORDS: words(targets, tokenizers.target),
    }
    return columns, problems


def parse_links(alignment: str, source_words: int, target_words: int) -> list[int]:
    """Returns the source and the target word of each link of `0-0 2-1`, in turn; a repeated link counts once.

    Raises ValueError if it is not in this format, or a link lies outside of a pair of so many words.
    """
    links: dict[tuple[int, int], None] = {}
    for text in alignment.split():
        match = _LINK.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a link such as 0-0")
        source, target = int(match[1]), int(match[2])
        if source >= source_words or target >= target_words:
            raise ValueError(
                f"{text} is outside of the pair of {source_words} source and {target_words} target words, which count "
                "from 0; words are what spaces separate in the text as it stands, before any tokenizer"
            )
        links[source, target] = None
    if links and max(source_words, target_words) > MOST_WORDS:
        raise ValueError(f"a pair of more than {MOST_WORDS:,} words cannot have links; leave the line blank")
    return [word for link in links for word in link]


def words_of(text: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the word of each piece of the text, in ascending order."""
    return words_of_spans(text, tokenizer.spans(text))
