"""Results of the Python API."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy.typing as npt

from nmt.evaluation.alignment import Alignment, Linking, Unit
from nmt.tasks.translation.forced_decoding import ScoreResult as ScoreResult
from nmt.tasks.translation.text_translation import Translation
from nmt.visualization.inline import attention_tables


@dataclass(frozen=True)
class TranslationResult:
    """The translations of a line. Its properties are those of the best one.

    Shapes: T target pieces, S source pieces, both with the end symbol last; N heads.
    """

    source: str
    """The line."""
    hypotheses: tuple[Translation, ...]
    """As many as requested, or as there are, best first; none for a blank line."""

    @property
    def text(self) -> str:
        """The translation; empty for a blank line."""
        return self.hypotheses[0].text if self.hypotheses else ""

    @property
    def score(self) -> float:
        """Log-probability over the length penalty, plus the coverage penalty (Wu 2016, eq. 14); 0 for a blank line."""
        return self.hypotheses[0].score if self.hypotheses else 0.0

    @property
    def log_probability(self) -> float:
        """Of the whole translation in nats, its end included."""
        return self.hypotheses[0].log_probability if self.hypotheses else 0.0

    @property
    def pieces(self) -> tuple[str, ...]:
        """Pieces of the translation, without the end symbol."""
        return self.hypotheses[0].pieces if self.hypotheses else ()

    @property
    def source_pieces(self) -> tuple[str, ...]:
        """Pieces of the line, without the end symbol."""
        return self.hypotheses[0].source_pieces if self.hypotheses else ()

    @property
    def attention(self) -> npt.NDArray[Any] | None:
        """Attention weights [T, S], the mean of the heads; None if not requested, or without attention."""
        return self.hypotheses[0].attention if self.hypotheses else None

    @property
    def head_attention(self) -> npt.NDArray[Any] | None:
        """Attention weights [N, T, S]; None if not requested, or without attention."""
        return self.hypotheses[0].head_attention if self.hypotheses else None

    def alignment(self, unit: Unit = "words", linking: Linking = "grow-diag") -> Alignment:
        """Returns the links (source, target) of words or pieces, counted from 0, by the attention weights."""
        return self.hypotheses[0].alignment(unit, linking) if self.hypotheses else []

    def _repr_html_(self) -> str:
        """Shows text, score and attention in a notebook."""
        rows = "".join(
            f'<tr><td style="text-align:left" dir="auto">{escape(each.text)}</td><td>{each.score:.4f}</td></tr>'
            for each in self.hypotheses
        )
        shown = f'<p dir="auto">{escape(self.source)}</p><table>{rows}</table>'
        return shown + attention_tables(self.source_pieces, self.pieces, self.attention, self.head_attention)


@dataclass(frozen=True)
class AlignmentResult:
    """The alignment of a given translation. Shapes as those of `TranslationResult`."""

    source: str
    target: str
    source_pieces: tuple[str, ...] = ()
    """Without the end symbol, as those of the target."""
    pieces: tuple[str, ...] = ()
    links: tuple[tuple[int, int], ...] = ()
    """(source, target) of words or pieces, counted from 0; none if a side is empty."""
    head_weights: npt.NDArray[Any] | None = field(default=None, compare=False, repr=False)
    """Attention weights [N, T, S]; None if a side is empty."""

    @property
    def weights(self) -> npt.NDArray[Any] | None:
        """Attention weights [T, S], the mean of the heads."""
        return None if self.head_weights is None else self.head_weights.mean(0)

    def _repr_html_(self) -> str:
        """Shows the pair and its weights in a notebook."""
        sides = "".join(f'<p dir="auto">{escape(text)}</p>' for text in (self.source, self.target))
        return sides + attention_tables(self.source_pieces, self.pieces, self.weights, self.head_weights)
