"""Pieces as labels of a picture: printable, of bounded length, and readable in every script."""

from __future__ import annotations

import unicodedata

LONGEST = 24
"""Characters of a label; SentencePiece learns no piece above 16, but a symbol of the user's own may be a paragraph."""
END = "</s>"
"""How the end symbol is labelled, whatever the vocabulary calls it."""
WORD_START = "\u2581"

_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
_REPLACEMENT = "\ufffd"
_RIGHT_TO_LEFT_MARK = "\u200f"
_RIGHT_TO_LEFT = ("R", "AL")
_LEFT_TO_RIGHT = ("L", "EN", "AN")
_MIRRORED = str.maketrans("()[]{}<>«»‹›", ")(][}{><»«›‹")


def label(piece: str) -> str:
    """The piece as the vocabulary spells it, so that it can be found there; the start of a word stays a visible `▁`.

    What has no picture, and no place in XML, is a replacement character.
    """
    shown = piece if len(piece) <= LONGEST else piece[: LONGEST - 1] + "…"
    return "".join(map(_printable, shown))


def stands_upright(text: str) -> bool:
    """Whether each character is as wide as it is high (Chinese, Japanese, Korean), so that it may stand on the next."""
    rest = text.replace(WORD_START, "")
    return bool(rest) and all(unicodedata.east_asian_width(character) in "WF" for character in rest)


def is_right_to_left(text: str) -> bool:
    """Whether the text has a letter of a script that is written from right to left."""
    return any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text)


def marked(text: str) -> str:
    """Right-to-left text between marks that make a browser order it so, whatever the direction of the page."""
    return f"{_RIGHT_TO_LEFT_MARK}{text}{_RIGHT_TO_LEFT_MARK}" if is_right_to_left(text) else text


def in_visual_order(text: str) -> str:
    """Right-to-left text in the order of its pictures, for what can draw only from left to right.

    The Unicode bidirectional algorithm (UAX 9) for one word: numbers and left-to-right letters keep their order,
    marks stay on their letters, brackets are mirrored. Letters are not joined.
    """
    if not is_right_to_left(text):
        return text
    kinds = [unicodedata.bidirectional(character) for character in text]
    for place in range(1, len(kinds) - 1):
        # A point within a number belongs to it (rule W4).
        if kinds[place] in ("ES", "CS") and kinds[place - 1] == kinds[place + 1] == "EN":
            kinds[place] = "EN"
    clusters: list[str] = []
    before = ""
    for character, kind in zip(text, kinds, strict=True):
        if clusters and (kind == "NSM" or (kind in _LEFT_TO_RIGHT and before in _LEFT_TO_RIGHT)):
            clusters[-1] += character
        else:
            clusters.append(character if kind in _LEFT_TO_RIGHT else character.translate(_MIRRORED))
        before = before if kind == "NSM" else kind
    return "".join(reversed(clusters))


def _printable(character: str) -> str:
    unusable = unicodedata.category(character) in _UNPRINTABLE or ord(character) & 0xFFFE == 0xFFFE
    return _REPLACEMENT if unusable else character
