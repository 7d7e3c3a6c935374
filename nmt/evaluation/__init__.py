"""Scores of translations, alignments and labels, with bootstrap confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

BOOTSTRAP_SEED = 12345
"""sacrebleu's own, so that its command line gives the same intervals."""
BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class MetricScore:
    """The score of a whole test set by a metric."""

    name: str
    """For translations as sacrebleu writes it: `BLEU`, `chrF2`, `TER`."""
    value: float
    """In percent. Higher is better, except for TER, an error rate."""
    signature: str | None = None
    """Everything that the score of translations depends on besides the text."""
    confidence: tuple[float, float] | None = None
    """95% interval by bootstrap resampling: of translations after Koehn 2004, of labels percentiles (Efron 1979)."""


def finite_or_none(value: float) -> float | None:
    """Returns None for infinity and NaN, which JSON does not have."""
    return value if math.isfinite(value) else None


def score_rows(scores: Mapping[str, MetricScore]) -> list[tuple[str, ...]]:
    """Returns the rows of a table, the heading first, with intervals and signatures if there are any."""
    columns = {
        "metric": [score.name for score in scores.values()],
        "score": [f"{score.value:.2f}" for score in scores.values()],
        "95% interval": [interval_text(score) for score in scores.values()],
        "signature": [score.signature or "" for score in scores.values()],
    }
    return filled_columns(columns)


def interval_text(score: MetricScore) -> str:
    """Returns the confidence interval for a table; empty if there is none."""
    return f"{score.confidence[0]:.2f} to {score.confidence[1]:.2f}" if score.confidence else ""


def filled_columns(columns: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Returns the rows of a table, the heading first, without columns that are empty throughout."""
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    return [tuple(filled), *zip(*filled.values(), strict=True)]


def score_values(scores: Mapping[str, MetricScore]) -> dict[str, dict[str, Any]]:
    """Returns the scores as plain values, for `json.dump`; labels have no signature."""
    return {
        name: {key: value for key, value in asdict(score).items() if (key, value) != ("signature", None)}
        for name, score in scores.items()
    }
