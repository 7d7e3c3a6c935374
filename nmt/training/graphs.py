"""Whole updates as CUDA graphs: forward and backward pass, clipping, optimizer and average in one launch.

A graph has fixed shapes and addresses, so there is one for each shape of a batch. The planner makes few shapes, and
padding is computed and masked: the shape alone decides what runs. An update of a shape without a graph runs the same
operations one by one, with the same results. So a run that is resumed, and has captured nothing yet, goes on exactly.
PyTorch replays random operations with the state of its generator and advances it, as without a graph.

All graphs share the memory of their intermediate results: that of the largest update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from nmt.config.schema import LearningConfig
from nmt.data.batching import Batch
from nmt.errors import TrainingError, counted
from nmt.kernels.cross_entropy.chunked import MOST_PIECES
from nmt.kernels.select import Kernels
from nmt.runtime import Runtime, free_memory, gpu_memory, logger, pinned
from nmt.training.objectives import Objective, TranslationObjective
from nmt.training.optimizers import AdamOptions, SgdOptions

SEEN = 2
"""Updates of a shape before its capture: the most frequent shapes are captured first, many occur only once."""
MOST_GRAPHS = 256
"""Most shapes with a graph. Captions have 59, news up to 100 pieces long 195 (docs/performance.md)."""
LEAST_FREE = 0.1
"""Share of the GPU's memory that captures leave free. A graph of a thousand kernels takes some MB of its own."""

Result = TypeVar("Result")
Shape = tuple[int, int, int]


class Graph(Protocol):
    """A captured function of tensors with fixed addresses."""

    def rehearse(self, function: Callable[[], Result]) -> Result:
        """Calls the function where graphs are captured, so that libraries have their workspaces there."""

    def capture(self, function: Callable[[], object]) -> None:
        """Captures the function; it need not run."""

    def replay(self) -> None:
        """Runs the captured function on the current contents of its tensors."""


class CudaGraphs:
    """Makes graphs that share the memory which they allocate while they are captured.

    So none may be replayed while results of another one in this memory are still needed.
    """

    def __init__(self) -> None:
        # Memory of a pool is shared along one stream, and cuBLAS keeps a workspace for each.
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self) -> CudaGraph:
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

    def capture(self, function: Callable[[], object]) -> None:
        options: Any = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        generator, random = torch.cuda.default_generators[self._stream.device.index], torch.cuda.get_rng_state()
        try:
            # The outer context restores the current stream, which PyTorch leaves changed where a capture fails. Other
            # threads may allocate or synchronize meanwhile, such as the one that prepares batches; this one may not.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(self._graph, **options):
                function()
        except torch.OutOfMemoryError:
            raise  # the capture ended like any other
        except RuntimeError:
            # PyTorch still takes the generator for captured, so that it would draw no more numbers, and the pool for in
            # use, so that it would free no cached memory where memory runs out. (Before 2.8 that stays so.)
            generator.graphsafe_set_state(torch.Generator(self._stream.device).graphsafe_get_state())
            torch.cuda.set_rng_state(random)
            with suppress(AttributeError, RuntimeError):
                torch._C._cuda_endAllocateToPool(self._stream.device.index, self._pool)
            raise

    def replay(self) -> None:
        self._graph.replay()


class CapturedUpdate(NamedTuple):
    """The graph of one shape, and the memory of the batch that it reads."""

    graph: Graph
    memory_M: Tensor


