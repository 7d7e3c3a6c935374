"""What attention looks at.

Shapes: B sentences, S source positions, C memory features, L layers, F features of a layer's state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """What the encoder says of a batch of sentences."""

    memory_BSC: Tensor
    """Annotations; exactly zero at padded positions."""
    mask_BS: Tensor
    """True at the positions of a sentence, False at padding."""
    final_LBF: tuple[tuple[Tensor, ...], ...]
    """Last states of each layer, (h,) or (h, c), both directions side by side."""

    def with_memory(self, memory_BSC: Tensor) -> Encoded:
        """The same with other annotations, which may hold anything at padding."""
        return replace(self, memory_BSC=memory_BSC * self.mask_BS.unsqueeze(2).to(memory_BSC.dtype))

    def first(self, sentences: int) -> Encoded:
        """The first of the sentences."""
        if sentences == len(self.memory_BSC):
            return self
        final = tuple(tuple(part[:sentences] for part in layer) for layer in self.final_LBF)
        return Encoded(self.memory_BSC[:sentences], self.mask_BS[:sentences], final)
