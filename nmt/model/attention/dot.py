"""Dot attention (Luong 2015, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from nmt.config import schema
from nmt.config.registry import PartOptions
from nmt.kernels.select import Kernels
from nmt.model.attention.base import SCORES, ClosedForm, Score, ScoreOptions, View
from nmt.model.modules import Linear


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
class GeneralScore(Score):
    """q' W m (Luong 2015, section 3.1); W m is computed once for a sentence."""

    def __init__(self, options: GeneralOptions, query_size: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.memory = Linear(memory_size, query_size, kernels, bias=False)
        nn.init.xavier_uniform_(self.memory.weight)

    def keys(self, memory: Tensor) -> Tensor:
        keys: Tensor = self.memory(memory)
        return keys

    def forward(self, query: Tensor, view: View) -> Tensor:
        return view.dot(query)

    def closed_form(self) -> ClosedForm:
        return ClosedForm()


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
