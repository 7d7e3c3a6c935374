"""The launches of an update on a GPU, counted without one on PyTorch's `meta` device.

An operation that the dispatcher calls is a launch, unless it is a view or allocates alone. A Triton kernel is one, and
so are a layer of cuDNN and dropout. Clipping, optimizer and average are left out: there a launch is for many tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nmt.data.batching import Batch
from nmt.kernels.cross_entropy import chunked
from nmt.kernels.cross_entropy.chunked import ChunkLosses, LossChunk, chunked_cross_entropy
from nmt.kernels.select import reference_kernels
from nmt.kernels.steps import StepKernels
from nmt.model.translator import Translator, Vocabulary
from nmt.training.objectives import TranslationObjective
from scripts.benchmarks.network import even_batch, model_options

META = torch.device("meta")
STEPS = 22
ALLOCATING = {"_unsafe_view", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


class Launches(TorchDispatchMode):
    """Counts launches by the names of their operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        name = function._schema.name.partition("::")[2]
        aliases = [each.alias_info for each in function._schema.returns if each.alias_info is not None]
        is_view = any(not alias.is_write for alias in aliases)
        tensors = [leaf for leaf in tree_leaves((arguments, result)) if isinstance(leaf, Tensor)]
        if not is_view and name not in ALLOCATING and any(each.device == META for each in tensors):
            self.counts[name] += 1
        return result


class CountedSteps(StepKernels):
    """Kernels that compute nothing."""

    def __init__(self, counts: Counter[str]) -> None:
        self.implementation = "triton"
        self.counts = counts

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def step(*tensors: Any, **_: Any) -> Any:
            self.counts[name] += name != "attention_prepare"
            keys_and_energy = tensors[1:3]
            results = {
                "attention_prepare": lambda: tensors[0],
                "attention_keys_backward": lambda: tuple(map(torch.empty_like, keys_and_energy)),
            }
            return results.get(name, lambda: None)()

        return step


class CountedLayer(torch.autograd.Function):
    """A layer in one or both directions that computes nothing."""

    @staticmethod
    def forward(ctx: Any, counts: Counter[str], directions: int, inputs: Tensor, *weights: Tensor) -> Tensor:
        ctx.counts, ctx.tensors = counts, (inputs, *weights)
        counts["layer"] += 1
        return inputs.new_empty(*inputs.shape[:-1], directions * weights[1].shape[1])

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        ctx.counts["layer backward"] += 1
        return None, None, *map(torch.empty_like, ctx.tensors)


class CountedDropout(torch.autograd.Function):
    """One launch forward and one backward, as on a GPU; elsewhere PyTorch has several operations."""

    @staticmethod
    def forward(ctx: Any, counts: Counter[str], inputs: Tensor, probability: float, training: bool) -> Tensor:
        ctx.counts = counts
        counts["dropout"] += 1
        return torch.empty_like(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.counts["dropout"] += 1
        return None, torch.empty_like(gradient), None, None


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    counting = Launches()
    asked, entered = torch.is_autocast_enabled, torch.autocast
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device != "meta" and asked(device))
    monkeypatch.setattr(
        torch, "autocast", lambda device, *a, **k: nullcontext() if device == "meta" else entered(device, *a, **k)
    )
    monkeypatch.setattr(chunked, "chunk_size", lambda weight_VR: 1 << 16)

    def gru(inputs: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        packed = others[0].device.type == "cpu"
        first, weights = others[1:3] if packed else others[:2]
        return CountedLayer.apply(counting.counts, len(first), inputs, *weights), first

    monkeypatch.setattr(torch, "gru", gru)
    return counting


def update(launches: Launches, batch: Batch, prepare: Callable[[Batch], Batch]) -> int:
    """Returns the launches of the forward and backward pass of the network for Multi30k."""

    def loss(chunk: LossChunk) -> ChunkLosses:
        logits_NV = chunk.weight_VR.product(chunk.readout_NR)
        normalizer_N, expected_N, mean_N = chunk.bias_V.new_empty(3, len(chunk.readout_NR))
        launches.counts["loss"] += 1
        assert chunk.d_bias_V is not None
        chunk.d_bias_V.add_(logits_NV.sum(0))
        return ChunkLosses(normalizer_N, expected_N, logits_NV, None, mean_N)

    cross_entropy = partial(chunked_cross_entropy, of_chunk=loss)
    steps, dropout = CountedSteps(launches.counts), partial(CountedDropout.apply, launches.counts)
    kernels = replace(reference_kernels(), cross_entropy=cross_entropy, dropout=dropout, steps=steps)
    translator = Translator(model_options("bahdanau2015"), Vocabulary(8000, 8000, bos=2), kernels).train().to(META)
    objective = TranslationObjective(translator, 0.1)
    with launches:
        (objective(prepare(batch)).trained[0] * 0.001).backward()
    return launches.counts.total()


def test_an_update_without_graphs_has_few_launches(launches: Launches) -> None:
    total = update(launches, even_batch(168, 24, STEPS, 8000), lambda batch: batch.to(META))
    assert launches.counts["attention_forward"] == launches.counts["gru_backward"] == STEPS
    assert total <= 310, launches.counts


def test_masked_padding_adds_few(launches: Launches) -> None:
    def masked(batch: Batch) -> Batch:
        assert batch.memory_M is not None
        return batch.masked(batch.memory_M.to(META))

    total = update(launches, even_batch(168, 24, STEPS, 8000), masked)
    assert total <= 350, launches.counts
