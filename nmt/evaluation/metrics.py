"""BLEU, chrF and TER through sacrebleu: a score is a value with the signature that makes it comparable (Post 2018).

BLEU by sentence length as in Bahdanau 2015, figure 2, and Luong 2015, figure 6.
"""

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
from nmt.evaluation import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED, MetricScore, filled_columns, interval_text

MetricName = Literal["bleu", "chrf", "ter"]
References = Sequence[str] | Sequence[Sequence[str]]
"""One translation of every sentence, or several whole sets of them."""


METRICS: dict[MetricName, type[Metric]] = {"bleu": BLEU, "chrf": CHRF, "ter": TER}
ALL_METRICS: tuple[MetricName, ...] = ("bleu", "chrf", "ter")
GROUPS = 6
"""Groups of sentences of similar length, where the test set has enough different lengths."""


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


# BLEU by sentence length


@dataclass(frozen=True)
class LengthScore:
    """Scores of the sentences of similar length."""

    shortest: int
    """Words of the shortest source sentence, separated by white space."""
    longest: int
    """Words of the longest one."""
    sentences: int
    system: MetricScore
    """BLEU of the group."""
    length_ratio: float
    """Words of the translations divided by those of the first references."""
    baseline: MetricScore | None = None
    """BLEU of the baseline on the same sentences, if there is one."""

    @property
    def words(self) -> str:
        """The lengths, such as `7-9`."""
        return str(self.shortest) if self.shortest == self.longest else f"{self.shortest}-{self.longest}"


def length_groups(sources: Sequence[str], groups: int = GROUPS) -> list[list[int]]:
    """Returns the indices of the sentences by length in words, the shortest group first.

    Groups have about as many sentences each. Sentences of one length are in one group, so that there are fewer groups
    where there are few lengths.
    """
    by_length: dict[int, list[int]] = {}
    for index, source in enumerate(sources):
        by_length.setdefault(len(source.split()), []).append(index)
    result: list[list[int]] = []
    placed, open_group = 0, False
    for length in sorted(by_length):
        rows = by_length[length]
        if open_group:
            result[-1] += rows
        else:
            result.append(list(rows))
        placed += len(rows)
        # The group ends where its share of the sentences is reached.
        open_group = placed * groups < len(sources) * len(result)
    return result


def scores_by_length(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    baseline: Sequence[str] | None = None,
    *,
    samples: int = 0,
) -> list[LengthScore]:
    """Scores translations in groups of similar source length, the shortest first.

    Args:
        references: whole sets of translations, one or more.
        baseline: other translations of the same sources, for the same groups.
        samples: of the bootstrap for confidence intervals; 0 for none.
    """

    def bleu(lines: Sequence[str], rows: Sequence[int]) -> MetricScore:
        sets = [[reference[row] for row in rows] for reference in references]
        return corpus_scores([lines[row] for row in rows], sets, ("bleu",), samples=samples)["bleu"]

    scores = []
    for rows in length_groups(sources):
        lengths = [len(sources[row].split()) for row in rows]
        words, reference_words = (sum(len(side[row].split()) for row in rows) for side in (hypotheses, references[0]))
        other = None if baseline is None else bleu(baseline, rows)
        ratio = words / max(reference_words, 1)
        scores.append(LengthScore(min(lengths), max(lengths), len(rows), bleu(hypotheses, rows), ratio, other))
    return scores


def length_rows(scores: Sequence[LengthScore]) -> list[tuple[str, ...]]:
    """Returns the rows of a table, the heading first."""
    columns = {
        "source words": [score.words for score in scores],
        "sentences": [f"{score.sentences:,}" for score in scores],
        "baseline": [f"{score.baseline.value:.2f}" if score.baseline else "" for score in scores],
        "BLEU": [f"{score.system.value:.2f}" for score in scores],
        "95% interval": [interval_text(score.system) for score in scores],
        "length ratio": [f"{score.length_ratio:.3f}" for score in scores],
    }
    return filled_columns(columns)
