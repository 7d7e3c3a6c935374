"""Sparsemax and 1.5-entmax against their papers, and in every network; dropout of attention weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.config import schema
from nmt.errors import ConfigError
from nmt.kernels.select import choose_kernels
from nmt.model.attention import Encoded, build_attention
from nmt.model.attention.normalizers import NORMALIZERS, Normalizer, entmax15, softmax, sparsemax
from nmt.model.context.hierarchical import HierarchicalAttention
from nmt.model.translator import Translator
from tests.support.networks import NO_DROPOUT, REFERENCE, model_options, network, sentences
from tests.support.reference_steps import ReferenceKernels
from tests.support.training_runs import run_config
from tests.test_context import context_options
from tests.test_model import TIGHT, WINDOW_OPTIONS, WIRED, named, steps
from tests.test_recurrence import outputs_and_gradients

SPARSE: dict[str, Callable[[Tensor], Tensor]] = {"sparsemax": sparsemax, "entmax15": entmax15}
every_sparse = pytest.mark.parametrize("name", SPARSE)


def rows(*scores: list[float]) -> Tensor:
    return torch.tensor(scores, dtype=torch.float64)


# The papers


@pytest.mark.parametrize(
    ("scores", "weights"),
    [
        # k = 2: 1 + 2 x 0.5 > 1.5, but 1 - 3 < 0.5; t = (1.5 - 1) / 2 = 0.25
        ([1.0, 0.5, -1.0], [0.75, 0.25, 0.0]),
        ([-1.0, 1.0, 0.5], [0.0, 0.75, 0.25]),
        # k = 3: 1 + 3 x 0.1 > 0.6; t = (0.6 - 1) / 3
        ([0.3, 0.2, 0.1], [1.3 / 3, 1.0 / 3, 0.7 / 3]),
        # k = 1 from a distance of 1 on
        ([3.0, 2.0, 0.0], [1.0, 0.0, 0.0]),
        ([0.4], [1.0]),
    ],
)
def test_sparsemax_by_hand(scores: list[float], weights: list[float]) -> None:
    """Martins 2016, algorithm 1: the largest k with 1 + k e_(k) > e_(1) + .. + e_(k), t = (their sum - 1) / k."""
    torch.testing.assert_close(sparsemax(rows(scores)), rows(weights), rtol=0, atol=1e-15)


@pytest.mark.parametrize("distance", [0.0, 0.3, 1.0, 1.9, 2.0, 5.0])
def test_entmax_of_two_scores_in_closed_form(distance: float) -> None:
    """With d half the distance and u = -t below it, (u + d)^2 + u^2 = 1: u = (sqrt(2 - d^2) - d) / 2, or 0 from d = 1.

    A distance of 1 gives u = 0.411438 and the weights 0.830719 and 0.169281.
    """
    d = distance / 2
    u = (math.sqrt(2 - d**2) - d) / 2 if d < 1 else 0.0
    weights = entmax15(rows([0.7, 0.7 + distance]))
    torch.testing.assert_close(weights, rows([u**2, (u + d) ** 2 if d < 1 else 1.0]), rtol=0, atol=1e-15)
    if distance == 1.0:
        assert weights[0].tolist() == pytest.approx([0.169281, 0.830719], abs=1e-6)


def project_by_all_supports(scores: Tensor) -> Tensor:
    """The distribution nearest to the scores: for each support the nearest point of its face, if it lies in it."""
    nearest, distance = scores, math.inf
    for size in range(1, len(scores) + 1):
        for support in itertools.combinations(range(len(scores)), size):
            point = torch.zeros_like(scores)
            chosen = scores[list(support)]
            point[list(support)] = chosen - (chosen.sum() - 1) / size
            if (point >= 0).all() and float((point - scores).square().sum()) < distance:
                nearest, distance = point, float((point - scores).square().sum())
    return nearest


def test_sparsemax_is_the_nearest_distribution() -> None:
    """Martins 2016, eq. 2, by trying all faces of the simplex, and no distribution of many is nearer."""
    generator = torch.Generator().manual_seed(0)
    sizes = set()
    for spread in (0.1, 0.5, 2.0):
        for _ in range(10):
            scores = spread * torch.randn(5, generator=generator, dtype=torch.float64)
            weights = sparsemax(scores)
            torch.testing.assert_close(weights, project_by_all_supports(scores), rtol=0, atol=1e-14)
            others = torch.distributions.Dirichlet(torch.ones(5, dtype=torch.float64)).sample((200,))
            assert (weights - scores).square().sum() <= (others - scores).square().sum(1).min()
            sizes.add(int((weights > 0).sum()))
    assert sizes >= {1, 2, 3, 5}


def by_bisection(scores: Tensor, alpha: float) -> Tensor:
    """Peters 2019, section 3: a = max((alpha - 1) e - t, 0)^(1 / (alpha - 1)), with t between two bounds of it."""
    scaled = (alpha - 1) * scores
    low, high = scaled.amax(-1, keepdim=True) - 1, scaled.amax(-1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        too_much = (scaled - middle).clamp(min=0).pow(1 / (alpha - 1)).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    return (scaled - low).clamp(min=0).pow(1 / (alpha - 1))


def random_rows(spread: float, columns: int = 7) -> Tensor:
    return spread * torch.randn(20, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_they_are_members_of_one_family(spread: float) -> None:
    """alpha 2 is sparsemax, 1.5 is entmax15, and the limit of 1 the softmax; the supports shrink in this order."""
    scores = random_rows(spread)
    torch.testing.assert_close(sparsemax(scores), by_bisection(scores, 2.0), rtol=0, atol=1e-13)
    torch.testing.assert_close(entmax15(scores), by_bisection(scores, 1.5), rtol=0, atol=1e-13)
    torch.testing.assert_close(softmax(scores), by_bisection(scores, 1.0001), rtol=0, atol=1e-3)
    assert ((sparsemax(scores) > 0) <= (entmax15(scores) > 0)).all()
    assert (sparsemax(scores) > 0).sum() < (entmax15(scores) > 0).sum() or spread == 0.1


def test_the_package_entmax_computes_the_same() -> None:
    entmax = pytest.importorskip("entmax")
    upstream = torch.randn(20, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for spread in (0.1, 1.0, 4.0):
        for ours, theirs in ((sparsemax, entmax.sparsemax), (entmax15, entmax.entmax15)):
            found = []
            for function in (ours, theirs):
                scores = random_rows(spread).requires_grad_()
                weights = function(scores)
                (gradient,) = torch.autograd.grad(weights, scores, upstream)
                found.append((weights.detach(), gradient))
            torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_the_jacobian_of_sparsemax_by_hand() -> None:
    """Martins 2016, eq. 11: diag(s) - s s' / |s| with s = (1, 1, 0)."""
    jacobian = torch.autograd.functional.jacobian(sparsemax, torch.tensor([1.0, 0.5, -1.0]))
    assert jacobian.tolist() == [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_the_jacobian_of_entmax_by_hand() -> None:
    """Peters 2019, section 3, s the root of the weights: two equal ones of 1/2, the third has none.

    s = (r, r, 0), r = sqrt(1/2); diag(s) - s s' / 2 r = r / 2 on the diagonal, -r / 2 beside it.
    """
    jacobian = torch.autograd.functional.jacobian(entmax15, rows([1.0, 1.0, -1.0])[0])
    half = math.sqrt(0.5) / 2
    torch.testing.assert_close(jacobian, rows([half, -half, 0], [-half, half, 0], [0, 0, 0]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@every_sparse
def test_gradients_are_those_of_finite_differences(name: str, spread: float) -> None:
    """With padding and without. One position alone has no gradient."""
    scores = random_rows(spread).requires_grad_()
    padding = torch.arange(7) >= torch.arange(20).unsqueeze(1) % 7 + 1
    assert torch.autograd.gradcheck(SPARSE[name], (scores,))
    assert torch.autograd.gradcheck(lambda x: SPARSE[name](x.masked_fill(padding, -torch.inf)), (scores,))


# Numbers of any size and format


@every_sparse
def test_equal_scores_weigh_the_same_and_a_large_one_alone(name: str) -> None:
    for count in (1, 2, 3, 10, 1000):
        weights = SPARSE[name](torch.full((count,), 3.7))
        torch.testing.assert_close(weights, torch.full((count,), 1 / count), rtol=1e-6, atol=0)
    for large in (10.0, 1e4, 1e30, torch.finfo(torch.float32).max):
        assert SPARSE[name](torch.tensor([1.0, large, -large, 0.0])).tolist() == [0.0, 1.0, 0.0, 0.0]
    tied = SPARSE[name](torch.tensor([9.0, 1.0, 9.0, -torch.inf]))
    torch.testing.assert_close(tied, torch.tensor([0.5, 0.0, 0.5, 0.0]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@every_sparse
def test_weights_are_distributions_in_single_precision_at_least(name: str, dtype: torch.dtype) -> None:
    """Also of many scores, whose sums of squares cancel; the weight of padding is exactly 0 and has no gradient."""
    for spread in (1e-3, 0.1, 1.0, 30.0):
        scores = random_rows(spread, 500).to(dtype).requires_grad_()
        padding = torch.arange(500) >= 1 + 25 * torch.arange(20).unsqueeze(1)
        weights = SPARSE[name](scores.masked_fill(padding, -torch.inf))
        assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert (weights >= 0).all()
        assert not weights[padding].any()
        torch.testing.assert_close(weights.sum(-1).float(), torch.ones(20), rtol=0, atol=2e-6)
        shifted = SPARSE[name]((scores.detach().double() + 100.0).masked_fill(padding, -torch.inf))
        torch.testing.assert_close(shifted, weights.detach().double(), rtol=0, atol=1e-6)
        (gradient,) = torch.autograd.grad((weights * random_rows(1.0, 500)).sum(), scores)
        assert not gradient[padding].any()
        assert torch.isfinite(gradient).all()
        assert gradient.any()


@every_sparse
def test_scores_that_are_no_numbers_give_weights_that_are_none(name: str) -> None:
    """As a softmax does: the trainer then skips the update."""
    weights = SPARSE[name](torch.tensor([[math.nan, 1.0], [1.0, 0.5]]))
    assert weights.isnan().tolist() == [[True, True], [False, False]]


# In networks

ATTENTIONS: list[dict[str, Any]] = [
    {"score": "dot"},
    {"score": "additive", "coverage": "linguistic"},
    {"score": "additive", "coverage": "neural", "window": "local_monotonic"},
    {"score": "general", "window": "local_predictive"},
    {"score": "scaled_dot", "heads": 2},
    {"score": "location", "window": "local_monotonic", "heads": 2},
    {"score": "cosine"},
]
NETWORKS = [
    {"normalizer": normalizer, **attention, "window_options": WINDOW_OPTIONS.get(attention.get("window", "")), **wired}
    for normalizer in SPARSE
    for attention in ATTENTIONS
    for wired in WIRED
]


def sharp(translator: Translator) -> Translator:
    """The network itself, its scores farther apart, so that some of the weights are zero."""
    with torch.no_grad():
        for parameter in translator.decoder.wiring.attention.parameters():
            parameter.mul_(5.0)
    return translator


@pytest.mark.parametrize("options", NETWORKS, ids=named)
def test_every_wiring_steps_as_it_scans(options: dict[str, Any]) -> None:
    """And a sentence is translated as alone, by weights that are those of the normalizer."""
    translator = sharp(network(model_options(**options)))
    (source_BS, lengths_B), (target_BT, _) = sentences(5, 2, 7, padding=2), sentences(6, 3, 4, size=11)
    with torch.no_grad():
        together = translator(source_BS, lengths_B, target_BT)
        torch.testing.assert_close(steps(translator, source_BS, lengths_B, target_BT), together, **TIGHT)
        alone = translator(source_BS[1:2, :2], lengths_B[1:2], target_BT[1:2])
        torch.testing.assert_close(alone[0], together[1], **TIGHT)
        _, weights = translator.readout(translator.encode(source_BS, lengths_B), target_BT)
    assert weights is not None
    padding_BS = torch.arange(source_BS.shape[1]) >= lengths_B.unsqueeze(1)
    weights_BTNS = weights.dense()
    assert not weights_BTNS.masked_select(padding_BS[:, None, None]).any()
    sums_BTN = weights_BTNS.sum(-1)
    if weights.positions_BQNW is None:
        torch.testing.assert_close(sums_BTN, torch.ones_like(sums_BTN), **TIGHT)
    assert (sums_BTN <= 1 + 1e-10).all()
    as_softmax = sharp(network(model_options(**{**options, "normalizer": "softmax"})))
    with torch.no_grad():
        difference = as_softmax(source_BS, lengths_B, target_BT) - together
    assert difference.abs().max() > 1e-4


@pytest.mark.parametrize("window", ["global", "local_monotonic"])
@every_sparse
def test_weights_are_those_of_the_window(name: str, window: str) -> None:
    """The normalizer sees the scores of the window alone; some inside it get none."""
    options = model_options(score="dot", normalizer=name, window=window, window_options=WINDOW_OPTIONS.get(window))
    attention = build_attention(options.attention, 4, 4, REFERENCE)
    memory_BSC = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(3))
    mask_BS = torch.arange(9).unsqueeze(0) < 8
    query_BTH = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(4))
    prepared = attention.prepare(Encoded(memory_BSC * mask_BS.unsqueeze(2), mask_BS, ()))
    output = attention.scan(query_BTH, prepared)
    assert output.weights is not None
    weights_TS = output.weights.mean()[0]
    zeros = 0
    for t in range(8):
        inside = [s for s in range(8) if window == "global" or abs(s - t) <= 1]
        expected_S = torch.zeros(9)
        expected_S[inside] = SPARSE[name](memory_BSC[0, inside] @ query_BTH[0, t])
        torch.testing.assert_close(weights_TS[t], expected_S, rtol=0, atol=1e-6)
        torch.testing.assert_close(output.context_BQC[0, t], expected_S @ memory_BSC[0], rtol=0, atol=1e-5)
        zeros += sum(not weights_TS[t, s] for s in inside)
    assert zeros > 0


@pytest.mark.parametrize("wired", WIRED, ids=named)
@every_sparse
def test_gradients_of_networks_are_those_of_finite_differences(name: str, wired: dict[str, Any]) -> None:
    """Along a random direction through all parameters at once."""
    translator = network(model_options(score="general", normalizer=name, **wired))
    (source_BS, lengths_B), (target_BT, _) = sentences(4, 2), sentences(3, 2, size=11)
    parameters = list(translator.parameters())
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in parameters]

    def moved(distance: float) -> Tensor:
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=distance)
        return translator(source_BS, lengths_B, target_BT).logsumexp(-1).sum()

    gradients = torch.autograd.grad(moved(0.0), parameters)
    with torch.no_grad():
        expected = (moved(1e-6) - moved(-2e-6)) / 2e-6
    actual = sum(float((one * other).sum()) for one, other in zip(gradients, direction, strict=True))
    assert actual == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


@every_sparse
def test_the_context_of_documents_has_the_same_normalizer(name: str) -> None:
    model = model_options(normalizer=name, dropout=NO_DROPOUT.model_copy(update={"attention": 0.3}))
    module = HierarchicalAttention(context_options(), model, 4, REFERENCE)
    for level in (module.word, module.sentence):
        assert level.normalizer.weigh is SPARSE[name]
        assert level.normalizer.dropout == 0.3


# Kernels


RECURRENT = [wired for wired in WIRED if wired["wiring_options"] != {"input_feeding": False}]
RECURRENT = [wired for wired in RECURRENT if wired["wiring"] != "gnmt" or "context_feeding" in wired["wiring_options"]]
UNSUPPORTED: list[tuple[dict[str, Any], str, str]] = [
    ({"normalizer": "sparsemax"}, "model.attention.normalizer=sparsemax", "model.attention.normalizer is not softmax"),
    ({"normalizer": "entmax15"}, "model.attention.normalizer=entmax15", "model.attention.normalizer is not softmax"),
    (
        {"dropout": NO_DROPOUT.model_copy(update={"attention": 0.1})},
        "model.dropout.attention=0.1",
        "model.dropout.attention is not 0",
    ),
]
unsupported = pytest.mark.parametrize(
    ("options", "override", "reason"), UNSUPPORTED, ids=[row[1] for row in UNSUPPORTED]
)


@unsupported
def test_the_recurrence_runs_by_autograd_and_the_log_has_the_reason(
    options: dict[str, Any], override: str, reason: str, tmp_path: Path
) -> None:
    for wired in WIRED:
        translator = network(model_options(**options, **wired)).eval()
        unsupported = translator.unsupported_reasons()
        assert unsupported.recurrence == (reason if wired in RECURRENT else "")
        if wired in RECURRENT:
            chosen = choose_kernels("auto", torch.device("cpu"), unsupported)
            assert chosen.steps is None
            assert f"the recurrence runs by autograd: {reason}" in chosen.reason
        expected, gradients = outputs_and_gradients(translator, None)
        actual, found = outputs_and_gradients(translator, ReferenceKernels())
        pairs = zip([*actual, *found], [*expected, *gradients], strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@unsupported
def test_fused_kernels_are_refused_with_path_and_remedy(
    options: dict[str, Any], override: str, reason: str, tmp_path: Path
) -> None:
    for kernel in ("fused", "graphed"):
        with pytest.raises(ConfigError) as caught:
            run_config(tmp_path, f"runtime.kernel={kernel}", override)
        (problem,) = caught.value.problems
        assert problem.endswith(f"runtime.kernel: {kernel} cannot be had: {reason}; set it to auto or reference")
    run_config(tmp_path, "runtime.kernel=auto", override)


# Configuration


def test_the_yaml_knows_the_normalizers(tmp_path: Path) -> None:
    model = run_config(tmp_path).model
    assert (model.attention.normalizer.kind, model.dropout.attention) == ("softmax", 0.0)
    for override in (
        "model.attention={preset: tu2016_neural, normalizer: entmax15}",
        "model.attention={score: additive, coverage: neural, normalizer: entmax15}",
    ):
        attention = run_config(tmp_path, override).model.attention
        assert (attention.normalizer.kind, attention.coverage.kind) == ("entmax15", "neural")


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (
            ["model.attention.normalizer=sparsmax"],
            [
                "model.attention.normalizer: unknown normalizer 'sparsmax'; did you mean 'sparsemax'? (choose from "
                "softmax, sparsemax, entmax15)"
            ],
        ),
        (["model.dropout.attention=1"], ["model.dropout.attention: must be a number from 0 to below 1, not 1"]),
        (["attention_dropout=0.1"], ["attention_dropout: unknown key; did you mean 'model.dropout.attention'?"]),
        (
            ["model.attention={score: none, normalizer: entmax15}", "model.dropout.attention=0.1"],
            [
                "model.attention.normalizer: is entmax15, but score none has no attention weights; leave it out",
                "model.dropout.attention: is 0.1, but score none has no attention weights; leave it out",
            ],
        ),
    ],
)
def test_mistakes_are_one_line_each(tmp_path: Path, overrides: list[str], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(tmp_path, *overrides)
    assert [problem.removeprefix("--set ") for problem in caught.value.problems] == problems


# Dropout of weights


def dropping(probability: float) -> schema.DropoutConfig:
    return NO_DROPOUT.model_copy(update={"attention": probability})


@pytest.mark.parametrize("window", ["global", "local_monotonic"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_elements_of_the_weights_are_dropped_and_the_others_scaled(normalizer: str, window: str) -> None:
    """The memory is the identity, so that the context is the row of factors; the weights stay as they are."""
    window_options = {"half_width": 20} if window == "local_monotonic" else None
    options = model_options(score="general", window=window, window_options=window_options, normalizer=normalizer)
    attention = build_attention(options.attention, 4, 12, REFERENCE, 0.25)
    memory_BSC = torch.eye(12).unsqueeze(0)
    query_BTH = 0.1 * torch.randn(1, 12, 4)
    prepared = attention.prepare(Encoded(memory_BSC, torch.ones(1, 12, dtype=torch.bool), ()))
    rates = []
    for _ in range(40):
        output = attention(query_BTH, prepared, (), None)
        assert output.weights is not None
        weights_TS = output.weights.mean()[0]
        torch.testing.assert_close(weights_TS.sum(-1), torch.ones(12))
        kept_TS = output.context_BQC[0] != 0
        torch.testing.assert_close(output.context_BQC[0], weights_TS * kept_TS / 0.75, rtol=0, atol=1e-6)
        rates.append(float(kept_TS[weights_TS > 0].float().mean()))
    assert sum(rates) / len(rates) == pytest.approx(0.75, abs=0.03)
    attention.eval()
    output = attention(query_BTH, prepared, (), None)
    assert output.weights is not None
    torch.testing.assert_close(output.context_BQC, output.weights.mean())


@pytest.mark.parametrize("window", ["global", "local_monotonic"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("wired", WIRED, ids=named)
def test_dropped_weights_are_the_same_in_scan_and_step(wired: dict[str, Any], heads: int, window: str) -> None:
    """Each drops once, in training alone: with a mask in the place of the random one both agree."""
    options = {"window": window, "window_options": WINDOW_OPTIONS.get(window), "heads": heads, **wired}
    translator = network(model_options(score="general", dropout=dropping(0.5), **options))
    (source_BS, lengths_B), (target_BT, _) = sentences(5, 2, 7), sentences(6, 3, 4, size=11)
    with torch.no_grad():
        without = translator(source_BS, lengths_B, target_BT)
    probabilities = set()

    def every_second(inputs: Tensor, probability: float, training: bool) -> Tensor:
        probabilities.add(probability)
        return inputs * (torch.arange(inputs.shape[-1]) % 2) * 2.0 if training else inputs

    for module in translator.modules():
        if isinstance(module, Normalizer):
            module.drop = every_second
    with torch.no_grad():
        assert torch.equal(translator(source_BS, lengths_B, target_BT), without)
        translator.train()
        together = translator(source_BS, lengths_B, target_BT)
        torch.testing.assert_close(steps(translator, source_BS, lengths_B, target_BT), together, **TIGHT)
    assert (together - without).abs().max() > 1e-3
    assert probabilities == {0.5}


# Learning


@every_sparse
def test_attention_learns_where_to_look(name: str) -> None:
    """Queries and annotations are symbols, one-hot; symbol n asks for symbol n + 3, which stands anywhere.

    The context must be the annotation of the symbol that is asked for. tests/test_learning.py trains translators.
    """
    torch.manual_seed(0)
    attention = build_attention(model_options(score="general", normalizer=name).attention, 8, 8, REFERENCE)
    # From equal scores: a wrong position that has all the weight at the start would keep it, without a gradient.
    torch.nn.init.zeros_(attention.score.memory.weight)
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.05 * 8**0.5)  # W is the matrix times 8^-1/2

    def attend() -> tuple[Tensor, Tensor, Tensor]:
        """Returns the contexts' errors [B, Q, 8], the weights [B, Q, S], and the positions [B, Q] asked for."""
        symbols_BS = torch.stack([torch.randperm(8)[:6] for _ in range(16)])
        lengths_B = torch.randint(3, 7, (16, 1))
        mask_BS = torch.arange(6) < lengths_B
        position_BQ = (torch.rand(16, 4) * lengths_B).long()
        query_BQ = (symbols_BS.gather(1, position_BQ) - 3) % 8
        memory_BSC = torch.eye(8)[symbols_BS] * mask_BS.unsqueeze(2)
        output = attention.scan(torch.eye(8)[query_BQ], attention.prepare(Encoded(memory_BSC, mask_BS, ())))
        assert output.weights is not None
        expected_BQC = memory_BSC.gather(1, position_BQ.unsqueeze(2).expand(-1, -1, 8))
        return output.context_BQC - expected_BQC, output.weights.mean(), position_BQ

    for _ in range(400):
        difference_BQC, _, _ = attend()
        optimizer.zero_grad()
        difference_BQC.square().sum(-1).mean().backward()
        optimizer.step()
    with torch.no_grad():
        difference_BQC, weights_BQS, position_BQ = attend()
    assert difference_BQC.abs().max() < 0.05
    assert torch.equal(weights_BQS.argmax(-1), position_BQ)
    assert (weights_BQS > 0).sum() < 2 * position_BQ.numel(), "hardly any other position has weight"
