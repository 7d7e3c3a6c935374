"""Translating with a part of the vocabulary, one for each sentence (Jean 2015, section 3.2; L'Hostis 2016).

The projection is computed for the union of the sentences' pieces, because that is one product; what a sentence has no
use for is left out before the probabilities are normalised. So a translation does not depend on the sentences beside
it, and probabilities are those among the sentence's own pieces.

Inside the search a piece of a sentence is its place in that sentence's list: the special pieces first, the same for
all, then the others in ascending order.

Shapes: B sentences, Q hypotheses of a sentence, L pieces of the sentence that has most, P pieces of all sentences,
N sentences that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.search.result import Hypothesis


class SpecialIds(Protocol):
    """Numbers of the target vocabulary's special pieces; a tokenizer has them."""

    @property
    def pad(self) -> int: ...

    @property
    def unk(self) -> int: ...

    @property
    def bos(self) -> int: ...

    @property
    def eos(self) -> int: ...


@dataclass(frozen=True)
class Special:
    """The same as places in the lists."""

    pad: int
    unk: int
    bos: int
    eos: int


@dataclass(frozen=True)
class OwnPieces:
    """The lists of the sentences that are left, on the device."""

    pieces_BL: Tensor
    """The pieces; a shorter list is filled with any."""
    places_BL: Tensor
    """Where they are in the union."""
    is_filler_B1L: Tensor
    """What fills the shorter lists."""

    def spelled(self, places_BQ: Tensor) -> Tensor:
        """The pieces at these places."""
        return self.pieces_BL.gather(1, places_BQ)

    def own(self, logits_BQP: Tensor) -> Tensor:
        """Of the logits of the union those of each sentence's own pieces [B, Q, L], minus infinity for fillers."""
        places_BQL = self.places_BL.unsqueeze(1).expand(-1, logits_BQP.shape[1], -1)
        return logits_BQP.gather(2, places_BQL).masked_fill_(self.is_filler_B1L, float("-inf"))

    def select(self, rows_N: Tensor) -> OwnPieces:
        """The sentences in these rows."""
        return OwnPieces(self.pieces_BL[rows_N], self.places_BL[rows_N], self.is_filler_B1L[rows_N])


class Shortlists:
    """The pieces that each of some sentences may be translated with."""

    def __init__(
        self,
        lists: Sequence[Sequence[int] | npt.NDArray[np.integer[Any]]],
        special: SpecialIds,
        prefix: Sequence[Sequence[int]] | None,
    ) -> None:
        """Special pieces and those of a sentence's prefix belong to its list whether they are in it or not."""
        first = np.unique([special.pad, special.unk, special.bos, special.eos])
        forced = prefix if prefix is not None else [()] * len(lists)
        self._lists = []
        for pieces, ids in zip(lists, forced, strict=True):
            others = np.union1d(np.asarray(pieces, np.int64), np.asarray(ids, np.int64))
            self._lists.append(np.concatenate((first, np.setdiff1d(others, first, assume_unique=True))))
        place = {int(piece): number for number, piece in enumerate(first)}
        self.special = Special(place[special.pad], place[special.unk], place[special.bos], place[special.eos])
        self.prefix = prefix and [self._places(number, ids) for number, ids in enumerate(prefix)]
        self.union = np.unique(np.concatenate(self._lists))

    def on(self, device: torch.device) -> OwnPieces:
        """The lists as tensors on a device."""
        lengths = np.asarray([len(each) for each in self._lists])
        is_filler = np.arange(lengths.max()) >= lengths[:, None]
        pieces = np.full(is_filler.shape, self.union[0])
        pieces[~is_filler] = np.concatenate(self._lists)
        places = np.searchsorted(self.union, pieces)
        pieces_BL, places_BL, is_filler_BL = (torch.from_numpy(each).to(device) for each in (pieces, places, is_filler))
        return OwnPieces(pieces_BL, places_BL, is_filler_BL.unsqueeze(1))

    def spelled(self, found: Sequence[Sequence[Hypothesis]]) -> list[list[Hypothesis]]:
        """The hypotheses of all sentences with pieces for places."""
        return [
            [replace(each, ids=tuple(own[list(each.ids)].tolist())) for each in hypotheses]
            for own, hypotheses in zip(self._lists, found, strict=True)
        ]

    def _places(self, number: int, ids: Sequence[int]) -> list[int]:
        place = {int(piece): index for index, piece in enumerate(self._lists[number])} if ids else {}
        return [place[piece] for piece in ids]
