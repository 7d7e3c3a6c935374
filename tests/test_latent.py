"""Latent alignment: the marginal likelihood against all alignments one by one, its search, posterior and YAML."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.config.schema import SearchConfig
from nmt.data.batching.pair_batches import collate
from nmt.data.cache import flatten
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError
from nmt.kernels.cross_entropy.mixture import log_weights
from nmt.kernels.linear.quantization import Int8Weight
from nmt.kernels.select import choose_kernels
from nmt.model import latent as latent_model
from nmt.model.translator import ForcedReadout, Translator
from nmt.search import translate_batch
from nmt.tasks.components import read_config
from nmt.tasks.translation.forced_decoding import forced_attention_of_ids, forced_loss
from nmt.tasks.translation.loading import System
from nmt.training.objectives import TranslationObjective
from tests.support.models import CPU, REFERENCES, SOURCES, small_config, small_translator
from tests.support.networks import BOS, EOS, REFERENCE, model_options, network, sentences, with_steps
from tests.support.reference_steps import ReferenceKernels

ALONE: dict[str, Any] = {"wiring": "luong", "wiring_options": {"input_feeding": False}, "score": "general"}
NETWORKS: list[dict[str, Any]] = [
    {**ALONE, "cell": "lstm"},
    {"wiring": "bahdanau"},
    {"wiring": "bahdanau", "wiring_options": {"readout_state": "previous"}, "readout": "maxout"},
    {"wiring": "conditional", "layer_normalization": True, "decoder_layers": 2},
    {"wiring": "gnmt", "decoder_layers": 2, "normalizer": "sparsemax"},
]
every_network = pytest.mark.parametrize("options", NETWORKS, ids=lambda options: str(options["wiring"]))


class Special:
    """The special pieces' numbers."""

    pad, unk, bos, eos = 0, 1, BOS, EOS


def latent(**options: Any) -> Translator:
    return network(model_options(alignment="latent", **options))


def parts_of(translator: Translator, source_1S: Tensor, target_1T: Tensor) -> tuple[Tensor, Tensor]:
    """Weights a_ts [T, S], and log p(y | y_<t, x, m_s) of all pieces [T, S, V], from the parameters by name."""
    encoded = translator.encode(source_1S, torch.tensor([source_1S.shape[1]]))
    inputs_1TE, output, weights = translator.scan(encoded, target_1T)
    assert weights is not None
    readout: Any = translator.decoder.readout
    position_TI = output.hidden[0] if not readout.reads_inputs else torch.cat([output.hidden[0], inputs_1TE[0]], -1)
    one_TU = position_TI @ readout.mix.weight.T + readout.mix.bias
    other_SU = encoded.memory_BSC[0] @ readout.annotation.weight.T
    mixed_TSR = one_TU[:, None] + other_SU[None]
    if readout.kind == "maxout":
        mixed_TSR = torch.maximum(mixed_TSR[..., 0::2], mixed_TSR[..., 1::2])
    else:
        mixed_TSR = torch.tanh(mixed_TSR)
    mixed_TSR = readout.norm(mixed_TSR)
    logits_TSV = mixed_TSR @ translator.projection.weight.T + translator.projection.bias
    return weights.dense()[0, :, 0], logits_TSV.log_softmax(-1)


def by_enumeration(translator: Translator, source_1S: Tensor, target_1T: Tensor) -> Tensor:
    """log p(y | x): the sum of p(y, alignment | x) over all S^T alignments."""
    weights_TS, log_p_TSV = parts_of(translator, source_1S, target_1T)
    joint = [
        math.prod(weights_TS[t, s] * log_p_TSV[t, s, target_1T[0, t]].exp() for t, s in enumerate(alignment))
        for alignment in product(range(source_1S.shape[1]), repeat=target_1T.shape[1])
    ]
    return torch.stack(joint).sum().log()  # type: ignore[arg-type]


