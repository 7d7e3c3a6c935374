"""The bootstrap over documents: their sentences are drawn together, because they are not independent of each other.

The figures are made as sacrebleu makes them of sentences: of documents of one sentence each they are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import _compute_p_value, estimate_ci

Documents = Sequence[int]
"""The number of each sentence's document: a document ends where the number changes."""
Sums = npt.NDArray[np.float64]
"""[documents, statistics]: what a metric counts, added up over the sentences of each document."""


def interval(
    metric: Metric,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    documents: Documents,
    samples: int,
    seed: int,
) -> tuple[float, float]:
    """The 95% interval of the metric's score (Koehn 2004)."""
    sums = _sums(metric, hypotheses, references, documents)
    mean, half = estimate_ci(_scores(metric, sums, _drawn(len(sums), samples, seed)))
    return float(mean - half), float(mean + half)


def compare(
    metric: Metric,
    baseline: Sequence[str],
    system: Sequence[str],
    references: Sequence[Sequence[str]],
    documents: Documents,
    samples: int,
    seed: int,
) -> tuple[float, float, float]:
    """The scores of both, and how likely chance alone gives a difference as large, by paired bootstrap resampling
    (Koehn 2004)."""
    before, after = (_sums(metric, lines, references, documents) for lines in (baseline, system))
    drawn = _drawn(len(after), samples, seed)
    differences = np.abs(_scores(metric, after, drawn) - _scores(metric, before, drawn))
    scores = _score(metric, before.sum(0)), _score(metric, after.sum(0))
    return *scores, float(_compute_p_value(differences - differences.mean(), abs(scores[0] - scores[1])))


def signature(samples: int, seed: int) -> str:
    """What a metric's own signature does not say."""
    return f"|bs:{samples}|seed:{seed}|bs.unit:document"


def _sums(metric: Metric, hypotheses: Sequence[str], references: Sequence[Sequence[str]], documents: Documents) -> Sums:
    statistics = np.asarray(metric._extract_corpus_statistics(hypotheses, references), np.float64)
    numbers = np.asarray(documents)
    begins = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
    sums: Sums = np.add.reduceat(statistics, begins)
    return sums


def _drawn(documents: int, samples: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).choice(documents, size=(samples, documents), replace=True)


def _scores(metric: Metric, sums: Sums, drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray([_score(metric, sums[rows].sum(0)) for rows in drawn])


def _score(metric: Metric, statistics: Any) -> float:
    return float(metric._compute_score_from_stats(statistics).score)
