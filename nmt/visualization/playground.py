"""The JSON between the playground and a model: what the page asks, and what it draws.

`nmt-translate --plot page.html` writes these records into the page; a server answers the page's requests with them.
Nothing here knows how a model computes them. Shapes: S source pieces with the end symbol last, N heads, C features.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

STEPS_PATH = "api/steps"
"""Path, relative to that of the page, to which it posts a `StepsRequest`; the answer is a `BeamTrace`."""
PAIR_PATH = "api/pair"
"""Path to which the page posts a `PairRequest`; the answer is a `PairAttention`."""

TOP_PIECES = 10
"""Most probable next pieces of a hypothesis that are shown."""
MOST_CHARACTERS = 2000
"""Of a text in a request."""
DIGITS = 4
"""Of a probability, a weight or a score."""


class PlaygroundRecord(BaseModel):
    """A JSON object with exactly these keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StepsRequest(PlaygroundRecord):
    """Asks how a model decodes a sentence."""

    model: str
    """Name of a model of the page."""
    source: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    beam_size: int = Field(default=5, ge=1, le=10)
    prefix: list[str] = Field(default_factory=list, max_length=200)
    """Target pieces, as in the vocabulary, that every hypothesis begins with."""
    weights: dict[int, list[float]] = Field(default_factory=dict, max_length=200)
    """Attention weights [S] in place of the model's, by target position from 0, in every hypothesis and head."""


class PairRequest(PlaygroundRecord):
    """Asks for the attention of a given pair under teacher forcing."""

    model: str
    source: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    target: str = Field(min_length=1, max_length=MOST_CHARACTERS)


class Mechanism(PlaygroundRecord):
    """The attention of a model, as the equations need it: choices of `model.attention` by name."""

    wiring: str
    query: Literal["previous", "current"]
    """The state that attends: that of the step before, or that of this step."""
    score: str
    window: str
    normalizer: str
    heads: int
    coverage: str
    alignment: str


class PackedMatrix(PlaygroundRecord):
    """A matrix of small numbers in bytes: row r, column c is `scale` times the signed byte r * columns + c."""

    rows: int
    columns: int
    scale: float
    values: str
    """Base64."""

    @classmethod
    def of(cls, matrix: npt.ArrayLike) -> PackedMatrix:
        """Packs a matrix, each number to within 1/254 of the largest."""
        array = np.atleast_2d(np.asarray(matrix, np.float32))
        largest = float(np.abs(array).max(initial=0.0))
        scale = largest / 127 if largest else 1.0
        rounded = np.rint(array / scale).astype(np.int8)
        return cls(rows=len(array), columns=array.shape[1], scale=scale, values=_base64(rounded))


class Expansion(PlaygroundRecord):
    """The step that reads a hypothesis and predicts its next piece."""

    top: list[tuple[str, float]]
    """The most probable next pieces, best first, with their probabilities."""
    weights: list[list[float]] | None = None
    """Attention weights [N, S]; None without attention."""
    scores: list[list[float | None]] | None = None
    """Scores e [N, S] before they are normalised; None outside of a window, or if the mechanism has none."""
    centers: list[float] | None = None
    """Local attention only: p_t of each head, counted from 0."""
    query: PackedMatrix | None = None
    """The decoder's state that attends, [1, C]: s_{i-1} of Bahdanau, h_t of Luong."""
    context: PackedMatrix | None = None
    """c_i, [1, C]."""


class BeamNode(PlaygroundRecord):
    """A hypothesis: a piece, and the hypothesis before it."""

    parent: int
    """Index of the hypothesis that it continues; -1 for the first node, which is empty."""
    piece: str
    """As in the vocabulary; `</s>` ends a hypothesis."""
    probability: float
    """Of the piece after the parent."""
    total: float
    """Log-probability in nats of all pieces."""
    kept: bool
    """False: a candidate that the beam did not keep."""
    score: float | None = None
    """Of an ended hypothesis, with its length and coverage penalties."""
    expansion: Expansion | None = None
    """None if it ended, was not kept, or is not recorded."""


class BeamTrace(PlaygroundRecord):
    """A beam search, step by step."""

    source: str
    source_pieces: list[str]
    """Without the end symbol."""
    beam_size: int
    prefix: list[str]
    """The pieces that were given."""
    nodes: list[BeamNode]
    """Parents before their children: the first is empty, then those of one piece, and so on."""
    best: int
    """Index of the best ended hypothesis."""
    text: str
    """The translation."""
    annotations: PackedMatrix | None = None
    """h, [S, C]."""
    half_width: int | None = None
    """D of local attention."""


class ContextAttention(PlaygroundRecord):
    """Attention weights of a side to the previous sentences of its document: the mean of the heads."""

    side: Literal["source", "target"]
    lines: list[int]
    """The lines of these sentences, in order. Their pieces are those of the page's items with these lines."""
    sentences: str
    """Base64 of bytes [positions, lines]: 255 is 1. One position: the weights are the same for every piece."""
    words: list[str]
    """Of each line, base64 of bytes [positions, pieces + 1]: the end symbol is last."""


class PairAttention(PlaygroundRecord):
    """Attention weights of a sentence pair under teacher forcing, as the page draws them."""

    target: str
    source_pieces: list[str]
    """Without the end symbol."""
    target_pieces: list[str]
    log_probability: float
    """Of the target in nats, its end included."""
    heads: int
    weights: str
    """Base64 of bytes [heads, target pieces + 1, source pieces + 1]: 255 is 1."""
    centers: list[list[float]] | None = None
    """Local attention only: p_t of each head and target piece, counted from 0."""
    half_width: int | None = None
    links: list[tuple[int, int]] | None = None
    """Word alignment (source, target) by these weights, counted from 0; None if it was not computed."""
    context: list[ContextAttention] | None = None
    """Of each side with document context, empty without a previous sentence; None if the model has no context."""


def rounded_numbers(values: Sequence[float] | npt.NDArray[np.floating]) -> list[float]:
    """Returns finite numbers with `DIGITS` digits after the point."""
    return [round(float(value), DIGITS) for value in values]


def _base64(array: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(array.tobytes()).decode()
