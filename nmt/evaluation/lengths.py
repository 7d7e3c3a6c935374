"""BLEU by sentence length (Bahdanau 2015, figure 2; Luong 2015, figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nmt.evaluation import MetricScore, filled_columns, interval_text
from nmt.evaluation.metrics import corpus_scores

GROUPS = 6
"""Groups of sentences of similar length, where the test set has enough different lengths."""


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


def length_values(scores: Sequence[LengthScore]) -> list[Mapping[str, Any]]:
    """Returns the scores as plain values, for `json.dump`."""
    return [asdict(score) for score in scores]
