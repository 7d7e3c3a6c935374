"""Windows: the source positions that a query attends to (Bahdanau 2015, section 3.1; Luong 2015, sections 3.1 and 3.2).

A local window has 2 D + 1 positions around p_t. Positions are counted from 0 here, from 1 in the paper. Positions
outside the sentence are ignored. Where the whole window is outside, beyond the end of a short sentence, weights and
context are zero.

Shapes: `...` is B, or B and N heads; Q queries, S source positions, W = min(2 D + 1, S) positions of a local window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from nmt.config.schema import ModelConfig, NetworkPartOptions, Positions
from nmt.model.attention.base import (
    WINDOWS,
    CoverageTerm,
    Prepared,
    Score,
    View,
    Window,
    WindowOutput,
)
from nmt.model.attention.normalizers import Normalizer
from nmt.model.modules import initialize


class GlobalWindowOptions(NetworkPartOptions):
    kind: Literal["global"] = "global"


@WINDOWS.register("global", GlobalWindowOptions)
class GlobalWindow(Window):
    """The whole sentence: the weights a of all its scores, context = sum of a_s memory_s (Bahdanau 2015, eq. 5-6)."""

    is_whole = True

    def __init__(self, options: GlobalWindowOptions, query_size: int) -> None:
        super().__init__()

    def forward(
        self,
        score: Score,
        normalizer: Normalizer,
        query: Tensor,
        prepared: Prepared,
        covered: CoverageTerm,
        position: int | None,
    ) -> WindowOutput:
        memory = prepared.memory
        width, keys, exponentials = memory.shape[-2], prepared.keys, prepared.exponentials
        view = View(keys, own=False, width=width, positions=None, covered=covered(None), exponentials=exponentials)
        # In at least float32; the weight of padding is exactly 0.
        scores = score(query, view).to(prepared.bias.dtype) + prepared.bias.unsqueeze(-2)
        weights = normalizer(scores)
        return WindowOutput(normalizer.mixing(weights, memory.dtype) @ memory, weights, scores=scores)


class LocalOptions(NetworkPartOptions):
    """Options of a local window."""

    half_width: Positions = 10
    """D: positions on either side of the window's centre."""

    def conflicts(self, model: ModelConfig) -> Iterator[tuple[str, str]]:
        """The weights of a latent alignment are probabilities."""
        if model.attention.alignment == "latent":
            yield (
                "model.attention.window",
                f"is {self.kind}, whose weights need not add up to 1, as those of alignment: latent must; set it to "
                "global",
            )


class LocalWindow(Window):
    """Reads only the positions within D of p_t, so that the cost of a query does not grow with the sentence."""

    half_width: int

    def __init__(self, options: LocalOptions, query_size: int) -> None:
        super().__init__()
        self.half_width = options.half_width

    def prepare(self, prepared: Prepared) -> Prepared:
        return prepared.in_parts()

    def bounds(self, query: Tensor, prepared: Prepared, position: int | None) -> tuple[int | Tensor, Tensor]:
        """Returns the windows of the queries [..., Q, H]: their first positions, one for all or int64 [..., Q], and
        p_t, [..., Q] or broadcastable to it."""
        raise AssertionError("a local window has bounds")

    def emphasis(self, distance: Tensor) -> Tensor | None:
        """Factors of the normalised weights at these distances from p_t; None for none."""
        return None

    def forward(
        self,
        score: Score,
        normalizer: Normalizer,
        query: Tensor,
        prepared: Prepared,
        covered: CoverageTerm,
        position: int | None,
    ) -> WindowOutput:
        assert prepared.sources is not None, "prepared for reading in parts"
        memory_source, keys_source = prepared.sources
        first, centers = self.bounds(query, prepared, position)
        width = self.width(prepared)
        offsets_W = torch.arange(width, device=query.device)
        if isinstance(first, int):
            positions = offsets_W + first
            memory = memory_source.read(first, width)
            keys = None if keys_source is None else keys_source.read(first, width)
        else:
            positions = first.expand(query.shape[:-1]).unsqueeze(-1) + offsets_W
            memory = memory_source.take(positions)
            keys = None if keys_source is None else keys_source.take(positions)
        own = positions.dim() > 1
        everywhere = positions.expand(*query.shape[:-1], width)
        view = View(keys, own, width, positions, covered(everywhere))

        distance = positions - centers.unsqueeze(-1)
        allowed = (distance.abs() <= self.half_width) & (positions < prepared.lengths[..., None, None])
        dtype = prepared.bias.dtype
        scores = score(query, view).to(dtype)
        # A score itself may exclude positions; where nothing is left, weights of minus infinities would be undefined.
        allowed = allowed & (scores > -torch.inf)
        scores = scores.masked_fill(~allowed, torch.finfo(dtype).min)
        weights = normalizer(scores) * allowed
        emphasis = self.emphasis(distance)
        weights = weights if emphasis is None else weights * emphasis
        mixing = normalizer.mixing(weights, memory.dtype)
        context = (mixing.unsqueeze(-2) @ memory).squeeze(-2) if own else mixing @ memory
        return WindowOutput(context, weights, everywhere, centers.expand(query.shape[:-1]), scores)

    def width(self, prepared: Prepared) -> int:
        """W: a short sentence is read whole."""
        return min(2 * self.half_width + 1, prepared.memory.shape[-2])


