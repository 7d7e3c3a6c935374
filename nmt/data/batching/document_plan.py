"""The order of a window where context is asked for: documents are shuffled, their sentences stay together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nmt.data.batching.past import Lookback
from nmt.data.batching.plan import Lengths, Plan, Rows, shuffled

JITTER = 0.1
"""By how much of its length, at most, a document is moved among the others."""


class Stretch(NamedTuple):
    """A batch of consecutive sentences of documents."""

    first: int
    """Number of its first pair among all pairs."""
    read: slice
    """Places of what is read for it, the last one that of a pair."""


def plan_stretches(
    rows: Rows,
    is_pair: npt.NDArray[np.bool_],
    sentences: Lengths,
    source_lengths: Lengths,
    target_lengths: Lengths,
    lookback: Lookback,
    batch_tokens: int,
    group: int,
    rng: np.random.Generator,
) -> Plan:
    """Plan a window of these rows, which are whole documents; the result depends on the arguments alone.

    Documents of sentences that are about as long are neighbours; so much of them as fits is a batch.

    Args:
        rows: all of the window.
        is_pair: which of them are to be learned from.
        sentences: the place of each in its document.
        source_lengths, target_lengths: of the rows' padded tensors, end symbol included.
        lookback: what is read before each pair.
        batch_tokens, group: as for `plan_window`.
        rng: what chances are drawn from.
    """
    longest = np.maximum(source_lengths, target_lengths).astype(np.int64)
    order = by_length(longest, sentences, rng)
    longest, is_pair = longest[order], is_pair[order]
    stretches = list(cut_documents(longest, is_pair, sentences[order], lookback.reach, batch_tokens))
    source, target = source_lengths[order], target_lengths[order]
    translated = np.full(len(order), True) if lookback.targets else is_pair
    elements = [_padded(source[read]) + _padded(target[read][translated[read]]) for _, read in stretches]
    bounds = np.asarray([*(stretch.first for stretch in stretches), np.count_nonzero(is_pair)])
    largest = int(np.argmax([*elements, 0]))
    return Plan(rows[order[is_pair]], bounds, shuffled(len(stretches), group, rng), largest)


def cut_documents(
    longest: Lengths, is_pair: npt.NDArray[np.bool_], sentences: Lengths, reach: int, batch_tokens: int
) -> Iterator[Stretch]:
    """Batches of consecutive sentences, each as large as fits: sentences x longest side <= batch_tokens.

    A document may go on in the next batch, where up to `reach` of its sentences are read once more: they count, and so
    do sentences that are no pairs. What does not fit is read nevertheless for a pair alone.
    """
    places, number = np.flatnonzero(is_pair), 0
    while number < len(places):
        lead = int(min(sentences[places[number]], reach))
        start = int(places[number]) - lead
        most = max(batch_tokens // int(longest[start + lead]), lead + 1)
        widths = np.maximum.accumulate(longest[start : start + most].astype(np.int64))
        fitting = int(np.searchsorted(widths * np.arange(1, len(widths) + 1), batch_tokens, side="right"))
        following = int(np.searchsorted(places, start + max(fitting, lead + 1)))
        yield Stretch(number, slice(start, int(places[following - 1]) + 1))
        number = following


def _padded(lengths: Lengths) -> int:
    return len(lengths) * int(lengths.max())


def by_length(longest: Lengths, sentences: Lengths, rng: np.random.Generator | None = None) -> Rows:
    """Places in order of their documents, by the mean length of the sentences of each, and by chance with `rng`."""
    begins = np.flatnonzero(sentences == 0)
    if not len(begins):
        return begins
    sizes = np.diff(begins, append=len(sentences))
    means = np.add.reduceat(longest, begins) / sizes
    if rng is not None:
        means *= rng.uniform(1 - JITTER, 1 + JITTER, len(means))
    order = np.argsort(means, kind="stable")
    begins, sizes = begins[order], sizes[order]
    places: Rows = np.arange(len(sentences)) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    return places
