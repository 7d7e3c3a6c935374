"""Batches of sentences in documents, and networks that read document context."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.data.batching import Batch, DocumentContext, PreviousSentences
from nmt.data.batching.document_context import add_context
from nmt.model.context import Sentences
from nmt.model.translator import (
    EncodedContext,
    ForcedReadout,
    SentenceStates,
    Translator,
    TranslatorInContext,
    encode_states,
)
from tests.support.networks import sentences

DOCUMENTS = [3, 1, 4, 2]
"""Sentences of each of the documents of the tests."""
SOURCES = [5, 3, 6, 4, 2, 7, 3, 5, 4, 6]
TARGETS = [4, 6, 3, 5, 5, 2, 4, 3, 6, 4]

networks = pytest.mark.parametrize(
    "options",
    [
        {},
        {"wiring": "conditional"},
        {"wiring": "luong", "wiring_options": {"input_feeding": True}},
        {"wiring": "luong", "wiring_options": {"input_feeding": False}, "readout": "tanh"},
        {"wiring": "gnmt", "decoder_layers": 2},
        {"cell": "lstm", "layer_normalization": True, "bridge": "mean"},
        {"coverage": "neural"},
        {"lexical": True},
        {"window": "local_predictive", "window_options": {"half_width": 2}},
        {"wiring": "gnmt", "wiring_options": {"context_feeding": True}, "decoder_layers": 2},
        {"bridge": "zero", "decoder_layers": 2},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "bahdanau",
)
"""Of every wiring, and with what else carries a state."""


def rows_before(rows: np.ndarray) -> np.ndarray:
    places = np.concatenate([np.arange(size) for size in DOCUMENTS])
    return np.where((rows >= 0) & (places[rows] > 0), rows - 1, -1)


def batch_of(rows: list[int], document_context: DocumentContext | None, padding: int = 0, seed: int = 0) -> Batch:
    """Rows of the documents above with what is read beside them; `seed` draws the ids that stand in the padding."""
    read = add_context(np.array(rows), rows_before, document_context)
    source_BS, _ = sentences(*SOURCES, padding=3, seed=1)
    target_BT, _ = sentences(*TARGETS, size=11, padding=3, seed=2)
    noise = torch.Generator().manual_seed(seed)
    parts = []
    for ids, lengths, chosen, size in (
        (source_BS, SOURCES, read.rows, 13),
        (target_BT, TARGETS, read.rows[: read.translated], 11),
    ):
        lengths_B = torch.tensor(lengths)[chosen]
        chosen_ids = ids[torch.from_numpy(chosen), : int(lengths_B.max()) + padding]
        beyond = torch.arange(chosen_ids.shape[1]) >= lengths_B.unsqueeze(1)
        parts += [torch.where(beyond, torch.randint(4, size, chosen_ids.shape, generator=noise), chosen_ids), lengths_B]
    tokens = sum(TARGETS[row] for row in rows)
    return Batch(*parts, np.array(rows), tokens, context=read.context)


def readouts(found: ForcedReadout, batch: Batch) -> list[Tensor]:
    """Of each pair, without padding."""
    return [found.readout_BTR[row, : int(batch.target_lengths_B[row])] for row in range(batch.pairs)]


def in_turn(model: Translator, documents: list[list[int]], document_context: DocumentContext) -> dict[int, Tensor]:
    """Logits of the given translations, step by step, sentence k of every document at once as in translation."""
    logits: dict[int, Tensor] = {}
    known: dict[int, SentenceStates] = {}
    for k in range(max(map(len, documents))):
        rows = [document[k] for document in documents if k < len(document)]
        batch = batch_of(rows, None)
        past_BP = np.full((len(rows), document_context.sentences), -1)
        order: list[int] = []
        for number, row in enumerate(rows):
            document = next(each for each in documents if row in each)
            for back in range(min(k, document_context.sentences)):
                past_BP[number, back] = len(order)
                order.append(document[k - 1 - back])
        before = None
        if order:
            sides = [
                [getattr(known[row], side) for row in order if getattr(known[row], side) is not None]
                for side in ("sources", "targets")
            ]
            joined = [Sentences.join(side) for side in sides]
            before = EncodedContext(PreviousSentences.of(past_BP), SentenceStates(*joined))
        wrapped = TranslatorInContext(model, before)
        state = wrapped.start(wrapped.encode(batch.source_BS, batch.source_lengths_B))
        steps = []
        for previous_B in model.previous(batch.target_BT).unbind(1):
            state, logits_BQV = wrapped.step(state, previous_B.unsqueeze(1))
            steps.append(logits_BQV)
        stepped = torch.cat(steps, 1)
        remembered = encode_states(model, batch, before)
        for number, row in enumerate(rows):
            logits[row] = stepped[number, : TARGETS[row]]
            known[row] = SentenceStates(
                *(None if side is None else side.copy(number, side.mask_MS.shape[1]) for side in remembered)
            )
    return logits
