"""Attention against numbers worked out by hand from the papers' equations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from nmt.config import schema
from nmt.model.attention import AttentionOutput, Encoded, build_attention
from nmt.model.attention.additive import AdditiveOptions, AdditiveScore
from nmt.model.attention.base import COVERAGES, SCORES, WINDOWS, View
from nmt.model.attention.none import NoneOptions
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.wiring import WIRINGS
from tests.support.networks import REFERENCE, model_options


def encoded(memory_BSC: torch.Tensor, *lengths: int) -> Encoded:
    """Encoder output; its last states are the annotations of the first position."""
    mask_BS = torch.arange(memory_BSC.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    return Encoded(memory_BSC * mask_BS.unsqueeze(-1), mask_BS, ((memory_BSC[:, 0],),))


def everything(keys_BSA: torch.Tensor | None, width: int = 0) -> View:
    """View of the global window: all keys."""
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
    attention = build_attention(options, 2, 2, REFERENCE)
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
    score = SCORES.build(AdditiveOptions(hidden_size=1), 2, 2, REFERENCE)
    set_weights(score, query=[[0, 0]], memory=[[0, 0]], energy=[[2]])
    with torch.no_grad():
        score.memory.bias.fill_(0.5)
    memory_BSC = torch.ones(1, 3, 2)
    scores_BQS = score(torch.ones(1, 1, 2), everything(score.keys(memory_BSC)))
    torch.testing.assert_close(scores_BQS, torch.full((1, 1, 3), 2 * math.tanh(0.5)))


BY_HAND: list[tuple[str, dict[str, object], dict[str, object], float]] = [
    # Luong 2015, section 3.1, dot: e = q' m_1, q' m_2 = -1, 1;  a_1 = 1 / (1 + e^2)
    ("dot", {}, {}, 0.119203),
    # Vaswani 2017, eq. 1: e = -1 / sqrt 2, 1 / sqrt 2;  a_1 = 1 / (1 + e^1.414214)
    ("scaled_dot", {}, {}, 0.195570),
    # Luong 2015, section 3.1, general: W m_1 = (1, 2), W m_2 = (0, 0);  e = 2, 0;  a_1 = 1 / (1 + e^-2)
    ("general", {}, {"memory.weight": [[2, 0], [4, 0]], "scale": 0.5}, 0.880797),
    # Luong 2015, section 3.1, concat: v = (1, 2),
    #   W [q; m_1] = (0 - 1, 1 + 1) = (-1, 2),  W [q; m_2] = (0 + 1, 1 + 0) = (1, 1)
    #   e_1 = tanh(-1) + 2 tanh 2 = 1.166461,  e_2 = tanh 1 + 2 tanh 1 = 2.284782;  a_1 = 1 / (1 + e^1.118321)
    (
        "concat",
        {"hidden_size": 2},
        {"joint.weight": [[1, 0, 0, 1], [0, 1, 1, 0]], "energy.weight": [[1, 2]]},
        0.246323,
    ),
    # Luong 2015, section 3.1: e = W q = (1, 2, 5), of which the sentence uses the first two;  a_1 = 1 / (1 + e)
    ("location", {"positions": 3}, {"query.weight": [[0, 1], [0, 2], [0, 5]]}, 0.268941),
    # Graves 2014, eq. 5-6: k = W q = (1, 1), cos(k, m_1) = 0, cos(k, m_2) = 1 / sqrt 2,
    #   beta = log(1 + e^1.854587) = 2;  e = 0, 1.414214;  a_1 = 1 / (1 + e^1.414214)
    (
        "cosine",
        {},
        {"key.weight": [[1, 1], [0, 1]], "strength.weight": [[5, 0]], "strength.bias": [1.854587]},
        0.195570,
    ),
]


@pytest.mark.parametrize(("kind", "options", "weights", "first"), BY_HAND, ids=[case[0] for case in BY_HAND])
def test_scores_by_hand(kind: str, options: dict[str, object], weights: dict[str, object], first: float) -> None:
    """q = (0, 1), m_1 = (1, -1), m_2 = (0, 1), a third position of padding; c = (a_1, 1 - 2 a_1)."""
    chosen = model_options().attention.model_copy(update={"score": SCORES[kind].options(**options)})
    attention = build_attention(chosen, 2, 2, REFERENCE)
    with torch.no_grad():
        tensors = dict(attention.score.named_parameters()) | dict(attention.score.named_buffers())
        assert tensors.keys() == weights.keys()
        for name, values in weights.items():
            tensors[name].copy_(torch.tensor(values))
    prepared = attention.prepare(encoded(torch.tensor([[[1.0, -1.0], [0.0, 1.0], [9.0, 9.0]]]), 2))
    look = attention(torch.tensor([[[0.0, 1.0]]]), prepared, (), 0)
    torch.testing.assert_close(look.weights.mean(), torch.tensor([[[first, 1 - first, 0.0]]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(look.context_BQC, torch.tensor([[[first, 1 - 2 * first]]]), rtol=0, atol=2e-6)
    assert look.weights.mean()[0, 0, 2] == 0.0


def test_location_uses_its_first_rows_for_a_short_sentence_and_looks_at_no_position_beyond_the_last() -> None:
    """Luong 2015, section 3.1: of a long sentence the words near the end are ignored."""
    options = model_options().attention.model_copy(update={"score": SCORES["location"].options(positions=3)})
    attention = build_attention(options, 2, 2, REFERENCE)
    look = attention(torch.randn(1, 1, 2), attention.prepare(encoded(torch.randn(1, 5, 2), 5)), (), 0)
    weights_S = look.weights.mean()[0, 0]
    assert (weights_S[:3] > 0).all()
    assert not weights_S[3:].any()


def test_location_in_a_window_beyond_the_last_position_sees_nothing() -> None:
    chosen = model_options(window="local_monotonic", window_options={"half_width": 1}).attention
    attention = build_attention(
        chosen.model_copy(update={"score": SCORES["location"].options(positions=3)}), 2, 2, REFERENCE
    )
    prepared = attention.prepare(encoded(torch.randn(1, 9, 2, requires_grad=True), 9))
    look = attention(torch.randn(1, 1, 2), prepared, (), 7)
    assert not look.weights.values_BQNW.any()
    assert not look.context_BQC.any()
    look.context_BQC.sum().backward()
    gradient = attention.score.query.weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()


def test_location_in_a_window_across_the_last_position_sees_what_has_a_row() -> None:
    """Positions 1 to 3, of which the last has no row: W q = (0, 0, 1) leaves weights 1 / (1 + e) and e / (1 + e)."""
    chosen = model_options(window="local_monotonic", window_options={"half_width": 1}).attention
    attention = build_attention(
        chosen.model_copy(update={"score": SCORES["location"].options(positions=3)}), 2, 2, REFERENCE
    )
    with torch.no_grad():
        attention.score.query.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    look = attention(torch.ones(1, 1, 2), attention.prepare(encoded(torch.randn(1, 9, 2), 9)), (), 2)
    assert look.weights.mean()[0, 0].tolist() == pytest.approx([0.0, 0.268941, 0.731059, *6 * [0.0]], abs=1e-6)
    assert look.weights.mean()[0, 0, 3] == 0.0


def test_the_gaussian_of_local_predictive_attention_by_hand() -> None:
    """Luong 2015, section 3.2, S = 5, D = 2, v = 0, equal scores.

    p_t = 5 sigmoid(0) = 2.5;  the window [0.5, 4.5] holds positions 1 to 4, counted from 1, with align = 1/4 each;
    sigma = D / 2 = 1:  exp(-(1 - 2.5)^2 / 2) = exp(-1.125) = 0.324652,  exp(-(2 - 2.5)^2 / 2) = exp(-0.125) = 0.882497
      a = (0.081163, 0.220624, 0.220624, 0.081163, 0)
    """
    options = model_options(score="general", window="local_predictive", window_options={"half_width": 2}).attention
    attention = build_attention(options, 2, 1, REFERENCE)
    with torch.no_grad():
        attention.window.position.zero_()
        attention.score.memory.weight.zero_()
    memory_BSC = torch.tensor([[[1.0], [10.0], [100.0], [1000.0], [10000.0]]])
    look = attention(torch.ones(1, 1, 2), attention.prepare(encoded(memory_BSC, 5)), (), 0)
    expected = torch.tensor([[[0.081163, 0.220624, 0.220624, 0.081163, 0.0]]])
    torch.testing.assert_close(look.weights.mean(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(look.context_BQC, (expected @ memory_BSC), rtol=1e-4, atol=0)
    torch.testing.assert_close(look.weights.centers_BQN, torch.tensor([[[1.5]]]))
    assert look.weights.half_width == 2


def follow_the_paper(
    scores_S: list[float], memory_S: list[float], length: int, center: float, half_width: int, gaussian: bool
) -> tuple[list[float], float]:
    """Luong 2015, section 3.2, line by line: positions are counted from 1, what is outside is ignored."""
    inside = [s for s in range(1, length + 1) if center - half_width <= s <= center + half_width]
    total = sum(math.exp(scores_S[s - 1]) for s in inside)
    weights = [0.0] * len(scores_S)
    for s in inside:
        align = math.exp(scores_S[s - 1]) / total
        sigma = half_width / 2
        weights[s - 1] = align * math.exp(-((s - center) ** 2) / (2 * sigma**2)) if gaussian else align
    return weights, sum(weight * memory for weight, memory in zip(weights, memory_S, strict=True))


@pytest.mark.parametrize("at_once", [False, True], ids=["step", "at_once"])
@pytest.mark.parametrize("half_width", [1, 2, 5])
@pytest.mark.parametrize("window", ["local_monotonic", "local_predictive"])
@torch.no_grad()
def test_local_windows_follow_the_paper(window: str, half_width: int, at_once: bool) -> None:
    """Sentences shorter and longer than the window, at both borders and beyond the end, padded in one batch."""
    torch.manual_seed(half_width)
    lengths, targets = (1, 2, 3, 7, 12), 16
    options = model_options(score="general", window=window, window_options={"half_width": half_width}).attention
    attention = build_attention(options, 3, 1, REFERENCE).double()
    if window == "local_predictive":
        torch.nn.init.normal_(attention.window.position, std=8.0)
    source = encoded(torch.randn(len(lengths), 12, 1, dtype=torch.float64), *lengths)
    query_BTH = torch.randn(len(lengths), targets, 3, dtype=torch.float64)
    prepared = attention.prepare(source)
    if at_once:
        look = attention.scan(query_BTH, prepared)
    else:
        look = AttentionOutput.join([attention(query_BTH[:, [t]], prepared, (), t) for t in range(targets)])
    weights_BTS = look.weights.mean()
    assert look.weights.values_BQNW.shape[-1] == min(2 * half_width + 1, 12), "a window reads its own positions alone"

    scores_BTS = query_BTH @ attention.score.keys(source.memory_BSC).transpose(1, 2)
    borders = set()
    for row, length in enumerate(lengths):
        for t in range(targets):
            if window == "local_monotonic":
                center = float(t + 1)
            else:
                hidden = torch.tanh(attention.window.hidden.weight @ query_BTH[row, t])
                v = attention.window.position[0] * attention.window.scale
                center = length / (1 + math.exp(-float(v @ hidden)))
            weights, context = follow_the_paper(
                scores_BTS[row, t].tolist(),
                source.memory_BSC[row, :, 0].tolist(),
                length,
                center,
                half_width,
                gaussian=window == "local_predictive",
            )
            assert weights_BTS[row, t].tolist() == pytest.approx(weights, abs=1e-12)
            assert look.context_BQC[row, t].item() == pytest.approx(context, abs=1e-12)
            assert look.weights.centers_BQN[row, t, 0].item() == pytest.approx(center - 1, abs=1e-12)
            borders |= {center - half_width < 1, center + half_width > length}
    assert borders == {False, True}


def test_nothing_of_the_gradient_is_lost_on_its_way_through_the_predicted_position() -> None:
    """Moving p_t alone changes the context as the gradient says."""
    options = model_options(score="general", window="local_predictive", window_options={"half_width": 2}).attention
    torch.manual_seed(0)
    attention = build_attention(options, 3, 2, REFERENCE).double()
    prepared = attention.prepare(encoded(torch.randn(2, 9, 2, dtype=torch.float64), 9, 6))
    query_BQH = torch.randn(2, 4, 3, dtype=torch.float64)

    def context(position: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            before = attention.window.position.clone()
        given = {"window.position": position, "window.hidden.weight": attention.window.hidden.weight}
        looked = torch.func.functional_call(attention, given, (query_BQH, prepared, (), None))
        assert torch.equal(attention.window.position, before)
        return looked.context_BQC

    position = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(context, (position,))
    (gradient,) = torch.autograd.grad(context(position).sum(), position)
    assert gradient.abs().min() > 1e-6


def test_linguistic_coverage_by_hand() -> None:
    """Tu 2016, section 3, one hidden unit: U m = (1, 0), W = 0, v = 1, V = -2, N = 2, U_f m = (ln 3, 0).

    F = 2 sigmoid(ln 3), 2 sigmoid(0) = (1.5, 1)
    step 1, C = 0:  e = tanh 1, tanh 0 = (0.761594, 0);  a_1 = 1 / (1 + e^-0.761594) = 0.681700
    C = (0.681700 / 1.5, 0.318300 / 1) = (0.454467, 0.318300)
    step 2:  e = tanh(1 - 2 0.454467), tanh(-2 0.318300) = (0.090816, -0.562580)
      a_1 = 1 / (1 + e^-0.653397) = 0.657775
    """
    options = model_options(score_options={"hidden_size": 1}, coverage="linguistic").attention
    attention = build_attention(options, 2, 2, REFERENCE)
    with torch.no_grad():
        attention.score.query.weight.zero_()
        attention.score.memory.weight.copy_(torch.tensor([[1.0, 0.0]]))
        attention.score.energy.weight.fill_(1.0)
        attention.coverage.term.weight.fill_(-2.0)
        attention.coverage.fertility.weight.copy_(torch.tensor([[math.log(3), 0.0]]))
    prepared = attention.prepare(encoded(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), 2))
    look = attention(torch.ones(1, 1, 2), prepared, attention.start(prepared), 0)
    assert look.weights.mean()[0, 0, 0].item() == pytest.approx(0.681700, abs=1e-6)
    assert look.carried[0].flatten().tolist() == pytest.approx([0.454467, 0.318300], abs=1e-6)
    look = attention(torch.ones(1, 1, 2), prepared, look.carried, 1)
    assert look.weights.mean()[0, 0, 0].item() == pytest.approx(0.657775, abs=1e-6)


@torch.no_grad()
def test_coverage_in_a_window_is_that_of_its_positions() -> None:
    """N = 0: C is the sum of the weights so far, wherever the window stood; v tanh(W q + U m + b + V C) in a window."""
    torch.manual_seed(0)
    options = model_options(
        window="local_monotonic", window_options={"half_width": 1}, score_options={"hidden_size": 3},
        coverage="linguistic",
    ).attention  # fmt: skip
    options = options.model_copy(update={"coverage": COVERAGES["linguistic"].options(max_fertility=0.0)})
    attention = build_attention(options, 2, 2, REFERENCE).double()
    score, term = attention.score, attention.coverage.term.weight.normal_().squeeze(1)
    memory_SC = torch.randn(5, 2).double()
    prepared = attention.prepare(encoded(memory_SC.unsqueeze(0), 5))
    carried, covered_S = attention.start(prepared), torch.zeros(5).double()
    for step in range(6):
        query_H = torch.randn(2).double()
        look = attention(query_H.view(1, 1, 2), prepared, carried, step)
        carried = look.carried
        inside = [position for position in range(step - 1, step + 2) if 0 <= position < 5]
        hidden = score.query(query_H) + score.memory(memory_SC[inside]) + covered_S[inside].unsqueeze(1) * term
        expected_S = torch.zeros(5).double()
        expected_S[inside] = torch.softmax(score.energy(torch.tanh(hidden)).squeeze(1), 0)
        torch.testing.assert_close(look.weights.mean()[0, 0], expected_S, rtol=0, atol=1e-12)
        covered_S += expected_S
        torch.testing.assert_close(carried[0].flatten(), covered_S, rtol=0, atol=1e-12)


def test_neural_coverage_is_a_recurrent_unit_of_each_position() -> None:
    """Tu 2016, section 3, against the library's unit over [weight; annotation; query], position by position."""
    torch.manual_seed(0)
    attention = build_attention(model_options(coverage="neural").attention, 3, 2, REFERENCE).double()
    coverage = attention.coverage
    unit = torch.nn.GRUCell(1 + 2 + 3, coverage.size).double()
    with torch.no_grad():
        columns = [coverage.weight.unsqueeze(1), coverage.memory.weight, coverage.query.weight]
        unit.weight_ih.copy_(torch.cat(columns, 1))
        unit.bias_ih.copy_(coverage.memory.bias.uniform_(-1, 1))
        unit.weight_hh.copy_(coverage.recurrent.weight)
        unit.bias_hh.copy_(coverage.recurrent.bias.uniform_(-1, 1))
    source = encoded(torch.randn(2, 5, 2, dtype=torch.float64), 5, 3)
    prepared = attention.prepare(source)
    carried = attention.start(prepared)
    expected_SBK = [torch.zeros(2, coverage.size, dtype=torch.float64) for _ in range(5)]
    for step in range(3):
        query_B1H = torch.randn(2, 1, 3, dtype=torch.float64)
        look = attention(query_B1H, prepared, carried, step)
        carried = look.carried
        for s in range(5):
            inputs = [look.weights.mean()[:, 0, s : s + 1], source.memory_BSC[:, s], query_B1H[:, 0]]
            expected_SBK[s] = unit(torch.cat(inputs, 1), expected_SBK[s])
        torch.testing.assert_close(carried[0][:, 0], torch.stack(expected_SBK, 1))


