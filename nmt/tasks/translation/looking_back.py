"""Where a system looks in the sentences before, while it is made to say given translations.

Shapes: Q positions of a sentence, S positions of one before it, both with the end symbol last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nmt.data.batching import Batch
from nmt.model.context import ContextWeights
from nmt.model.in_context import follow
from nmt.model.translator import Translator
from nmt.tasks.translation.documents import Documents
from nmt.tasks.translation.forcing import Ids, in_batches
from nmt.tasks.translation.loading import System

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LookBack:
    """Where the positions of a sentence looked in one of the sentences before it."""

    row: int
    before: int
    """The row of the sentence before."""
    side: Literal["source", "target"]
    """Whether source positions looked at a source, or target positions at a translation."""
    words_QS: Floats
    """The mean of the heads. Row q of the target side are the weights with which piece q was predicted."""
    sentence_Q: Floats
    """Weight of this sentence among those before."""


def look_back(system: System, sources: Ids, targets: Ids, documents: Documents, batch_tokens: int) -> list[LookBack]:
    """All looks of the pairs, which are pieces without end symbols, in order: row by row, the nearest sentence first.

    Of several translators, all say where they looked. Raises `NmtError` where a pair does not fit into memory.
    """

    def work(batches: Sequence[Batch]) -> list[LookBack]:
        pairs = zip(system.translators, batches, strict=True)
        return [look for translator, batch in pairs for look in _looks(translator, batch)]

    lines = range(1, len(sources) + 1)
    found: list[LookBack] = []
    for _, looks in in_batches(system, sources, targets, batch_tokens, work, lines, documents):
        found += looks
    return sorted(found, key=lambda look: (look.row, look.side, -look.before))


def _looks(translator: Translator, batch: Batch) -> Iterator[LookBack]:
    found = follow(translator, batch)
    if found.read is not None:
        yield from _of_side(found.read, batch, "source", batch.source_lengths_B.tolist())
    if found.told is not None:
        yield from _of_side(found.told, batch, "target", batch.target_lengths_B.tolist())


def _of_side(
    weights: ContextWeights, batch: Batch, side: Literal["source", "target"], lengths: Sequence[int]
) -> Iterator[LookBack]:
    assert batch.past is not None, "somebody looked back"
    rows, past = batch.past.rows.tolist(), weights.past
    places, sentences = past.present_LP.shape[1], past.sentence_L.tolist()
    words_NQS, sentences_LQP = weights.words_NQS.float().cpu().numpy(), weights.sentences_LQP.float().cpu().numpy()
    for number, (place, before) in enumerate(zip(past.place_N.tolist(), past.row_N.tolist(), strict=True)):
        looking, slot = divmod(place, places)
        sentence = sentences[looking]
        # What is read as context alone looks back as well.
        if sentence < batch.pairs:
            positions = slice(lengths[sentence])
            yield LookBack(
                row=rows[sentence],
                before=rows[before],
                side=side,
                words_QS=words_NQS[number, positions, : lengths[before]].copy(),
                sentence_Q=sentences_LQP[looking, positions, slot].copy(),
            )
