"""Minimum Bayes risk: of some translations the one that agrees most with the others.

Shapes: N translations of a sentence, G distinct n-grams in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LONGEST_NGRAM = 4


def expected_bleu(translations: Sequence[Sequence[int]], scores: Sequence[float]) -> npt.NDArray[np.float64]:
    """Returns the expected BLEU [N] of each translation, from 0 to 1 (Kumar and Byrne 2004, equation 6).

    Each is the reference with a probability proportional to e^score. Scores that are divided by the length keep the
    probabilities of one sentence close to each other, so that many translations have a say.
    """
    shifted = np.asarray(scores) - np.max(scores)
    probabilities = np.exp(shifted) / np.exp(shifted).sum()
    expected: npt.NDArray[np.float64] = sentence_bleu(translations) @ probabilities
    return expected


def sentence_bleu(translations: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """Returns BLEU [N, N] of each translation, the row, with each as the reference, the column.

    It counts pieces, up to four at a time. Matches and totals of more than one piece are increased by one, so that a
    short translation has a BLEU (Lin and Och 2004, section 3.3). One without pieces has 0.
    """
    lengths_N = np.maximum([len(ids) for ids in translations], 1)
    log_bleu = np.minimum(0.0, 1.0 - lengths_N / lengths_N[:, None])
    for size in range(1, LONGEST_NGRAM + 1):
        counts_NG = ngram_counts(translations, size)
        matches = np.minimum(counts_NG[:, None], counts_NG).sum(-1)
        totals_N = np.maximum(lengths_N - size + 1, 0)
        with np.errstate(divide="ignore"):  # log 0: no piece in common
            log_bleu += np.log((matches + (size > 1)) / (totals_N + (size > 1))[:, None]) / LONGEST_NGRAM
    return np.exp(log_bleu)


def ngram_counts(translations: Sequence[Sequence[int]], size: int) -> npt.NDArray[np.float64]:
    """Returns how often each n-gram of this size is in each translation [N, G]."""
    columns: dict[tuple[int, ...], int] = {}
    cells = [
        (row, columns.setdefault(tuple(ids[start : start + size]), len(columns)))
        for row, ids in enumerate(translations)
        for start in range(len(ids) - size + 1)
    ]
    counts = np.zeros((len(translations), len(columns)))
    np.add.at(counts, tuple(np.array(cells, dtype=np.intp).reshape(-1, 2).T), 1.0)
    return counts