class UpdateGraphs:
    """Runs updates of one batch each, from graphs where their shape has one."""

    def __init__(
        self, compute: Callable[[Batch, Tensor], Tensor], device: torch.device, new_graph: Callable[[], Graph]
    ) -> None:
        """`compute` runs an update with a masked batch on the device and some numbers, and returns its results."""
        self._compute = compute
        self._device = device
        self._new_graph = new_graph
        self._alone = new_graph()
        self._numbers: Tensor | None = None
        self._results: Tensor | None = None
        self._seen: Counter[Shape] = Counter()
        self._captured: dict[Shape, CapturedUpdate] = {}
        self._is_full = False
        self.updates = 0
        self.replayed = 0

    def masked(self, batch: Batch) -> Batch:
        """Returns a batch on the device, as `compute` takes it."""
        assert batch.memory_M is not None, "a batch for graphs is one copy"
        return batch.masked(batch.memory_M.to(self._device, non_blocking=True))

    def run(self, batch: Batch, numbers: Sequence[float]) -> Tensor:
        """Runs an update with a batch on the CPU; returns the results of `compute`, as a tensor of their own."""
        numbers_on_host = pinned(torch.tensor(numbers))
        if self._numbers is None:
            self._numbers = torch.empty_like(numbers_on_host, device=self._device)
        self._numbers.copy_(numbers_on_host, non_blocking=True)
        self.updates += 1
        captured = self._captured.get(batch.shape) or self._capture_if_due(batch)
        if captured is None:
            results = self._run_directly(batch, self._numbers)
            if self._results is None:
                self._results = torch.empty_like(results)
            return results
        assert batch.memory_M is not None
        assert self._results is not None
        self.replayed += 1
        captured.memory_M.copy_(batch.memory_M, non_blocking=True)
        captured.graph.replay()
        return self._results.clone()

    def summary(self) -> str:
        """Returns the share of updates that ran from graphs, for the log."""
        share = self.replayed / max(self.updates, 1)
        return f"CUDA graphs of {counted(len(self._captured), 'shape')} ran {share:.0%} of the updates"

    def _run_directly(self, batch: Batch, numbers: Tensor) -> Tensor:
        """Runs an update without a graph; gives up the graphs, and their memory, where it has too little."""
        try:
            return self._alone.rehearse(lambda: self._compute(self.masked(batch), numbers))
        except TrainingError:
            # Memory ran out in the forward or backward pass, which changes nothing.
            if not self._captured:
                raise
        self._captured.clear()
        self._is_full = True
        logger.warning("updates run without CUDA graphs from now on: memory ran out with %s", batch.describe())
        return self._run_directly(batch, numbers)

    def _capture_if_due(self, batch: Batch) -> CapturedUpdate | None:
        """Captures the update of a batch whose shape was seen a few times, while there is room."""
        self._seen[batch.shape] += 1
        if self._is_full or self._seen[batch.shape] <= SEEN:
            return None
        torch.cuda.empty_cache()  # as a capture does: cached memory is free
        free, whole = free_memory(self._device), gpu_memory(self._device)
        known = self._captured
        if len(known) == MOST_GRAPHS or (free is not None and free < LEAST_FREE * whole):
            self._is_full = True
            logger.info("no more shapes are captured as CUDA graphs: there are %d", len(known))
            return None
        assert batch.memory_M is not None
        memory_M = torch.empty_like(batch.memory_M, device=self._device).copy_(batch.memory_M, non_blocking=True)
        captured = CapturedUpdate(self._new_graph(), memory_M)
        masked, numbers, results = batch.masked(captured.memory_M), self._numbers, self._results
        assert numbers is not None
        assert results is not None, "an update of this shape ran before"
        try:
            captured.graph.capture(lambda: results.copy_(self._compute(masked, numbers)))
        except (RuntimeError, TrainingError) as error:
            # An error of CUDA hides the one that made the capture fail.
            why = str(error.__context__ or error).partition("\n")[0]
            self._is_full = True
            if isinstance(error, (torch.OutOfMemoryError, TrainingError)):
                logger.info("no more shapes are captured as CUDA graphs: there are %d, and memory ran out", len(known))
            else:
                known.clear()
                logger.warning("updates run without CUDA graphs from now on: %s", why)
                logger.debug("a capture failed", exc_info=True)
            return None
        known[batch.shape] = captured
        return captured


def reason_without_graphs(options: LearningConfig, runtime: Runtime, objective: Objective, kernels: Kernels) -> str:
    """Returns why updates do not run from graphs, or an empty string."""
    if runtime.device.type != "cuda":
        return "they are for a GPU alone"
    if runtime.world > 1:
        return f"{runtime.world} processes exchange gradients"
    if options.accumulation > 1:
        return "training.accumulation is not 1"
    if type(objective) is not TranslationObjective:
        return "training.objective is not likelihood"
    if objective.guidance.weight:
        return "training.guided_alignment reads links, of which each batch has another number"
    if not isinstance(options.optimizer, (AdamOptions, SgdOptions)):
        return "training.optimizer is not one of PyTorch's fused ones"
    if not kernels.skips_positions or objective.model.projection.out_features > MOST_PIECES:
        return "the loss has no Triton kernel here"
    return objective.model.unmasked_reason()
