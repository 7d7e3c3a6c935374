"""Separation of punctuation from words, for vocabularies of whole words, and its undoing.

Punctuation at the edges of a word becomes words of its own. A tie marks where there was no space: `("Ja, gut.")`
becomes `(‿ "‿ Ja ‿, gut ‿. ‿" ‿)`. Inside a word it stays: `geht's`, `3.5` and `well-known` are words, and so is a word
of nothing but punctuation, such as `--`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

TIE = "\u203f"
"""Where a word and the punctuation beside it touch. No normalisation changes this character."""

_WORD = re.compile(r"\S+")
# Neither the tie nor the sign with which SentencePiece spells a space.
_NEVER = (TIE, "\u2581")
# A tie at the beginning or the end of a word, with the spaces on this side; repeated spaces, and those at an end.
_REMOVED = re.compile(rf" *(?<!\S){TIE}|{TIE}(?!\S) *| +(?= )|^ +| +$")


def separate(text: str) -> str:
    """Returns the text with spaces and ties between words and the punctuation at their edges."""
    return "".join(part for part, _ in _parts(text))


def separate_with_offsets(text: str) -> tuple[str, list[int]]:
    """Returns the separated text and, for each offset in it, the offset in the text, both in bytes of UTF-8."""
    parts, offsets, offset = [], [0], 0
    for part, is_added in _parts(text):
        parts.append(part)
        size = len(part.encode())
        if is_added:
            offsets += [offset] * size
        else:
            offsets += range(offset + 1, offset + size + 1)
            offset += size
    return "".join(parts), offsets


def join(text: str) -> str:
    """Returns a separated text with its punctuation attached, without ties and without repeated spaces."""
    return _REMOVED.sub("", text)


def join_with_offsets(text: str) -> tuple[str, list[int]]:
    """Returns the joined text and, for each offset in the text, the offset in it, both in bytes of UTF-8."""
    parts, offsets, end = [], [0], 0
    for match in _REMOVED.finditer(text):
        parts.append(text[end : match.start()])
        offsets += range(offsets[-1] + 1, offsets[-1] + 1 + len(parts[-1].encode()))
        offsets += [offsets[-1]] * len(match[0].encode())
        end = match.end()
    parts.append(text[end:])
    offsets += range(offsets[-1] + 1, offsets[-1] + 1 + len(parts[-1].encode()))
    return "".join(parts), offsets


def token_spans(text: str) -> list[tuple[int, int]]:
    """Returns the spans, in bytes of UTF-8, of the words and of the punctuation at their edges."""
    spans, offset, end = [], 0, 0
    for match in _WORD.finditer(text):
        offset += len(text[end : match.start()].encode())
        end = match.end()
        before, after = _edges(match[0])
        middle = match[0][len(before) : len(match[0]) - len(after)]
        for token in (*before, middle, *after):
            spans.append((offset, offset + len(token.encode())))
            offset = spans[-1][1]
    return spans


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yields the parts of the separated text, and whether each is added to the text."""
    end = 0
    for match in _WORD.finditer(text):
        word = match[0]
        before, after = _edges(word)
        if not before and not after:
            continue
        yield text[end : match.start()], False
        for mark in before:
            yield mark, False
            yield f"{TIE} ", True
        yield word[len(before) : len(word) - len(after)], False
        for mark in after:
            yield f" {TIE}", True
            yield mark, False
        end = match.end()
    yield text[end:], False


def _edges(word: str) -> tuple[str, str]:
    """The punctuation at both edges of a word; none of a word that has nothing else."""
    begin, end = 0, len(word)
    while begin < end and _is_punctuation(word[begin]):
        begin += 1
    if begin == end:
        return "", ""
    while _is_punctuation(word[end - 1]):
        end -= 1
    return word[:begin], word[end:]


def _is_punctuation(character: str) -> bool:
    return not character.isalnum() and character not in _NEVER and unicodedata.category(character)[0] in "PS"
