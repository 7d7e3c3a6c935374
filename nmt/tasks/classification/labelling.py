"""Labels documents with a trained classifier, and evaluates it. Shapes: B documents of a batch, K labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from nmt.config import ClassificationConfig
from nmt.data.batching import documents_batch
from nmt.data.batching.plan import length_batches
from nmt.data.cache import DocumentTokenizer, TokenizedSentence
from nmt.data.cache.collection import Sentences
from nmt.data.readers.base import SENTENCE_SEPARATOR
from nmt.data.readers.files import line_windows
from nmt.data.readers.labelled import one_line
from nmt.data.tokenizer import Tokenizer
from nmt.errors import ConfigError, counted
from nmt.evaluation import score_rows
from nmt.evaluation.label_metrics import LabelScores, confusion_rows, label_score_values, label_scores
from nmt.evaluation.testsets import LabelledTestSet
from nmt.model.classifier import DocumentClassifier
from nmt.runtime import Runtime, in_halves
from nmt.tasks.base import Which, gather_rows, load_checkpoint, restore_network, table_of
from nmt.training.progress import ValidationResult
from nmt.visualization.pages import ClassifiedDocument, WeightedSentence

Boundaries = Literal["auto", "tab", "split"]
"""Sentences end at TAB, where the language's rules say so, or at TAB in lines that have one (`auto`)."""


@dataclass(frozen=True)
class ClassifierSystem:
    """A classifier, its labels, and how it runs."""

    network: DocumentClassifier
    """In evaluation mode, on the runtime's device."""
    labels: tuple[str, ...]
    runtime: Runtime
    batch_tokens: int
    """Words of a batch."""


@dataclass(frozen=True)
class TrainedClassifier:
    """A checkpoint in memory; no file outside of its folder was read."""

    system: ClassifierSystem
    tokenizer: Tokenizer
    config: ClassificationConfig
    path: Path
    """The checkpoint's folder."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels."""
        return self.system.labels

    @property
    def document_tokenizer(self) -> DocumentTokenizer:
        """Tokenizes documents as in training."""
        return DocumentTokenizer.of(self.tokenizer, self.config.data.language, self.config.data.filters)


@dataclass(frozen=True)
class Prediction:
    """Probabilities of a document's labels, and attention weights."""

    probabilities_K: npt.NDArray[np.floating]
    sentence_weights: tuple[float, ...] = ()
    """Of each sentence in the document; empty unless requested."""
    word_weights: tuple[tuple[float, ...], ...] = ()
    """Of each piece in its sentence, sentence by sentence."""

    @property
    def label(self) -> int:
        """Index of the most probable label."""
        return int(self.probabilities_K.argmax())


def load_classifier(path: Path | str, which: Which, runtime: Runtime) -> TrainedClassifier:
    """Loads the classifier of a run, a checkpoint folder or a pointer file; leaves the random generators unchanged.

    Raises `CheckpointError`, among others for a model that translates, or `ConfigError` for an edited config and
    for int8, which only translators support.
    """
    if runtime.weights == "int8":
        raise ConfigError("runtime.precision: int8 only translates; labels take fp32 or bf16")
    refusal = "this model translates, it labels no documents; nmt-translate uses it"
    loaded, config = load_checkpoint(path, which, ClassificationConfig, refusal)
    labels, tokenizer = tuple(loaded.metadata.labels), loaded.tokenizers.source
    network = restore_network(partial(DocumentClassifier, config.model, tokenizer.size, len(labels)), loaded, runtime)
    system = ClassifierSystem(network, labels, runtime, config.training.batch_tokens)
    return TrainedClassifier(system, tokenizer, config, loaded.path)


def classify(
    system: ClassifierSystem,
    documents: Sequence[Sentences],
    *,
    weights: bool = False,
    first_line: int = 1,
    advance: Callable[[int], object] | None = None,
) -> list[Prediction | None]:
    """Classifies documents in batches of similar size; a prediction does not depend on the documents around it.

    Several processes share the batches, and all get all predictions.

    Args:
        documents: sentences of ids. The prediction of a document without a word is None.
        weights: whether predictions have attention weights.
        first_line: number of the first document, for messages.
        advance: called with the number of documents that were classified since its last call, by this process.

    Raises `NmtError` if a document does not fit into memory.
    """
    runtime = system.runtime

    def work(rows: Sequence[int]) -> list[Prediction]:
        batch = documents_batch([documents[row] for row in rows]).to(runtime.device)
        with torch.inference_mode(), runtime.autocast():
            logits_BK, encoded = system.network(batch.ids_W, batch.words_N, batch.sentences_B)
        probabilities_BK = torch.softmax(logits_BK.double(), 1).cpu().numpy()
        if not weights:
            return [Prediction(probabilities_K) for probabilities_K in probabilities_BK]
        words = iter(encoded.word_weights_W.tolist())
        sentences = iter(encoded.sentence_weights_N.tolist())
        return [
            Prediction(
                probabilities_K,
                tuple(next(sentences) for _ in documents[row]),
                tuple(tuple(next(words) for _ in sentence) for sentence in documents[row]),
            )
            for row, probabilities_K in zip(rows, probabilities_BK, strict=True)
        ]

    def too_large(row: int) -> str:
        return (
            f"document {first_line + row}: out of memory on {runtime.device} with this document alone, of "
            f"{sizes[row]:,} pieces; shorten it"
        )

    sizes = [sum(map(len, document)) for document in documents]
    if advance is not None:
        advance(sizes.count(0))
    batches = length_batches(sizes, system.batch_tokens, runtime.rank, runtime.world, packed=True)
    parts = (part for rows in batches for part in in_halves(work, rows, too_large))
    by_row = gather_rows(parts, advance)
    return [by_row.get(row) for row in range(len(documents))]