def forced(translator: Translator, source_BS: Tensor, lengths_B: Tensor, target_BT: Tensor) -> ForcedReadout:
    encoded = translator.encode(source_BS, lengths_B)
    readout_BTR, weights = translator.readout(encoded, target_BT)
    return ForcedReadout(readout_BTR, weights, translator.annotation_terms(encoded), None, None)


@every_network
@pytest.mark.parametrize("chunk", [512, 4])
def test_the_loss_is_that_of_all_alignments_one_by_one(
    options: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its gradients are autograd's of this sum, for every parameter; two sentences of a batch, one with padding."""
    monkeypatch.setattr(latent_model, "CHUNK", chunk)
    translator = latent(**options)
    source_BS, lengths_B = sentences(4, 3)
    target_BT, target_lengths_B = sentences(3, 2, size=11)
    rows_N, target_N = torch.tensor([0, 1, 2, 3, 4]), torch.cat([target_BT[0], target_BT[1, :2]])
    losses = translator.losses(forced(translator, source_BS, lengths_B, target_BT), rows_N, target_N, 0.0)
    expected = -sum(
        by_enumeration(translator, source_BS[row : row + 1, :source], target_BT[row : row + 1, :target])
        for row, (source, target) in enumerate(zip(lengths_B.tolist(), target_lengths_B.tolist(), strict=True))
    )
    assert losses.smoothed.item() == pytest.approx(expected.item(), abs=1e-10)
    assert float(losses.negative_log_likelihood) == pytest.approx(expected.item(), abs=1e-10)
    parameters = list(translator.parameters())
    for name, one, other in zip(
        dict(translator.named_parameters()),
        torch.autograd.grad(3.0 * losses.smoothed, parameters),
        torch.autograd.grad(3.0 * expected, parameters),  # type: ignore[arg-type]
        strict=True,
    ):
        assert other.any(), name
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10, msg=name)


def test_smoothing_is_of_the_mixture() -> None:
    translator = latent()
    source_BS, lengths_B = sentences(4)
    target_BT, _ = sentences(3, size=11)
    losses = translator.losses(forced(translator, source_BS, lengths_B, target_BT), torch.arange(3), target_BT[0], 0.2)
    weights_TS, log_p_TSV = parts_of(translator, source_BS, target_BT)
    p_TV = (weights_TS[..., None] * log_p_TSV.exp()).sum(1)
    wanted_TV = torch.full_like(p_TV, 0.2 / 11) + 0.8 * F.one_hot(target_BT[0], 11).double()
    expected = -(wanted_TV * p_TV.log()).sum()
    assert losses.smoothed.item() == pytest.approx(expected.item(), abs=1e-10)
    parameters = list(translator.parameters())
    found = torch.autograd.grad(losses.smoothed, parameters)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_hard_attention_of_wu_2018_written_out_with_the_librarys_layer() -> None:
    """h_t = LSTM(E y_{t-1}, h_{t-1}); a_ts = softmax of h_t' W m_s; p(y | s) = softmax(W_o tanh(S [m_s; h_t]))."""
    translator = latent(**ALONE, cell="lstm", bridge="zero")
    source_BS, lengths_B = sentences(5)
    target_BT, _ = sentences(4, size=11)
    memory_SC = translator.encode(source_BS, lengths_B).memory_BSC[0]
    words_1TE = translator.decoder.embedding(torch.cat([torch.tensor([[BOS]]), target_BT[:, :-1]], 1))
    wiring: Any = translator.decoder.wiring
    h_TH = wiring.stack.cells[0].layer(words_1TE)[0][0]
    a_TS = torch.softmax(h_TH @ wiring.attention.score.keys(memory_SC).T, -1)
    readout: Any = translator.decoder.readout
    joint_RI = torch.cat([readout.annotation.weight, readout.mix.weight], 1)
    log_p = []
    for t, h_H in enumerate(h_TH):
        p_V = torch.zeros(11, dtype=torch.float64)
        for s, m_C in enumerate(memory_SC):
            t_R = torch.tanh(joint_RI @ torch.cat([m_C, h_H]) + readout.mix.bias)
            p_V = p_V + a_TS[t, s] * torch.softmax(translator.projection(t_R), -1)
        log_p.append(p_V.log())
    torch.testing.assert_close(translator(source_BS, lengths_B, target_BT)[0], torch.stack(log_p), rtol=0, atol=1e-10)