class LocalMonotonicOptions(LocalOptions):
    kind: Literal["local_monotonic"] = "local_monotonic"


@WINDOWS.register("local_monotonic", LocalMonotonicOptions)
class LocalMonotonicWindow(LocalWindow):
    """local-m: p_t = t, and the weights are normalised within the window (Luong 2015, section 3.2)."""

    def bounds(self, query: Tensor, prepared: Prepared, position: int | None) -> tuple[int | Tensor, Tensor]:
        last = prepared.memory.shape[-2] - self.width(prepared)
        like = prepared.bias
        if position is not None:
            first = min(max(position - self.half_width, 0), last)
            return first, torch.full((1,), position, dtype=like.dtype, device=like.device)
        targets_Q = torch.arange(query.shape[-2], device=like.device)
        return (targets_Q - self.half_width).clamp(0, last), targets_Q.to(like.dtype)


class LocalPredictiveOptions(LocalOptions):
    kind: Literal["local_predictive"] = "local_predictive"


@WINDOWS.register("local_predictive", LocalPredictiveOptions)
class LocalPredictiveWindow(LocalWindow):
    """local-p: p_t = S sigmoid(v' tanh(W q)); weights times exp(-(s - p_t)^2 / (2 (D/2)^2)) (Luong 2015, section 3.2).

    The weights of the window do not add up to 1. p_t gets its gradient through the Gaussian.

    v is `position` times a constant `scale` of H^-1/2: without it the sigmoid soon saturates, and p_t has no gradient.
    """

    scale: Tensor

    def __init__(self, options: LocalPredictiveOptions, query_size: int) -> None:
        super().__init__(options, query_size)
        self.hidden = nn.Linear(query_size, query_size, bias=False)
        self.position = nn.Parameter(torch.empty(1, query_size))
        initialize(self.hidden)
        nn.init.xavier_uniform_(self.position)
        self.register_buffer("scale", torch.tensor(query_size**-0.5))

    def bounds(self, query: Tensor, prepared: Prepared, position: int | None) -> tuple[int | Tensor, Tensor]:
        dtype = prepared.bias.dtype
        # A sum of products in full precision: autocast's bf16 could not tell the positions of a long sentence apart.
        logits = (torch.tanh(self.hidden(query)).to(dtype) * self.position.squeeze(0) * self.scale).sum(-1)
        # The paper counts positions from 1.
        centers = prepared.lengths.unsqueeze(-1) * torch.sigmoid(logits) - 1.0
        last = prepared.memory.shape[-2] - self.width(prepared)
        return (centers.detach() - self.half_width).ceil().long().clamp(0, last), centers

    def emphasis(self, distance: Tensor) -> Tensor:
        deviation = self.half_width / 2
        return torch.exp(-distance.square() / (2 * deviation**2))
