"""Accuracy and macro F1 of labels with bootstrap confidence, and the confusion matrix.

Shapes: D documents, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SEED = 12345
SAMPLES = 1000

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelScore:
    """What a metric says of a whole test set."""

    name: str
    value: float
    """In percent."""
    confidence: tuple[float, float] | None = None
    """95% interval: percentiles of bootstrap resampling over documents (Efron 1979)."""


@dataclass(frozen=True)
class LabelScores:
    """What is known of the labels that a model gave to documents."""

    scores: Mapping[str, LabelScore]
    """`accuracy` and `macro_f1`."""
    confusion_KK: npt.NDArray[np.int64]
    """Documents by their label (rows) and the one that they were given (columns)."""
    by_label: Mapping[str, tuple[float, float, float]]
    """Precision, recall and F1 of each label, in percent."""


def label_scores(
    gold_D: Sequence[int], given_D: Sequence[int], labels: Sequence[str], *, samples: int = 0, seed: int = SEED
) -> LabelScores:
    """Compare given labels with the right ones, as places among `labels`; `samples` of the bootstrap, 0 for none.

    Macro F1 is the mean of the labels' F1 over all labels that occur on either side; one that occurs only there is 0.
    """
    assert len(gold_D) == len(given_D) > 0, "a label for every document"
    size = len(labels)
    pairs_D = np.asarray(gold_D, np.int64) * size + np.asarray(given_D, np.int64)
    confusion_KK = _confusion(pairs_D, size)
    values = {"accuracy": _accuracy(confusion_KK), "macro_f1": _macro_f1(confusion_KK)}
    intervals: dict[str, tuple[float, float]] = {}
    if samples:
        generator = np.random.default_rng(seed)
        drawn = [_confusion(generator.choice(pairs_D, len(pairs_D)), size) for _ in range(samples)]
        for name, metric in (("accuracy", _accuracy), ("macro_f1", _macro_f1)):
            low, high = np.percentile([metric(each) for each in drawn], [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    names = {"accuracy": "accuracy", "macro_f1": "macro F1"}
    parts = zip(*_precision_recall_f1(confusion_KK), strict=True)
    return LabelScores(
        {name: LabelScore(names[name], value, intervals.get(name)) for name, value in values.items()},
        confusion_KK,
        {label: tuple(100.0 * float(part) for part in three) for label, three in zip(labels, parts, strict=True)},  # type: ignore[misc]
    )


def format_label_scores(scores: LabelScores) -> list[tuple[str, ...]]:
    """Rows of a table, the heading first; the interval only where there is one."""
    with_interval = any(score.confidence is not None for score in scores.scores.values())
    rows = [("metric", "score", *(["95% interval"] if with_interval else []))]
    for score in scores.scores.values():
        interval = "" if score.confidence is None else f"{score.confidence[0]:.2f} to {score.confidence[1]:.2f}"
        rows.append((score.name, f"{score.value:.2f}", *([interval] if with_interval else [])))
    return rows


def format_confusion(scores: LabelScores) -> list[tuple[str, ...]]:
    """Rows of the confusion matrix, the heading first: true labels down, predicted labels across."""
    labels = list(scores.by_label)
    rows: list[tuple[str, ...]] = [("label", *(f"as {label}" for label in labels), "precision", "recall", "F1")]
    for label, counts in zip(labels, scores.confusion_KK.tolist(), strict=True):
        rows.append((label, *(f"{count:,}" for count in counts), *(_number(part) for part in scores.by_label[label])))
    return rows


def to_json(scores: LabelScores) -> dict[str, Any]:
    """The results as plain values, for `json.dump`."""
    return {
        "scores": {name: asdict(score) for name, score in scores.scores.items()},
        "labels": {
            label: {"precision": _finite(precision), "recall": _finite(recall), "f1": f1}
            for label, (precision, recall, f1) in scores.by_label.items()
        },
        "confusion": {
            label: dict(zip(scores.by_label, counts, strict=True))
            for label, counts in zip(scores.by_label, scores.confusion_KK.tolist(), strict=True)
        },
    }


def _confusion(pairs_D: Places, size: int) -> Places:
    return np.bincount(pairs_D, minlength=size * size).reshape(size, size)


def _accuracy(confusion_KK: Places) -> float:
    return 100.0 * float(np.trace(confusion_KK) / confusion_KK.sum())


def _macro_f1(confusion_KK: Places) -> float:
    occurs_K = confusion_KK.sum(0) + confusion_KK.sum(1) > 0
    return 100.0 * float(_precision_recall_f1(confusion_KK)[2][occurs_K].mean())


def _precision_recall_f1(confusion_KK: Places) -> tuple[npt.NDArray[np.float64], ...]:
    """Of each label; precision is not a number where nothing was given it, recall where nothing has it, F1 then 0."""
    right_K = np.diag(confusion_KK)
    given_K, has_K = confusion_KK.sum(0), confusion_KK.sum(1)
    with np.errstate(invalid="ignore"):
        return right_K / given_K, right_K / has_K, 2.0 * right_K / np.maximum(given_K + has_K, 1)


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
