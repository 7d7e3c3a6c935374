"""Packed weights: the products of a translator in shorter formats, row by row the same whatever stands beside."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.kernels.linear import onednn
from nmt.kernels.linear.quantization import (
    Bf16Weight,
    Fp32Weight,
    Int8Weight,
    NativeInt8Weight,
    OnednnInt8Weight,
    OnednnNativeInt8Weight,
    PrepackedWeight,
    has_prepacked_weights,
    prepack,
)
from nmt.kernels.select import Kernels
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.cells import CELLS
from nmt.model.translator import Translator, Vocabulary
from nmt.tasks.components import read_translation
from tests.support.kernel_params import needs_compiler, needs_onednn_bf16
from tests.support.networks import BOS, REFERENCE, model_options, network, sentences
from tests.test_model import named

SIZES = (24, 20, 40)
"""Large enough for every product to be packed."""
NETWORKS: list[dict[str, Any]] = [
    {"score": "additive", "wiring": "bahdanau"},
    {"score": "concat", "wiring": "conditional", "cell": "lstm"},
    {
        "score": "general",
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
        "decoder_layers": 2,
        "cell": "rnn",
    },
    {"score": "dot", "wiring": "gnmt", "decoder_layers": 2},
    {"score": "general", "wiring": "conditional", "lexical": True},
    {"score": "additive", "wiring": "gnmt", "decoder_layers": 2, "bidirectional": "first", "cell": "lstm"},
]


def test_a_row_of_integers_does_not_depend_on_the_others() -> None:
    torch.manual_seed(1)
    weight, bias = Int8Weight(torch.randn(40, 24)), torch.randn(40)
    rows = torch.randn(3, 5, 24) * torch.logspace(-3, 3, 5).unsqueeze(1)
    together = F.linear(rows, weight, bias)
    for one in range(3):
        for other in range(5):
            assert torch.equal(F.linear(rows[one, other], weight, bias), together[one, other])


def test_zero_rows_stay_zero() -> None:
    assert torch.equal(F.linear(torch.zeros(2, 8), Int8Weight(torch.ones(4, 8))), torch.zeros(2, 4))


def test_bf16_is_what_autocast_computes() -> None:
    torch.manual_seed(3)
    layer, rows = nn.Linear(24, 40), torch.randn(7, 24)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(rows)
        prepack(layer, Bf16Weight)
        assert isinstance(layer.weight, Bf16Weight)
        assert torch.equal(layer(rows), expected)


def test_what_is_no_product_sees_the_weight_as_it_was_or_as_it_was_rounded() -> None:
    matrix = torch.randn(4, 8)
    steps = matrix.abs().amax(1, keepdim=True) / 127
    assert torch.equal(Fp32Weight(matrix)[:, 2:], matrix[:, 2:])
    weight: PrepackedWeight = Int8Weight(matrix)
    assert torch.equal(weight[:, 2:], ((matrix / steps).round() * steps)[:, 2:])
    assert type(weight + 1) is torch.Tensor


@torch.inference_mode()
@pytest.mark.parametrize("options", NETWORKS, ids=named)
def test_a_packed_translator_translates_as_before(options: dict[str, Any]) -> None:
    """Sources of several lengths, three steps: int8 within its rounding, the smallest products untouched."""
    translator = unscaled(network(model_options(**options, encoder_layers=2, sizes=SIZES)).float().eval())
    kernels = replace(REFERENCE, weights=Int8Weight)
    packed = unscaled(network(model_options(**options, encoder_layers=2, sizes=SIZES), kernels=kernels).float().eval())
    kernels.prepack(packed)
    source_BS, lengths_B = sentences(5, 2, 7)
    logits = []
    for each in (translator, packed):
        state = each.start(each.encode(source_BS, lengths_B))
        for _ in range(3):
            state, logits_BQV = each.step(state, torch.full((3, 1), 4))
        logits.append(logits_BQV)
    spread = logits[0].std()
    assert 0 < (logits[1] - logits[0]).abs().max() < 0.1 * spread
    weights = [weight for module in packed.modules() for weight in vars(module).values()]
    assert any(isinstance(weight, Int8Weight) for weight in weights)


@torch.inference_mode()
@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize(
    "shape",
    [{"encoder_layers": 2}, {"encoder_layers": 4, "bidirectional": "first", "encoder_residual_from": 3}],
    ids=["both directions", "gnmt"],
)
def test_an_encoder_step_by_step_is_the_library_s(cell: str, shape: dict[str, Any]) -> None:
    """With weights that are as exact as before: outputs, padding and last states, sentences in any order."""

    class Exact(PrepackedWeight):
        def product(self, inputs: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return F.linear(inputs, self.as_subclass(torch.Tensor), bias)

    class NotRun(AssertionError):
        """The library sees such weights as they were, and would not multiply by what they are."""

    def not_run(*arguments: Any) -> Any:
        raise NotRun

    options = model_options(
        score="dot", wiring="luong", wiring_options={"input_feeding": True}, cell=cell, sizes=SIZES, **shape
    )
    expected = network(options).eval()
    kernels = replace(REFERENCE, weights=Exact)
    actual = network(options, kernels=kernels).eval()
    kernels.prepack(actual)
    for segment in actual.encoder.segments:
        segment.forward = not_run
    source_BS, lengths_B = sentences(2, 7, 1, 5)
    assert all(has_prepacked_weights(segment) for segment in actual.encoder.segments)
    one = expected.encode(source_BS, lengths_B)
    other = actual.encode(source_BS, lengths_B)
    torch.testing.assert_close(other.memory_BSC, one.memory_BSC, rtol=0, atol=1e-12)
    torch.testing.assert_close(other.final_LBF, one.final_LBF, rtol=0, atol=1e-12)


FORMS = [
    pytest.param(Fp32Weight, 5e-6, id="float32"),
    pytest.param(Bf16Weight, 0.02, id="bf16", marks=needs_onednn_bf16),
    pytest.param(OnednnInt8Weight, 0.04, id="int8 by oneDNN"),
    pytest.param(OnednnNativeInt8Weight, 0.04, id="int8 by oneDNN, compiled", marks=needs_compiler),
    pytest.param(NativeInt8Weight, 0.04, id="int8 compiled", marks=needs_compiler),
    pytest.param(Int8Weight, 0.04, id="int8 by floats"),
]
CONFIGS = Path(__file__).parent.parent / "configs"
SYSTEMS = {preset: (f"attention/{preset}", "") for preset in ATTENTION_PRESETS} | {
    # Weights of one input.
    "neural coverage of size 1": ("attention/tu2016_neural", "model.attention.coverage={kind: neural, size: 1}"),
    "concat with linguistic coverage": ("attention/luong2015_global_concat", "model.attention.coverage=linguistic"),
}


def system_of(config: str, override: str, kernels: Kernels = REFERENCE) -> Translator:
    """A small translator of this config, its weights far from zero, every product of vectors wide enough to pack."""
    layers = read_translation(CONFIGS / f"{config}.yaml").model.encoder.layers
    sizes = ["model.embedding_size=24", "model.encoder.hidden_size=32", "model.decoder.hidden_size=32"]
    options = read_translation(CONFIGS / f"{config}.yaml", [*sizes, *([override] if override else [])]).model
    assert options.encoder.layers == layers
    vocabulary = Vocabulary(source_size=40, target_size=40, bos=BOS)
    return unscaled(network(options, vocabulary=vocabulary, kernels=kernels).float())


def unscaled(translator: Translator) -> Translator:
    """The translator with the weights of embeddings and scores as they stand: they are far from zero already."""
    for name, buffer in translator.named_buffers():
        if name.endswith(".scale"):
            buffer.fill_(1.0)
    return translator


@lru_cache
def references(name: str) -> tuple[Tensor, Tensor]:
    """Log-probabilities of given translations in float32, by both ways of computing them."""
    return forced(system_of(*SYSTEMS[name]))


@torch.inference_mode()
def forced(translator: Translator) -> tuple[Tensor, Tensor]:
    """[B, T] the log-probabilities of given translations: step by step as in a search, and all positions at once."""
    source_BS, lengths_B = sentences(9, 1, 14, 5, size=40)
    target_BT, _ = sentences(7, 7, 7, 7, size=40, seed=1)
    previous_BT = torch.cat([torch.full((4, 1), BOS), target_BT[:, :-1]], 1)
    encoded = translator.encode(source_BS, lengths_B)
    state, steps = translator.start(encoded), []
    for position in range(target_BT.shape[1]):
        state, logits_BQV = translator.step(state, previous_BT[:, position, None])
        steps.append(logits_BQV.float().log_softmax(-1)[:, 0])
    readout_BTR, weights = translator.readout(encoded, target_BT)
    logits_BTV = translator.logits(readout_BTR, translator.annotation_terms(encoded), weights)
    whole_BTV = logits_BTV.float().log_softmax(-1)
    one, other = (each.gather(2, target_BT[..., None])[..., 0] for each in (torch.stack(steps, 1), whole_BTV))
    return one, other


@pytest.mark.parametrize(("weights", "bound"), FORMS)
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_system_predicts_in_every_format_as_in_float32(
    name: str, weights: type[PrepackedWeight], bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds are of the mean difference of a piece's log-probability, in nats. They are -3.7 to -5.8 on average."""
    monkeypatch.setattr(onednn, "FEWEST_WEIGHTS", 0)
    kernels = replace(REFERENCE, weights=weights)
    translator = system_of(*SYSTEMS[name], kernels=kernels)
    kernels.prepack(translator)
    with torch.autocast("cpu", torch.bfloat16, enabled=weights is Bf16Weight):
        found = forced(translator)
    for one, other in zip(found, references(name), strict=True):
        assert (one - other).abs().mean() < bound