def test_the_largest_weights_alone_are_mixed() -> None:
    exact = latent()
    some = latent(top_k=2)
    some.load_state_dict(exact.state_dict())
    source_BS, lengths_B = sentences(4)
    target_BT, _ = sentences(3, size=11)
    weights_TS, log_p_TSV = parts_of(exact, source_BS, target_BT)
    expected_TV = torch.zeros(3, 11, dtype=torch.float64)
    for t, weights_S in enumerate(weights_TS):
        best = sorted(range(4), key=(-weights_S).tolist().__getitem__)[:2]
        for s in best:
            expected_TV[t] += weights_S[s] / weights_S[best].sum() * log_p_TSV[t, s].exp()
    torch.testing.assert_close(some(source_BS, lengths_B, target_BT)[0].exp(), expected_TV, rtol=0, atol=1e-12)
    assert not torch.allclose(some(source_BS, lengths_B, target_BT), exact(source_BS, lengths_B, target_BT), atol=1e-4)
    enough = latent(top_k=4)
    enough.load_state_dict(exact.state_dict())
    torch.testing.assert_close(enough(source_BS, lengths_B, target_BT), exact(source_BS, lengths_B, target_BT))


@pytest.mark.parametrize("top_k", [None, 2])
def test_forced_decoding_gives_the_posterior(top_k: int | None) -> None:
    """a_ts p(y_t | s) / p(y_t), which knows the piece."""
    translator = latent(top_k=top_k)
    source_BS, lengths_B = sentences(4, 3)
    target_BT, _ = sentences(3, 2, size=11)
    rows_N = torch.tensor([0, 1, 2, 3, 4])
    given = forced(translator, source_BS, lengths_B, target_BT)
    logs_N, weights = translator.target_log_probabilities(given, rows_N, target_BT.flatten()[rows_N])
    assert weights is not None
    posterior_TS = weights.dense()[0, :, 0]
    weights_TS, log_p_TSV = parts_of(translator, source_BS[:1], target_BT[:1])
    if top_k is not None:
        kept_TS = torch.zeros_like(weights_TS).scatter(1, weights_TS.topk(top_k, 1).indices, 1.0)
        weights_TS = weights_TS * kept_TS / (weights_TS * kept_TS).sum(1, keepdim=True)
    joint_TS = weights_TS * log_p_TSV.gather(2, target_BT[0, :, None, None].expand(3, 4, 1)).squeeze(2).exp()
    torch.testing.assert_close(posterior_TS, joint_TS / joint_TS.sum(1, keepdim=True), rtol=0, atol=1e-12)
    torch.testing.assert_close(logs_N[:3], joint_TS.sum(1).log(), rtol=0, atol=1e-12)
    assert given.weights is not None
    assert not torch.allclose(posterior_TS, given.weights.dense()[0, :, 0], atol=1e-3)
    padded_TS = weights.dense()[1, :, 0]
    assert not padded_TS[:, 3].any()
    assert not padded_TS[2].any()


def test_a_weight_of_zero_has_neither_probability_nor_gradient() -> None:
    weights = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64, requires_grad=True)
    logs = log_weights(weights)
    assert logs.tolist() == [math.log(0.25), -math.inf, math.log(0.75)]
    torch.logsumexp(logs, 0).backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == pytest.approx([1.0, 0.0, 1.0])


