"""Captures decoder recurrences as CUDA graphs and replays them: the host calls no operation of a step.

A graph has fixed shapes, and batches have too many to capture each: their shapes are rounded up, and the added
elements change nothing. Added source positions are excluded, added sentences exclude all positions, and neither they
nor added steps get a gradient: all gradients that they contribute are zero.

Inputs are copied to tensors of the graphs, outputs from them. All graphs share these tensors, and the rows of the steps
between: together they take the memory of the largest batch, and so only one batch can be between its forward and its
backward pass. Whatever runs in between runs without graphs.

Shapes: B sentences, T steps, S source positions.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from nmt.kernels.tape import BatchShape, Input, Outputs, Tape

MOST_GRAPHS = 256
"""Most graphs that are kept; captions and news need fewer (docs/performance.md)."""
MOST_SEEN = 16 * MOST_GRAPHS
"""Most shapes that are remembered before their capture."""
OUTPUT_AXES = ("BT", "BT", "BTS")
"""Axes of the outputs of a tape."""

Result = TypeVar("Result")


class Graph(Protocol):
    """A captured function of tensors with fixed addresses."""

    def rehearse(self, function: Callable[[], Result]) -> Result:
        """Calls the function, so that kernels are compiled and workspaces allocated before the capture."""

    def capture(self, function: Callable[[], None]) -> None:
        """Captures the function; it need not run."""

    def replay(self) -> None:
        """Runs the captured function on the current contents of its tensors."""


class CudaGraphs:
    """Makes graphs that share the memory which they allocate while they are captured.

    So none may be replayed while results of another one in this memory are still needed.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self) -> CudaGraph:
        if self._stream is None:
            # Memory of a pool is shared along one stream, and cuBLAS keeps a workspace for each.
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return CudaGraph(self._pool, self._stream)


