"""What stands between the decoder's recurrence and the vocabulary.

Shapes: B sentences, T target positions, E embedding, H hidden, C context, R readout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.select import Kernels
from nmt.model.modules import Linear


@dataclass(frozen=True)
class Output:
    """What a wiring hands to the readout."""

    hidden: Tensor
    """Decoder state, [B, Q, H]."""
    context: Tensor
    """Context, [B, Q, C]; C may be 0."""

    def with_hidden(self, hidden: Tensor) -> Output:
        """The same with another state."""
        return Output(hidden, self.context)


class Readout(nn.Module):
    """The vector that the vocabulary projection sees."""

    def __init__(self, model: schema.ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.size = readout_size(model)
        self.norm = nn.LayerNorm(self.size) if model.layer_normalization else nn.Identity()
        self.dropout = model.dropout.output
        self.drop = kernels.dropout

    def forward(self, output: Output, inputs_BTE: Tensor) -> Tensor:
        """Readout [B, T, R] of every position."""
        # Dropout draws in the order of the memory: the same, whichever way a recurrence was computed.
        mixed_BTR = self.norm(self.mixed(output, inputs_BTE)).contiguous()
        return self.drop(mixed_BTR, self.dropout, self.training)

    def mixed(self, output: Output, inputs_BTE: Tensor) -> Tensor:
        """The same before it is normalised and dropped out: here the decoder's state itself."""
        return output.hidden


class DeepOutput(Readout):
    """Deep output (Pascanu 2014; Bahdanau 2015, A.2.2): t = f(U s_t + V E y_{t-1} + C c_t).

    The paper's text conditions on s_t (eq. 4), its appendix on s_{t-1}: the wiring `bahdanau` has an option for it, the
    others hand over s_t, as its successors do. f is tanh, the identity, or the maximum of pairs.
    """

    def __init__(
        self, model: schema.ModelConfig, hidden_size: int, context_size: int, input_size: int, kernels: Kernels
    ) -> None:
        super().__init__(model, kernels)
        self.kind = model.decoder.readout.kind
        units = self.size * (2 if self.kind == "maxout" else 1)
        self.mix = Linear(hidden_size + context_size + input_size, units, kernels)
        nn.init.xavier_uniform_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def mixed(self, output: Output, inputs_BTE: Tensor) -> Tensor:
        parts = (output.hidden, output.context, inputs_BTE)
        mixed_BTR: Tensor = self.mix(torch.cat([part.to(inputs_BTE.dtype) for part in parts], -1))
        if self.kind == "maxout":
            return mixed_BTR.view(*mixed_BTR.shape[:-1], self.size, 2).amax(-1)
        return torch.tanh(mixed_BTR) if self.kind == "tanh" else mixed_BTR


def readout_size(model: schema.ModelConfig) -> int:
    """Width of the readout: as wide as the embeddings, unless something else is asked."""
    return model.decoder.readout.size or model.embedding_size
