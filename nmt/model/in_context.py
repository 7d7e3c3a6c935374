"""The translator on sentences that stand in documents: following given translations, and making new ones.

Shapes: B sentences, S source positions, T target positions, Q queries, R readout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nmt.data.batching import Batch, PreviousSentences
from nmt.model.attention import AttentionWeights, Encoded
from nmt.model.context import ContextWeights, Sentences
from nmt.model.translator import Narrowed, Translator
from nmt.model.wiring import DecoderState


class Followed(NamedTuple):
    """What comes of predicting given translations, each piece from those before."""

    readout_BTR: Tensor
    weights: AttentionWeights | None
    """Where each target position looked in its source."""
    read: ContextWeights | None
    """Where the source positions looked in the sources before; None where none did."""
    told: ContextWeights | None
    """Where the target positions looked in the translations before; None where none did."""


def follow(translator: Translator, batch: Batch) -> Followed:
    """Predict the targets of a batch, the pairs among them with what its `past` says stands before them.

    Of a sentence that only others look at there is a readout as well, without context.
    """
    encoded = translator.encode(batch.source_BS, batch.source_lengths_B)
    past = batch.context
    if past is None:
        return Followed(*translator.readout(encoded, batch.target_BT), None, None)
    read, telling = None, _Telling(translator, past.targets, batch.target_lengths_B)
    if past.sources:
        encoded, read = translator.context.read(encoded, past.sources, None)
    encoded = encoded.first(len(batch.target_BT))
    readout_BTR, weights = translator.readout(encoded, batch.target_BT, telling if past.targets else None)
    return Followed(readout_BTR, weights, read, telling.weights)


class _Telling:
    """Tells the decoder's states of those of the translations before, all of which are among them."""

    def __init__(self, translator: Translator, past: PreviousSentences | None, target_lengths_B: Tensor) -> None:
        self.weights: ContextWeights | None = None
        self._translator, self._past, self._lengths_B = translator, past, target_lengths_B

    def __call__(self, states_BTH: Tensor) -> Tensor:
        assert self._past is not None
        before = _sentences(states_BTH, self._lengths_B)
        told_BTH, self.weights = self._translator.context.tell(states_BTH, self._past, before)
        return told_BTH


@dataclass(frozen=True)
class Remembered:
    """What there is to know of sentences that have been translated, for those that follow them."""

    sources: Sentences | None
    """The encoder's states; None where nothing looks at them."""
    targets: Sentences | None
    """The decoder's states while it was made to say the translations; None where nothing looks at them."""

    @staticmethod
    def join(parts: Sequence[Remembered]) -> Remembered:
        """What is known of some sentences and of others, as one."""
        sources = [part.sources for part in parts if part.sources is not None]
        targets = [part.targets for part in parts if part.targets is not None]
        return Remembered(Sentences.join(sources) if sources else None, Sentences.join(targets) if targets else None)


@dataclass(frozen=True)
class Before:
    """What stands before sentences that are to be translated."""

    past: PreviousSentences
    remembered: Remembered


class InContext:
    """A translator that knows what stands before the sentences of a batch, as the search sees it."""

    def __init__(self, translator: Translator, before: Before | None) -> None:
        """`before` None: nothing stands before any of the sentences."""
        self._translator = translator
        self._before = before
        self.log_softmax = translator.log_softmax

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """Read the sources, and what stands before them."""
        return _in_context(self._translator, self._translator.encode(source_BS, lengths_B), self._before)

    def start(self, encoded: Encoded) -> DecoderState:
        """The decoder's state before the first piece, with one hypothesis a sentence."""
        state, before = self._translator.start(encoded), self._before
        if before is None or before.remembered.targets is None:
            return state
        told = self._translator.context.start(before.past, before.remembered.targets, len(encoded.memory_BSC))
        return replace(state, translated=told)

    def step(self, state: DecoderState, previous_BQ: Tensor) -> tuple[DecoderState, Tensor]:
        """Read the previous piece of every hypothesis; the new state and logits [B, Q, V]."""
        return self._translator.step(state, previous_BQ)

    def narrowed(self, pieces_P: Tensor) -> Narrowed:
        """Its steps, for a search among these pieces."""
        return self._translator.narrowed(pieces_P)


class DocumentMemory:
    """States of the sentences that a translator has translated, as far back as its context reaches."""

    def __init__(self, translator: Translator, documents: Sequence[Sequence[int]]) -> None:
        """`documents` are the rows of their sentences."""
        lookback = translator.context.lookback
        self.translator = translator
        self._reach = 0 if lookback is None else lookback.sentences
        self._document = {row: number for number, rows in enumerate(documents) for row in rows}
        self._states: list[deque[Remembered]] = [deque(maxlen=self._reach) for _ in documents]

    def before(self, rows: Sequence[int]) -> Before | None:
        """Returns the states before these sentences; None where all are the first of their documents."""
        states = [list(reversed(self._states[self._document[row]])) for row in rows]
        flat = [each for sentences in states for each in sentences]
        if not flat:
            return None
        past_BP = np.full((len(rows), self._reach), -1)
        past_BP[np.arange(self._reach) < np.asarray([[len(sentences)] for sentences in states])] = range(len(flat))
        device = self.translator.projection.weight.device
        return Before(PreviousSentences.of(past_BP).to(device), Remembered.join(flat))

    def read(self, batch: Batch) -> dict[int, Remembered]:
        """Returns the states of sentences and their translations, by row; `add` stores them."""
        if not self._reach:
            return {}
        rows = batch.rows.tolist()
        states = remember(self.translator, batch, self.before(rows))
        lengths = zip(batch.source_lengths_B.tolist(), batch.target_lengths_B.tolist(), strict=True)
        return {
            row: Remembered(_sentence(states.sources, number, source), _sentence(states.targets, number, target))
            for number, (row, (source, target)) in enumerate(zip(rows, lengths, strict=True))
        }

    def add(self, states: dict[int, Remembered]) -> None:
        """Stores the states of sentences, each the next one of its document."""
        for row, each in states.items():
            self._states[self._document[row]].append(each)


def _sentence(sentences: Sentences | None, number: int, length: int) -> Sentences | None:
    """One of the sentences, copied without padding, so that it does not hold on to the others."""
    if sentences is None:
        return None
    part = (slice(number, number + 1), slice(length))
    return Sentences(sentences.states_MSC[part].clone(), sentences.mask_MS[part].clone())


def remember(translator: Translator, batch: Batch, before: Before | None) -> Remembered:
    """What there is to know of the pairs of a batch, sources and their translations, before which `before` stands."""
    lookback = translator.context.lookback
    assert lookback is not None, "somebody looks back"
    encoded = translator.encode(batch.source_BS, batch.source_lengths_B)
    read = Sentences(encoded.memory_BSC, encoded.mask_BS) if lookback.sources else None
    if not lookback.targets:
        return Remembered(read, None)
    encoded = _in_context(translator, encoded, before)
    states_BTH = translator.decoder.states(encoded, translator.previous(batch.target_BT))
    return Remembered(read, _sentences(states_BTH, batch.target_lengths_B))


def _in_context(translator: Translator, encoded: Encoded, before: Before | None) -> Encoded:
    if before is None or before.remembered.sources is None:
        return encoded
    joined, _ = translator.context.read(encoded, before.past, before.remembered.sources)
    return joined


def _sentences(states_BTH: Tensor, lengths_B: Tensor) -> Sentences:
    positions_T = torch.arange(states_BTH.shape[1])
    mask_BT = (positions_T < lengths_B.unsqueeze(1)).to(states_BTH.device, non_blocking=True)
    return Sentences(states_BTH, mask_BT)