class CudaGraph:
    """A `Graph` by `torch.cuda.CUDAGraph`."""

    def __init__(self, pool: Any, stream: torch.cuda.Stream) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._pool = pool
        self._stream = stream

    def rehearse(self, function: Callable[[], Result]) -> Result:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = function()
        current.wait_stream(self._stream)
        return result

    def capture(self, function: Callable[[], None]) -> None:
        # Other threads, such as NCCL's, may synchronize during the capture; this one may not.
        with torch.cuda.graph(self._graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            function()

    def replay(self) -> None:
        self._graph.replay()


def rounded(batch: BatchShape) -> BatchShape:
    """Returns the shape of the graph for batches of this shape.

    Each added step costs time, however small the batch: steps are rounded up to an eighth of the power of two below,
    sentences and positions to a quarter.
    """
    sentences, steps, positions = batch
    return BatchShape(_round_up(sentences, 4, 8), _round_up(steps, 8, 2), _round_up(positions, 4, 8))


class GraphReplayer:
    """Caches the graphs of recurrences by structure and rounded shape.

    The first batch of a shape runs without a graph, because many shapes occur only once. The second one is captured.
    """

    def __init__(self, graph: Callable[[], Graph] | None = None, most_graphs: int = MOST_GRAPHS) -> None:
        self._graph = graph or CudaGraphs()
        self._most_graphs = most_graphs
        self._buffers = SharedBuffers()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._captured: OrderedDict[Hashable, CapturedTape] = OrderedDict()
        self._pending: weakref.ref[ReplayedBackward] | None = None

    def run(self, tape: Tape) -> tuple[Outputs, ReplayedBackward] | None:
        """Returns the outputs of a tape and its backward pass; None where the tape must run without a graph."""
        if self._pending is not None and self._pending() is not None:
            return None
        batch = tape.batch
        key = rounded(batch), tape.structure
        if key not in self._captured:
            if not self._was_seen(key):
                return None
            self._captured[key] = CapturedTape(tape, rounded(batch), self._buffers, self._graph)
            # A capture waits for the GPU, so no graph is dropped while it runs.
            if len(self._captured) > self._most_graphs:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        captured, inputs = self._captured[key], tape.inputs
        outputs = captured.forward(inputs, batch)
        backward = ReplayedBackward(captured, batch, [each.tensor for each in inputs if not each.axes])
        if tape.needs_backward:
            self._pending = weakref.ref(backward)
        return outputs, backward

    def _was_seen(self, key: Hashable) -> bool:
        """Returns whether the key was seen before, and records it."""
        seen = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        return seen


@dataclass(eq=False)
class ReplayedBackward:
    """The backward pass of a replayed recurrence. While it exists, the memory of all graphs is in use.

    It is freed with autograd's node: after the backward pass, or when the outputs are freed.
    """

    captured: CapturedTape
    batch: BatchShape
    weights: list[Tensor]
    """The graph reads them again: their memory must not be freed."""

    def __call__(self, *d_outputs: Tensor | None) -> list[Tensor | None]:
        """Returns the gradients of the tape's inputs from those of its outputs."""
        return self.captured.backward(d_outputs, self.batch)


class SharedBuffers:
    """Tensors that all graphs share, as large as the largest graph needs."""

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}

    def view(self, role: Hashable, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns the tensor of this role for graphs of this shape."""
        size = math.prod(shape)
        key = role, like.dtype, like.device
        buffer = self._buffers.get(key)
        if buffer is None or len(buffer) < size:
            # Earlier graphs keep the smaller buffer, so it grows by a quarter at least.
            new_size = size if buffer is None else max(size, len(buffer) + len(buffer) // 4)
            # Validation may allocate it first, and training writes to it too.
            with torch.inference_mode(False):
                buffer = self._buffers[key] = torch.empty(new_size, dtype=like.dtype, device=like.device)
        return buffer[:size].view(*shape)


class CapturedTape:
    """The forward pass of a recurrence as one graph and, where needed, the backward pass as another."""

    def __init__(self, tape: Tape, batch: BatchShape, buffers: SharedBuffers, graph: Callable[[], Graph]) -> None:
        inputs = tape.inputs
        self._axes = [each.axes for each in inputs]
        self._inputs = [
            buffers.view(("input", number), each.shape(batch), each.tensor) if each.axes else each.tensor.detach()
            for number, each in enumerate(inputs)
        ]
        self._copy_inputs(inputs)
        recording, ran = tape.on(self._inputs, batch), tape

        def forward() -> Outputs:
            nonlocal ran
            ran = recording.on(self._inputs, batch)
            return ran.forward()

        self._forward = graph()
        outputs = self._forward.rehearse(forward)
        self._outputs = [buffers.view(("output", number), each.shape, each) for number, each in enumerate(outputs)]
        self._d_outputs = [buffers.view(("d_output", number), each.shape, each) for number, each in enumerate(outputs)]
        self._d_inputs: list[Tensor | None] = []
        if not tape.needs_backward:
            self._forward.capture(lambda: _copy_all(forward(), self._outputs))
            return

        def backward() -> list[Tensor | None]:
            return ran.backward(*self._d_outputs)

        for buffer in self._d_outputs:
            buffer.zero_()
        self._backward = graph()
        gradients = self._backward.rehearse(backward)
        self._d_inputs = [
            None if each is None else buffers.view(("d_input", number), each.shape, each)
            for number, each in enumerate(gradients)
        ]
        del outputs, gradients
        self._forward.capture(lambda: _copy_all(forward(), self._outputs))
        self._backward.capture(lambda: _copy_all(backward(), self._d_inputs))

    def forward(self, inputs: Sequence[Input], batch: BatchShape) -> Outputs:
        """Returns copies of the outputs of the recurrence."""
        self._copy_inputs(inputs)
        self._forward.replay()
        hidden, context, weights = (
            _first(buffer, batch.sizes(axes)).clone() for buffer, axes in zip(self._outputs, OUTPUT_AXES, strict=True)
        )
        return hidden, context, weights

    def backward(self, d_outputs: Sequence[Tensor | None], batch: BatchShape) -> list[Tensor | None]:
        """Returns the gradients of the inputs; copies, because autograd may keep them."""
        for buffer, d_output in zip(self._d_outputs, d_outputs, strict=True):
            if d_output is None:
                buffer.zero_()
            else:
                _fill(buffer, d_output, 0.0)
        self._backward.replay()
        return [
            None if buffer is None else _first(buffer, batch.sizes(axes)).clone()
            for buffer, axes in zip(self._d_inputs, self._axes, strict=True)
        ]

    def _copy_inputs(self, inputs: Sequence[Input]) -> None:
        for buffer, each in zip(self._inputs, inputs, strict=True):
            if each.axes:
                _fill(buffer, each.tensor, each.padding)


def _copy_all(tensors: Sequence[Tensor | None], buffers: Sequence[Tensor | None]) -> None:
    for tensor, buffer in zip(tensors, buffers, strict=True):
        if buffer is not None:
            assert tensor is not None, "every input with a gradient in the rehearsal has one"
            buffer.copy_(tensor)


def _fill(buffer: Tensor, tensor: Tensor, padding: float) -> None:
    """Copies a tensor to a larger one and pads it: elements of an earlier batch may be NaN, and must not stay."""
    if buffer.shape != tensor.shape:
        buffer.fill_(padding)
    _first(buffer, tensor.shape).copy_(tensor)


def _first(buffer: Tensor, sizes: Sequence[int]) -> Tensor:
    """Returns the first elements of each dimension."""
    return buffer[tuple(map(slice, sizes))]


def _round_up(size: int, parts: int, least: int) -> int:
    """Returns the next multiple of a part of the power of two below, or of a least unit."""
    below = 1 << max((size - 1).bit_length() - 1, 0)
    unit = max(least, below // parts)
    return -(-size // unit) * unit
