"""What attention looks at, and what the decoder is told beside it.

Shapes: B sentences, Q queries, S source positions, C memory features, L layers, F features of a layer's state,
D features of a summary, A tensors of the decoder's state, H decoder hidden, G gates x H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Entering = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Summary [B, D], pre-activations [B, Q, G] of the decoder's lowest layer and its state before [B, Q, H] to what is
added to the pre-activations."""


@dataclass(frozen=True)
class Summary:
    """What was said before the sentences of a batch, as a vector; all of it zero where nothing was."""

    vector_BD: Tensor
    first_BAH: Tensor | None
    """What is added to the pre-activations of each tensor of the decoder's first state; None: nothing."""
    entering: Entering | None
    """What enters every step; None: nothing does."""

    def enter(self, projected_BQG: Tensor, hidden_BQH: Tensor) -> Tensor:
        """The pre-activations of a step, told of the summary."""
        if self.entering is None:
            return projected_BQG
        return projected_BQG + self.entering(self.vector_BD, projected_BQG, hidden_BQH)

    def select(self, sentences: Tensor | slice) -> Summary:
        """The rows of these sentences."""
        first_BAH = None if self.first_BAH is None else self.first_BAH[sentences]
        return Summary(self.vector_BD[sentences], first_BAH, self.entering)


@dataclass(frozen=True)
class Encoded:
    """What the encoder says of a batch of sentences."""

    memory_BSC: Tensor
    """Annotations; exactly zero at padded positions."""
    mask_BS: Tensor
    """True at the positions of a sentence, False at padding."""
    final_LBF: tuple[tuple[Tensor, ...], ...]
    """Last states of each layer, (h,) or (h, c), both directions side by side."""
    summary: Summary | None = None
    """What was said before; None where nothing was, or nothing asks for it as a summary."""

    @property
    def exact(self) -> torch.dtype:
        """At least single precision: some layers of the library put out autocast's format."""
        return torch.promote_types(self.memory_BSC.dtype, torch.float32)

    @property
    def enters_steps(self) -> bool:
        """Whether something beside the inputs enters every step of the decoder."""
        return self.summary is not None and self.summary.entering is not None

    def with_memory(self, memory_BSC: Tensor) -> Encoded:
        """The same with other annotations, which may hold anything at padding."""
        return replace(self, memory_BSC=memory_BSC * self.mask_BS.unsqueeze(2).to(memory_BSC.dtype))

    def first(self, sentences: int) -> Encoded:
        """The first of the sentences."""
        if sentences == len(self.memory_BSC):
            return self
        final = tuple(tuple(part[:sentences] for part in layer) for layer in self.final_LBF)
        summary = None if self.summary is None else self.summary.select(slice(sentences))
        return Encoded(self.memory_BSC[:sentences], self.mask_BS[:sentences], final, summary)
