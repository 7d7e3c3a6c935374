"""Accuracy, macro F1 and confusion matrix, with bootstrap confidence. Shapes: D documents, K labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.evaluation import BOOTSTRAP_SEED, MetricScore, finite_or_none, score_values

_IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelScores:
    """Scores of predicted labels."""

    scores: Mapping[str, MetricScore]
    confusion_KK: _IntArray
    """Documents by true label (rows) and predicted label (columns)."""
    by_label: Mapping[str, tuple[float, float, float]]
    """Precision, recall and F1 of each label, in percent."""


def label_scores(
    true_D: Sequence[int],
    predicted_D: Sequence[int],
    labels: Sequence[str],
    *,
    samples: int = 0,
) -> LabelScores:
    """Scores predicted labels, as indices of `labels`; `samples` of the bootstrap, 0 for no confidence.

    Macro F1 is the mean F1 of all labels that occur, true or predicted.
    """
    assert len(true_D) == len(predicted_D) > 0, "a label for every document"
    size = len(labels)
    pairs_D = np.asarray(true_D, np.int64) * size + np.asarray(predicted_D, np.int64)
    confusion_KK = _confusion(pairs_D, size)
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    resampled = [_confusion(generator.choice(pairs_D, len(pairs_D)), size) for _ in range(samples)]

    def score(name: str, metric: Callable[[_IntArray], float]) -> MetricScore:
        interval = None
        if samples:
            low, high = np.percentile([metric(each) for each in resampled], [2.5, 97.5])
            interval = (float(low), float(high))
        return MetricScore(name, metric(confusion_KK), confidence=interval)

    parts = zip(*_precision_recall_f1(confusion_KK), strict=True)
    return LabelScores(
        {"accuracy": score("accuracy", _accuracy), "macro_f1": score("macro F1", _macro_f1)},
        confusion_KK,
        {label: tuple(100.0 * float(part) for part in three) for label, three in zip(labels, parts, strict=True)},  # type: ignore[misc]
    )


def confusion_rows(scores: LabelScores) -> list[tuple[str, ...]]:
    """Returns the rows of the confusion matrix, the heading first: true labels down, predicted labels across."""
    labels = list(scores.by_label)
    rows: list[tuple[str, ...]] = [("label", *(f"as {label}" for label in labels), "precision", "recall", "F1")]
    for label, counts in zip(labels, scores.confusion_KK.tolist(), strict=True):
        parts = [f"{part:.2f}" if math.isfinite(part) else "-" for part in scores.by_label[label]]
        rows.append((label, *(f"{count:,}" for count in counts), *parts))
    return rows


def label_score_values(scores: LabelScores) -> dict[str, Any]:
    """Returns scores and confusion matrix as plain values, for `json.dump`."""
    return {
        "scores": score_values(scores.scores),
        "labels": {
            label: {"precision": finite_or_none(precision), "recall": finite_or_none(recall), "f1": f1}
            for label, (precision, recall, f1) in scores.by_label.items()
        },
        "confusion": {
            label: dict(zip(scores.by_label, counts, strict=True))
            for label, counts in zip(scores.by_label, scores.confusion_KK.tolist(), strict=True)
        },
    }


def _confusion(pairs_D: _IntArray, size: int) -> _IntArray:
    return np.bincount(pairs_D, minlength=size * size).reshape(size, size)


def _accuracy(confusion_KK: _IntArray) -> float:
    return 100.0 * float(np.trace(confusion_KK) / confusion_KK.sum())


def _macro_f1(confusion_KK: _IntArray) -> float:
    occurs_K = confusion_KK.sum(0) + confusion_KK.sum(1) > 0
    return 100.0 * float(_precision_recall_f1(confusion_KK)[2][occurs_K].mean())


def _precision_recall_f1(confusion_KK: _IntArray) -> tuple[npt.NDArray[np.float64], ...]:
    """Of each label. Precision is NaN for a label never predicted, recall for one that never occurs; F1 is 0."""
    correct_K = np.diag(confusion_KK)
    predicted_K, true_K = confusion_KK.sum(0), confusion_KK.sum(1)
    with np.errstate(invalid="ignore"):
        return correct_K / predicted_K, correct_K / true_K, 2.0 * correct_K / np.maximum(predicted_K + true_K, 1)
