"""A network that runs by Triton kernels, compiled for a GPU or interpreted, is the one that runs without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nmt.kernels.attention import attend
from nmt.kernels.steps import Annotations, StepKernels
from tests.support.kernel_params import TRITON_DEVICES
from tests.support.networks import model_options, network, sentences, with_steps

pytestmark = pytest.mark.parametrize("device", TRITON_DEVICES)
TRITON = StepKernels("triton")


WHOLE: list[dict[str, Any]] = [
    {"score": "additive", "wiring": "bahdanau"},
    {"score": "concat", "wiring": "conditional"},
    {"score": "general", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"score": "additive", "wiring": "luong", "wiring_options": {"input_feeding": False}},
    {
        "score": "general",
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
        "cell": "lstm",
        "decoder_layers": 2,
    },
    {"score": "general", "wiring": "conditional", "cell": "rnn"},
]


def whole(options: dict[str, Any], steps: StepKernels | None, device: str) -> dict[str, torch.Tensor]:
    """Readout and weights of a network, and the gradients of a loss that depends on both."""
    translator = with_steps(network(model_options(**options)), steps).float().to(device).train()
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(4, 3, 4, size=11)
    encoded = translator.encode(source_BS.to(device), lengths_B)
    readout_BTR, weights = translator.readout(encoded, target_BT.to(device))
    assert weights is not None
    (readout_BTR.float().sin().sum() + weights.mean().square().sum()).backward()
    gradients = {name: each.grad for name, each in translator.named_parameters() if each.grad is not None}
    return {"readout": readout_BTR.detach(), "weights": weights.mean().detach(), **gradients}


def distance(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Of all elements together."""
    return sum(float((actual[name] - tensor).square().sum()) for name, tensor in expected.items()) ** 0.5


@pytest.mark.parametrize("options", WHOLE, ids=lambda options: "-".join(map(str, options.values())))
def test_a_network_gives_what_it_gives_without_kernels(options: dict[str, Any], device: str) -> None:
    expected = whole(options, None, device)
    for name, tensor in whole(options, TRITON, device).items():
        bound = (5e-5 if device == "cuda" else 2e-5) * float(expected[name].abs().max())
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=bound, msg=lambda text, name=name: name + text)
    with torch.autocast(device, torch.bfloat16):
        by_kernels = distance(whole(options, TRITON, device), expected)
        by_autograd = distance(whole(options, None, device), expected)
    # The same format of the products. A GPU rounds to bf16, the interpreter cuts off: twice the error, to one side.
    assert 0 < by_kernels <= (1.5 if device == "cuda" else 4.0) * by_autograd


def test_what_the_kernels_rely_on_is_asserted(device: str) -> None:
    keys_BSA, memory_BSC, query_BQA = (torch.randn(2, size, 12, device=device) for size in (9, 9, 1))
    source = Annotations(keys_BSA, memory_BSC, torch.zeros(2, 9, device=device), torch.ones(12, device=device))
    crossed = source._replace(keys=keys_BSA.transpose(1, 2).contiguous().transpose(1, 2))
    with pytest.raises(AssertionError, match="side by side"):
        attend(TRITON, query_BQA, crossed)
    with pytest.raises(AssertionError, match="single precision"):
        attend(TRITON, query_BQA, source._replace(bias=source.bias.double()))
