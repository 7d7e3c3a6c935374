"""Words of a text, and which of them a tokenizer's pieces belong to.

A word is what stands between spaces or tabs in the text as it was given, before any normalisation: what the formats of
word alignments count.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

_WORD = re.compile(rb"[^ \t]+")


def count_words(text: str) -> int:
    """Number of words; spaces at either end or next to each other make none."""
    return len(_WORD.findall(text.encode()))


def words_of_spans(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The word, counted from 0, that each span of the text belongs to, or -1 for all where the text has no word.

    Spans are (begin, end) in UTF-8 bytes, as tokenizers give them. A span belongs to the first word that ends where the
    span does, or later: what stands before in the span is the space between, and words that normalise to nothing. After
    the last word it belongs to the last.
    """
    ends = [word.end() for word in _WORD.finditer(text.encode())]
    return [min(bisect_left(ends, end), len(ends) - 1) for _, end in spans]
