"""BLEU, chrF and TER through sacrebleu: a score is a value with the signature that makes it comparable (Post 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import _compute_p_value, estimate_ci

from nmt.errors import DataError
from nmt.evaluation import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED, MetricScore

MetricName = Literal["bleu", "chrf", "ter"]
References = Sequence[str] | Sequence[Sequence[str]]
"""One translation of every sentence, or several whole sets of them."""


METRICS: dict[MetricName, type[Metric]] = {"bleu": BLEU, "chrf": CHRF, "ter": TER}
ALL_METRICS: tuple[MetricName, ...] = ("bleu", "chrf", "ter")


@dataclass(frozen=True)
class MetricComparison:
    """The scores of two systems on the same test set by a metric."""

    name: str
    baseline: float
    system: float
    p_value: float
    """Of the difference, by paired bootstrap resampling (Koehn 2004)."""
    signature: str

    @property
    def delta(self) -> float:
        return self.system - self.baseline


def corpus_scores(
    hypotheses: Sequence[str],
    references: References,
    metrics: Sequence[MetricName] = ALL_METRICS,
    *,
    samples: int = 0,
    documents: Sequence[int] | None = None,
) -> dict[str, MetricScore]:
    """Scores detokenized translations, by the name of the metric; `samples` of the bootstrap, 0 for no confidence.

    With `documents`, the document number of each sentence, the bootstrap resamples documents: the sentences of one are
    not independent.

    Raises:
        DataError: the test set is empty, or its sides differ in number.
    """
    sets = _reference_sets(references, {"translations": hypotheses})
    scores: dict[str, MetricScore] = {}
    for name in metrics:
        metric, interval = METRICS[name](), None
        result = metric.corpus_score(hypotheses, sets)
        signature = str(metric.get_signature())
        if samples:
            resampled = _resampled_scores(metric, _statistics(metric, hypotheses, sets, documents), samples)
            mean, half = estimate_ci(resampled)
            if not documents:
                mean, half = round(mean, 6), round(half, 6)  # as sacrebleu writes them
            interval = (float(mean - half), float(mean + half))
            signature = _signature(metric, documents, samples)
        scores[name] = MetricScore(result.name, float(result.score), signature, interval)
    return scores


def signature(name: MetricName) -> str:
    """Returns sacrebleu's signature of a score with one reference for each sentence."""
    metric = METRICS[name]()
    metric.corpus_score(["a"], [["a"]])  # counts the references
    return str(metric.get_signature())


def sentence_scores(hypotheses: Sequence[str], references: Sequence[str], name: Literal["bleu", "chrf"]) -> list[float]:
    """Scores detokenized translations one by one, from 0 to 100, as sacrebleu's `sentence_bleu` and `sentence_chrf` do.

    BLEU is smoothed (Chen 2014, method 3), and has no n-grams longer than the translation.
    """
    metric = BLEU(effective_order=True) if name == "bleu" else CHRF()
    return [
        float(metric.sentence_score(hypothesis, [reference]).score)
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def paired_bootstrap(
    baseline: Sequence[str],
    system: Sequence[str],
    references: References,
    metrics: Sequence[MetricName] = ALL_METRICS,
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    documents: Sequence[int] | None = None,
) -> dict[str, MetricComparison]:
    """Compares two systems, by the name of the metric; `documents` as for `corpus_scores`.

    Raises:
        DataError: the test set is empty, or its sides differ in number.
    """
    sets = _reference_sets(references, {"translations": system, "translations of the baseline": baseline})
    return {name: _compare(name, baseline, system, sets, documents, samples) for name in metrics}


def _compare(
    name: MetricName,
    baseline: Sequence[str],
    system: Sequence[str],
    references: Sequence[Sequence[str]],
    documents: Sequence[int] | None,
    samples: int,
) -> MetricComparison:
    """Paired bootstrap over sentences as sacrebleu computes it, or over documents in the same way."""
    metric = METRICS[name]()
    before, after = (metric.corpus_score(lines, references) for lines in (baseline, system))
    resampled = [
        _resampled_scores(metric, _statistics(metric, lines, references, documents), samples)
        for lines in (baseline, system)
    ]
    differences = np.abs(resampled[1] - resampled[0])
    p_value = float(_compute_p_value(differences - differences.mean(), abs(before.score - after.score)))
    # sacrebleu counts resamples that differ by more, not by as much: equal scores would get a p-value near 0.
    p_value = 1.0 if before.score == after.score else p_value
    signature = _signature(metric, documents, samples)
    return MetricComparison(after.name, float(before.score), float(after.score), p_value, signature)


_Statistics = npt.NDArray[np.floating]


def _statistics(
    metric: Metric, hypotheses: Sequence[str], references: Sequence[Sequence[str]], documents: Sequence[int] | None
) -> _Statistics:
    """Returns the counts of a metric, a row for each sentence or document. A document ends where its number changes."""
    statistics = metric._extract_corpus_statistics(hypotheses, references)
    if not documents:
        return np.asarray(statistics, np.float32)  # as sacrebleu
    numbers = np.asarray(documents)
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
    sums: _Statistics = np.add.reduceat(np.asarray(statistics, np.float64), starts)
    return sums


def _resampled_scores(metric: Metric, sums: _Statistics, samples: int) -> _Statistics:
    rows = np.random.default_rng(BOOTSTRAP_SEED).choice(len(sums), size=(samples, len(sums)), replace=True)
    return np.asarray([metric._compute_score_from_stats(sums[row].sum(0)).score for row in rows], np.float64)


def _signature(metric: Metric, documents: Sequence[int] | None, samples: int) -> str:
    signature = metric.get_signature()
    if documents:
        return f"{signature}|bs:{samples}|seed:{BOOTSTRAP_SEED}|bs.unit:document"
    signature.update("bs", samples)
    signature.update("seed", BOOTSTRAP_SEED)
    return str(signature)


def _reference_sets(references: References, sides: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Returns the references as whole sets. Raises DataError where their number differs from that of the sides."""
    one_set = not references or isinstance(references[0], str)
    sets = [cast(Sequence[str], references)] if one_set else [list(part) for part in references]
    problems = [
        f"{len(lines)} {side}, but {len(part)} references{f' in set {number}' if len(sets) > 1 else ''}"
        for side, lines in sides.items()
        for number, part in enumerate(sets, start=1)
        if len(lines) != len(part)
    ]
    if problems:
        raise DataError(*(f"{problem}: give one line each for every source sentence" for problem in problems))
    if not sets[0]:
        raise DataError("the test set is empty: there is nothing to score")
    return [list(part) for part in sets]


def comparison_rows(comparisons: Mapping[str, MetricComparison]) -> list[tuple[str, ...]]:
    """Returns the rows of a table, the heading first."""
    rows: list[tuple[str, ...]] = [("metric", "baseline", "system", "difference", "p", "signature")]
    for each in comparisons.values():
        numbers = f"{each.baseline:.2f}", f"{each.system:.2f}", f"{each.delta:+.2f}", f"{each.p_value:.4f}"
        rows.append((each.name, *numbers, each.signature))
    return rows


def comparison_values(comparisons: Mapping[str, MetricComparison]) -> dict[str, dict[str, Any]]:
    """Returns the comparisons as plain values, for `json.dump`."""
    return {name: {**asdict(each), "delta": each.delta} for name, each in comparisons.items()}