def classify_stream(
    model: TrainedClassifier,
    lines: Iterable[str],
    *,
    boundaries: Boundaries,
    weights: bool,
    window: int,
    advance: Callable[[int], object] | None = None,
) -> Iterator[list[ClassifiedDocument]]:
    """Classifies documents, a line each, in order, and yields `window` of them at a time.

    Raises `NmtError` for a mistake in the input, after everything before it was yielded.
    """
    first, tokenizer = 1, model.document_tokenizer
    for part in line_windows(lines, window):
        documents = [sentences_of(line, number, tokenizer, boundaries) for number, line in enumerate(part, start=first)]
        shown = [tokenizer.encode_with_text(sentences) if weights else [] for sentences in documents]
        ids = (
            [[list(sentence.ids) for sentence in sentences] for sentences in shown]
            if weights
            else tokenizer.encode(documents)
        )
        predictions = classify(model.system, ids, weights=weights, first_line=first, advance=advance)
        numbered = enumerate(zip(part, predictions, shown, strict=True), first)
        yield [_classified(model, number, *each) for number, each in numbered]
        first += len(part)


def _classified(
    model: TrainedClassifier, line: int, text: str, prediction: Prediction | None, read: Sequence[TokenizedSentence]
) -> ClassifiedDocument:
    if prediction is None:
        return ClassifiedDocument(line, text, None, {}, ())
    weighted = zip(read, prediction.sentence_weights, prediction.word_weights, strict=True)
    sentences = tuple(
        WeightedSentence(
            weight,
            sentence.words,
            tuple(np.bincount(np.asarray(sentence.word_of_piece, np.int64), weights, len(sentence.words)).tolist()),
            sentence.text,
            tuple(model.tokenizer.pieces(sentence.ids)),
            weights,
        )
        for sentence, weight, weights in weighted
    )
    probabilities = dict(zip(model.labels, prediction.probabilities_K.tolist(), strict=True))
    return ClassifiedDocument(line, text, model.labels[prediction.label], probabilities, sentences)


def sentences_of(line: str, number: int, tokenizer: DocumentTokenizer, boundaries: Boundaries = "auto") -> list[str]:
    """Splits a line into sentences. Raises `DataError` if the package for it is missing."""
    if boundaries == "tab" or (boundaries == "auto" and SENTENCE_SEPARATOR in line) or not line.strip():
        return line.split(SENTENCE_SEPARATOR)
    tokenizer.splitter.check(f"line {number}")
    return tokenizer.splitter.split(line)


@dataclass(frozen=True)
class LabelEvaluation:
    """Predictions of a test set and their scores."""

    test_set: LabelledTestSet
    predictions: list[Prediction | None]
    """None for a document without a word."""
    scores: LabelScores
    losses: npt.NDArray[np.float64]
    """-log p(label) of each document, in nats."""

    @property
    def loss(self) -> float:
        """Mean of the losses."""
        return float(np.mean(self.losses))

    @property
    def lines(self) -> list[str]:
        """The predicted labels as lines of a file; blank for a document without a word."""
        labels = list(self.scores.by_label)
        return ["" if each is None else one_line(labels[each.label]) for each in self.predictions]

    def as_text(self) -> str:
        """Returns tables of the scores and of the confusion matrix."""
        lines = (
            f"{self.test_set.name}: {counted(len(self.test_set.documents), 'document')}",
            f"loss of the labels {self.loss:.4f}",
            table_of(score_rows(self.scores.scores)),
            table_of(confusion_rows(self.scores)),
        )
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        values = {"name": self.test_set.name, "documents": len(self.test_set.documents), "loss": self.loss}
        return values | label_score_values(self.scores)


def evaluate_labels(
    system: ClassifierSystem,
    test_set: LabelledTestSet,
    *,
    samples: int = 0,
    advance: Callable[[int], object] | None = None,
) -> LabelEvaluation:
    """Classifies the documents and compares the labels; all processes share the work and get the same result.

    A document without a word counts as one of the first label, with all labels equally probable. `samples` are those of
    the bootstrap, 0 for none.
    """
    assert not system.network.training
    predictions = classify(system, test_set.documents, advance=advance)
    predicted = [0 if prediction is None else prediction.label for prediction in predictions]
    even = 1.0 / len(system.labels)
    probabilities = [
        even if prediction is None else prediction.probabilities_K[label]
        for prediction, label in zip(predictions, test_set.labels, strict=True)
    ]
    losses = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    scores = label_scores(test_set.labels, predicted, system.labels, samples=samples)
    return LabelEvaluation(test_set, predictions, scores, losses)


def label_validator(
    config: ClassificationConfig,
    runtime: Runtime,
    labels: tuple[str, ...],
    test_set: LabelledTestSet,
) -> Callable[[DocumentClassifier], ValidationResult]:
    """Returns the function that evaluates a classifier during training; see `Validate`."""

    def validate(network: DocumentClassifier) -> ValidationResult:
        system = ClassifierSystem(network, labels, runtime, config.training.batch_tokens)
        evaluation = evaluate_labels(system, test_set)
        worst = np.argsort(-evaluation.losses, kind="stable")[: config.validation.samples]
        return ValidationResult(
            metrics={"loss": evaluation.loss} | {name: score.value for name, score in evaluation.scores.scores.items()},
            samples=[
                {
                    "document": test_set.texts[row].replace("\t", " "),
                    "label": labels[test_set.labels[row]],
                    "given": labels[prediction.label],
                }
                for row in worst.tolist()
                if (prediction := evaluation.predictions[row]) is not None
            ],
        )

    return validate
