"""Scores that are products: cosine (Graves 2014, 3.3.1), dot and general (Luong 2015, 3.1), scaled (Vaswani 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.config.registry import PartOptions
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, ClosedForm, Score, ScoreOptions, View
from nmt.model.modules import Linear, initialize


class CosineOptions(ScoreOptions):
    kind: Literal["cosine"] = "cosine"


@SCORES.register("cosine", CosineOptions)
class CosineScore(Score):
    """beta cos(k, m) (Graves 2014, eq. 5-6), k = W q and beta = log(1 + exp(w' q + b)) > 0 emitted at every step.

    A cosine is 1 at most: beta begins at 10, so that a softmax over a sentence can tell positions apart at all.
    """

    def __init__(self, options: CosineOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.key = nn.Linear(query_size, memory_size, bias=False)
        self.strength = nn.Linear(query_size, 1)
        initialize(self.key, self.strength)
        nn.init.constant_(self.strength.bias, 10.0)

    def keys(self, memory: Tensor) -> Tensor:
        return F.normalize(memory, dim=-1)

    def forward(self, query: Tensor, view: View) -> Tensor:
        strength = F.softplus(self.strength(query))
        return view.dot(F.normalize(self.key(query), dim=-1) * strength)


class SameSizeOptions(ScoreOptions):
    """Options of a score that multiplies queries and memory directly."""

    def conflicts(self, model: schema.ModelConfig) -> Iterator[tuple[str, str]]:
        """With one head, query and memory must have one size; several heads map them to one size."""
        query_size, memory_size = model.decoder.hidden_size, model.encoder.output_size
        if model.attention.heads == 1 and query_size != memory_size:
            yield (
                "model.attention.score",
                f"{self.kind} multiplies decoder states of {query_size} with annotations of {memory_size}; set "
                f"model.decoder.hidden_size to {memory_size}, or choose general",
            )


class DotOptions(SameSizeOptions):
    kind: Literal["dot"] = "dot"


@SCORES.register("dot", DotOptions)
class DotScore(Score):
    """q' m (Luong 2015, section 3.1); decoder states and annotations must be of one size."""

    def __init__(self, options: PartOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        assert query_size == memory_size, "a product of vectors of one size"

    def forward(self, query: Tensor, view: View) -> Tensor:
        return view.dot(query)

    def closed_form(self) -> ClosedForm | None:
        return ClosedForm()


class GeneralOptions(ScoreOptions):
    kind: Literal["general"] = "general"


@SCORES.register("general", GeneralOptions)
class GeneralScore(DotScore):
    """q' W m (Luong 2015, section 3.1); W m is computed once for a sentence.

    W is the layer's matrix times a constant `scale` of C^-1/2, as in Vaswani 2017, eq. 1. Without it states that have
    learned a little already move a score by tens: the softmax saturates before attention is right, and has no gradient.
    """

    scale: Tensor

    def __init__(self, options: GeneralOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__(options, query_size, query_size, kernels)
        self.memory = Linear(memory_size, query_size, kernels, bias=False)
        initialize(self.memory)
        self.register_buffer("scale", torch.tensor(memory_size**-0.5))

    def keys(self, memory: Tensor) -> Tensor:
        keys: Tensor = self.memory(memory) * self.scale
        return keys


class ScaledDotOptions(SameSizeOptions):
    kind: Literal["scaled_dot"] = "scaled_dot"


@SCORES.register("scaled_dot", ScaledDotOptions)
class ScaledDotScore(DotScore):
    """q' m / sqrt(size) (Vaswani 2017, eq. 1); with several heads, the multi-head attention of its section 3.2.2."""

    def __init__(self, options: PartOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__(options, query_size, memory_size, kernels)
        self.scale = query_size**-0.5

    def forward(self, query: Tensor, view: View) -> Tensor:
        return view.dot(query * self.scale)

    def closed_form(self) -> ClosedForm:
        return ClosedForm(scale=self.scale)
