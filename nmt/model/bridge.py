"""The decoder's first state, from the encoder.

Shapes: B sentences, S source positions, C memory features, H decoder hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.model.attention import Encoded
from nmt.model.modules import module_list


class Bridge(nn.Module):
    """s_0 = tanh(W e + b) for each decoder layer and each part of its state (Bahdanau 2015, A.2.2).

    e is, by `bridge`: `final`, the last states of the encoder layer beside it (of the top layer where the stacks
    differ in height), both directions, where the paper takes the backward one alone; `mean`, the mean of the
    annotations (Sennrich 2017, section 2); with `zero`, s_0 = 0. A summary of what was said before adds its own
    term inside the tanh.
    """

    def __init__(self, model: schema.Model, parts: int, memory_size: int) -> None:
        super().__init__()
        decoder, norm = model.decoder, model.layer_normalization
        self.kind = decoder.bridge
        self.parts = parts
        self.layers = decoder.layers
        self.hidden_size = decoder.hidden_size
        self.beside = model.encoder.layers == decoder.layers
        if self.kind == "zero":
            return
        widths = [
            memory_size if self.kind == "mean" else model.encoder.widths[self._beside(layer)]
            for layer in range(decoder.layers)
        ]
        self.maps = module_list(nn.Linear(width, decoder.hidden_size) for width in widths for _ in range(parts))
        self.norms = module_list(nn.LayerNorm(decoder.hidden_size) if norm else nn.Identity() for _ in self.maps)
        for layer in self.maps:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """The parts of the first state, layer by layer, each [B, 1, H], in at least single precision."""
        memory_BSC = encoded.memory_BSC
        count = self.layers * self.parts
        told_BAH = None if encoded.summary is None else encoded.summary.first_BAH
        if self.kind == "zero" and told_BAH is None:
            first_B1H = memory_BSC.new_zeros(len(memory_BSC), 1, self.hidden_size, dtype=encoded.exact)
            return (first_B1H,) * count
        if self.kind == "zero":
            assert told_BAH is not None
            mapped = list(told_BAH.unbind(1))
        else:
            sources = (self._source(encoded, index // self.parts, index % self.parts) for index in range(count))
            mapped = [layer(source_BC) for layer, source_BC in zip(self.maps, sources, strict=True)]
            if told_BAH is not None:
                mapped = [one + other for one, other in zip(mapped, told_BAH.unbind(1), strict=True)]
            mapped = [norm(each) for norm, each in zip(self.norms, mapped, strict=True)]
        return tuple(torch.tanh(each).to(encoded.exact).unsqueeze(1) for each in mapped)

    def _source(self, encoded: Encoded, layer: int, part: int) -> Tensor:
        if self.kind == "mean":
            return encoded.memory_BSC.sum(1) / encoded.mask_BS.sum(1, keepdim=True)
        states = encoded.final_LBF[self._beside(layer)]
        return states[min(part, len(states) - 1)]

    def _beside(self, layer: int) -> int:
        """The encoder's layer that a layer of the decoder begins with."""
        return layer if self.beside else -1
