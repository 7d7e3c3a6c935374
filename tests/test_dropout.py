"""The bits of native dropout: their generator, one draw an element, rounding, memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional as F

from nmt.kernels.dropout import native
from nmt.kernels.dropout.native import LEVELS, native_dropout
from tests.support.kernel_params import needs_compiler


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
