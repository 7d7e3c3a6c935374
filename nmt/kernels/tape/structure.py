"""What two recorded recurrences have in common that differ in their numbers: so much that one can stand for the other.

Shapes: B sentences, T steps, S source positions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nmt.kernels.tape.cells import CellSteps


class Extents(NamedTuple):
    """What is another number in every batch."""

    sentences: int
    steps: int
    positions: int

    def leading(self, axes: str) -> tuple[int, ...]:
        """The sizes of these axes: B sentences, T steps, S source positions."""
        return tuple(self["BTS".index(axis)] for axis in axes)


@dataclass(frozen=True)
class Outside:
    """A tensor that an operation reads and none of them wrote."""

    tensor: Tensor
    axes: str
    """Of its first dimensions, B, T and S: those that differ from batch to batch. Empty for a weight, whose numbers
    change in their place."""
    padding: float = 0.0
    """What stands where it is made larger."""

    def shape(self, extents: Extents) -> tuple[int, ...]:
        """Its shape in a batch of these extents."""
        return (*extents.leading(self.axes), *self.tensor.shape[len(self.axes) :])

    @property
    def kind(self) -> Hashable:
        """What is the same in every batch: of a weight, its place."""
        sizes = tuple(self.tensor.shape[len(self.axes) :])
        place = () if self.axes else (self.tensor.data_ptr(), self.tensor.stride())
        return self.axes, self.padding, self.tensor.dtype, sizes, place


def structure(recorded: object, outsides: Sequence[Outside]) -> Hashable:
    """Which operations there are, what they are told, and what reads and writes which value.

    Everything that recorded objects hold is looked at, so that a new operation need not describe itself: an attribute
    of a kind that is not known here is an error, and so is a tensor that is not said to come from outside.
    """
    numbers = {id(outside.tensor): number for number, outside in enumerate(outsides)}
    seen: dict[int, int] = {}

    def describe(thing: object) -> Hashable:
        if thing is None or isinstance(thing, (bool, int, float, str, torch.dtype)):
            return thing
        if isinstance(thing, (list, tuple)):
            return tuple(map(describe, thing))
        if isinstance(thing, Tensor):
            assert id(thing) in numbers, "an operation tells the loop what it reads from outside"
            return "outside", numbers[id(thing)]
        if isinstance(thing, CellSteps):
            return type(thing).__qualname__
        if id(thing) in seen:
            return "seen", seen[id(thing)]
        seen[id(thing)] = len(seen)
        assert hasattr(thing, "__dict__"), f"what a {type(thing).__name__} holds is not known"
        return type(thing), *((name, describe(value)) for name, value in vars(thing).items())

    return tuple(outside.kind for outside in outsides), describe(recorded)
