"""The recurrent encoder.

Shapes: B sentences, S source positions, P pieces in packed order, E embedding, C memory features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.packed import Packing, RecurrentStack, State, SteppedLayers
from nmt.kernels.select import Kernels
from nmt.model.attention import Encoded
from nmt.model.attention.base import has_lexical_model
from nmt.model.cells import build_stack
from nmt.model.modules import Embedding, module_list


def segments(options: schema.EncoderConfig) -> Iterator[tuple[int, int, int]]:
    """Yields first layer, last layer (counted from 1) and directions of each segment, as few as possible.

    PyTorch runs a segment as one stack: only dropout is between its layers. A layer with a residual connection is a
    segment by itself.
    """
    first, directions = 1, options.directions
    residual_from = options.residual_from or options.layers + 1
    for layer in range(1, options.layers + 1):
        ends = layer == options.layers or layer + 1 >= residual_from or directions[layer] != directions[layer - 1]
        if ends:
            yield first, layer, directions[layer - 1]
            first = layer + 1


class RecurrentLayers(nn.Module):
    """Recurrent layers in both directions, forward, or with only the lowest in both directions.

        y_1 = layer_1(x);   y_l = layer_l(y_{l-1}), from `residual_from` on + y_{l-1}

    (Wu 2016, sections 3.1 and 3.2.) Dropout is of what a layer reads, not of what is added to its output.
    """

    output_size: int
    stack: RecurrentStack
    above: Sequence[RecurrentStack]

    def add_layers(self, options: schema.EncoderConfig, input_size: int, dropout: float, kernels: Kernels) -> None:
        """Builds and registers the layers at this point, because optimizers identify parameters by their order.

        The lowest segment is `stack`, as if there were no other.
        """
        self.output_size = options.output_size
        self.between = dropout
        self.drop = kernels.dropout
        self.kernels = kernels
        self.residual_from = options.residual_from
        sizes = (input_size, *options.widths)
        stacks = [
            build_stack(
                options.cell,
                sizes[first - 1],
                options.hidden_size,
                last - first + 1,
                directions == 2,
                dropout,
                options.transitions,
            )
            for first, last, directions in segments(options)
        ]
        self.stack = stacks[0]
        self.above = module_list(stacks[1:])

    @property
    def segments(self) -> list[RecurrentStack]:
        """All segments, the lowest first."""
        return [self.stack, *self.above]

    def only_reference(self, section: str) -> str:
        """Returns why the layers, of this section of the YAML, have no implementation besides PyTorch's; else empty."""
        if isinstance(self.stack, nn.GRU):
            return ""
        if isinstance(self.stack, SteppedLayers) and self.stack.groups:
            return f"{section}.cell.layer_normalization is true"
        if isinstance(self.stack, SteppedLayers) and self.stack.transitions > 1:
            return f"{section}.transitions is not 1"
        return f"{section}.cell is not gru"

    def run(self, below_PX: Tensor, packing: Packing) -> tuple[Tensor, list[State]]:
        """Returns the top layer's outputs [P, C] and the last states of each segment: parts [L x D, R, H], packed."""
        finals: list[State] = []
        layer = 0
        for segment in self.segments:
            inputs_PX = self.drop(below_PX, self.between, self.training) if layer else below_PX
            outputs_PX, final = self.kernels.layers(segment, inputs_PX, packing)
            layer += segment.num_layers
            adds = self.residual_from is not None and layer >= self.residual_from
            below_PX = outputs_PX + below_PX if adds else outputs_PX
            finals.append(final)
        return below_PX, finals

    def by_layer(self, finals: Sequence[State], packing: Packing) -> tuple[State, ...]:
        """Returns the last states of each layer, both directions side by side: parts [N, F], zero for an empty row."""
        layers: list[State] = []
        for segment, final in zip(self.segments, finals, strict=True):
            parts = [
                self._by_row(part, packing)
                .view(segment.num_layers, -1, packing.rows, segment.hidden_size)
                .transpose(1, 2)
                .flatten(2)
                .unbind(0)
                for part in final
            ]
            layers += zip(*parts, strict=True)
        return tuple(layers)

    def _by_row(self, part: Tensor, packing: Packing) -> Tensor:
        """Returns the last states [L x D, N, H] of packed ones [L x D, R, H]; masked rows stand in order."""
        if packing.is_masked:
            return part
        return part.new_zeros(len(part), packing.rows, part.shape[2]).index_copy(1, packing.row_R, part)


class RecurrentEncoder(RecurrentLayers):
    """Recurrent encoder (Bahdanau 2015, 3.2; Wu 2016, 3.1 and 3.2).

    Sentences are packed, so padding costs nothing and never reaches a state. With `reverse_source` the layers read the
    pieces of a sentence from the last to the first, then the end symbol (Sutskever 2014, section 3.3). The annotations
    stay in the order of the text.
    """

    def __init__(
        self, embedding: Embedding, model: schema.ModelConfig, kernels: Kernels, reverse_source: bool = False
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.reverse_source = reverse_source
        self.dropout = model.dropout.layer
        self.add_layers(model.encoder, model.embedding_size, self.dropout, kernels)
        self.norm = nn.LayerNorm(self.output_size) if model.layer_normalization else nn.Identity()
        self.keeps_embeddings = has_lexical_model(model)

    def unsupported_reason(self) -> str:
        """Returns why only PyTorch's own layers can run, with the path in the YAML; empty if others can."""
        return self.only_reference("model.encoder")

    def forward(self, source_BS: Tensor, lengths_B: Tensor, masked: bool = False) -> Encoded:
        """Encodes sentences of `lengths_B` pieces; the ids of padding are ignored.

        `lengths_B` stays on the CPU: packing reads it there, and a copy back from a GPU would wait for it. With
        `masked` it is on the device, and padding is computed as well.
        """
        batch, positions = source_BS.shape
        packing = Packing.masked(lengths_B, positions) if masked else Packing.of(lengths_B, source_BS.device)
        position_P = packing.position_P
        if self.reverse_source:
            last_N = (packing.lengths_N - 1).to(source_BS.device, non_blocking=True)
            last_P = last_N.index_select(0, packing.row_P)
            position_P = torch.where(position_P < last_P, last_P - 1 - position_P, position_P)
        place_P = torch.add(position_P, packing.row_P, alpha=positions)
        inputs_PE = self.embedding(source_BS.flatten().index_select(0, place_P))
        outputs_PC, finals = self.run(inputs_PE, packing)
        # Before padding is added, which stays exactly zero.
        outputs_PC = self.drop(self.norm(outputs_PC), self.dropout, self.training)
        mask_BS = torch.arange(positions, device=packing.lengths_N.device) < packing.lengths_N.unsqueeze(1)

        def padded(packed_PX: Tensor) -> Tensor:
            flat = packed_PX.new_zeros(batch * positions, packed_PX.shape[1]).index_copy(0, place_P, packed_PX)
            padded_BSX = flat.view(batch, positions, -1)
            return padded_BSX.masked_fill(~mask_BS.unsqueeze(2), 0.0) if masked else padded_BSX

        return Encoded(
            padded(outputs_PC),
            mask_BS.to(source_BS.device, non_blocking=True),
            self.by_layer(finals, packing),
            embedded_BSE=padded(inputs_PE) if self.keeps_embeddings else None,
        )
