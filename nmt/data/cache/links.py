"""Word alignments in the Pharaoh format -> arrays: the links, and the word that each piece belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmt.data.cache.ragged import Values, flatten
from nmt.data.tokenizer import Tokenizer, TokenizerPair
from nmt.data.words import count_words, words_of_spans

COLUMNS = ("links", "source_words", "target_words")
POSITION = np.uint16
"""Type of the positions of words."""
MOST_WORDS = 1 << 16

_LINK = re.compile(r"(\d+)-(\d+)", re.ASCII)


@dataclass(frozen=True)
class Rows:
    """Positions of words, counted from 0: all rows one after the other, and how many belong to each."""

    values: Values
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedLinks:
    """The alignments of some pairs. Pairs without links have nothing in any of the three."""

    links: Rows
    """The words that each link joins, source and target in turn."""
    source_words: Rows
    """The word that each source piece belongs to."""
    target_words: Rows
    """The word that each target piece belongs to."""
    problems: tuple[tuple[int, str], ...] = ()
    """Row, and what is wrong with its alignment."""

    def columns(self) -> dict[str, Rows]:
        """What the cache keeps, by the name of its column."""
        return dict(zip(COLUMNS, (self.links, self.source_words, self.target_words), strict=True))


def encode_links(
    alignments: Sequence[str], sources: Sequence[str], targets: Sequence[str], tokenizers: TokenizerPair
) -> EncodedLinks:
    """The alignments of these pairs; one that is wrong has no links, and is among the problems."""
    links: list[list[int]] = []
    problems: list[tuple[int, str]] = []
    for row, (alignment, source, target) in enumerate(zip(alignments, sources, targets, strict=True)):
        try:
            links.append(parse_links(alignment, count_words(source), count_words(target)))
        except ValueError as error:
            links.append([])
            problems.append((row, str(error)))
    return EncodedLinks(
        _rows(links),
        _rows([words_of(text, tokenizers.source) if any_ else [] for text, any_ in zip(sources, links, strict=True)]),
        _rows([words_of(text, tokenizers.target) if any_ else [] for text, any_ in zip(targets, links, strict=True)]),
        tuple(problems),
    )


def no_links(pairs: int) -> EncodedLinks:
    """The alignments of pairs of a corpus that has none."""
    nothing = Rows(np.empty(0, POSITION), np.zeros(pairs, np.int64))
    return EncodedLinks(nothing, nothing, nothing)


def parse_links(alignment: str, source_words: int, target_words: int) -> list[int]:
    """The source and the target word of each link of `0-0 2-1`, in turn; a link that stands there twice counts once.

    Raises ValueError, which says what is wrong, where something else stands there or a link leaves a pair of so many
    words.
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
    """The word that each piece of the text belongs to, in ascending order."""
    return words_of_spans(text, tokenizer.spans(text))


def _rows(rows: Sequence[Sequence[int]]) -> Rows:
    values, offsets = flatten(rows, POSITION)
    return Rows(values, np.diff(offsets))