def test_heads_with_scaled_products_are_the_librarys_multi_head_attention() -> None:
    """Vaswani 2017, section 3.2.2, with masks: contexts and each head's weights."""
    torch.manual_seed(0)
    attention = build_attention(model_options(score="scaled_dot", heads=2).attention, 6, 6, REFERENCE).double()
    library = torch.nn.MultiheadAttention(6, 2, bias=False, batch_first=True).double()
    with torch.no_grad():
        library.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]))
        library.out_proj.weight.copy_(attention.output.weight)
    source = encoded(torch.randn(2, 5, 6, dtype=torch.float64), 5, 3)
    query_BQH = torch.randn(2, 4, 6, dtype=torch.float64)
    expected, weights_BNQS = library(
        query_BQH,
        source.memory_BSC,
        source.memory_BSC,
        key_padding_mask=~source.mask_BS,
        average_attn_weights=False,
    )
    look = attention(query_BQH, attention.prepare(source), (), 0)
    torch.testing.assert_close(look.context_BQC, expected)
    torch.testing.assert_close(look.weights.dense().transpose(1, 2), weights_BNQS)


def test_additive_heads_have_maps_of_their_own_and_one_score() -> None:
    """As docs/attention.md says: four heads of 2 features each, behind them one W, U, b and v for all."""
    attention = build_attention(model_options(heads=4, sizes=(6, 3, 8)).attention, 8, 6, REFERENCE)
    shapes = {name: tuple(weight.shape) for name, weight in attention.named_parameters()}
    assert shapes == {
        "attention.score.query.weight": (2, 2),
        "attention.score.memory.weight": (2, 2),
        "attention.score.memory.bias": (2,),
        "attention.score.energy.weight": (1, 2),
        "query.weight": (8, 8),
        "key.weight": (8, 6),
        "value.weight": (8, 6),
        "output.weight": (6, 8),
    }


