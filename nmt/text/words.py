"""Words of a text, and which of them a tokenizer's pieces belong to.

A word is what stands between spaces or tabs in the text as it was given, before any normalisation: what the formats of
word alignments count.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

_WORD = re.compile(rb"[^ \t]+")
_BETWEEN = b" \t"


def count_words(text: str) -> int:
    """Number of words; spaces at either end or next to each other make none."""
    return len(_WORD.findall(text.encode()))


def words_of_spans(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The word, counted from 0, that each span of the text belongs to, or -1 for all where the text has no word.

    Spans are (begin, end) in UTF-8 bytes, as tokenizers give them. A span belongs to the word that it ends in: what
    stands before is the space between, and words that normalise to nothing. A span of nothing, or that ends with a
    space, belongs to the word in which or before which it ends; after the last word, to the last.
    """
    data = text.encode()
    ends = [word.end() for word in _WORD.finditer(data)]
    return [
        min(bisect_right(ends, end if data[begin:end][-1:] in _BETWEEN else end - 1), len(ends) - 1)
        for begin, end in spans
    ]
