"""The lexical model: its equations by hand, and where it stands in the network."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from nmt.config import TranslationConfig, dump_config
from nmt.errors import ConfigError
from nmt.model.attention import AttentionWeights
from nmt.model.attention.base import has_lexical_model
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.model.wiring import LexicalModel
from nmt.tasks.components import parse_saved_config, read_config, read_translation
from tests.support.networks import INPUT_FEEDING, REFERENCE, model_options, network, sentences

EMBEDDINGS = [[1.0, -2.0], [3.0, 0.5]]
WEIGHTS = [[0.25, 0.75], [1.0, 0.0]]
MATRIX, BIAS = [[0.5, -1.0], [2.0, 0.1]], [0.2, -0.3]


def by_hand(weights: list[float]) -> list[float]:
    """l = tanh(sum over s of a_s f_s), h = tanh(W l + b) + l, a number at a time."""
    words = [math.tanh(sum(a * f[i] for a, f in zip(weights, EMBEDDINGS, strict=True))) for i in range(2)]
    sums = [sum(w * x for w, x in zip(row, words, strict=True)) + b for row, b in zip(MATRIX, BIAS, strict=True)]
    return [math.tanh(total) + word for total, word in zip(sums, words, strict=True)]


def lexical_model() -> LexicalModel:
    lexical = LexicalModel(2, REFERENCE).double()
    with torch.no_grad():
        lexical.mix.weight.copy_(torch.tensor(MATRIX, dtype=torch.float64))
        lexical.mix.bias.copy_(torch.tensor(BIAS, dtype=torch.float64))
    return lexical


def test_its_numbers_are_those_of_the_equations() -> None:
    weights_1QNS = torch.tensor(WEIGHTS, dtype=torch.float64)[None, :, None]
    found_1QE = lexical_model()(AttentionWeights(weights_1QNS, None, None, 2), torch.tensor([EMBEDDINGS]).double())
    assert found_1QE[0].tolist() == [pytest.approx(by_hand(weights), abs=1e-12) for weights in WEIGHTS]


def test_several_heads_mix_by_their_mean() -> None:
    weights_11NS = torch.tensor([[[[0.1, 0.9], [0.4, 0.6]]]], dtype=torch.float64)
    found_11E = lexical_model()(AttentionWeights(weights_11NS, None, None, 2), torch.tensor([EMBEDDINGS]).double())
    assert found_11E[0, 0].tolist() == pytest.approx(by_hand([0.25, 0.75]), abs=1e-12)


@pytest.mark.parametrize("wiring", ["bahdanau", "luong"])
def test_it_is_added_to_the_readout_of_the_same_network(wiring: str) -> None:
    """Attention and recurrence do not see it: only what the vocabulary projection reads is another."""
    translator = network(model_options(wiring=wiring, wiring_options=INPUT_FEEDING.get(wiring), lexical=True))
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(6, 3, 4, size=11)
    encoded = translator.encode(source_BS, lengths_B)
    readout_BTR, weights = translator.readout(encoded, target_BT)
    assert weights is not None
    lexical, translator.decoder.lexical = translator.decoder.lexical, None
    without_BTR, same = translator.readout(encoded, target_BT)
    assert same is not None
    assert torch.equal(same.dense(), weights.dense())
    assert lexical is not None
    embedded_BSE = translator.encoder.embedding(source_BS) * encoded.mask_BS.unsqueeze(2)
    torch.testing.assert_close(readout_BTR, without_BTR + lexical(weights, embedded_BSE), rtol=0, atol=1e-12)


DATA = (
    "run: x\ndata: {source_language: a, target_language: b, train: {source: s, target: t}, "
    "validation: {source: s, target: t}}\n"
)
CONFIG = DATA + "model: {decoder: {readout: {lexical: true}}}\n"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{}", True),
        ("{attention: {score: none}}", False),
        ("{attention: {score: general, wiring: conditional, alignment: latent}}", False),
        ("{tie: none, decoder: {readout: {size: 7}}}", False),
        ("{tie: none, decoder: {readout: {size: 256}}}", True),
        ("{decoder: {readout: {lexical: false}}}", False),
        ("{attention: nematus2017}", False),
        ("{attention: nematus2017, decoder: {readout: {lexical: true}}}", True),
    ],
)
def test_networks_have_it_by_default_where_they_can_and_published_systems_do_not(
    model: str, expected: bool, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{DATA}model: {model}\n")
    options = read_translation(path).model
    assert has_lexical_model(options) == expected
    translator = without_memory(lambda: Translator(options, Vocabulary(8, 8, 0), REFERENCE))
    assert (translator.decoder.lexical is not None) == translator.encoder.keeps_embeddings == expected


def test_configs_that_earlier_versions_saved_have_none(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DATA)
    saved = dump_config(read_config(path))
    assert "lexical: null" in saved
    for text, expected in ((saved, True), (re.sub(r",? *lexical: null\n?", "", saved), False)):
        config = parse_saved_config(text, "saved")
        assert isinstance(config, TranslationConfig)
        assert has_lexical_model(config.model) == expected, text


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["model.attention=sutskever2014"], "model.decoder.readout.lexical: needs attention"),
        (["model.attention=wu2018_hard"], "model.decoder.readout.lexical: is true, but with model.attention.alignment"),
        (["model.tie=none", "model.decoder.readout.size=7"], "size: is 7, but must equal model.embedding_size (256)"),
    ],
)
def test_where_it_cannot_be_is_said(overrides: list[str], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    read_config(path)
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    assert any(complaint in line for line in caught.value.problems), caught.value.problems
