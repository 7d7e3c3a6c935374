"""Scores of sentence pairs, by which misaligned pairs and wrong translations are found in a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nmt.data.readers.files import line_windows
from nmt.tasks.translation.forced_decoding import Advance, ScoreResult, forced_scores
from nmt.tasks.translation.loading import System

Unit = Literal["piece", "character", "sentence"]
"""What a log-probability is divided by the number of."""
UNITS: tuple[Unit, ...] = ("piece", "character", "sentence")
NO_SCORE = -math.inf
"""Of a pair with an empty side."""


@dataclass(frozen=True)
class ScoredPair:
    """A line of tab-separated columns, the first two of which are source and target, with its score."""

    line: str
    score: float
    """The higher, the better; 0 at most."""
    forward: ScoreResult
    """Of the target, given the source."""
    backward: ScoreResult | None = None
    """Of the source, given the target; None without a second system."""


def score_stream(
    system: System,
    reverse: System | None,
    lines: Iterable[str],
    batch_tokens: int,
    *,
    per: Unit = "piece",
    window: int = 2000,
    max_length: int | None = None,
    advance: Advance | None = None,
) -> Iterator[list[ScoredPair]]:
    """Yields the scored pairs of a stream in order, a window at a time.

    Args:
        system: translators from source to target. Of several, probabilities are averaged.
        reverse: translators from target to source, for the dual score; None for the score of `system` alone.
        lines: tab-separated columns, two at least, the first two of which are source and target.
        batch_tokens: bound of pairs x longest side of a batch, ends included.
        per: what log-probabilities are divided by the number of.
        window: lines that are sorted by length and scored together.
        max_length: pieces after which either side is cut off, with a warning; None scores every pair whole.
        advance: is called with the number of pairs done since the last call.

    Raises:
        CheckpointError: a pair has no finite probability.
        NmtError: a pair does not fit into memory, or `lines` raises it; the lines before it are yielded first.
    """
    first_line = 1
    for rows in line_windows(lines, window):
        sources, targets = ([line.split("\t")[side] for line in rows] for side in (0, 1))
        settings = (batch_tokens, max_length, first_line)
        forward = forced_scores(system, sources, targets, *settings, advance)
        backward: Sequence[ScoreResult | None] = [None] * len(rows)
        if reverse is not None:
            backward = forced_scores(reverse, targets, sources, *settings)
        yield [
            ScoredPair(line, _score(there, back, per), there, back)
            for line, there, back in zip(rows, forward, backward, strict=True)
        ]
        first_line += len(rows)


def _score(forward: ScoreResult, backward: ScoreResult | None, per: Unit) -> float:
    there = normalized(forward, per)
    # With an empty side both are minus infinity.
    return there if backward is None or not forward.is_scored else dual_score(there, normalized(backward, per))


def normalized(score: ScoreResult, per: Unit) -> float:
    """Returns the log-probability per piece, character or sentence of the target; the end counts as one."""
    counts = {"piece": len(score.pieces) + 1, "character": len(score.target) + 1, "sentence": 1}
    return score.log_probability / counts[per]


def dual_score(forward: float, backward: float) -> float:
    """Returns the score of normalized log-probabilities of both directions: low if one is low or they disagree.

    The logarithm of the adequacy, -(|H(y|x) - H(x|y)| + (H(y|x) + H(x|y)) / 2) with cross-entropies H, of
    Junczys-Dowmunt 2018 (Dual conditional cross-entropy filtering of noisy parallel corpora).
    """
    return (forward + backward) / 2 - abs(forward - backward)


def best_rows(scores: Sequence[float], share: float) -> npt.NDArray[np.bool_]:
    """Marks the best of the scores, this share of them; of equal ones the first. Those of no pair are never marked."""
    values = np.asarray(scores, np.float64)
    best = np.argsort(-values, kind="stable")[: round(share * len(values))]
    marked = np.zeros(len(values), np.bool_)
    marked[best] = True
    return marked & (values > NO_SCORE)
