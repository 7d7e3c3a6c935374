"""Dropout by 16 bits an element is dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.kernels.dropout import native
from nmt.kernels.dropout.native import LEVELS, native_dropout
from tests.support.kernel_params import needs_compiler

Dropout = Callable[[Tensor, float, bool], Tensor]
every_kind = pytest.mark.parametrize(
    "dropout", [F.dropout, pytest.param(native_dropout, marks=needs_compiler)], ids=["reference", "native"]
)


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 as it is written (Salmon 2011, section 3.3)."""
    (a, b, c, d), (one, other), most = counter, key, 2**32 - 1
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ one, right & most, (left >> 32) ^ d ^ other, left & most
        one, other = (one + 0x9E3779B9) & most, (other + 0xBB67AE85) & most
    return [a, b, c, d]


@needs_compiler
def test_the_generator_is_philox() -> None:
    """Against the answers that its authors publish, and those against the kernel's."""
    ones = 2**32 - 1
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    groups, key = 3, 0xA4093822_299F31D0
    words = torch.empty(groups, 4, 8, dtype=torch.int32)
    native._calls(torch.float32).draw(key, groups, words.data_ptr())
    found = words.transpose(1, 2).flatten(0, 1).to(torch.int64) & ones
    assert found.tolist() == [philox([block, 0, 0, 0], [key & ones, key >> 32]) for block in range(8 * groups)]


@needs_compiler
def test_every_element_has_bits_of_its_own() -> None:
    """Those of the generator, in its order, 16 each: the smaller ones are dropped."""
    size, groups = 500, 8
    torch.manual_seed(9)
    key = int(torch.empty(1, dtype=torch.int64).random_(-(2**63), None).view(torch.uint64).item())
    words = torch.empty(groups * 32, dtype=torch.int32)
    native._calls(torch.float32).draw(key, groups, words.data_ptr())
    bits = words.view(torch.int16)[:size].to(torch.int64) & (LEVELS - 1)
    assert len(bits.unique()) > size - 10
    torch.manual_seed(9)
    outputs = native_dropout(torch.ones(size), 0.25, True)
    assert torch.equal(outputs != 0, bits >= LEVELS // 4)


@needs_compiler
def test_what_is_dropped_does_not_depend_on_threads_or_size() -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count, size in ((1, 100_003), (2, 100_003), (3, 100_003), (2, 70_001)):
            torch.set_num_threads(count)
            torch.manual_seed(6)
            found.append(native_dropout(torch.ones(size), 0.3, True)[:70_001])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)


@every_kind
def test_an_input_need_not_lie_in_one_piece(dropout: Dropout) -> None:
    inputs = torch.arange(1.0, 61.0).view(6, 10).t().requires_grad_()
    torch.manual_seed(7)
    outputs = dropout(inputs, 0.5, True)
    arrives = torch.arange(60.0).view(6, 10).t()
    (gradient,) = torch.autograd.grad(outputs, inputs, arrives)
    kept = (outputs != 0).float()
    assert 10 < kept.sum() < 50
    torch.testing.assert_close(outputs.detach(), inputs.detach() * kept * 2)
    torch.testing.assert_close(gradient, arrives * kept * 2)


@every_kind
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_each_element_is_dropped_with_this_probability(probability: float, dropout: Dropout) -> None:
    """The share of a million elements, and of pairs that one draw decides or two, within five standard deviations."""
    torch.manual_seed(1)
    count = 2**20
    dropped = dropout(torch.ones(count), probability, True) == 0
    assert abs(float(dropped.double().mean()) - probability) < 5 * math.sqrt(probability * (1 - probability) / count)
    lanes = dropped.view(-1, 8)
    for one in range(8):
        for other in range(one):
            both, expected = float((lanes[:, one] & lanes[:, other]).double().mean()), probability**2
            assert abs(both - expected) < 5 * math.sqrt(expected * (1 - expected) / (count / 8)), (one, other)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_kept_grows_by_what_is_dropped(dtype: torch.dtype, dropout: Dropout) -> None:
    """Quarters are multiples of 1 / 65,536: 3 becomes 4, or 0; the gradient goes where the element went."""
    torch.manual_seed(2)
    inputs = torch.full((7, 9), 3.0, dtype=dtype, requires_grad=True)
    outputs = dropout(inputs, 0.25, True)
    assert outputs.dtype == dtype
    assert set(outputs.flatten().tolist()) == {0.0, 4.0}
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
    torch.testing.assert_close(gradient * 3, outputs.detach())


@needs_compiler
def test_the_expectation_is_exact_though_the_probability_is_rounded() -> None:
    torch.manual_seed(3)
    outputs = native_dropout(torch.ones(1000, dtype=torch.float64), 0.1, True)
    kept = 1 - round(0.1 * LEVELS) / LEVELS
    assert outputs.max().item() == pytest.approx(1 / kept, rel=1e-12)


@needs_compiler
def test_in_bf16_the_result_is_rounded_and_not_the_factor() -> None:
    """102 / 0.9 = 113.3 becomes 113.5; times the bf16 next to 1 / 0.9, as operations of PyTorch have it, 113."""
    torch.manual_seed(8)
    outputs = native_dropout(torch.full((100,), 102.0, dtype=torch.bfloat16), 0.1, True)
    assert set(outputs.tolist()) == {0.0, 113.5}


@every_kind
def test_draws_come_from_the_generator(dropout: Dropout) -> None:
    inputs, drawn = torch.ones(1003), []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        drawn.append(dropout(inputs, 0.5, True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[2], dropout(inputs, 0.5, True))


@every_kind
def test_without_training_or_probability_nothing_happens(dropout: Dropout) -> None:
    inputs = torch.randn(50)
    state = torch.get_rng_state()
    assert torch.equal(dropout(inputs, 0.5, False), inputs)
    assert torch.equal(dropout(inputs, 0.0, True), inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert not dropout(inputs, 1.0, True).any()


@needs_compiler
def test_a_byte_of_each_element_is_kept_for_the_gradient() -> None:
    """PyTorch's own keeps four."""
    sizes: dict[str, int] = {}
    for name, drop in (("ours", native_dropout), ("PyTorch's", F.dropout)):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            drop(torch.ones(100, 10, requires_grad=True), 0.5, True)
        sizes[name] = sum(kept)
    assert sizes == {"ours": 1000, "PyTorch's": 4000}
