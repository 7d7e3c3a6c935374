"""What a GPU is told once, and then only to do again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")


class Graph(Protocol):
    """What a function does to tensors that stay where they are."""

    def rehearse(self, function: Callable[[], Result]) -> Result:
        """Call it as it is, so that what is done but once is done before: kernels compiled, products given room."""

    def capture(self, function: Callable[[], None]) -> None:
        """Remember what it does to tensors, which need not be done now."""

    def replay(self) -> None:
        """Do that, with the numbers that its tensors hold now."""


class CudaGraphs:
    """Makes graphs that share the memory which they allocate while they are captured.

    So none of them may be replayed while what another one left there is still needed.
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
    """By `torch.cuda.CUDAGraph`."""

    def __init__(self, pool: Any, stream: torch.cuda.Stream) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._pool = pool
        self._stream = stream

    def rehearse(self, function: Callable[[], Result]) -> Result:
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = function()
        here.wait_stream(self._stream)
        return result

    def capture(self, function: Callable[[], None]) -> None:
        # Other threads go on meanwhile, NCCL's and the one that makes batches: only this one is held to the rules.
        captured = torch.cuda.graph(
            self._graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        with captured:
            function()

    def replay(self) -> None:
        self._graph.replay()
