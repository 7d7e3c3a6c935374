"""Documents as a classifier saw them, on one page: sentence weights in the margin, word weights behind the words.

As in figure 5 of Yang 2016: the margin shows the weight p_s of a sentence in its document, the ground of a word
sqrt(p_s) p_w, p_w being its weight in the sentence, so that important words show in important sentences, and do not
vanish in the others. Each of the two inks is full for the largest value of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nmt.visualization.shell import Kind, embedded, shell

DIGITS = 4
"""Of a stored weight or probability."""
LONGEST_TITLE = 200
"""Characters of a document in the list."""

KIND = Kind(
    noun="document",
    part="word",
    keys="<kbd>Tab</kbd> enters the document, where <kbd>←</kbd> <kbd>→</kbd> go from word to word and <kbd>↑</kbd> "
    "<kbd>↓</kbd> from sentence to sentence",
    styles=("document_view.css",),
    scripts=("document_data.js", "document_view.js"),
)


@dataclass(frozen=True)
class SentenceLook:
    """A sentence, and what of it mattered."""

    weight: float
    """In the document."""
    words: tuple[str, ...]
    weights: tuple[float, ...]
    """Of each word in the sentence."""


@dataclass(frozen=True)
class DocumentLook:
    """A document, its label, and what mattered."""

    text: str
    label: str
    probabilities: tuple[tuple[str, float], ...]
    """Of every label."""
    sentences: tuple[SentenceLook, ...]


class DocumentPage:
    """Writes a page document by document, so that none is held in memory."""

    def __init__(self, write: Callable[[str], object], model: str, language: str) -> None:
        """`model` is what the page calls what labelled; `language` that of the documents, as BCP 47 has it."""
        self._write = write
        head, self._tail = shell(f"Attention of {model}", KIND)
        write(f'{head}{{"systems":{embedded([{"name": model, "language": language}])},"sentences":[')
        self._separator = "\n"

    def add(self, line: int, look: DocumentLook) -> None:
        """Show a line of the input, numbered from 1."""
        source = " ".join(look.text.split())[:LONGEST_TITLE]
        self._write(self._separator + embedded({"line": line, "source": source, "looks": [_content(look)]}))
        self._separator = ",\n"

    def end(self) -> None:
        """What closes the page."""
        self._write(f"\n]}}{self._tail}")


def _content(look: DocumentLook) -> dict[str, Any]:
    ordered = sorted(look.probabilities, key=lambda item: -item[1])
    return {
        "label": look.label,
        "probabilities": [[label, round(probability, DIGITS)] for label, probability in ordered],
        "sentences": [
            {
                "weight": round(sentence.weight, DIGITS),
                "words": sentence.words,
                "weights": _rounded(sentence.weights),
            }
            for sentence in look.sentences
        ],
    }


def _rounded(weights: Sequence[float]) -> list[float]:
    return [round(weight, DIGITS) for weight in weights]
