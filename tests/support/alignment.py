"""Alignments of given pairs."""

from __future__ import annotations

from collections.abc import Sequence

from nmt.evaluation.alignment import Alignment, Linking, Unit
from nmt.tasks.translation.forced_decoding import align_pair, forced_attention
from nmt.tasks.translation.loading import System


def align_texts(
    system: System,
    sources: Sequence[str],
    targets: Sequence[str],
    batch_tokens: int,
    unit: Unit = "words",
    linking: Linking = "grow-diag",
    max_length: int | None = None,
) -> list[Alignment | None]:
    """Aligns pairs by attention under teacher forcing; None for a pair with an empty side."""
    attention = forced_attention(system, sources, targets, batch_tokens, max_length)
    return [None if one is None else align_pair(one, system.tokenizers, unit, linking) for one in attention]
