"""Attention against numbers worked out by hand from the papers' equations."""

from __future__ import annotations

import math

import pytest
import torch

from nmt.model.attention import Encoded, build_attention
from nmt.model.attention.additive import AdditiveOptions, AdditiveScore
from nmt.model.attention.base import SCORES, View
from nmt.model.attention.none import NoneOptions
from tests.networks import model_options


def encoded(memory_BSC: torch.Tensor, *lengths: int) -> Encoded:
    """What an encoder would say; its last states are the annotations of the first position."""
    mask_BS = torch.arange(memory_BSC.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    return Encoded(memory_BSC * mask_BS.unsqueeze(-1), mask_BS, ((memory_BSC[:, 0],),))


def everything(keys_BSA: torch.Tensor | None, width: int = 0) -> View:
    """What the global window shows."""
    return View(keys_BSA, own=False, width=width or keys_BSA.shape[1], positions=None, covered=None)


def set_weights(score: AdditiveScore, **weights: list[list[float]]) -> None:
    with torch.no_grad():
        for name, values in weights.items():
            getattr(score, name).weight.copy_(torch.tensor(values))


def test_additive_by_hand() -> None:
    """e_s = v' tanh(W q + U m_s), Bahdanau 2015, A.1.2, with W = U = [[1, 0], [0, 1]], v = (1, 2), b = (0, 0).

    q = (0, 1), m_1 = (1, -1), m_2 = (0, 1):
      W q + U m_1 = (1, 0):  e_1 = tanh 1 + 2 tanh 0 = 0.761594
      W q + U m_2 = (0, 2):  e_2 = tanh 0 + 2 tanh 2 = 1.928055
      a_1 = 1 / (1 + exp(1.928055 - 0.761594)) = 1 / (1 + 3.210616) = 0.237495,  a_2 = 0.762505
      c = a_1 m_1 + a_2 m_2 = (0.237495, -0.237495 + 0.762505) = (0.237495, 0.525010)
    """
    options = model_options().attention.model_copy(update={"score": AdditiveOptions(hidden_size=2)})
    attention = build_attention(options, 2, 2)
    set_weights(attention.score, query=[[1, 0], [0, 1]], memory=[[1, 0], [0, 1]], energy=[[1, 2]])
    memory_BSC = torch.tensor([[[1.0, -1.0], [0.0, 1.0], [9.0, 9.0]]])
    prepared = attention.prepare(encoded(memory_BSC, 2))
    look = attention(torch.tensor([[[0.0, 1.0]]]), prepared, (), 0)
    context_BQC, weights_BQS = look.context_BQC, look.weights.mean()
    torch.testing.assert_close(weights_BQS, torch.tensor([[[0.237495, 0.762505, 0.0]]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(context_BQC, torch.tensor([[[0.237495, 0.525010]]]), rtol=0, atol=1e-6)
    assert weights_BQS[0, 0, 2] == 0.0


def test_additive_bias_is_inside_the_tanh() -> None:
    """With W = U = 0, b = (0.5) and v = (2) every score is 2 tanh 0.5 = 0.924234."""
    score = SCORES.build(AdditiveOptions(hidden_size=1), 2, 2)
    set_weights(score, query=[[0, 0]], memory=[[0, 0]], energy=[[2]])
    with torch.no_grad():
        score.memory.bias.fill_(0.5)
    memory_BSC = torch.ones(1, 3, 2)
    scores_BQS = score(torch.ones(1, 1, 2), everything(score.keys(memory_BSC)))
    torch.testing.assert_close(scores_BQS, torch.full((1, 1, 3), 2 * math.tanh(0.5)))


def test_queries_of_a_sentence_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    attention = build_attention(model_options().attention, 4, 3)
    prepared = attention.prepare(encoded(torch.randn(2, 5, 3), 5, 3))
    query_BQH = torch.randn(2, 3, 4)
    together = attention(query_BQH, prepared, (), 0).context_BQC
    for query in range(3):
        alone = attention(query_BQH[:, query : query + 1], prepared, (), 0).context_BQC
        torch.testing.assert_close(alone, together[:, query : query + 1])


@pytest.mark.parametrize(("context", "size"), [("every_step", 3), ("first_state", 0)])
def test_without_attention_the_context_is_the_last_state_or_nothing(context: str, size: int) -> None:
    options = model_options().attention.model_copy(update={"score": NoneOptions(context=context)})
    attention = build_attention(options, 4, 3)
    assert attention.context_size == size
    memory_BSC = torch.randn(2, 5, 3)
    look = attention(torch.randn(2, 1, 4), attention.prepare(encoded(memory_BSC, 5, 3)), (), 0)
    assert look.weights is None
    assert torch.equal(look.context_BQC[:, 0], memory_BSC[:, 0, :size])