@every_network
def test_a_search_scores_as_forced_decoding_does(options: dict[str, Any]) -> None:
    """The n best of an ensemble of a latent and a soft alignment: log of the mean of both probabilities."""
    one, other = latent(**options), network(model_options(), seed=1)
    source_BS, lengths_B = sentences(5, 2, 4)
    search = SearchConfig(beam_size=3)
    for translators in ((one,), (one, other)):
        found = translate_batch(translators, source_BS, lengths_B, search, special=Special(), n_best=3)
        for source_S, length, hypotheses in zip(source_BS, lengths_B, found, strict=True):
            for hypothesis in hypotheses:
                target_1T = torch.tensor([[*hypothesis.ids, EOS]])
                with torch.no_grad():
                    logs = [
                        each(source_S[None, :length], length[None], target_1T).log_softmax(-1) for each in translators
                    ]
                mean_TV = torch.stack(logs).logsumexp(0)[0] - math.log(len(logs))
                expected_T = mean_TV.gather(1, target_1T.T).squeeze(1)
                assert hypothesis.token_log_probabilities == pytest.approx(expected_T.tolist(), abs=1e-10)


def test_a_shortlist_keeps_the_probabilities_among_its_pieces() -> None:
    """As of one softmax: p(y | y in the shortlist), whatever other sentences of the batch may use."""
    translator = latent()
    source_BS, lengths_B = sentences(5, 2)
    shortlists = [[5, 7, 9], [4, 6, 8, 10]]
    search = SearchConfig(kind="greedy", allow_unknown=True)
    found = translate_batch([translator], source_BS, lengths_B, search, special=Special(), shortlists=shortlists)
    for row, (best,) in enumerate(found):
        allowed = sorted({0, 1, 2, 3, *shortlists[row]})
        assert set(best.ids) <= set(allowed)
        target_1T = torch.tensor([[*best.ids, EOS]])
        alone = slice(row, row + 1)
        with torch.no_grad():
            logs_TV = translator(source_BS[alone, : lengths_B[row]], lengths_B[alone], target_1T)[0]
        expected_T = logs_TV.gather(1, target_1T.T).squeeze(1) - logs_TV[:, allowed].logsumexp(1)
        assert best.token_log_probabilities == pytest.approx(expected_T.tolist(), abs=1e-10)


