"""The decoder's first state, from the encoder.

Shapes: B sentences, C memory features, F features of an encoder layer's state, H decoder hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.model.attention import Encoded, Prepared
from nmt.model.modules import module_list


class Bridge(nn.Module):
    """s_0 = tanh(W e + b) for each decoder layer and each part of its state (Bahdanau 2015, A.2.2).

    `model.decoder.bridge` chooses e. `final` and `backward` read the last states of the encoder layer of the same
    number, or of the top layer where encoder and decoder differ in their number of layers.

    - `final`: the last states of both directions.
    - `backward`: the last state of the backward direction, as in the paper.
    - `mean`: the mean of the annotations (Sennrich 2017, section 2).
    - `context`: the context of score `none`, which is the same at every step (Cho 2014, A.1).

    Two kinds have no W. `copy`: s_0 is the last states themselves, hidden and cell (Sutskever 2014; Luong 2015).
    `zero`: s_0 = 0. A summary of the document context adds its own term inside the tanh.
    """

    def __init__(self, model: schema.ModelConfig, parts: int, memory_size: int) -> None:
        super().__init__()
        encoder, decoder, norm = model.encoder, model.decoder, model.layer_normalization
        self.kind = decoder.bridge
        self.parts = parts
        self.hidden_size = decoder.hidden_size
        self.direction_size = encoder.hidden_size
        self.encoder_layers = [model.encoder_layer(layer) for layer in range(decoder.layers)]
        if self.kind in ("zero", "copy"):
            return
        sizes = {"mean": memory_size, "context": memory_size, "backward": encoder.hidden_size}
        widths = [sizes.get(self.kind, encoder.widths[layer]) for layer in self.encoder_layers]
        self.maps = module_list(nn.Linear(width, decoder.hidden_size) for width in widths for _ in range(parts))
        self.norms = module_list(nn.LayerNorm(decoder.hidden_size) if norm else nn.Identity() for _ in self.maps)
        for layer in self.maps:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, encoded: Encoded, prepared: Prepared) -> tuple[Tensor, ...]:
        """Returns the parts of the first state, layer by layer, each [B, 1, H], in at least single precision."""
        states = [(layer, part) for layer in self.encoder_layers for part in range(self.parts)]
        summary_BAH = None if encoded.summary is None else encoded.summary.first_BAH
        if self.kind == "copy":
            return tuple(_last(encoded, *state).to(encoded.exact).unsqueeze(1) for state in states)
        if self.kind == "zero":
            if summary_BAH is None:
                batch = len(encoded.memory_BSC)
                zeros_B1H = encoded.memory_BSC.new_zeros(batch, 1, self.hidden_size, dtype=encoded.exact)
                return (zeros_B1H,) * len(states)
            mapped = list(summary_BAH.unbind(1))
        else:
            sources = (self._source(encoded, prepared, *state) for state in states)
            mapped = [layer(source) for layer, source in zip(self.maps, sources, strict=True)]
            if summary_BAH is not None:
                mapped = [one + other for one, other in zip(mapped, summary_BAH.unbind(1), strict=True)]
            mapped = [norm(each) for norm, each in zip(self.norms, mapped, strict=True)]
        return tuple(torch.tanh(each).to(encoded.exact).unsqueeze(1) for each in mapped)

    def _source(self, encoded: Encoded, prepared: Prepared, layer: int, part: int) -> Tensor:
        """Returns e, [B, C] or [B, F]."""
        if self.kind == "mean":
            return encoded.memory_BSC.sum(1) / encoded.mask_BS.sum(1, keepdim=True)
        if self.kind == "context":
            return prepared.memory.squeeze(1)
        last_BF = _last(encoded, layer, part)
        # The forward direction stands first.
        return last_BF[:, self.direction_size :] if self.kind == "backward" else last_BF


def _last(encoded: Encoded, layer: int, part: int) -> Tensor:
    """Returns a part of an encoder layer's last state, [B, F]; for a missing cell the hidden state."""
    parts = encoded.final_LBF[layer]
    return parts[min(part, len(parts) - 1)]
