"""A window of 2 D + 1 positions that moves along the sentence (Luong 2015, section 3.2).

Positions are counted from 0 here, from 1 in the paper. What of the window lies outside the sentence is ignored;
where all of it does, beyond the end of a short sentence, nothing is looked at and the context is zero.

Shapes: `...` is B, or B and N heads; Q queries, S source positions, W = min(2 D + 1, S) positions that are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nmt.config.schema import NetworkPartOptions, Positions
from nmt.model.attention.base import Covered, Mixed, Prepared, Score, View, Window, normalize_within


class LocalOptions(NetworkPartOptions):
    """Options of a window that moves."""

    half_width: Positions = 10
    """D: positions that may be looked at on either side of the window's centre."""


@dataclass(frozen=True)
class Place:
    """Where windows stand."""

    first: int | Tensor
    """First position that is read: one for all queries, or int64 [..., Q]."""
    centers: Tensor
    """p_t, [..., Q] or anything that becomes it by broadcasting."""


class LocalWindow(Window):
    """Reads the positions within D of p_t: the cost of looking does not grow with the sentence."""

    half_width: int

    def prepare(self, prepared: Prepared) -> Prepared:
        return prepared.in_parts()

    def place(self, query: Tensor, prepared: Prepared, position: int | None) -> Place:
        """Where the windows of the queries [..., Q, H] stand."""
        raise AssertionError("a local window has a place")

    def emphasis(self, distance: Tensor) -> Tensor | None:
        """What the weights at these distances from p_t are multiplied by, after they are normalised."""
        return None

    def forward(self, score: Score, query: Tensor, prepared: Prepared, covered: Covered, position: int | None) -> Mixed:
        assert prepared.sources is not None, "prepared for reading in parts"
        memory_source, keys_source = prepared.sources
        place = self.place(query, prepared, position)
        width = self.width(prepared)
        offsets_W = torch.arange(width, device=query.device)
        if isinstance(place.first, int):
            positions = offsets_W + place.first
            memory = memory_source.read(place.first, width)
            keys = None if keys_source is None else keys_source.read(place.first, width)
        else:
            first = place.first.expand(query.shape[:-1])
            positions = first.unsqueeze(-1) + offsets_W
            memory = memory_source.take(positions)
            keys = None if keys_source is None else keys_source.take(positions)
        own = positions.dim() > 1
        everywhere = positions.expand(*query.shape[:-1], width)
        view = View(keys, own, width, positions, covered(everywhere))

        distance = positions - place.centers.unsqueeze(-1)
        allowed = (distance.abs() <= self.half_width) & (positions < prepared.lengths[..., None, None])
        weights = normalize_within(score(query, view), allowed, prepared.bias.dtype)
        emphasis = self.emphasis(distance)
        weights = weights if emphasis is None else weights * emphasis
        mixing = weights.to(memory.dtype)
        context = (mixing.unsqueeze(-2) @ memory).squeeze(-2) if own else mixing @ memory
        return Mixed(context, weights, everywhere, place.centers.expand(query.shape[:-1]))

    def width(self, prepared: Prepared) -> int:
        """W: a short sentence is read whole."""
        return min(2 * self.half_width + 1, prepared.memory.shape[-2])
