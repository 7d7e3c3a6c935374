"""Measure a classifier: label and compare. Training validates through the same code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmt.config import ClassificationConfig
from nmt.config.registry import PartOptions
from nmt.data.cache import Reader
from nmt.data.cache.reading import Sentences
from nmt.data.labelled import Collection, open_collection, unknown_label
from nmt.errors import DataError, counted
from nmt.evaluation.label_metrics import LabelScores, format_confusion, format_label_scores, label_scores, to_json
from nmt.kernels.packed import PackedGru
from nmt.model.classifier import DocumentClassifier
from nmt.runtime import Runtime, format_table
from nmt.tasks.base import configured_test_sets
from nmt.tasks.classification.classification import Labelled, Labeller, label_documents
from nmt.training.progress import ValidationResult

LONGEST_SAMPLE = 200
"""Characters of a document that is shown at a validation."""


@dataclass(frozen=True)
class LabelledSet:
    """Documents and their labels, as a model reads both."""

    name: str
    documents: list[Sentences]
    labels: list[int]
    texts: list[str]
    """The beginning of each document, to be shown."""


@dataclass(frozen=True)
class LabelEvaluation:
    """What a classifier does with a test set."""

    labelled: list[Labelled | None]
    """None for a document without a word."""
    scores: LabelScores
    loss: float
    """Mean of -log p(label), in nats."""


def read_set(collection: Collection, reader: Reader, labels: Sequence[str], name: str) -> LabelledSet:
    """A collection in memory. Raises `DataError` where it is empty or has a label that the model does not know."""
    places = {label: place for place, label in enumerate(labels)}
    documents, found = [], []
    for document in collection:
        if document.label not in places:
            raise unknown_label(collection.place(document.line, "label"), document.label, labels)
        documents.append(document)
        found.append(places[document.label])
    if not documents:
        raise DataError(f"{collection.name}: has no documents; there is nothing to evaluate")
    read = reader.read([document.sentences(reader.splitter) for document in documents])
    return LabelledSet(name, read, found, [document.text[:LONGEST_SAMPLE] for document in documents])


def configured_sets(
    config: ClassificationConfig, reader: Reader, labels: Sequence[str], names: Sequence[str], origin: str
) -> list[LabelledSet]:
    """The test sets of these names in the config, as for `configured_test_sets`."""

    def read(name: str, options: PartOptions) -> LabelledSet:
        return read_set(_opened(options, config), reader, labels, name)

    return configured_test_sets(config.data.test, names, read, origin=origin, flags="--docs and --labels")


def evaluate_labels(
    labeller: Labeller,
    labelled_set: LabelledSet,
    *,
    samples: int = 0,
    advance: Callable[[int], object] | None = None,
) -> LabelEvaluation:
    """Label the documents and compare; several processes share the work, and all get the same result.

    A document without a word counts as one of the first label, with all labels equally probable. `samples` are those of
    the bootstrap, 0 for none.
    """
    assert not labeller.classifier.training
    found = label_documents(labeller, labelled_set.documents, advance=advance)
    given = [0 if labelled is None else labelled.best for labelled in found]
    scores = label_scores(labelled_set.labels, given, labeller.labels, samples=samples)
    return LabelEvaluation(found, scores, float(np.mean(_losses(found, labelled_set.labels, len(labeller.labels)))))


def label_validator(
    config: ClassificationConfig,
    runtime: Runtime,
    labels: tuple[str, ...],
    labelled_set: LabelledSet,
    gru: PackedGru | None,
) -> Callable[[DocumentClassifier], ValidationResult]:
    """What measures a classifier during training; called on every process, with the classifier in evaluation mode."""

    def validate(classifier: DocumentClassifier) -> ValidationResult:
        labeller = Labeller(classifier, labels, runtime, config.training.batch_tokens, gru)
        found = evaluate_labels(labeller, labelled_set)
        losses = _losses(found.labelled, labelled_set.labels, len(labels))
        worst = np.argsort(-losses, kind="stable")[: config.validation.samples]
        return ValidationResult(
            metrics={"loss": found.loss} | {name: score.value for name, score in found.scores.scores.items()},
            samples=[
                {
                    "document": labelled_set.texts[row].replace("\t", " "),
                    "label": labels[labelled_set.labels[row]],
                    "given": labels[labelled.best],
                }
                for row in worst.tolist()
                if (labelled := found.labelled[row]) is not None
            ],
        )

    return validate


def as_text(results: Sequence[tuple[LabelledSet, LabelEvaluation]]) -> str:
    """Tables for a person."""
    parts = []
    for labelled_set, found in results:
        rows, confusion = format_label_scores(found.scores), format_confusion(found.scores)
        parts.append(
            "\n".join(
                (
                    f"{labelled_set.name}: {counted(len(labelled_set.documents), 'document')}",
                    f"loss of the labels {found.loss:.4f}",
                    format_table(rows[1:], header=rows[0]),
                    format_table(confusion[1:], header=confusion[0]),
                )
            )
        )
    return "\n\n".join(parts) + "\n"


def as_values(labelled_set: LabelledSet, found: LabelEvaluation) -> dict[str, Any]:
    """Plain values, for JSON."""
    documents = len(labelled_set.documents)
    return {"name": labelled_set.name, "documents": documents, "loss": found.loss, **to_json(found.scores)}


def _opened(options: PartOptions, config: ClassificationConfig) -> Collection:
    return open_collection(options, config.data)


def _losses(found: Sequence[Labelled | None], gold: Sequence[int], labels: int) -> np.ndarray:
    even = 1.0 / labels
    probabilities = [
        even if labelled is None else labelled.probabilities_K[place]
        for labelled, place in zip(found, gold, strict=True)
    ]
    return -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