@pytest.mark.parametrize("options", NETWORKS[1:4], ids=lambda options: str(options["wiring"]))
def test_a_recorded_recurrence_gives_the_same_loss_and_gradients(options: dict[str, Any]) -> None:
    translator = latent(**options)
    source_BS, lengths_B = sentences(5, 3)
    target_BT, _ = sentences(4, 2, size=11)
    results = []
    for steps in (None, ReferenceKernels()):
        given = forced(with_steps(translator, steps), source_BS, lengths_B, target_BT)
        losses = translator.losses(given, torch.arange(8), target_BT.flatten(), 0.1)
        results.append([losses.smoothed, *torch.autograd.grad(losses.smoothed, list(translator.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_the_log_says_that_pytorch_computes_the_loss() -> None:
    kernels = choose_kernels("auto", torch.device("cpu"), latent().unsupported_reasons())
    assert "by PyTorch: model.attention.alignment is latent" in kernels.reason
    assert (
        "is latent"
        not in choose_kernels("auto", torch.device("cpu"), network(model_options()).unsupported_reasons()).reason
    )


def test_dropout_of_the_readout_is_drawn_for_every_pair() -> None:
    translator = latent(dropout=model_options().dropout.model_copy(update={"output": 0.5})).train()
    source_BS, lengths_B = sentences(4)
    target_BT, _ = sentences(3, size=11)
    given = forced(translator, source_BS, lengths_B, target_BT)
    seeded = []
    for _ in range(2):
        torch.manual_seed(3)
        seeded.append(translator.losses(given, torch.arange(3), target_BT[0], 0.0).smoothed.item())
    assert seeded[0] == seeded[1]
    assert translator.losses(given, torch.arange(3), target_BT[0], 0.0).smoothed.item() != seeded[0]


# A system of the tests' small size


@pytest.fixture(scope="module")
def system(tokenizers: TokenizerPair) -> System:
    config = small_config("{alignment: latent}")
    return System((small_translator(config, tokenizers, 1, updates=2),), tokenizers, CPU)


def test_a_loss_of_references_is_minus_their_log_probability(system: System) -> None:
    """With one translator as training computes it, and as `nmt-align` does."""
    source, target = system.tokenizers.source.encode(SOURCES), system.tokenizers.target.encode(REFERENCES)
    maps = forced_attention_of_ids(system, source, target, 4096)
    total = forced_loss(system, SOURCES, REFERENCES, 4096).total
    assert total == pytest.approx(-sum(one.log_probability for one in maps), rel=1e-5)
    for one in maps:
        assert np.allclose(one.weights_NTS.sum(2), 1.0, atol=1e-5)


def test_half_precision_comes_close(system: System) -> None:
    batch = collate(
        flatten(system.tokenizers.source.encode(SOURCES)),
        flatten(system.tokenizers.target.encode(REFERENCES)),
        np.arange(len(SOURCES)),
        system.tokenizers,
    )
    (translator,) = system.translators
    objective = TranslationObjective(translator, 0.1)
    whole = objective(batch).loss((1.0, 0.0))
    with torch.autocast("cpu", torch.bfloat16):
        short = objective(batch).loss((1.0, 0.0))
    assert short.dtype == torch.float32
    assert short.item() == pytest.approx(whole.item(), rel=0.01)
    gradients = [torch.autograd.grad(each, list(translator.parameters())) for each in (whole, short)]
    for one, other in zip(*gradients, strict=True):
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.95


def test_8_bit_weights_translate(tokenizers: TokenizerPair) -> None:
    config = small_config("{alignment: latent, top_k: 6}")
    translator = small_translator(config, tokenizers, 1, updates=2)
    system = System((translator,), tokenizers, CPU)
    losses = [forced_loss(system, SOURCES, REFERENCES, 4096).total]
    replace(REFERENCE, weights=Int8Weight).prepack(translator)
    source, target = tokenizers.source.encode(SOURCES), tokenizers.target.encode(REFERENCES)
    maps = forced_attention_of_ids(system, source, target, 4096)
    losses.append(-sum(one.log_probability for one in maps))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


# The YAML


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["model.attention.top_k=6"], "model.attention.top_k: is for alignment: latent; leave it out"),
        (["model.attention={alignment: latent, heads: 2}"], "model.attention.heads: is 2, but a latent alignment"),
        (
            ["model.attention={alignment: latent, window: local_predictive}"],
            "model.attention.window: is local_predictive, whose weights need not add up to 1",
        ),
        (
            ["model.attention={alignment: latent, wiring: {kind: luong, input_feeding: true}}"],
            "model.attention.wiring.input_feeding: is true, but with alignment: latent",
        ),
        (
            ["model.attention={alignment: latent}", "training.objective=r_drop"],
            "training.objective: is r_drop, which needs one softmax for each piece",
        ),
        (["model.attention={alignment: latent, score: none}"], "model.attention.alignment: is latent, but score none"),
        (
            ["model.attention={alignment: latent}", "model.dropout.attention=0.1"],
            "model.dropout.attention: is 0.1, but with model.attention.alignment: latent",
        ),
    ],
)
def test_what_has_no_probabilities_is_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(Path(__file__).parent.parent / "configs" / "quickstart.yaml", overrides)
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_a_preset_takes_a_top_k() -> None:
    config = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
    model = read_config(config, ["model.attention={preset: wu2018_hard, top_k: 6}"]).model
    assert (model.attention.alignment, model.attention.top_k, model.decoder.bridge) == ("latent", 6, "zero")
