"""What training minimises, whatever is learned: a weighted sum of terms, each a mean over all batches of an update."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from nmt.data.batching import AnyBatch


class Sums(Protocol):
    """What an objective gives for a batch: for each of its terms a sum over what it counts."""

    def minimised(self) -> Sequence[Tensor | None]:
        """The sums that gradients come from; None where the batch has nothing of a term, or it is only reported."""

    def reported(self) -> Tensor:
        """The sums that the journal is told, [terms], without gradient and in at least single precision."""


@dataclass(frozen=True)
class Scales:
    """What turns the sums of a batch into its part of what an update minimises, term by term."""

    factors: tuple[float, ...]

    @classmethod
    def of_update(cls, counts: Sequence[int], weights: Sequence[float], world: int) -> Scales:
        """Those of an update: `counts` are what each term counts in it, on all ranks, and `weights` those of the terms.

        What is minimised is the sum over the terms of weight x mean. `world` processes average their gradients, which
        takes their number as a factor. A term of which there is nothing has factor 0.
        """
        parts = zip(counts, weights, strict=True)
        return cls(tuple(weight * world / count if count else 0.0 for count, weight in parts))

    def total(self, sums: Sums) -> Tensor:
        """This batch's part of what is minimised."""
        total: Tensor | None = None
        for part, factor in zip(sums.minimised(), self.factors, strict=True):
            if part is not None:
                total = part * factor if total is None else total + part * factor
        assert total is not None, "something is minimised"
        return total


class Objective(nn.Module):
    """What a network is trained for. A module, so that gradients can be exchanged between processes by wrapping it."""

    terms: ClassVar[tuple[str, ...]]
    """What the journal calls the terms; the first is `loss`, by which training is judged."""
    unit: ClassVar[str]
    """What `tokens` counts, for the speed."""
    has_perplexity: ClassVar[bool]
    """Whether the loss is that of a token."""
    spares: bool = False
    """Whether a batch may leave some of the weights alone, which an exchange between processes has to know."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        """What is trained."""

    @abstractmethod
    def counts(self, batch: Any) -> tuple[int, ...]:
        """What the sum of each term is divided by; 0 in a batch of weight 0."""

    @abstractmethod
    def tokens(self, batch: Any) -> int:
        """What the speed of training counts."""

    def weights(self, epoch: int) -> tuple[float, ...]:
        """The weight of each term in an epoch, counted from 0."""
        return tuple(1.0 for _ in self.terms)

    def batch_counts(self, batch: AnyBatch) -> tuple[int, ...]:
        """Tokens, then the counts of all terms."""
        return self.tokens(batch), *self.counts(batch)
