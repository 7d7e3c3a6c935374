"""The additive score by its factors is v' tanh(q + k)."""

from __future__ import annotations

import math

import pytest
import torch

from nmt.kernels.attention import additive_scores, exponentials
from nmt.model.attention.base import View
from tests.support.networks import REFERENCE


def drawn(*leading: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Queries [..., 3, 5], keys [..., 4, 5] and energy [5]."""
    generator = torch.Generator().manual_seed(3)
    shapes = (*leading, 3, 5), (*leading, 4, 5), (5,)
    return tuple((torch.randn(shape, generator=generator, dtype=dtype) * scale).requires_grad_() for shape in shapes)


def factored(query: torch.Tensor, keys: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    return additive_scores(query, keys, exponentials(keys.detach()), energy)


def plain(query: torch.Tensor, keys: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    return torch.tanh(query.unsqueeze(-2) + keys.unsqueeze(-3)) @ energy


def test_one_score_by_hand() -> None:
    """2 tanh(1/2 + 1/4) - 3 tanh(-1 + 1/4) = 2 x 0.635149 + 3 x 0.635149."""
    query, keys = torch.tensor([[[0.5, -1.0]]]), torch.tensor([[[0.25, 0.25]]])
    score = factored(query, keys, torch.tensor([2.0, -3.0]))
    assert score.shape == (1, 1, 1)
    assert score.item() == pytest.approx(5 * 0.6351489523872873, rel=1e-6)


@pytest.mark.parametrize("leading", [(2,), (2, 6)], ids=["one head", "heads"])
def test_scores_and_gradients_are_those_of_tanh(leading: tuple[int, ...]) -> None:
    inputs = drawn(*leading)
    torch.testing.assert_close(factored(*inputs), plain(*inputs), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(factored, inputs)


def test_in_single_precision_it_is_as_exact_as_tanh() -> None:
    """Compared with double precision, over arguments from tiny to saturated."""
    for scale in (1e-3, 1.0, 4.0, 12.0):
        inputs = [each.detach() for each in drawn(50, dtype=torch.float32, scale=scale)]
        exact = plain(*(each.double() for each in inputs))
        errors = [float((found.double() - exact).abs().max()) for found in (factored(*inputs), plain(*inputs))]
        # A sum of 5 terms of this scale, each good to a rounding of single precision.
        assert max(errors) < 5 * 4 * scale * 2**-22, (scale, errors)


def test_without_a_query_it_is_a_tanh_of_the_keys() -> None:
    """2 tanh(1/4) - 3 tanh(-1), with and without what queries would need; then 1/2 and -1 from coverage."""
    keys, energy = torch.tensor([[0.25, -1.0]]), torch.tensor([2.0, -3.0])
    for given in (None, exponentials(keys)):
        view = View(keys, own=False, width=1, positions=None, covered=None, exponentials=given)
        score = view.additive(None, energy, REFERENCE)
        assert score.shape == (1, 1)
        assert score.item() == pytest.approx(2 * 0.2449186624 + 3 * 0.7615941560, rel=1e-6)
    covered = torch.tensor([[[0.5, -1.0]]])
    view = View(keys, own=False, width=1, positions=None, covered=covered, exponentials=exponentials(keys))
    assert view.additive(None, energy, REFERENCE).item() == pytest.approx(2 * 0.6351489524 + 3 * 0.9640275801, rel=1e-6)


def test_nothing_is_undefined_however_large_the_arguments() -> None:
    edges = torch.tensor([-1e30, -200.0, -50.0, 0.0, 50.0, 200.0, 1e30])
    query, keys = edges.view(1, 7, 1).clone().requires_grad_(), edges.view(1, 7, 1).clone().requires_grad_()
    scores = factored(query, keys, torch.ones(1))
    scores.sum().backward()
    # Arguments are clamped before they are added: 200 and -50 then cancel, though tanh(150) is saturated.
    assert scores.isfinite().all()
    assert query.grad is not None
    assert keys.grad is not None
    assert query.grad.isfinite().all()
    assert keys.grad.isfinite().all()
    same_sign = torch.sign(edges).view(7, 1) * torch.sign(edges) >= 0
    torch.testing.assert_close(scores[0][same_sign], torch.tanh(edges.view(7, 1) + edges)[same_sign])


def test_half_precision_is_computed_in_single() -> None:
    query, keys, energy = (each.detach().bfloat16().requires_grad_() for each in drawn(2))
    scores = factored(query, keys, energy)
    assert scores.dtype == torch.float32
    exact = plain(*(each.detach().float() for each in (query, keys, energy)))
    torch.testing.assert_close(scores, exact, rtol=1e-5, atol=1e-5)
    scores.sum().backward()
    assert all(each.grad is not None and each.grad.dtype == torch.bfloat16 for each in (query, keys, energy))


def test_nothing_as_large_as_all_pairs_is_kept_for_the_backward_pass() -> None:
    query, keys, energy = drawn(2)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        factored(query, keys, energy)
    assert kept
    assert max(kept) <= max(query.numel(), keys.numel()) < math.prod((2, 3, 4, 5))
