"""Equations by hand and against PyTorch's layers, the choice of kernels, and gradients of parts of a source."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nmt.errors import ConfigError
from nmt.kernels.compiler import Calls
from nmt.kernels.cross_entropy import chunked as chunked_module
from nmt.kernels.cross_entropy.chunked import chunked_cross_entropy
from nmt.kernels.cross_entropy.native import native_chunk_losses
from nmt.kernels.cross_entropy.reference import Losses, cross_entropy
from nmt.kernels.linear import onednn
from nmt.kernels.partial_reads import Source
from nmt.kernels.select import UnsupportedReasons, choose_kernels
from nmt.kernels.steps import StepKernels
from nmt.model.attention import Encoded, build_attention
from nmt.model.cells import CELLS, build_stack
from nmt.tasks.training import train
from tests.support.kernel_params import LOSSES, needs_compiler
from tests.support.networks import REFERENCE, model_options
from tests.support.training_runs import run_config, write_corpus

Loss = Callable[..., Losses]
chunked = pytest.mark.parametrize("fused", LOSSES)


@chunked
def test_cross_entropy_by_hand(fused: Loss) -> None:
    """One position, logits (ln 1, ln 2, ln 5), target 2: p = (1/8, 2/8, 5/8).

    -log p(target) = ln(8/5) = 0.470004;  mean of -log p = (ln 8 + ln 4 + ln(8/5)) / 3 = 1.311913
    smoothed with e = 0.1: 0.9 * 0.470004 + 0.1 * 1.311913 = 0.554195
    """
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log()
    expected = (math.log(8) + math.log(4) + math.log(8 / 5)) / 3
    assert expected == pytest.approx(1.311913, abs=1e-6)
    for kernel in (cross_entropy, fused):
        losses = kernel(torch.ones(1, 1), weight, torch.zeros(3), torch.tensor([2]), 0.1)
        assert losses.negative_log_likelihood.item() == pytest.approx(0.470004, abs=1e-6)
        assert losses.smoothed.item() == pytest.approx(0.554195, abs=1e-6)


@chunked
def test_a_gpu_has_one_chunk_where_its_memory_holds_the_logits(fused: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,100 positions, 7 pieces: of 16 x 7 x 1,100 bytes a 32nd part may be used. The results are those of chunks."""
    readout, weight, bias = torch.randn(1100, 5), torch.randn(7, 5), torch.randn(7)
    target = torch.arange(1100) % 7
    results, sizes = [], []
    for memory in (0, 32 * 16 * 7 * 1100):
        monkeypatch.setattr(chunked_module, "gpu_memory", lambda device, memory=memory: memory)
        sizes.append(chunked_module.chunk_size(weight))
        leaves = [each.clone().requires_grad_() for each in (readout, weight, bias)]
        losses = fused(*leaves, target, 0.1)
        losses.smoothed.backward()
        results.append([losses.smoothed.detach(), *(each.grad for each in leaves)])
    assert sizes == [512, 1100]
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def test_one_chunk_has_few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of the loss of 3,900 positions and its gradients, in 8 chunks or one; a CPU stands for a GPU."""
    counts = []
    for memory in (0, 80 << 30):
        monkeypatch.setattr(chunked_module, "gpu_memory", lambda device, memory=memory: memory)
        leaves = [torch.randn(*size, requires_grad=True) for size in ((3900, 4), (9, 4), (9,))]
        target = torch.zeros(3900, dtype=torch.int64)
        with CountOperations() as counter:
            chunked_cross_entropy(*leaves, target, 0.1).smoothed.backward()
        counts.append(counter.count)
    eight, one = counts
    assert one < 60
    assert eight > 3 * one


class CountOperations(TorchDispatchMode):
    """Counts operations that are launches on a GPU: all but views."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.count += not function.is_view
        return function(*arguments, **(keywords or {}))


def _without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def _on_a_card_of_2018(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")


def _with_old_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "nmt.kernels.rnn.triton", None)  # importing it fails


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (_without_triton, "the package triton is not installed"),
        (_on_a_card_of_2018, "Tesla T4 is older than what Triton compiles for"),
        (_with_old_triton, "this version of Triton does not read the kernels (ModuleNotFoundError"),
    ],
)
def test_a_gpu_without_triton_kernels_runs_the_reference_and_says_why(
    monkeypatch: pytest.MonkeyPatch, machine: Callable[[pytest.MonkeyPatch], None], why: str
) -> None:
    gpu = torch.device("cuda")
    machine(monkeypatch)
    kernels = choose_kernels("auto", gpu)
    assert kernels.steps is None
    assert f"the recurrence runs by autograd: {why}" in kernels.reason
    with pytest.raises(ConfigError, match=r"^runtime\.kernel: fused cannot be had: ") as caught:
        choose_kernels("fused", gpu)
    assert why in str(caught.value)


