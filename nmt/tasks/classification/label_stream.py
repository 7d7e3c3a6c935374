"""A stream of documents, labelled in windows, as text, as JSON, and on a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nmt.data.cache import Reader, ReadSentence
from nmt.data.cache.reading import Sentences
from nmt.data.labelled import SEPARATOR, one_line
from nmt.tasks.classification.classification import Labelled, Labeller, TrainedClassifier, label_documents
from nmt.tasks.translation.drawing import writing_page
from nmt.tasks.translation.streaming import windows
from nmt.visualization.documents import DocumentLook, DocumentPage, SentenceLook

Boundaries = Literal["auto", "tab", "split"]
"""Where sentences end: at TAB, where the library finds it, or at TAB in a line that has one."""


@dataclass(frozen=True)
class LabelledDocument:
    """A line of the input, and what the model says of it."""

    line: int
    """Its number, counted from 1."""
    text: str
    labelled: Labelled | None
    """None for a line without a word."""
    sentences: tuple[ReadSentence, ...]
    """What the model read; empty where weights are not wanted."""


Render = Callable[[LabelledDocument], str]


def sentences_of(line: str, number: int, reader: Reader, boundaries: Boundaries) -> list[str]:
    """The sentences of a document on a line. Raises `DataError` where they cannot be split."""
    if boundaries == "tab" or (boundaries == "auto" and SEPARATOR in line) or not line.strip():
        return line.split(SEPARATOR)
    reader.splitter.check(f"line {number}")
    return reader.splitter.split(line)


def label_stream(
    labeller: Labeller,
    reader: Reader,
    lines: Iterable[str],
    render: Render,
    *,
    boundaries: Boundaries,
    weights: bool,
    window: int,
    advance: Callable[[int], object] | None = None,
    then: Callable[[LabelledDocument], object] | None = None,
) -> Iterator[str]:
    """Label documents, a line each, in order, `window` at a time: the text to be written for each window.

    `then` is told of each document when the text of its window has been taken.
    Raises `NmtError` for a mistake in the input, when everything before it has been given.
    """
    first = 1
    for part in windows(lines, window):
        given = [sentences_of(line, number, reader, boundaries) for number, line in enumerate(part, start=first)]
        shown = [tuple(reader.show(sentences)) if weights else () for sentences in given]
        found = label_documents(
            labeller, _ids(shown) if weights else reader.read(given), weights=weights, first_line=first, advance=advance
        )
        documents = [
            LabelledDocument(number, line, labelled, sentences)
            for number, (line, labelled, sentences) in enumerate(zip(part, found, shown, strict=True), start=first)
        ]
        yield "".join(map(render, documents))
        if then is not None:
            for document in documents:
                then(document)
        first += len(part)


def as_line(labels: Sequence[str]) -> Render:
    """`LABEL<TAB>PROBABILITY`, and a blank line for a document without a word."""

    def render(document: LabelledDocument) -> str:
        if document.labelled is None:
            return "\n"
        best = document.labelled.best
        return f"{one_line(labels[best])}\t{document.labelled.probabilities_K[best]:.4f}\n"

    return render


def as_object(model: TrainedClassifier) -> Render:
    """A JSON object with everything that is known of a document; its label is null where there is no word."""

    def render(document: LabelledDocument) -> str:
        found = document.labelled
        content: dict[str, Any] = {"line": document.line, "label": None, "probability": None, "probabilities": None}
        if found is not None:
            content |= {
                "label": model.labels[found.best],
                "probability": float(found.probabilities_K[found.best]),
                "probabilities": dict(zip(model.labels, found.probabilities_K.tolist(), strict=True)),
            }
        content["sentences"] = [
            {
                "text": sentence.text,
                "weight": weight,
                "words": sentence.words,
                "word_weights": _by_word(sentence, weights),
                "pieces": model.tokenizer.pieces(sentence.ids),
                "piece_weights": weights,
            }
            for sentence, weight, weights in _weighted(document)
        ]
        return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"

    return render


@contextmanager
def drawing_documents(path: Path, model: TrainedClassifier, name: str) -> Iterator[Callable[[LabelledDocument], None]]:
    """What draws documents on a page, which is there when the block has ended without an error.

    Raises `DataError` where the page cannot be written.
    """
    with writing_page(path) as write:
        page = DocumentPage(write, name, model.config.data.language)

        def add(document: LabelledDocument) -> None:
            if document.labelled is not None:
                page.add(document.line, _look(document, document.labelled, model.labels))

        yield add
        page.end()


def _ids(documents: Sequence[Sequence[ReadSentence]]) -> list[Sentences]:
    return [[list(sentence.ids) for sentence in sentences] for sentences in documents]


def _look(document: LabelledDocument, labelled: Labelled, labels: Sequence[str]) -> DocumentLook:
    return DocumentLook(
        text=document.text,
        label=labels[labelled.best],
        probabilities=tuple(zip(labels, labelled.probabilities_K.tolist(), strict=True)),
        sentences=tuple(
            SentenceLook(weight, sentence.words, tuple(_by_word(sentence, weights)))
            for sentence, weight, weights in _weighted(document)
        ),
    )


def _weighted(document: LabelledDocument) -> Iterator[tuple[ReadSentence, float, tuple[float, ...]]]:
    """Each sentence with its weight and those of its pieces."""
    if document.labelled is not None:
        found = document.labelled
        yield from zip(document.sentences, found.sentence_weights, found.word_weights, strict=True)


def _by_word(sentence: ReadSentence, weights: Sequence[float]) -> list[float]:
    """The weight of each word: the sum over its pieces."""
    summed = [0.0] * len(sentence.words)
    for word, weight in zip(sentence.word_of_piece, weights, strict=True):
        summed[word] += weight
    return summed
