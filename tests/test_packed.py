"""Packed recurrent layers differentiated by hand are those of the library: outputs, last states, every gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.errors import ConfigError
from nmt.kernels import packed, select
from nmt.kernels.gru.native import gru_layer
from nmt.kernels.packed import PackedGru, Packing, run_packed
from nmt.kernels.select import UnsupportedReasons, choose_kernels
from nmt.model.translator import Translator
from nmt.runtime.device import cudnn_dtype
from tests.support.kernel_params import GRUS, needs_compiler
from tests.support.networks import model_options, network, sentences, with_gru

CPU = torch.device("cpu")
DROPOUT = schema.DropoutConfig(embedding=0.3, layer=0.4, output=0.2, source_word=0.2)

by_hand = pytest.mark.parametrize("gru", GRUS)


def stack_of(bidirectional: bool, layers: int, dropout: float = 0.0, hidden: int = 4, inputs: int = 3) -> nn.GRU:
    torch.manual_seed(3)
    return nn.GRU(inputs, hidden, layers, bidirectional=bidirectional, dropout=dropout).double()


def results(
    stack: nn.GRU, packing: Packing, gru: PackedGru | None, kept: tuple[bool, bool] = (True, True)
) -> list[Tensor]:
    """Outputs, last states, and the gradients of a loss that depends on both, or on one of them."""
    stack.zero_grad()
    torch.manual_seed(5)
    inputs_PX = torch.randn(len(packing.row_P), stack.input_size, dtype=torch.float64).requires_grad_()
    outputs_PC, (finals,) = run_packed(stack, inputs_PX, packing, gru)
    parts = [part for part, wanted in zip((outputs_PC, finals), kept, strict=True) if wanted]
    sum(part.sin().mul(torch.arange(1, part.shape[-1] + 1)).sum() for part in parts).backward()
    gradients = [each.grad for each in (inputs_PX, *stack.parameters()) if each.grad is not None]
    assert len(gradients) == 1 + len(list(stack.parameters()))
    return [outputs_PC.detach(), finals.detach(), *(gradient.clone() for gradient in gradients)]


@by_hand
@pytest.mark.parametrize("lengths", [[3, 5, 1, 5], [4, 4], [1], [2, 0, 6]], ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_by_hand_is_the_library(bidirectional: bool, layers: int, lengths: list[int], gru: PackedGru) -> None:
    """The dropout between the layers is drawn alike."""
    stack = stack_of(bidirectional, layers, dropout=0.5 if layers > 1 else 0.0)
    packing = Packing.of(torch.tensor(lengths), CPU)
    for kept in ((True, True), (True, False), (False, True)):
        found = results(stack, packing, gru, kept)
        torch.testing.assert_close(found, results(stack, packing, None, kept), rtol=0, atol=1e-12)


@by_hand
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_are_slopes(bidirectional: bool, gru: PackedGru) -> None:
    stack = stack_of(bidirectional, layers=2, hidden=2)
    packing = Packing.of(torch.tensor([2, 4, 1]), CPU)
    inputs_PX = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in stack.named_parameters()]

    def run(inputs_PX: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        outputs_PC, finals = torch.func.functional_call(
            _Packed(stack, gru),
            {f"stack.{name}": each for name, each in zip(names, weights, strict=True)},
            (inputs_PX, packing),
        )
        return outputs_PC, finals[0]

    weights = [each.detach().clone().requires_grad_() for each in stack.parameters()]
    assert torch.autograd.gradcheck(run, (inputs_PX, *weights))


class _Packed(nn.Module):
    def __init__(self, stack: nn.GRU, gru: PackedGru) -> None:
        super().__init__()
        self.stack = stack
        self.gru = gru

    def forward(self, inputs_PX: Tensor, packing: Packing) -> tuple[Tensor, tuple[Tensor, ...]]:
        return run_packed(self.stack, inputs_PX, packing, self.gru)


@by_hand
def test_numbers_by_hand(gru: PackedGru) -> None:
    """Without inputs z = 1/2 and n = 0.8: h = 0.4, 0.6, 0.7. The last state's gradient for n's bias, from the end:

    dh'/db = (1 - z) (1 - n^2) + z dh/db = 0.18, 0.27, 0.315; for z's bias (h - n) z (1 - z) + z dh/db
    = -0.2, -0.1 - 0.1 = -0.2, -0.05 - 0.1 = -0.15.
    """
    stack = nn.GRU(1, 1).double()
    for parameter in stack.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(stack.bias_ih_l0[2:], math.atanh(0.8))
    packing = Packing.of(torch.tensor([3, 1]), CPU)
    outputs_PC, (finals,) = run_packed(stack, torch.ones(4, 1, dtype=torch.float64), packing, gru)
    # Packed: the first of both rows, then the rest of the longer one.
    assert outputs_PC.flatten().tolist() == pytest.approx([0.4, 0.4, 0.6, 0.7])
    assert finals.flatten().tolist() == pytest.approx([0.7, 0.4])
    finals[0, 0, 0].backward()
    assert stack.bias_ih_l0.grad is not None
    assert stack.bias_ih_l0.grad.tolist() == pytest.approx([0.0, -0.15, 0.315])


@by_hand
def test_bf16_is_no_further_from_the_truth_than_the_library(gru: PackedGru) -> None:
    stack = nn.GRU(64, 64, 2, bidirectional=True)
    exact = nn.GRU(64, 64, 2, bidirectional=True).double()
    exact.load_state_dict(stack.state_dict())
    packing = Packing.of(torch.arange(1, 41), CPU)
    inputs_PX = torch.randn(len(packing.row_P), 64)
    found: list[list[Tensor]] = []
    for layers, run, bf16 in ((exact, None, False), (stack, None, True), (stack, gru, True)):
        layers.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs_PC, (finals,) = run_packed(layers, inputs_PX.to(layers.weight_ih_l0.dtype), packing, run)
        assert outputs_PC.dtype == finals.dtype == layers.weight_ih_l0.dtype
        outputs_PC.square().sum().backward()
        gradients = torch.cat([each.grad.flatten() for each in layers.parameters() if each.grad is not None])
        found.append([outputs_PC.detach().double(), gradients.double()])
    library, by_hand = (
        [float((part - true).norm() / true.norm()) for part, true in zip(each, found[0], strict=True)]
        for each in found[1:]
    )
    assert 0.0 < by_hand[0] < library[0] < 0.01
    assert 0.0 < by_hand[1] < library[1] < 0.02


@by_hand
def test_under_bf16_the_state_is_single_precision(gru: PackedGru) -> None:
    """z = sigmoid(6), n = tanh(4): h_T = n (1 - z^T) comes nearer by a 400th a step, too little for 8 bits."""
    stack = nn.GRU(1, 1)
    for parameter in stack.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(stack.bias_ih_l0[1:2], 6.0)
    nn.init.constant_(stack.bias_ih_l0[2:], 4.0)
    steps = 1000
    packing = Packing.of(torch.tensor([steps]), CPU)
    with torch.autocast("cpu", torch.bfloat16):
        _, (finals,) = run_packed(stack, torch.zeros(steps, 1), packing, gru)
    finals.sum().backward()
    kept = 1.0 - (1.0 / (1.0 + math.exp(-6.0))) ** steps
    assert finals.item() == pytest.approx(math.tanh(4.0) * kept, rel=1e-4)
    assert stack.bias_ih_l0.grad is not None
    # The term of each step is rounded to 8 bits; their sum is in single precision.
    assert stack.bias_ih_l0.grad[2].item() == pytest.approx((1.0 - math.tanh(4.0) ** 2) * kept, rel=2**-8)


# In the encoder of translation


def encoded(translator: Translator, gru: PackedGru | None) -> list[Tensor]:
    """Annotations, last states and all gradients of the encoder, in training."""
    translator.zero_grad()
    torch.manual_seed(7)
    found = with_gru(translator, gru).train().encode(*sentences(5, 2, 7, 1, padding=2))
    outputs = [found.memory_BSC, *(part for parts in found.final_LBF for part in parts)]
    sum(part.sin().mul(torch.arange(1, part.shape[-1] + 1)).sum() for part in outputs).backward()
    gradients = [each.grad.clone() for each in translator.encoder.parameters() if each.grad is not None]
    assert len(gradients) == len(list(translator.encoder.parameters()))
    return [*(output.detach() for output in outputs), *gradients]


@by_hand
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder_layers": 2},
        {"bidirectional": False, "encoder_layers": 3},
        {"layer_normalization": True, "encoder_layers": 2},
        {"bidirectional": "first", "encoder_layers": 3},
        {"bidirectional": "first", "encoder_layers": 4, "encoder_residual_from": 3},
        {"encoder_layers": 3, "encoder_residual_from": 3},
    ],
    ids=str,
)
def test_the_encoder_by_hand_is_the_reference(options: dict[str, Any], gru: PackedGru) -> None:
    """With the same dropout: kernels take the same numbers from the generator."""
    translator = network(model_options(dropout=DROPOUT, **options))
    assert translator.encoder.unsupported_reason() == ""
    torch.testing.assert_close(encoded(translator, gru), encoded(translator, None), rtol=0, atol=1e-12)


@by_hand
def test_padding_stays_zero(gru: PackedGru) -> None:
    translator = network(model_options(layer_normalization=True))
    source_BS, lengths_B = sentences(5, 2, padding=3)
    for run in (None, gru):
        memory_BSC = with_gru(translator, run).encode(source_BS, lengths_B).memory_BSC
        assert memory_BSC.shape[1] == 8
        for row, length in enumerate(lengths_B.tolist()):
            assert memory_BSC[row, length:].abs().sum() == 0.0
            assert memory_BSC[row, :length].abs().min() > 0.0


@by_hand
def test_another_cell_is_run_by_the_library_or_refused(gru: PackedGru) -> None:
    translator = network(model_options(encoder_cell="lstm"))
    reason = translator.encoder.unsupported_reason()
    assert reason == "model.encoder.cell is not gru"
    assert len(encoded(translator, gru)) == len(encoded(translator, None))
    torch.testing.assert_close(encoded(translator, gru), encoded(translator, None), rtol=0, atol=0)
    assert reason in choose_kernels("auto", CPU, UnsupportedReasons(reason)).reason
    with pytest.raises(ConfigError, match=rf"runtime\.kernel: fused cannot be had: {reason}"):
        choose_kernels("fused", CPU, UnsupportedReasons(reason))


@needs_compiler
def test_which_kernel_runs_where(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, reference, fused = (choose_kernels(kernel, CPU).layers for kernel in ("auto", "reference", "fused"))
    assert isinstance(auto, partial)
    assert isinstance(fused, partial)
    assert auto.keywords["gru"] is fused.keywords["gru"] is gru_layer
    assert reference is run_packed
    # cuDNN is fused, and takes every cell, with or without Triton.
    monkeypatch.setattr(select, "_unsupported_device", lambda device: "there is no Triton")
    unsupported = UnsupportedReasons("model.encoder.cell is not gru", None)
    assert choose_kernels("fused", torch.device("cuda"), unsupported).layers is run_packed


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_the_library_layer_by_layer_is_the_library_at_once(kind: type[nn.RNNBase], bidirectional: bool) -> None:
    """Bit by bit, without dropout, of which they draw differently."""
    torch.manual_seed(6)
    stack = kind(5, 3, num_layers=3, bidirectional=bidirectional, batch_first=True, dropout=0.5).train()
    packing = Packing.of(torch.tensor([2, 0, 6, 1]), CPU)
    inputs_PX = torch.randn(9, 5)
    stack.dropout = 1e-9  # Rounds to nothing, and asks for one layer after the other.
    layers = run_packed(stack, inputs_PX, packing, None)
    stack.dropout = 0.0
    torch.testing.assert_close(layers, run_packed(stack, inputs_PX, packing, None), rtol=0, atol=0)


def saved_dtypes(run: Callable[[], Tensor]) -> tuple[Tensor, set[torch.dtype]]:
    """A result, and the floating-point formats of all tensors that are saved for its backward pass."""
    saved: set[torch.dtype] = set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            saved.add(tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return run(), saved


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_layers_by_the_library_run_in_the_chosen_format_whatever_autocast_does(
    monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    """fp16 stands for what autocast does to cuDNN's layers."""
    monkeypatch.setattr(packed, "recurrent_dtype", lambda tensor: torch.bfloat16)
    translator = network(model_options(cell=cell, wiring="gnmt", decoder_layers=2, encoder_layers=2)).float()
    stack, layer = translator.encoder.stack, translator.decoder.wiring.above.cells[0]
    packing = Packing.of(torch.tensor([3, 5, 1]), CPU)
    inputs_PX = torch.randn(9, 6, requires_grad=True)
    inputs_BTX = torch.randn(2, 3, layer.layer.input_size, requires_grad=True)
    state = (torch.zeros(2, 1, layer.hidden_size),) * layer.parts
    for inputs, run in (
        (inputs_PX, lambda: run_packed(stack, inputs_PX, packing)[0]),
        (inputs_BTX, lambda: layer.scan(inputs_BTX, state)),
    ):
        with torch.autocast("cpu", torch.float16):
            outputs, saved = saved_dtypes(run)
        assert outputs.dtype == torch.bfloat16
        assert saved == {torch.bfloat16}
        outputs.float().sum().backward()
        assert inputs.grad is not None
    assert all(each.grad is not None for each in (*stack.parameters(), *layer.layer.parameters()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_on_a_gpu_run_in_the_format_that_the_log_names(cell: str, dtype: torch.dtype) -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    expected, _ = cudnn_dtype(gpu, dtype)
    stack = network(model_options(cell=cell, encoder_layers=2)).float().encoder.stack.to(gpu)
    packing = Packing.of(torch.tensor([3, 5, 1]), gpu)
    inputs_PX = torch.randn(9, 6, device=gpu, requires_grad=True)
    with torch.autocast("cuda", dtype):
        outputs, saved = saved_dtypes(lambda: run_packed(stack, inputs_PX, packing)[0])
    assert outputs.dtype == expected
    assert saved == {expected}
    outputs.float().sum().backward()
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in stack.parameters())


def test_dropout_between_layers_is_never_the_library_s() -> None:
    """On any device: cuDNN's has a state that no checkpoint holds."""
    stack = nn.LSTM(3, 4, 3, dropout=0.5, device="meta")
    packing = Packing.of(torch.tensor([2, 1]), torch.device("meta"))
    drawn: list[tuple[float, bool]] = []

    def dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
        drawn.append((probability, training))
        return inputs

    outputs_PC, state = run_packed(stack, torch.randn(3, 3, device="meta"), packing, dropout=dropout)
    assert drawn == [(0.5, True)] * 2
    assert (outputs_PC.shape, [part.shape for part in state]) == ((3, 4), [(3, 2, 4)] * 2)
