"""Signals and gradients of a fresh network are of order one, whatever its parts, so that Adam learns from the start."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.checkpoint import Loaded, saved_tensors
from nmt.model.attention.base import Encoded
from nmt.model.attention.soft import build_attention
from nmt.model.translator import Translator, Vocabulary
from tests.support.networks import INPUT_FEEDING, REFERENCE, VOCABULARY, model_options, sentences

PIECES = 2_000
CELLS = ["gru", "lstm", "rnn"]
WIRINGS = ["bahdanau", "luong", "conditional", "gnmt"]
SCORES = ["additive", "concat", "dot", "general", "scaled_dot", "cosine", "location", "mean", "none"]
TIES = ["none", "target_output", "source_target", "all"]

SIGNALS = {
    "source embedding": (0.8, 1.2),
    "target embedding": (0.8, 1.2),
    "annotations": (0.1, 1.0),
    "start": (0.1, 1.0),
    "context": (0.05, 1.0),
    "decoder state": (0.1, 1.0),
    "readout": (0.1, 1.0),
}
"""Least and largest root mean square of a fresh network's activations. States of a GRU are small, because it starts as
the mean of the state before and the new one; a context is a mean of annotations."""

SMALLEST_GRADIENT = {"gru": 6e-5, "lstm": 3e-5, "rnn": 2e-4}
"""Least ratio of a parameter's gradient to that of all parameters, as norms, by cell. It is that of the attention's
query and key, in the deepest networks, or of neural coverage, which starts from 0. With embeddings of variance 1 / E it
is 4e-5 for GRUs and 4e-6 for LSTMs."""


def rms(values: Tensor) -> float:
    return values.detach().square().mean().sqrt().item()


def measure(options: Any) -> tuple[dict[str, float], dict[str, float]]:
    """The root mean square of activations of a fresh network, and the norms of its parameters' gradients."""
    torch.manual_seed(0)
    translator = Translator(options, Vocabulary(PIECES, PIECES, 2), REFERENCE)
    source_BS, lengths_B = sentences(*[12] * 16, size=PIECES)
    target_BT, _ = sentences(*[10] * 16, size=PIECES, seed=1)
    signals: dict[str, float] = {}

    def record(name: str, module: nn.Module, of: Callable[[Any], Tensor] = lambda output: output) -> None:
        module.register_forward_hook(lambda _, __, output: signals.update({name: rms(of(output))}))

    record("source embedding", translator.encoder.embedding)
    record("target embedding", translator.decoder.embedding)
    record("annotations", translator.encoder, lambda encoded: encoded.memory_BSC)
    record("start", translator.decoder.wiring.bridge, lambda states: states[0])
    record("context", translator.decoder.wiring.attention, lambda attended: attended.context_BQC)
    translator.decoder.readout.register_forward_pre_hook(
        lambda _, inputs: signals.update({"decoder state": rms(inputs[0].hidden)})
    )
    record("readout", translator.decoder.readout)
    logits_BTV = translator(source_BS, lengths_B, target_BT)
    signals["logits"] = rms(logits_BTV)
    F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten()).backward()
    gradients = {
        name: parameter.grad.norm().item()
        for name, parameter in translator.named_parameters()
        if parameter.grad is not None
    }
    return signals, gradients


NETWORKS = (
    [
        pytest.param(
            {"cell": cell, "wiring": wiring, "wiring_options": INPUT_FEEDING.get(wiring), "score": score},
            id=f"{cell}-{wiring}-{score}",
        )
        for cell, wiring, score in itertools.product(CELLS, WIRINGS, SCORES)
    ]
    + [
        pytest.param(
            {"cell": cell, "wiring": wiring, "wiring_options": INPUT_FEEDING.get(wiring), "tie": tie}
            | {"encoder_layers": layers, "decoder_layers": layers},
            id=f"{cell}-{wiring}-{tie}-{layers}",
        )
        for cell, wiring, tie, layers in itertools.product(CELLS, WIRINGS, TIES, (1, 2, 3))
    ]
    + [
        pytest.param({"cell": cell, **more}, id="-".join([cell, *map(str, more.values())]))
        for cell in CELLS
        for more in (
            {"score": "general", "wiring": "luong"},
            {
                "window": "local_monotonic",
                "score": "general",
                "wiring": "luong",
                "wiring_options": {"input_feeding": True},
            },
            {
                "window": "local_predictive",
                "score": "general",
                "wiring": "luong",
                "wiring_options": {"input_feeding": True},
            },
            {"bridge": "copy", "score": "dot", "wiring": "luong", "wiring_options": {"input_feeding": True}},
            {"bridge": "mean"},
            {"bridge": "backward"},
            {"bridge": "context", "score": "none"},
            {"heads": 4},
            {"coverage": "linguistic"},
            {"coverage": "neural"},
            {"readout": "maxout"},
            {"lexical": True},
            {"layer_normalization": True},
        )
    ]
)


