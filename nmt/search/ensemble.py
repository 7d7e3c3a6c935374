"""Models as the search uses them: ensembles (Sutskever 2014, section 3.6) and shortlists of their vocabulary.

Shapes: B sentences, S source positions, Q hypotheses of a sentence, V vocabulary, L pieces of the longest shortlist,
P pieces of all shortlists, N sentences that stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.data.tokenizer import Tokenizer
from nmt.model.translator import ShortlistSteps, Translator, TranslatorInContext
from nmt.model.wiring import DecoderState

Model = Translator | TranslatorInContext
"""In evaluation mode."""


class Ensemble:
    """The states of one or more models that translate the same sentences; averages their probabilities.

    The models share the target vocabulary. With shortlists a piece is its index in the shortlist of its sentence.
    """

    def __init__(
        self, models: Sequence[Model], source_BS: Tensor, lengths_B: Tensor, shortlists: Shortlists | None = None
    ) -> None:
        assert models, "an ensemble needs at least one model"
        self._models: Sequence[Model | ShortlistSteps] = models
        self._log_softmax = [model.log_softmax for model in models]
        self._states: list[DecoderState] = [model.start(model.encode(source_BS, lengths_B)) for model in models]
        self._vocabularies: SentenceVocabularies | None = None
        if shortlists is not None:
            union_P = torch.from_numpy(shortlists.union).to(source_BS.device)
            self._models = [model.with_shortlist(union_P) for model in models]
            self._vocabularies = shortlists.on(source_BS.device)

    def step(self, previous_BQ: Tensor, attention: Tensor | None = None) -> Tensor:
        """Returns log-probabilities [B, Q, V] of the next piece, in float32 or better. Callers may overwrite them.

        `attention` has the weights that all models take instead of their own, broadcastable to [B, Q, N, S].
        """
        parts = []
        if self._vocabularies is not None:
            previous_BQ = self._vocabularies.pieces(previous_BQ)
        for index, model in enumerate(self._models):
            state = self._states[index] if attention is None else self._states[index].attending(attention)
            self._states[index], logits_BQV = model.step(state, previous_BQ)
            if self._vocabularies is not None:
                logits_BQV = self._vocabularies.logits(logits_BQV)
            # On a CPU log_softmax over everything costs a third of logsumexp, although it writes more.
            parts.append(self._log_softmax[index](logits_BQV))
        if len(parts) == 1:
            return parts[0]
        assert len({part.shape for part in parts}) == 1, "models of an ensemble share their target vocabulary"
        return torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts))

    @property
    def states(self) -> Sequence[DecoderState]:
        """State of each model."""
        return self._states

    @property
    def attention_BQS(self) -> Tensor | None:
        """Attention of the last step, the mean over the models that have any."""
        parts = [part for state in self._states if (part := state.attention_BQS) is not None]
        return torch.stack(parts).mean(0) if len(parts) > 1 else parts[0] if parts else None

    @property
    def head_attention_BQNS(self) -> Tensor | None:
        """Attention of the last step, of the heads of a single model; of several the mean, as one head."""
        if len(self._states) == 1:
            return self._states[0].head_attention_BQNS
        mean_BQS = self.attention_BQS
        return None if mean_BQS is None else mean_BQS.unsqueeze(2)

    def select(self, sentences_N: Tensor | None, hypotheses_NQ: Tensor) -> None:
        """Keeps these sentences (None: all) and hypotheses in every model."""
        self._states = [state.select(sentences_N, hypotheses_NQ) for state in self._states]
        if self._vocabularies is not None and sentences_N is not None:
            self._vocabularies = self._vocabularies.select(sentences_N)


class SpecialIndices(NamedTuple):
    """Indices of the special pieces in every shortlist."""

    pad: int
    unk: int
    bos: int
    eos: int


SpecialIds = Tokenizer | SpecialIndices
"""Has the ids of the special pieces of the target vocabulary, or of a shortlist."""


class Shortlists:
    """A part of the vocabulary for each sentence (Jean 2015, section 3.2; L'Hostis 2016).

    The projection is computed for the union of the shortlists, because that is one product. The pieces of other
    sentences are removed before the probabilities are normalised, so that a translation does not depend on the
    sentences beside it. Within the search a piece is its index in the shortlist of its sentence: the special pieces
    first, the same in all, then the others in ascending order.
    """

    def __init__(
        self,
        shortlists: Sequence[Sequence[int] | npt.NDArray[np.integer[Any]]],
        special: SpecialIds,
        prefix: Sequence[Sequence[int]] | None,
    ) -> None:
        """Adds the special pieces, and those of a sentence's prefix, to its shortlist."""
        first = np.unique([special.pad, special.unk, special.bos, special.eos])
        forced = prefix if prefix is not None else [()] * len(shortlists)
        self._shortlists = []
        for pieces, ids in zip(shortlists, forced, strict=True):
            forced_ids = np.asarray([piece for piece in ids if piece >= 0], np.int64)
            others = np.union1d(np.asarray(pieces, np.int64), forced_ids)
            self._shortlists.append(np.concatenate((first, np.setdiff1d(others, first, assume_unique=True))))
        ids = [special.pad, special.unk, special.bos, special.eos]
        self.special = SpecialIndices(*np.searchsorted(first, ids).tolist())
        self.prefix = prefix and [
            [-1 if piece < 0 else int(np.argmax(pieces == piece)) for piece in ids]
            for ids, pieces in zip(prefix, self._shortlists, strict=True)
        ]
        self.union = np.unique(np.concatenate(self._shortlists))

    def on(self, device: torch.device) -> SentenceVocabularies:
        """Returns the shortlists as tensors on a device."""
        lengths = np.asarray([len(each) for each in self._shortlists])
        is_padding = np.arange(lengths.max()) >= lengths[:, None]
        pieces = np.full(is_padding.shape, self.union[0])
        pieces[~is_padding] = np.concatenate(self._shortlists)
        arrays = pieces, np.searchsorted(self.union, pieces), is_padding
        pieces_BL, union_BL, is_padding_BL = (torch.from_numpy(each).to(device) for each in arrays)
        return SentenceVocabularies(pieces_BL, union_BL, is_padding_BL.unsqueeze(1))

    def vocabulary_ids(self, sentence: int, indices: Sequence[int]) -> tuple[int, ...]:
        """Returns the pieces at these indices of a sentence's shortlist."""
        return tuple(self._shortlists[sentence][list(indices)].tolist())


@dataclass(frozen=True)
class SentenceVocabularies:
    """The shortlists of the active sentences, on the device, padded to the longest."""

    pieces_BL: Tensor
    union_BL: Tensor
    """Indices of the pieces in the union."""
    is_padding_B1L: Tensor

    def pieces(self, indices_BQ: Tensor) -> Tensor:
        """Returns the pieces at these indices."""
        return self.pieces_BL.gather(1, indices_BQ)

    def logits(self, logits_BQP: Tensor) -> Tensor:
        """Selects the logits [B, Q, L] of each sentence's pieces from those of the union, minus infinity on padding."""
        union_BQL = self.union_BL.unsqueeze(1).expand(-1, logits_BQP.shape[1], -1)
        return logits_BQP.gather(2, union_BQL).masked_fill_(self.is_padding_B1L, float("-inf"))

    def select(self, rows_N: Tensor) -> SentenceVocabularies:
        """Returns the shortlists of the sentences in these rows."""
        return SentenceVocabularies(self.pieces_BL[rows_N], self.union_BL[rows_N], self.is_padding_B1L[rows_N])
