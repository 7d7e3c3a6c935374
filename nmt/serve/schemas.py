"""Requests and answers of the server's own JSON API.

Shapes of weights: T target pieces, S source pieces, both with the end symbol last; N heads.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from nmt.api.results import AlignmentResult, ScoreResult, TranslationResult
from nmt.evaluation.alignment import Linking, Unit
from nmt.tasks.translation.text_translation import Translation

MOST_HYPOTHESES = 20
WEIGHT_DIGITS = 6
Hypotheses = Annotated[int, Field(ge=1, le=MOST_HYPOTHESES)]


def _rounded(weights: npt.NDArray[Any] | None) -> Any:
    return None if weights is None else weights.astype(float).round(WEIGHT_DIGITS).tolist()


class ErrorAnswer(BaseModel):
    """Why a request is not answered."""

    error: str


class ModelChoice(BaseModel):
    """The fields by which all requests choose a model; the first one that fits."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str | None = None
    """Name of a model."""
    source: str | None = None
    """Code of the language to translate from."""
    target: str | None = None
    """Code of the language to translate into."""


class TranslateRequest(ModelChoice):
    """Sentences to translate. What is left out is as in the model's own config."""

    lines: list[str]
    """A sentence each. A blank one has no translation."""
    prefixes: list[str] | None = None
    """Text that each translation begins with, one a line; an empty one leaves the search free."""
    n_best: Hypotheses = 1
    """Translations of each line."""
    attention: bool = False
    """Whether the answer has attention weights."""
    heads: bool = False
    """Whether it has those of each head."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Of sampling."""
    kind: Literal["beam", "greedy", "sampling"] | None = None
    beam_size: Hypotheses | None = None
    length_penalty: float | None = None
    coverage_penalty: float | None = None
    no_repeat_ngram: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


SEARCH_KEYS = (
    *("kind", "beam_size", "length_penalty", "coverage_penalty", "no_repeat_ngram"),
    *("temperature", "top_k", "top_p"),
)
"""Keys of the section `search` that a request may set: those that cost no more than a beam of `MOST_HYPOTHESES`."""


class HypothesisAnswer(BaseModel):
    """A translation of a line."""

    text: str
    score: float
    """Orders the translations of a line: log-probability over the length penalty (Wu 2016, eq. 14)."""
    log_probability: float
    """Of the whole translation in nats, its end included."""
    pieces: list[str]
    log_probabilities: list[float]
    """Of each piece and, last, of the end."""
    attention: list[list[float]] | None
    """[T, S], the mean of the heads; null if not requested, or without attention."""
    head_attention: list[list[list[float]]] | None
    """[N, T, S]; null if not requested, or without attention."""

    @staticmethod
    def of(translation: Translation) -> HypothesisAnswer:
        """Returns the fields of a translation, weights rounded."""
        return HypothesisAnswer(
            text=translation.text,
            score=translation.score,
            log_probability=translation.log_probability,
            pieces=list(translation.pieces),
            log_probabilities=list(translation.piece_log_probabilities),
            attention=_rounded(translation.attention),
            head_attention=_rounded(translation.head_attention),
        )


class LineAnswer(BaseModel):
    """The translations of a line."""

    source: str
    source_pieces: list[str]
    translation: str
    """The best one; empty for a blank line."""
    hypotheses: list[HypothesisAnswer]
    """Best first."""

    @staticmethod
    def of(result: TranslationResult) -> LineAnswer:
        """Returns the fields of a result."""
        return LineAnswer(
            source=result.source,
            source_pieces=list(result.source_pieces),
            translation=result.text,
            hypotheses=[HypothesisAnswer.of(each) for each in result.hypotheses],
        )


class TranslateAnswer(BaseModel):
    """Translations of all lines."""

    model: str
    lines: list[LineAnswer]


class PairsRequest(ModelChoice):
    """Sentences and their translations."""

    sources: list[str]
    targets: list[str]
    """One for each source."""


class AlignRequest(PairsRequest):
    """Pairs to align."""

    unit: Unit = "words"
    """Whether links are of words or of pieces."""
    linking: Linking = "grow-diag"
    """`argmax` links each target unit with the source unit of the largest weight, `grow-diag` in both directions."""
    heads: bool = False
    """Whether the answer has the weights of each head."""


class ScoredAnswer(BaseModel):
    """The log-probability of a translation; null if a side is empty."""

    source: str
    target: str
    log_probability: float | None
    """In nats, the end of the sentence included."""
    per_piece: float | None
    pieces: list[str]
    log_probabilities: list[float]
    """Of each piece and, last, of the end."""

    @staticmethod
    def of(score: ScoreResult) -> ScoredAnswer:
        """Returns the fields of a score."""
        is_scored = bool(score.piece_log_probabilities)
        return ScoredAnswer(
            source=score.source,
            target=score.target,
            log_probability=score.log_probability if is_scored else None,
            per_piece=score.per_piece if is_scored else None,
            pieces=list(score.pieces),
            log_probabilities=list(score.piece_log_probabilities),
        )


class ScoreAnswer(BaseModel):
    """Scores of all pairs."""

    model: str
    pairs: list[ScoredAnswer]


class AlignedAnswer(BaseModel):
    """The alignment of a pair."""

    source: str
    target: str
    source_pieces: list[str]
    pieces: list[str]
    links: list[tuple[int, int]]
    """(source, target), counted from 0."""
    attention: list[list[float]] | None
    """[T, S], the mean of the heads; null if a side is empty."""
    head_attention: list[list[list[float]]] | None
    """[N, T, S]; null if not requested."""

    @staticmethod
    def of(alignment: AlignmentResult, heads: bool) -> AlignedAnswer:
        """Returns the fields of an alignment."""
        return AlignedAnswer(
            source=alignment.source,
            target=alignment.target,
            source_pieces=list(alignment.source_pieces),
            pieces=list(alignment.pieces),
            links=list(alignment.links),
            attention=_rounded(alignment.weights),
            head_attention=_rounded(alignment.head_weights) if heads else None,
        )


class AlignAnswer(BaseModel):
    """Alignments of all pairs."""

    model: str
    pairs: list[AlignedAnswer]


class ModelAnswer(BaseModel):
    """A model of the server."""

    model: str
    source: str
    target: str
    attention: bool
    """Whether it has attention weights."""


class HealthAnswer(BaseModel):
    """Whether all models can translate."""

    status: Literal["ok"] = "ok"
    models: list[str]
