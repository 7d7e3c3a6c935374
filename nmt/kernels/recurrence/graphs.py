"""Recurrences that are replayed from CUDA graphs: a GPU is told once what a shape needs, and then only to do it again.

Batches have too many shapes to capture each: the extents of what enters are rounded up, and what is added changes
nothing. Added source positions are excluded, added sentences see nothing and added steps get no gradient, so that all
they give to a gradient is zero.

A shape runs as it is when it is first seen, rounded up when it is seen again, and from its third time on it is
replayed: what is done but once, as compiling a kernel, is done before anything is captured.

Shapes: B sentences, T steps, S source positions.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nmt.kernels.recurrence.loop import Loop
    from nmt.kernels.recurrence.values import Value

STEPS, POSITIONS = 4, 8
"""Extents of steps and source positions are multiples of these; that of sentences has four bits that are not zero.

Of batches of 4,096 tokens, captions have 47 shapes then and news 171, with a fifth and a seventh more steps times
sentences than without; to the exact extent there are 247 and more than a thousand."""
KEPT = 128
"""Shapes; the one that was not seen for longest goes first."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
Outputs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Outside:
    """A tensor that enters a recurrence from outside, its extents, and what stands where there is nothing."""

    tensor: Tensor
    axes: str = ""
    """A letter of B, T and S for each of its first dimensions that is such an extent."""
    filling: float = 0.0

    @property
    def is_fixed(self) -> bool:
        """Whether it is a weight, or a part of one, which stays where it is."""
        whole = self.tensor if self.tensor._base is None else self.tensor._base
        return isinstance(whole, nn.Parameter)

    def shape(self, extents: dict[str, int]) -> tuple[int, ...]:
        """With these extents."""
        return tuple(extents[axis] for axis in self.axes) + tuple(self.tensor.shape[len(self.axes) :])


class Graph(Protocol):
    """What was captured and can be done again, with the same memory."""

    def capture(self, function: Callable[[], Any]) -> Any:
        """Record what the function does, without doing it; its results hold something once it is replayed."""

    def replay(self) -> None:
        """Do it."""


class CudaGraph:
    """A graph of PyTorch's, one memory pool for all: no two of them are needed at the same time."""

    _pool: Any = None

    def __init__(self) -> None:
        if CudaGraph._pool is None:
            CudaGraph._pool = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, function: Callable[[], Any]) -> Any:
        # Batches are copied to pinned memory by another thread meanwhile: its calls are no part of this.
        with torch.cuda.graph(self._graph, pool=CudaGraph._pool, capture_error_mode="thread_local"):
            return function()

    def replay(self) -> None:
        self._graph.replay()


class Replayed:
    """A function that runs as it is the first time, and is captured the second."""

    def __init__(self, graph: Callable[[], Graph]) -> None:
        self._make = graph
        self._graph: Graph | None = None
        self._results: Any = None
        self._calls = 0

    def __call__(self, function: Callable[[], Any]) -> Any:
        self._calls += 1
        if self._calls == 1:
            return function()
        if self._graph is None:
            graph = self._make()
            self._results = graph.capture(function)
            self._graph = graph
        self._graph.replay()
        return self._results


class Shape:
    """A recurrence whose inputs stay where they are, of rounded extents."""

    def __init__(self, loop: Loop, hidden: Value, context: Value, extents: dict[str, int], graph: Callable[[], Graph]):
        self._loop, self._values, self._extents, self._graph = loop, (hidden, context), extents, graph
        outsides = list(loop.outsides.values())
        self._axes = [each.axes for each in outsides]
        self._inputs = [
            each.tensor.detach()
            if each.is_fixed
            else torch.empty(each.shape(extents), dtype=each.tensor.dtype, device=each.tensor.device)
            for each in outsides
        ]
        self._fillings = [None if each.is_fixed else each.filling for each in outsides]
        loop.move(dict(zip(loop.outsides, self._inputs, strict=True)), extents)
        self._forward = Replayed(graph)
        self._backward: dict[tuple[bool, ...], tuple[Replayed, Gradients]] = {}

    def forward(self, inputs: Sequence[Tensor], extents: dict[str, int]) -> Outputs:
        """What the recurrence puts out for these inputs; copies."""
        for tensor, place, filling in zip(inputs, self._inputs, self._fillings, strict=True):
            if filling is not None:
                _fill(place, tensor, filling)
        outputs: Outputs = self._forward(self._run)
        sizes = ("BT", "BT", "BTS")
        return tuple(_cut(each, axes, extents) for each, axes in zip(outputs, sizes, strict=True))  # type: ignore[return-value]

    def backward(self, d_outputs: Gradients, extents: dict[str, int]) -> list[Tensor | None]:
        """The gradients of the inputs; copies."""
        kinds = tuple(each is not None for each in d_outputs)
        if kinds not in self._backward:
            self._backward[kinds] = Replayed(self._graph), self._places(d_outputs)
        replayed, places = self._backward[kinds]
        for place, gradient in zip(places, d_outputs, strict=True):
            if place is not None and gradient is not None:
                _fill(place, gradient, 0.0)
        hidden, context = self._values
        gradients: list[Tensor | None] = replayed(
            lambda: self._loop.backward({hidden: places[0], context: places[1]}, places[2])
        )
        return [
            None if each is None else _cut(each, axes, extents)
            for each, axes in zip(gradients, self._axes, strict=True)
        ]

    def _run(self) -> Outputs:
        weights_BTS = self._loop.forward()
        hidden, context = self._values
        return hidden.output_BTF, context.output_BTF, weights_BTS

    def _places(self, d_outputs: Gradients) -> Gradients:
        leading = ("BT", "BT", "BTS")
        return tuple(  # type: ignore[return-value]
            None if each is None else each.new_empty(Outside(each, axes).shape(self._extents))
            for each, axes in zip(d_outputs, leading, strict=True)
        )