def test_the_page_about_attention_has_every_choice() -> None:
    page = (Path(__file__).parent.parent / "docs" / "attention.md").read_text(encoding="utf-8")
    bridges = get_args(schema.DecoderConfig.model_fields["bridge"].annotation)
    missing = [name for name in (*SCORES, *WINDOWS, *WIRINGS, *bridges) if f"\n| `{name}` |" not in page]
    missing += [name for name in ATTENTION_PRESETS if f"`{name}`" not in page]
    assert missing == []


def test_queries_of_a_sentence_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    attention = build_attention(model_options().attention, 4, 3, REFERENCE)
    prepared = attention.prepare(encoded(torch.randn(2, 5, 3), 5, 3))
    query_BQH = torch.randn(2, 3, 4)
    together = attention(query_BQH, prepared, (), 0).context_BQC
    for query in range(3):
        alone = attention(query_BQH[:, query : query + 1], prepared, (), 0).context_BQC
        torch.testing.assert_close(alone, together[:, query : query + 1])


@pytest.mark.parametrize(("context", "size"), [("every_step", 3), ("first_state", 0)])
def test_without_attention_the_context_is_the_last_state_or_nothing(context: str, size: int) -> None:
    options = model_options().attention.model_copy(update={"score": NoneOptions(context=context)})
    attention = build_attention(options, 4, 3, REFERENCE)
    assert attention.context_size == size
    memory_BSC = torch.randn(2, 5, 3)
    look = attention(torch.randn(2, 1, 4), attention.prepare(encoded(memory_BSC, 5, 3)), (), 0)
    assert look.weights is None
    assert torch.equal(look.context_BQC[:, 0], memory_BSC[:, 0, :size])
