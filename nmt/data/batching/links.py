"""Links between words -> links between the pieces of a batch.

Shapes: L links between pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.data.cache import Ragged
from nmt.runtime import pinned

_ROW = 1 << 32
"""Further than any word: row and word make one number, and ascending rows of ascending words an ascending array."""


@dataclass(frozen=True)
class Links:
    """Which source pieces the target pieces of a batch are translations of; padding and end symbols have no links."""

    row_L: Tensor
    """int64, the pair."""
    target_L: Tensor
    """int64, position of the target piece."""
    source_L: Tensor
    """int64, position of the source piece."""
    share_L: Tensor
    """float32, 1 / the number of links of the target piece: those of a piece add up to 1."""
    target_pieces: int
    """Target pieces that have links, which is what the alignment loss is divided by; counted before the links go to a
    device, because asking the device would wait for it."""

    def to(self, device: torch.device) -> Links:
        """The same on a device; the copy overlaps with computation where the memory is pinned."""
        return replace(
            self,
            row_L=self.row_L.to(device, non_blocking=True),
            target_L=self.target_L.to(device, non_blocking=True),
            source_L=self.source_L.to(device, non_blocking=True),
            share_L=self.share_L.to(device, non_blocking=True),
        )


def link_pieces(links: Ragged, source_words: Ragged, target_words: Ragged) -> Links:
    """Links between all pieces of a source word and all pieces of the target word that it is linked with.

    Args:
        links: source and target word of each link of a pair in turn, no link twice.
        source_words: the word that each piece of a source belongs to, in ascending order; may be left out of a pair
            without links.
        target_words: the same of the targets.

    A word without a piece, because normalisation removed it, loses its links. No loop over words or pieces.
    """
    words, offsets = links
    row = _rows_of(offsets)[::2]
    first_source, sources = _pieces(row, words[::2], source_words)
    first_target, targets = _pieces(row, words[1::2], target_words)
    # Link l of words becomes sources[l] x targets[l] links of pieces, number n of which is counted here.
    count = sources * targets
    link = np.repeat(np.arange(len(count)), count)
    n = np.arange(len(link)) - np.repeat(np.cumsum(count) - count, count)
    width = sources[link]
    row, source, target = row[link], first_source[link] + n % width, first_target[link] + n // width
    # One number for each target piece of the batch, by which its links are counted.
    piece = target_words[1][row] + target
    links_of_piece = np.bincount(piece, minlength=1)
    share = 1.0 / links_of_piece[piece]
    return Links(
        row_L=_tensor(row, torch.int64),
        target_L=_tensor(target, torch.int64),
        source_L=_tensor(source, torch.int64),
        share_L=_tensor(share, torch.float32),
        target_pieces=int(np.count_nonzero(links_of_piece)),
    )


def _rows_of(offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The row of each value."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _pieces(
    row: npt.NDArray[np.int64], word: npt.NDArray[np.int64], words_of_pieces: Ragged
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first piece of each of these words, counted within its sentence, and the number of its pieces."""
    words, offsets = words_of_pieces
    ordered = _rows_of(offsets) * _ROW + words
    wanted = row * _ROW + word
    first = np.searchsorted(ordered, wanted, side="left")
    return first - offsets[row], np.searchsorted(ordered, wanted, side="right") - first


def _tensor(values: npt.NDArray[Any], dtype: torch.dtype) -> Tensor:
    return pinned(torch.from_numpy(values).to(dtype))