@needs_compiler
def test_a_forced_kernel_is_what_one_gets() -> None:
    cpu = torch.device("cpu")
    reference, fused, auto = (choose_kernels(kind, cpu) for kind in ("reference", "fused", "auto"))
    assert (reference.cross_entropy, reference.steps) == (cross_entropy, None)
    for kernels in (fused, auto):
        assert isinstance(kernels.cross_entropy, partial)
        assert kernels.cross_entropy.keywords == {"of_chunk": native_chunk_losses}
        assert kernels.steps is not None
        assert kernels.steps.implementation == "native"
    assert all(kernels.reason for kernels in (reference, fused, auto))


@needs_compiler
def test_a_forced_kernel_that_cannot_be_had_is_a_mistake() -> None:
    cpu, unsupported_reason = torch.device("cpu"), "model.decoder.cell has no native or Triton kernel"
    unsupported = UnsupportedReasons(recurrence=unsupported_reason)
    assert unsupported_reason in choose_kernels("auto", cpu, unsupported).reason
    assert choose_kernels("auto", cpu, unsupported).steps is None
    with pytest.raises(ConfigError, match=rf"runtime\.kernel: fused cannot be had: {unsupported_reason}"):
        choose_kernels("fused", cpu, unsupported)


@pytest.mark.parametrize(
    "model",
    [
        "model.attention={score: additive, wiring: bahdanau}",
        "model={encoder: {cell: lstm, layers: 2}, decoder: {cell: lstm, layers: 2}, attention: {score: concat}}",
    ],
)
def test_the_reference_runs_nothing_else(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates with dropout, and validations with their loss and a beam: no kernel in C, no prepacked product of oneDNN,
    no step that a tape records."""
    write_corpus(tmp_path)
    run = [f"run={tmp_path}/run", "training.max_epochs=1", "search.beam_size=3", "validation.sentences=4", model]

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("not the reference")

    for owner, name in ((Calls, "__getattr__"), (onednn.PrepackedProduct, "product"), (StepKernels, "__getattr__")):
        monkeypatch.setattr(owner, name, refuse)
    train(run_config(tmp_path, *run, "runtime.kernel=reference"))
    with pytest.raises(AssertionError, match="not the reference"):
        train(run_config(tmp_path, f"run={tmp_path}/other", *run[1:], "runtime.kernel=auto"))


@pytest.mark.parametrize("kind", list(CELLS))
def test_cells_are_those_of_the_library(kind: str) -> None:
    """Our step, repeated with the library's weights, gives the library's outputs and gradients; so does `scan`."""
    torch.manual_seed(0)
    cell = CELLS.build(CELLS[kind].options(), 4, 3, REFERENCE).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.uniform_(-1, 1)
    inputs_BTE = torch.randn(2, 5, 4, dtype=torch.float64)
    start = tuple(torch.randn(2, 1, 3, dtype=torch.float64) for _ in range(cell.parts))

    first = tuple(part.transpose(0, 1) for part in start)
    expected, _ = cell.layer(inputs_BTE, first if cell.parts > 1 else first[0])
    expected.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in cell.named_parameters()}
    assert len(gradients) == 4

    cell.zero_grad()
    state, outputs = start, []
    for position in range(5):
        state = cell(cell.project(inputs_BTE[:, position : position + 1]), state)
        outputs.append(state[0])
    actual = torch.cat(outputs, 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    actual.square().sum().backward()
    for name, parameter in cell.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-12)
    torch.testing.assert_close(cell.scan(inputs_BTE, start), expected, rtol=0, atol=0)


def test_gru_step_by_hand() -> None:
    """One unit, h = 0.5, input half (r, z, n) = (0, 0, 0.1), recurrent half (0, ln 3, 0.4).

    r = sigmoid 0 = 0.5;  z = sigmoid(ln 3) = 0.75;  n = tanh(0.1 + 0.5 * 0.4) = tanh 0.3 = 0.291313
    h' = 0.25 * 0.291313 + 0.75 * 0.5 = 0.447828
    """
    from nmt.kernels.gru.reference import gru_step

    (step,) = gru_step(torch.tensor([0.0, 0.0, 0.1]), torch.tensor([0.0, math.log(3), 0.4]), (torch.tensor([0.5]),))
    assert step.item() == pytest.approx(0.447828, abs=1e-6)


initial: list[tuple[str, Callable[[nn.RNNBase], torch.Tensor], float]] = [
    ("lstm", lambda stack: stack.bias_ih_l0.chunk(4)[1], 1.0),
    ("gru", lambda stack: stack.bias_ih_l0, 0.0),
]


@pytest.mark.parametrize(("kind", "part", "value"), initial, ids=["lstm", "gru"])
def test_an_lstm_starts_out_remembering(kind: str, part: Callable[[nn.RNNBase], torch.Tensor], value: float) -> None:
    stack = build_stack(CELLS[kind].options(), 4, 3, 2, bidirectional=True, dropout=0.0)
    assert torch.equal(part(stack), torch.full_like(part(stack), value))
    recurrent = stack.weight_hh_l1_reverse.chunk(CELLS[kind].build.gates)[0]
    torch.testing.assert_close(recurrent @ recurrent.t(), torch.eye(3))


@pytest.mark.parametrize("leading", [(2,), (2, 3)], ids=["sentences", "heads"])
def test_parts_of_a_source_get_the_gradients_of_plain_indexing(leading: tuple[int, ...]) -> None:
    """Slices and rows, read again and again, and from both at once; a second backward pass begins anew."""
    torch.manual_seed(0)
    features = torch.randn(*leading, 7, 4, dtype=torch.float64, requires_grad=True)
    positions = torch.randint(7, (*leading, 2, 3))
    weights = [torch.randn(*leading, 3, 4, dtype=torch.float64), torch.randn(*leading, 2, 3, 4, dtype=torch.float64)]

    def plain() -> torch.Tensor:
        rows = features.unsqueeze(-3).expand(*leading, 2, 7, 4)
        taken = rows.gather(-2, positions.unsqueeze(-1).expand(*positions.shape, 4))
        slices = sum((features[..., first : first + 3, :] * weights[0]).sum() for first in (0, 2, 2, 4))
        return slices + (taken.square() * weights[1]).sum()

    def in_parts() -> torch.Tensor:
        source = Source(features * 1.0)
        slices = sum((source.read(first, 3) * weights[0]).sum() for first in (0, 2, 2, 4))
        return slices + (source.take(positions).square() * weights[1]).sum()

    torch.testing.assert_close(in_parts(), plain(), rtol=1e-12, atol=0)
    (expected,) = torch.autograd.grad(plain(), features)
    loss = in_parts()
    for _ in range(2):
        (actual,) = torch.autograd.grad(loss, features, retain_graph=True)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(in_parts(), plain(), rtol=1e-12, atol=0)


class LargeTensors(TorchDispatchMode):
    """Counts the operations whose result has at least so many elements of its own."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        large = torch.is_tensor(result) and result.numel() >= self.elements
        self.count += large and not torch._C._is_alias_of(result, arguments[0]) if arguments else large
        return result


@pytest.mark.parametrize("window", ["local_monotonic", "local_predictive"])
def test_a_step_of_local_attention_makes_nothing_as_large_as_the_source_backward_included(window: str) -> None:
    """Four times as many steps need no more such tensors: what is as large as the source is made once."""
    options = model_options(score="dot", window=window, window_options={"half_width": 2}).attention
    attention = build_attention(options, 4, 4, REFERENCE)
    counts = []
    for steps in (3, 12):
        memory = torch.randn(1, 500, 4, requires_grad=True)
        prepared = attention.prepare(Encoded(memory, torch.ones(1, 500, dtype=torch.bool), ()))
        queries = torch.randn(1, steps, 4).unbind(1)
        with LargeTensors(memory.numel()) as large:
            contexts = [attention(query.unsqueeze(1), prepared, (), t).context_BQC for t, query in enumerate(queries)]
            torch.autograd.grad(torch.cat(contexts, 1).sum(), memory)
        counts.append(large.count)
    assert counts[0] == counts[1] > 0
