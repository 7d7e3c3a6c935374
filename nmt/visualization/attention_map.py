"""The attention of a sentence pair, and the labels of its pieces.

Shapes: N heads, T target positions, S source positions, the end symbols included in both; Q positions of a side, P
previous sentences.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

MAX_LABEL_LENGTH = 24
"""Characters of a label. SentencePiece learns no piece above 16, but a symbol of the user may be a paragraph."""
Side = Literal["source", "target"]
END = "</s>"
"""Label of the end symbol, whatever the vocabulary calls it."""
WORD_START = "\u2581"

_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
_REPLACEMENT = "\ufffd"
_RIGHT_TO_LEFT_MARK = "\u200f"
_RIGHT_TO_LEFT = ("R", "AL")
_LEFT_TO_RIGHT = ("L", "EN", "AN")
_MIRRORED = str.maketrans("()[]{}<>«»‹›", ")(][}{><»«›‹")


@dataclass(frozen=True)
class ContextMap:
    """Attention of a side to the previous sentences of its document, in order; the mean of the heads."""

    side: Side
    lines: tuple[int, ...]
    """Numbers of the previous sentences."""
    sentences_QP: npt.NDArray[np.float32]
    """Weight of each sentence. Q is 1 if the weights are the same for every position."""
    words_QS: tuple[npt.NDArray[np.float32], ...]
    """Weights of the pieces in each sentence, its end symbol last."""


@dataclass(frozen=True)
class AttentionMap:
    """Attention weights of a sentence pair under teacher forcing."""

    source: str
    """The raw text."""
    target: str
    source_pieces: tuple[str, ...]
    """As in the vocabulary, without the end symbol."""
    target_pieces: tuple[str, ...]
    weights_NTS: npt.NDArray[np.float32]
    """[heads, target pieces + 1, source pieces + 1]: both with the end symbol last."""
    centers_NT: npt.NDArray[np.float32] | None
    """Local attention only: the center p_t of the window of each target piece, counted from 0."""
    half_width: int | None
    """Local attention only: D, source positions on either side of p_t (Luong 2015, section 3.2)."""
    log_probability: float
    """Of the target in nats, including its end symbol."""
    context: tuple[ContextMap, ...] | None = None
    """A map for each side with document context, none without a previous sentence; None: the model has no context."""

    @property
    def labels(self) -> tuple[list[str], list[str]]:
        """The labels of source and target pieces, the end symbol last in both."""
        return piece_labels(self.source_pieces), piece_labels(self.target_pieces)


def piece_labels(pieces: Iterable[str]) -> list[str]:
    """Returns the labels of a side's pieces, and last that of the end symbol."""
    return [*map(piece_label, pieces), END]


def piece_label(piece: str) -> str:
    """Returns a printable label of bounded length. The start of a word stays a visible `▁`.

    Characters that are unprintable, or not allowed in XML, become replacement characters.
    """
    shortened = piece if len(piece) <= MAX_LABEL_LENGTH else piece[: MAX_LABEL_LENGTH - 1] + "…"
    return "".join(map(_printable, shortened))


def is_upright(text: str) -> bool:
    """Whether all characters are as wide as high (Chinese, Japanese, Korean), so that they can be stacked."""
    rest = text.replace(WORD_START, "")
    return bool(rest) and all(unicodedata.east_asian_width(character) in "WF" for character in rest)


def is_right_to_left(text: str) -> bool:
    """Whether the text has a letter of a script that is written from right to left."""
    return any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text)


def with_direction_marks(text: str) -> str:
    """Encloses right-to-left text in marks, so that a browser orders it correctly on any page."""
    return f"{_RIGHT_TO_LEFT_MARK}{text}{_RIGHT_TO_LEFT_MARK}" if is_right_to_left(text) else text


def in_visual_order(text: str) -> str:
    """Reorders right-to-left text for a renderer that draws from left to right only.

    The Unicode bidirectional algorithm (UAX 9) for one word: numbers and left-to-right letters keep their order,
    marks stay on their letters, brackets are mirrored. Letters are not joined.
    """
    if not is_right_to_left(text):
        return text
    kinds = [unicodedata.bidirectional(character) for character in text]
    for index in range(1, len(kinds) - 1):
        # A point within a number belongs to it (rule W4).
        if kinds[index] in ("ES", "CS") and kinds[index - 1] == kinds[index + 1] == "EN":
            kinds[index] = "EN"
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
