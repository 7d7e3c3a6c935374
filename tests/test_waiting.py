"""Nothing in an update makes the host wait for the device, shown without one.

PyTorch's `meta` device computes shapes alone: it has no numbers to give, so that whatever asks for one fails. What it
cannot show is a copy to the device that waits; such a copy is looked for among the operations.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nmt.data.batching import Batch
from nmt.kernels.cross_entropy.chunked import chunked_cross_entropy
from nmt.kernels.packed import PackedGru, Packing
from nmt.kernels.select import reference_kernels
from nmt.model.attention import base as attention_base
from nmt.model.encoder import RecurrentEncoder
from nmt.training.objectives import TranslationObjective
from nmt.training.optimizers import MovingAverage
from tests.support.networks import model_options, network, sentences, with_steps
from tests.support.reference_steps import ReferenceKernels

DEVICE = torch.device("meta")
NETWORKS: list[dict[str, Any]] = [
    {},
    {"score": "general", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"score": "dot", "wiring": "conditional", "layer_normalization": True},
    {"cell": "lstm", "wiring": "gnmt", "decoder_layers": 2},
    {"score": "dot", "window": "local_predictive", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"score": "general", "window": "local_monotonic", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"score": "location", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"coverage": "neural"},
    {"coverage": "linguistic"},
    {"heads": 2},
    {"normalizer": "sparsemax"},
    {
        "normalizer": "entmax15",
        "score": "general",
        "window": "local_monotonic",
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
    },
]


class Watch(TorchDispatchMode):
    """Fails at a copy between devices that the host would wait for."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        if function is torch.ops.aten._to_copy.default and result.device != arguments[0].device:
            assert keywords.get("non_blocking"), f"a copy of {tuple(result.shape)} waits"
        if function is torch.ops.aten.copy_.default and arguments[0].device != arguments[1].device:
            assert len(arguments) > 2, f"a copy of {tuple(result.shape)} waits"
            assert arguments[2], f"a copy of {tuple(result.shape)} waits"
        return result


@pytest.fixture(autouse=True)
def _meta_has_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, entered = torch.is_autocast_enabled, torch.autocast
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device != "meta" and asked(device))
    monkeypatch.setattr(
        torch, "autocast", lambda device, *a, **k: nullcontext() if device == "meta" else entered(device, *a, **k)
    )


def update(options: dict[str, Any], kernel: str) -> None:
    """Forward, backward, clipping and the moving average, as the trainer makes them.

    The step is left out: PyTorch's fused rules refuse `meta`; test_trainer.py watches them on a CPU.
    """
    source_BS, source_lengths_B = sentences(5, 2, 7)
    target_BT, target_lengths_B = sentences(6, 3, 4, size=11)
    batch = Batch(source_BS, source_lengths_B, target_BT, target_lengths_B, np.arange(3), 13)
    kernels = reference_kernels()
    if kernel == "fused":
        # Compiled kernels need numbers.
        kernels = replace(kernels, cross_entropy=chunked_cross_entropy, steps=ReferenceKernels())
    translator = network(model_options(**options), kernels=kernels).float().train().to(DEVICE)
    objective = TranslationObjective(translator, 0.1)
    parameters = list(translator.parameters())
    average = MovingAverage(parameters, 0.9)
    with Watch():
        sums = objective(batch.to(DEVICE))
        (sums.trained[0] / batch.target_tokens).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        is_finite = torch.isfinite(norm) & torch.isfinite(sums.reported()[0])
        average.update(is_finite)


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_an_update_never_waits(options: dict[str, Any]) -> None:
    update(options, "reference")


@pytest.mark.parametrize("options", NETWORKS[:3], ids=str)
def test_nor_does_a_recorded_recurrence(options: dict[str, Any]) -> None:
    update(options, "fused")


def test_waiting_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to the device, and a copy to it that waits."""
    forward = RecurrentEncoder.forward

    def asking(encoder: RecurrentEncoder, source_BS: Tensor, lengths_B: Tensor, gru: PackedGru | None = None) -> Any:
        assert int(source_BS.sum()) > 0
        return forward(encoder, source_BS, lengths_B, gru)

    def copying(encoder: RecurrentEncoder, source_BS: Tensor, lengths_B: Tensor, gru: PackedGru | None = None) -> Any:
        lengths_B.to(source_BS.device)
        return forward(encoder, source_BS, lengths_B, gru)

    for wrong, message in ((asking, "meta"), (copying, "waits")):
        monkeypatch.setattr(RecurrentEncoder, "forward", wrong)
        with pytest.raises((RuntimeError, AssertionError), match=message):
            update({}, "reference")


def test_a_packing_is_one_copy() -> None:
    copies = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
            result = function(*arguments, **(keywords or {}))
            if function is torch.ops.aten._to_copy.default and result.device != arguments[0].device:
                copies.append(result.shape)
            return result

    with Count():
        packing = Packing.of(torch.tensor([2, 3, 1]), DEVICE)
    assert copies == [(3, 6)]
    assert packing.element_P.device == packing.row_P.device == packing.position_P.device == DEVICE


def test_exponentials_that_a_recorded_recurrence_never_reads_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(keys: Tensor) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setattr(attention_base, "exponentials", computed)
    translator = network(model_options())
    source_BS, lengths_B = sentences(4, 2)
    encoded, (target_BT, _) = translator.encode(source_BS, lengths_B), sentences(3, 5, size=11)
    with_steps(translator, ReferenceKernels()).readout(encoded, target_BT)
    with pytest.raises(AssertionError, match="computed"):
        with_steps(translator, None).readout(encoded, target_BT)
