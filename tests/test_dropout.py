"""Dropout by 16 bits an element is dropout."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nmt.kernels.dropout import LEVELS, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_each_element_is_dropped_with_this_probability(probability: float) -> None:
    """The share of a million elements, and of pairs that one draw decides, within five standard deviations."""
    torch.manual_seed(1)
    count = 2**20
    dropped = dropout(torch.ones(count), probability, training=True) == 0
    assert abs(float(dropped.double().mean()) - probability) < 5 * math.sqrt(probability * (1 - probability) / count)
    lanes = dropped.view(-1, 4)
    for one in range(4):
        for other in range(one):
            both, expected = float((lanes[:, one] & lanes[:, other]).double().mean()), probability**2
            assert abs(both - expected) < 5 * math.sqrt(expected * (1 - expected) / (count / 4)), (one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_kept_grows_by_what_is_dropped(dtype: torch.dtype) -> None:
    """Quarters are multiples of 1 / 65,536: 3 becomes 4, or 0; the gradient goes where the element went."""
    torch.manual_seed(2)
    inputs = torch.full((7, 9), 3.0, dtype=dtype, requires_grad=True)
    outputs = dropout(inputs, 0.25, training=True)
    assert outputs.dtype == dtype
    assert set(outputs.flatten().tolist()) == {0.0, 4.0}
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
    torch.testing.assert_close(gradient * 3, outputs.detach())


def test_the_expectation_is_exact_though_the_probability_is_rounded() -> None:
    torch.manual_seed(3)
    outputs = dropout(torch.ones(1000, dtype=torch.float64), 0.1, training=True)
    kept = 1 - round(0.1 * LEVELS) / LEVELS
    assert outputs.max().item() == pytest.approx(1 / kept, rel=1e-12)


def test_draws_come_from_the_generator() -> None:
    inputs, drawn = torch.ones(1003), []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        drawn.append(dropout(inputs, 0.5, training=True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[2], dropout(inputs, 0.5, training=True))


def test_without_training_or_probability_nothing_happens() -> None:
    inputs = torch.randn(50)
    state = torch.get_rng_state()
    assert torch.equal(dropout(inputs, 0.5, training=False), inputs)
    assert torch.equal(dropout(inputs, 0.0, training=True), inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert not dropout(inputs, 1.0, training=True).any()


def test_a_byte_of_each_element_is_kept_for_the_gradient() -> None:
    """PyTorch's own keeps four."""
    sizes: dict[str, int] = {}
    for name, drop in (("ours", dropout), ("PyTorch's", F.dropout)):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            drop(torch.ones(100, 10, requires_grad=True), 0.5, True)
        sizes[name] = sum(kept)
    assert sizes == {"ours": 1000, "PyTorch's": 4000}
