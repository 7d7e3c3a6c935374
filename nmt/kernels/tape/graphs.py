"""Recurrences that a GPU is told once and then only to do again: no operation of a step is called by the host.

A graph has fixed shapes, and batches have too many to capture each: their extents are rounded up, and what is added
changes nothing. Added source positions are excluded, added sentences see nothing at all, and neither they nor added
steps get a gradient: all that they give to one is zero.

What enters is copied to tensors of the graphs, and what leaves is copied from them. All graphs share these, and the
rows of the steps between: together they take the memory of the largest batch, and so one batch at a time is on its
way. Whatever runs between its forward and its backward pass runs without graphs.

Shapes: B sentences, T steps, S source positions.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nmt.kernels.tape.capture import CudaGraphs, Graph
from nmt.kernels.tape.structure import Extents, Outside

if TYPE_CHECKING:
    from nmt.kernels.tape.recording import Outputs, Tape

KEPT = 256
"""Shapes that are captured: more than captions or news have (docs/performance.md)."""
NOTICED = 16 * KEPT
"""Shapes that were seen once and are remembered for it."""
OUTPUTS = ("BT", "BT", "BTS")
"""Axes of what a recurrence puts out."""


def rounded(extents: Extents) -> Extents:
    """The extents of the graph that serves these.

    Every step takes its time, however small it is: steps are rounded to an eighth of the power of two below, sentences
    and positions to a quarter.
    """
    sentences, steps, positions = extents
    return Extents(_up(sentences, 4, 8), _up(steps, 8, 2), _up(positions, 4, 8))


class Graphs:
    """The recurrences of one training, by what they do and by their rounded extents.

    One that comes for the first time runs without a graph: many never come again. The second time it is captured.
    """

    def __init__(self, graph: Callable[[], Graph] | None = None, kept: int = KEPT) -> None:
        self._graph = graph or CudaGraphs()
        self._kept = kept
        self._room = Room()
        self._noticed: OrderedDict[Hashable, None] = OrderedDict()
        self._captured: OrderedDict[Hashable, Captured] = OrderedDict()
        self._under_way: weakref.ref[WayBack] | None = None

    def run(self, loop: Tape) -> tuple[Outputs, WayBack] | None:
        """What a recurrence puts out, and what its gradients come from; None: it is to run without a graph."""
        if self._under_way is not None and self._under_way() is not None:
            return None
        extents = loop.extents
        key = rounded(extents), loop.structure
        if key not in self._captured and not self._is_known(key):
            return None
        if key not in self._captured:
            self._captured[key] = Captured(loop, rounded(extents), self._room, self._graph)
            # The GPU has done what came before a capture: no graph is dropped while it runs.
            if len(self._captured) > self._kept:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        captured, outsides = self._captured[key], loop.outsides
        outputs = captured.forward(outsides, extents)
        way_back = WayBack(captured, outsides, extents)
        if loop.keeps:
            self._under_way = weakref.ref(way_back)
        return outputs, way_back

    def _is_known(self, key: Hashable) -> bool:
        """Whether it has come before; from now on it has."""
        known = key in self._noticed
        self._noticed[key] = None
        self._noticed.move_to_end(key)
        if len(self._noticed) > NOTICED:
            self._noticed.popitem(last=False)
        return known


class WayBack:
    """The backward pass of a replayed recurrence. While it is there, the memory of all graphs is in use.

    It goes with autograd's node: after the backward pass, or when nothing can ask for one any more.
    """

    def __init__(self, captured: Captured, outsides: Sequence[Outside], extents: Extents) -> None:
        self._captured = captured
        # The graph reads them once more, where they are.
        self._weights = [outside.tensor for outside in outsides if not outside.axes]
        self._extents = extents

    def __call__(self, *d_outputs: Tensor | None) -> list[Tensor | None]:
        """The gradients of what came from outside, of those of the outputs."""
        return self._captured.backward(d_outputs, self._extents)


class Room:
    """The tensors that graphs share, as large as the largest of them needs."""

    def __init__(self) -> None:
        self._wholes: dict[Hashable, Tensor] = {}

    def place(self, role: Hashable, shape: Sequence[int], like: Tensor) -> Tensor:
        """Where the graphs of this shape find what has this role."""
        size = math.prod(shape)
        key = role, like.dtype, like.device
        whole = self._wholes.get(key)
        if whole is None or len(whole) < size:
            # Graphs that were captured before keep the smaller one: it must not grow by little and little.
            size_of_whole = size if whole is None else max(size, len(whole) + len(whole) // 4)
            # Validation may be the first to come, and training writes to it too.
            with torch.inference_mode(False):
                whole = self._wholes[key] = torch.empty(size_of_whole, dtype=like.dtype, device=like.device)
        return whole[:size].view(*shape)


class Captured:
    """The forward pass of a recurrence as a graph and, where it is kept, the backward pass as another."""

    def __init__(self, loop: Tape, extents: Extents, room: Room, graph: Callable[[], Graph]) -> None:
        self._extents = extents
        outsides = loop.outsides
        self._axes = [outside.axes for outside in outsides]
        self._inputs = [
            room.place(("input", number), outside.shape(extents), outside.tensor)
            if outside.axes
            else outside.tensor.detach()
            for number, outside in enumerate(outsides)
        ]
        self._enter(outsides)
        recording, ran = loop.on(self._inputs, extents), loop

        def forward() -> Outputs:
            nonlocal ran
            ran = recording.on(self._inputs, extents)
            return ran.forward()

        self._forward = graph()
        found = self._forward.rehearse(forward)
        self._outputs = [room.place(("output", number), each.shape, each) for number, each in enumerate(found)]
        self._d_outputs = [room.place(("d_output", number), each.shape, each) for number, each in enumerate(found)]
        self._d_inputs: list[Tensor | None] = []
        if not loop.keeps:
            self._forward.capture(lambda: _write(forward(), self._outputs))
            return

        def backward() -> list[Tensor | None]:
            return ran.backward(*self._d_outputs)

        for place in self._d_outputs:
            place.zero_()
        self._backward = graph()
        gradients = self._backward.rehearse(backward)
        self._d_inputs = [
            None if each is None else room.place(("d_input", number), each.shape, each)
            for number, each in enumerate(gradients)
        ]
        del found, gradients
        self._forward.capture(lambda: _write(forward(), self._outputs))
        self._backward.capture(lambda: _write(backward(), self._d_inputs))

    def forward(self, outsides: Sequence[Outside], extents: Extents) -> Outputs:
        """What the recurrence puts out; copies."""
        self._enter(outsides)
        self._forward.replay()
        hidden, context, weights = (
            _part(place, extents.leading(axes)).clone() for place, axes in zip(self._outputs, OUTPUTS, strict=True)
        )
        return hidden, context, weights

    def backward(self, d_outputs: Sequence[Tensor | None], extents: Extents) -> list[Tensor | None]:
        """The gradients of what came from outside; copies, because autograd may keep what it is given."""
        for place, d_output in zip(self._d_outputs, d_outputs, strict=True):
            if d_output is None:
                place.zero_()
            else:
                _fill(place, d_output, 0.0)
        self._backward.replay()
        return [
            None if place is None else _part(place, extents.leading(axes)).clone()
            for place, axes in zip(self._d_inputs, self._axes, strict=True)
        ]

    def _enter(self, outsides: Sequence[Outside]) -> None:
        """Copy what is another tensor in every batch."""
        for place, outside in zip(self._inputs, outsides, strict=True):
            if outside.axes:
                _fill(place, outside.tensor, outside.padding)


def _write(found: Sequence[Tensor | None], places: Sequence[Tensor | None]) -> None:
    for each, place in zip(found, places, strict=True):
        if place is not None:
            assert each is not None, "what has a gradient in the rehearsal has one"
            place.copy_(each)


def _fill(place: Tensor, tensor: Tensor, padding: float) -> None:
    """Put a tensor where there may be room for more: what an earlier batch left there may be NaN, and must not stay."""
    if place.shape != tensor.shape:
        place.fill_(padding)
    _part(place, tensor.shape).copy_(tensor)


def _part(place: Tensor, sizes: Sequence[int]) -> Tensor:
    """Of each dimension the first so many."""
    return place[tuple(map(slice, sizes))]


def _up(extent: int, parts: int, least: int) -> int:
    """The next multiple of a part of the power of two below, or of a least unit."""
    below = 1 << max((extent - 1).bit_length() - 1, 0)
    unit = max(least, below // parts)
    return -(-extent // unit) * unit
