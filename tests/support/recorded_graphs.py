"""CUDA graphs imitated on a CPU: replay runs the captured operations on the captured tensors, without Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

Result = TypeVar("Result")
UNWRITTEN = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


class RecordedGraphs:
    """Makes graphs that share the memory which they allocate: replaying one ruins what others left there."""

    def __init__(self) -> None:
        self.made: list[RecordedGraph] = []
        self.replays = 0
        self.capturing = False

    def __call__(self) -> RecordedGraph:
        self.made.append(RecordedGraph(self))
        return self.made[-1]

    @property
    def captured(self) -> int:
        """Graphs that were captured, of forward and of backward passes."""
        return sum(bool(graph.operations) for graph in self.made)


class RecordedGraph:
    """Remembers every operation that PyTorch dispatches, with its tensors."""

    def __init__(self, graphs: RecordedGraphs) -> None:
        self._tapes = graphs
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.owned: dict[int, Tensor] = {}
        """Tensors that it allocated, by their memory."""
        self.read: set[int] = set()
        """All memory that it touches."""
        self.changed: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """Tensors of others that it writes to, and what they held before."""

    def rehearse(self, function: Callable[[], Result]) -> Result:
        return function()

    def capture(self, function: Callable[[], object]) -> None:
        generator = torch.get_rng_state()
        self._tapes.capturing = True
        try:
            with _Recorder(self):
                function()
        except BaseException:
            self.operations.clear()
            raise
        finally:
            self._tapes.capturing = False
            # Capturing computes nothing, also where it fails: it changes no tensor and draws no number.
            torch.set_rng_state(generator)
            with torch.no_grad():
                for writes in self.changed.values():
                    for tensor, before in reversed(writes):
                        tensor.copy_(before)
            self.ruin()

    def replay(self) -> None:
        self._tapes.replays += 1
        for graph in self._tapes.made:
            # A backward pass reads what its forward pass left; all else may be overwritten.
            if graph is self or not self.read & graph.owned.keys():
                graph.ruin()
        for function, arguments, keywords, result in self.operations:
            with torch.no_grad():
                found = function(*arguments, **keywords)
            if not function._schema.is_mutable:
                for place, each in zip(_tensors(result), _tensors(found), strict=True):
                    place.copy_(each)

    def ruin(self) -> None:
        """Leave nothing of what it allocated."""
        for tensor in self.owned.values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        assert function is not torch.ops.aten._local_scalar_dense.default, "a capture cannot wait for a number"
        if function._schema.is_mutable:
            for each in _tensors((arguments, keywords)):
                if _memory(each) not in self.graph.owned:
                    self.graph.changed.setdefault(_memory(each), []).append((each.detach(), each.detach().clone()))
        result = function(*arguments, **keywords)
        touched = {_memory(each) for each in _tensors((arguments, keywords))}
        self.graph.read |= touched
        fresh = [each for each in _tensors(result) if _memory(each) not in touched]
        for each in fresh:
            self.graph.owned[_memory(each)] = each
        is_view = not fresh and not function._schema.is_mutable
        if not is_view and function._schema.name.split("::")[1] not in UNWRITTEN:
            # As they are now: their shapes may be changed in place.
            self.graph.operations.append(
                (function, *tree_map_only(Tensor, Tensor.detach, (arguments, keywords, result)))
            )
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
