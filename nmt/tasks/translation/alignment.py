"""Which words, or pieces, of source and target attention links, in the Pharaoh format: `0-0 2-1`, source first.

Shapes: T target pieces, S source pieces, both with the end symbol last; U units of the target, V of the source: words
or pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from itertools import product
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nmt.data.cache.word_links import words_of
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.looking import Advance, look
from nmt.tasks.translation.translation import Floats, Translation
from nmt.visualization.attention_map import AttentionMap

Unit = Literal["pieces", "words"]
UNITS: tuple[Unit, ...] = get_args(Unit)
Linking = Literal["grow-diag", "argmax"]
LINKINGS: tuple[Linking, ...] = get_args(Linking)
Link = tuple[int, int]
"""Positions of source and target, counted from 0."""
Alignment = list[Link]
"""In ascending order."""


def align(
    weights_TS: Floats, source_units: Sequence[int], target_units: Sequence[int], linking: Linking = "grow-diag"
) -> Alignment:
    """The alignment that weights show.

    `argmax` links every target unit with the source unit that it looked at most, of equal ones the first (Luong 2015,
    section 5.4). `grow-diag` also asks which target unit looked at a source unit most, and takes the links that both
    ways give; those of one way follow, as long as they touch a link that is there, diagonally too, and bring a unit
    that has none (Koehn 2005). A source unit that is nowhere looked at most is asked only if it has more than an even
    share of the weights. The ends are linked with nothing, and neither is a unit that looked at none.

    Args:
        weights_TS: rows are those with which each target piece was predicted.
        source_units, target_units: word, counted from 0, of each piece without the end symbol, as `words_of` gives
            it; the pieces' own numbers make an alignment of pieces.
        linking: how units are linked.
    """
    if max(source_units, default=-1) < 0 or max(target_units, default=-1) < 0:
        return []
    merged_UV = merge(weights_TS, source_units, target_units)
    by_target = {(int(row_V.argmax()), target) for target, row_V in enumerate(merged_UV) if row_V.any()}
    if linking == "argmax":
        return sorted(by_target)
    asked = ((source, int(column_U.argmax())) for source, column_U in enumerate(merged_UV.T))
    even = 1.0 / len(set(source_units))
    by_source = {link for link in asked if link in by_target or merged_UV[link[::-1]] > even}
    return sorted(_grow(by_target, by_source))


def merge(weights_TS: Floats, source_units: Sequence[int], target_units: Sequence[int]) -> npt.NDArray[np.float64]:
    """Weights [U, V] of words on words: the sum over the pieces of a source word, the mean over those of a target word.

    A unit without pieces has no weight.
    """
    by_source_VT = np.zeros((max(source_units) + 1, len(target_units)))
    np.add.at(by_source_VT, np.asarray(source_units), weights_TS[:-1, :-1].T)
    merged_UV = np.zeros((max(target_units) + 1, len(by_source_VT)))
    np.add.at(merged_UV, np.asarray(target_units), by_source_VT.T)
    merged_UV /= np.bincount(target_units).clip(1)[:, None]
    return merged_UV


def _grow(one: Set[Link], other: Set[Link]) -> set[Link]:
    grown = set(one & other)
    sources, targets = ({link[side] for link in grown} for side in (0, 1))
    # A link that brings no unit now never will: each is looked around once.
    waiting = deque(sorted(grown))
    while waiting:
        source, target = waiting.popleft()
        for near in product((source - 1, source, source + 1), (target - 1, target, target + 1)):
            if near not in grown and (near in one or near in other) and not (near[0] in sources and near[1] in targets):
                grown.add(near)
                sources.add(near[0])
                targets.add(near[1])
                waiting.append(near)
    return grown


def align_translation(translation: Translation, unit: Unit, linking: Linking = "grow-diag") -> Alignment:
    """The alignment of a translation; it must have kept its attention."""
    assert translation.attention is not None, "translated without attention"
    if unit == "words":
        return align(translation.attention, translation.source_words, translation.words, linking)
    return align(translation.attention, range(len(translation.source_pieces)), range(len(translation.pieces)), linking)


def align_look(
    looked: AttentionMap, tokenizers: TokenizerPair, unit: Unit, linking: Linking = "grow-diag"
) -> Alignment:
    """The alignment of a pair that a system was made to say."""
    weights_TS = looked.weights_NTS.mean(0)
    if unit == "pieces":
        return align(weights_TS, range(len(looked.source_pieces)), range(len(looked.target_pieces)), linking)
    source_words = words_of(looked.source, tokenizers.source)
    target_words = words_of(looked.target, tokenizers.target)
    # A pair that was cut off has fewer pieces than its text.
    return align(
        weights_TS, source_words[: len(looked.source_pieces)], target_words[: len(looked.target_pieces)], linking
    )


def align_texts(
    system: System,
    sources: Sequence[str],
    targets: Sequence[str],
    batch_tokens: int,
    unit: Unit = "words",
    linking: Linking = "grow-diag",
    max_length: int | None = None,
    first_line: int = 1,
    advance: Advance | None = None,
) -> list[Alignment | None]:
    """The alignments of pairs that a system is made to say; arguments, errors and None as those of `look`."""
    looks = look(system, sources, targets, batch_tokens, max_length, first_line, advance)
    return [None if one is None else align_look(one, system.tokenizers, unit, linking) for one in looks]


def pharaoh(alignment: Alignment) -> str:
    """`0-0 2-1`."""
    return " ".join(f"{source}-{target}" for source, target in alignment)