@pytest.mark.parametrize("options", NETWORKS)
def test_signals_and_gradients_are_of_order_one(options: dict[str, Any]) -> None:
    signals, gradients = measure(model_options(sizes=(64, 32, 64), **options))
    logits = signals.pop("logits")
    outside = {name: value for name, value in signals.items() if not SIGNALS[name][0] <= value <= SIGNALS[name][1]}
    assert not outside
    # Weights of the vocabulary have variance 1 / R, however many pieces there are.
    assert logits == pytest.approx(signals["readout"], rel=0.1)
    whole = sum(norm**2 for norm in gradients.values()) ** 0.5
    assert 0.1 < whole < 10
    assert not {name: norm for name, norm in gradients.items() if norm < SMALLEST_GRADIENT[options["cell"]] * whole}


def attention_with(**options: Any) -> Any:
    """An attention for queries of 256 features and annotations of 512."""
    torch.manual_seed(0)
    return build_attention(model_options(**options).attention, 256, 512, REFERENCE)


@pytest.mark.parametrize("window", ["global", "local_predictive"])
def test_a_step_of_adam_moves_scores_and_windows_a_little(window: str) -> None:
    """Adam's first step changes every entry of a matrix by the learning rate.

    With |q| and |m| = 0.5 in every feature a score changes by 0.001 x 256 x 512 x 0.25 = 32.8 where W is the matrix
    itself; the factor of 512^-1/2 leaves 1.45. v' tanh(W q) changes by at most 0.26, and 256^-1/2 leaves 0.016.
    """
    attention = attention_with(score="general", window=window)
    query_11H = torch.full((1, 1, 256), 0.5) * torch.randn(256).sign()
    memory_1SC = torch.full((1, 6, 512), 0.5) * torch.randn(512).sign()
    moved = attention.score.memory.weight if window == "global" else attention.window.position

    def value() -> Tensor:
        if window == "global":
            return query_11H[0, 0] @ attention.score.keys(memory_1SC)[0, 0]
        encoded = Encoded(memory_1SC, torch.ones(1, 6, dtype=torch.bool), ())
        centers = attention.window.bounds(query_11H, attention.prepare(encoded), None)[1]
        return torch.logit((centers[0, 0] + 1) / 6)

    before = value()
    before.backward()
    torch.optim.Adam([moved], lr=1e-3).step()
    change = (before - value()).item()
    if window == "global":
        assert change == pytest.approx(0.001 * 256 * 512 * 0.25 * 512**-0.5, rel=1e-3)
    else:
        assert 0 < change < 0.001 * 256 * 256**-0.5


def small() -> Translator:
    return Translator(model_options(tie="none"), VOCABULARY, REFERENCE).eval()


def test_scores_and_windows_of_a_checkpoint_of_earlier_versions_are_those_of_their_weights() -> None:
    attention = attention_with(score="general", window="local_predictive")
    assert 0 < attention.score.scale < 1
    assert 0 < attention.window.scale < 1
    Loaded(Path("run"), dict(attention.named_parameters()), cast(Any, None), cast(Any, None)).load_into(attention)
    assert (attention.score.scale, attention.window.scale) == (1.0, 1.0)


def test_embeddings_of_a_checkpoint_of_earlier_versions_are_rows_of_their_table() -> None:
    """It holds no scale: a network that multiplied its embeddings would translate differently."""
    saved = dict(small().named_parameters())
    loaded = Loaded(Path("run"), saved, cast(Any, None), cast(Any, None))
    translator = small()
    loaded.load_into(translator)
    ids_BT, _ = sentences(5, 3)
    for embedding in (translator.encoder.embedding, translator.decoder.embedding):
        assert torch.equal(embedding(ids_BT % 11), embedding.table(ids_BT % 11))


def test_a_checkpoint_holds_the_scale_of_the_embeddings() -> None:
    """Another version may choose another one."""
    saved = saved_tensors(small())
    assert saved["encoder.embedding.scale"] > 1
    saved = saved | {"encoder.embedding.scale": torch.tensor(3.0), "decoder.embedding.scale": torch.tensor(5.0)}
    translator = small()
    Loaded(Path("run"), saved, cast(Any, None), cast(Any, None)).load_into(translator)
    assert (translator.encoder.embedding.scale, translator.decoder.embedding.scale) == (3.0, 5.0)