class Flight:
    """A recurrence whose forward pass is done and whose backward pass is still to come; gone where it never does."""

    def __init__(self, shape: Shape, extents: dict[str, int]) -> None:
        self.shape = shape
        self.extents = extents


class Graphs:
    """The shapes of recurrences that are kept, and which of them is being used.

    All share their memory, so that while one waits for its backward pass others run as they are.
    """

    def __init__(self, graph: Callable[[], Graph] = CudaGraph, kept: int = KEPT) -> None:
        self._graph = graph
        self._kept = kept
        self._shapes: OrderedDict[Hashable, Shape | None] = OrderedDict()
        self._flight: weakref.ref[Flight] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the memory is in use."""
        return self._flight is not None and self._flight() is not None

    def forward(
        self, loop: Loop, hidden: Value, context: Value, inputs: Sequence[Tensor]
    ) -> tuple[Outputs, Flight] | None:
        """What a recurrence puts out, and what its backward pass is run by; None: it should run as it is."""
        if self.is_busy:
            return None
        extents = loop.extents
        rounded = {"B": _rounded(extents["B"]), "T": _up(extents["T"], STEPS), "S": _up(extents["S"], POSITIONS)}
        key = _key(loop, rounded)
        if key not in self._shapes:
            self._shapes[key] = None
            while len(self._shapes) > self._kept:
                self._shapes.popitem(last=False)
            return None
        self._shapes.move_to_end(key)
        shape = self._shapes[key]
        if shape is None:
            shape = self._shapes[key] = Shape(loop, hidden, context, rounded, self._graph)
        outputs = shape.forward(inputs, extents)
        flight = Flight(shape, extents)
        if loop.keeps:
            self._flight = weakref.ref(flight)
        return outputs, flight

    def backward(self, flight: Flight, d_outputs: Gradients) -> list[Tensor | None]:
        """The gradients of the inputs of `forward`."""
        assert self._flight is not None
        assert self._flight() is flight, "a recurrence is differentiated once"
        gradients = flight.shape.backward(d_outputs, flight.extents)
        self._flight = None
        return gradients


def _key(loop: Loop, rounded: dict[str, int]) -> Hashable:
    """What a captured recurrence depends on: its operations, the places of its weights, and what enters it."""
    outsides = tuple(
        (each.tensor.data_ptr() if each.is_fixed else each.shape(rounded), each.tensor.dtype)
        for each in loop.outsides.values()
    )
    return loop.structure, outsides, tuple(rounded.values())


def _fill(place: Tensor, tensor: Tensor, filling: float) -> None:
    """Put a tensor into the corner of a place that is as large or larger."""
    if place.shape != tensor.shape:
        place.fill_(filling)
        place = place[tuple(slice(size) for size in tensor.shape)]
    place.copy_(tensor)


def _cut(tensor: Tensor, axes: str, extents: dict[str, int]) -> Tensor:
    """A copy of the part that is not added."""
    return tensor[tuple(slice(extents[axis]) for axis in axes)].clone()


def _up(extent: int, unit: int) -> int:
    return -(-extent // unit) * unit


def _rounded(sentences: int) -> int:
    """The next number whose binary form has its ones among the first four digits."""
    return _up(sentences, 1 << max(0, (sentences - 1).bit_length() - 4))
