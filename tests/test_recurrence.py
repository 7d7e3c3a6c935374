"""A recurrence that is recorded and differentiated by hand is what autograd makes of its steps: outputs, gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.config import schema
from nmt.errors import ConfigError
from nmt.kernels.compiler import load_library
from nmt.kernels.steps import StepKernels
from nmt.model.translator import Translator
from tests.support.kernel_params import HAS_ONEDNN_BF16, STEPS, needs_compiler
from tests.support.networks import INPUT_FEEDING, REFERENCE, VOCABULARY, model_options, network, sentences, with_steps
from tests.support.reference_steps import ReferenceKernels
from tests.support.training_runs import run_config, write_corpus
from tests.test_kernels import LargeTensors
from tests.test_model import NETWORKS, build, named

NATIVE = [StepKernels("native")] if load_library()[0] else []

WIRED: list[dict[str, Any]] = [
    {"wiring": "bahdanau"},
    {"wiring": "conditional"},
    {"wiring": "conditional", "decoder_layers": 3, "residual_from": 3},
    {"wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"wiring": "luong", "wiring_options": {"input_feeding": False}},
    {"wiring": "gnmt", "decoder_layers": 2},
]
FED: list[dict[str, Any]] = [
    {"wiring": "gnmt", "decoder_layers": 2, "wiring_options": {"query": query, "context_feeding": True}}
    for query in ("current", "previous")
]
STACKED: list[dict[str, Any]] = [
    {"wiring": wiring, "wiring_options": INPUT_FEEDING.get(wiring), "decoder_layers": 3, "residual_from": residual}
    for wiring in ("bahdanau", "luong")
    for residual in (None, 2, 3)
]
RECORDED = [
    *({"score": score, **wired} for score in ("additive", "dot", "scaled_dot", "general", "concat") for wired in WIRED),
    *(
        {"score": score, "cell": cell, **wired}
        for score, cell in (("additive", "lstm"), ("dot", "rnn"))
        for wired in WIRED
    ),
    *({"score": score, **wired} for score in ("additive", "dot") for wired in (*FED, *STACKED)),
    *({"score": "general", "cell": "lstm", **wired} for wired in (*FED, *STACKED)),
    {"score": "general", "cell": "rnn", **STACKED[-1]},
    {
        "score": "general",
        "cell": "lstm",
        "bridge": "copy",
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
    },
    {"score": "additive", "bridge": "backward", "wiring_options": {"readout_state": "previous"}},
    {"score": "additive", "wiring_options": {"readout_state": "previous"}, "decoder_layers": 3, "residual_from": 2},
    {"score": "additive", "transitions": 3},
    {"score": "general", "wiring": "conditional", "lexical": True},
    {
        "score": "dot",
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
        "decoder_layers": 2,
        "transitions": 2,
        "cell": "lstm",
    },
    {"score": "general", "wiring": "conditional", "decoder_layers": 2, "first_transitions": 4, "transitions": 2},
    {"score": "additive", "wiring": "gnmt", "wiring_options": {"context_feeding": True}, "transitions": 2}
    | {"decoder_layers": 2, "cell": "rnn"},
]


def outputs_and_gradients(
    translator: Translator, steps: StepKernels | None
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Readout and weights, and the gradients of a loss that depends on all of both."""
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(6, 3, 4, size=11)
    readout_BTR, weights = with_steps(translator, steps).readout(translator.encode(source_BS, lengths_B), target_BT)
    assert weights is not None
    outputs = [readout_BTR, weights.dense()]
    parameters = [parameter for name, parameter in translator.named_parameters() if "projection" not in name]
    loss = sum(output.sin().mul(torch.arange(1, output.shape[-1] + 1)).sum() for output in outputs)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [output.detach() for output in outputs], [each for each in gradients if each is not None]


def flat(*parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for part in parts for tensor in part])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("options", RECORDED, ids=named)
def test_a_recorded_recurrence_is_that_of_autograd(options: dict[str, Any], steps: StepKernels) -> None:
    translator = network(model_options(**options))
    assert translator.unsupported_reasons().recurrence == ""
    expected, gradients = outputs_and_gradients(translator, None)
    actual, found = outputs_and_gradients(translator, steps)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, gradients, rtol=0, atol=1e-11)
    with torch.no_grad():
        source_BS, lengths_B = sentences(5, 2, 7)
        target_BT, _ = sentences(6, 3, 4, size=11)
        readout_BTR, _ = with_steps(translator, steps).readout(translator.encode(source_BS, lengths_B), target_BT)
    assert torch.equal(readout_BTR, actual[0]), "the same where nothing is kept for a backward pass"


def test_a_network_that_is_not_recorded_says_why() -> None:
    reasons = {build(options).unsupported_reasons().recurrence for options in NETWORKS}
    assert reasons == {
        "",
        "model.attention.coverage has no native or Triton kernel",
        "model.attention.heads is not 1",
        "model.attention.score compares nothing",
        "model.attention.score has no native or Triton kernel",
        "model.attention.window is not global",
        "model.attention.wiring.reset_context has no native or Triton kernel",
        "model.decoder.cell.layer_normalization has no native or Triton kernel",
    }


def test_what_is_not_recorded_runs_as_without_steps() -> None:
    translator = network(
        model_options(score="general", window="local_monotonic", wiring="luong", wiring_options={"input_feeding": True})
    )
    expected, gradients = outputs_and_gradients(translator, None)
    actual, found = outputs_and_gradients(translator, ReferenceKernels())
    assert all(torch.equal(one, other) for one, other in zip([*actual, *found], [*expected, *gradients], strict=True))


def test_bf16_products_stay_near_the_exact_result() -> None:
    """On average no farther from it than autograd, which rounds what it adds up in the steps."""
    layers = {"decoder_layers": 3, "residual_from": 2}
    for options in (
        {"score": "additive", "wiring": "bahdanau"},
        {"score": "general", "wiring": "luong", "wiring_options": {"input_feeding": True}},
        {"score": "concat", "wiring": "conditional"},
        {"score": "general", "wiring": "luong", "wiring_options": {"input_feeding": True}, **layers},
        {"score": "additive", "wiring": "bahdanau", "cell": "lstm", **layers},
    ):
        ratios = []
        for seed in range(5):
            translator = network(model_options(**options), seed).float()
            exact = flat(*outputs_and_gradients(translator, None))
            with torch.autocast("cpu", torch.bfloat16):
                by_autograd = flat(*outputs_and_gradients(translator, None)) - exact
                by_hand = flat(*outputs_and_gradients(translator, ReferenceKernels())) - exact
            assert 0 < by_autograd.norm() <= 0.03 * exact.norm()
            ratios.append(float(by_hand.norm() / by_autograd.norm()))
        assert 0 < sum(ratios) / len(ratios) <= 1


@pytest.mark.parametrize("wiring", ["bahdanau", "conditional", "luong", "gnmt"])
@pytest.mark.parametrize("bridge", ["final", "zero", "copy"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_states_are_exact_whatever_format_the_encoder_leaves(cell: str, bridge: str, wiring: str) -> None:
    """Under autocast some of the library's layers put out bf16, on a GPU all of them."""
    if cell == "lstm" and not HAS_ONEDNN_BF16:
        pytest.skip("oneDNN has no LSTM in bf16 on this processor")
    layers = 2 if wiring == "gnmt" else 1
    feeding = {"context_feeding": True} if wiring == "gnmt" else INPUT_FEEDING.get(wiring)
    options = model_options(cell=cell, bridge=bridge, wiring=wiring, wiring_options=feeding, decoder_layers=layers)
    translator = network(options).float()
    expected = flat(*outputs_and_gradients(translator, None))
    with torch.autocast("cpu", torch.bfloat16):
        encoded = translator.encode(*sentences(5, 2, 7))
        for memory_BSC in (encoded.memory_BSC, encoded.memory_BSC.bfloat16()):
            state = translator.start(replace(encoded, memory_BSC=memory_BSC))
            assert {part.dtype for part in state.recurrent} == {state.prepared.bias.dtype} == {torch.float32}
        for steps in (None, ReferenceKernels(), *NATIVE):
            found = flat(*outputs_and_gradients(translator, steps))
            assert (found - expected).norm() <= 0.03 * expected.norm()


@pytest.mark.parametrize("bridge", ["final", "zero"])
@pytest.mark.parametrize(("score", "wiring"), [("additive", "bahdanau"), ("general", "luong")])
def test_annotations_in_the_format_of_products_leave_the_steps_exact(bridge: str, score: str, wiring: str) -> None:
    """As the library's layers put them out under autocast: an RNN on a CPU, every cell on a GPU."""
    feeding = INPUT_FEEDING.get(wiring)
    options = model_options(encoder_cell="rnn", bridge=bridge, score=score, wiring=wiring, wiring_options=feeding)
    translator = network(options).float()
    exact = flat(*outputs_and_gradients(translator, None))
    with torch.autocast("cpu", torch.bfloat16):
        encoded = translator.encode(*sentences(5, 2))
        state = translator.start(encoded)
        by_autograd = flat(*outputs_and_gradients(translator, None)) - exact
        by_hand = flat(*outputs_and_gradients(translator, ReferenceKernels())) - exact
    assert encoded.memory_BSC.dtype == torch.bfloat16
    assert {part.dtype for part in state.recurrent} == {state.prepared.bias.dtype} == {torch.float32}
    assert 0 < by_hand.norm() <= 0.03 * exact.norm()
    assert 0 < by_autograd.norm() <= 0.03 * exact.norm()


def test_the_backward_pass_makes_nothing_as_large_as_a_weight_or_the_source_in_a_step() -> None:
    """Four times as many steps need no more such tensors: these gradients are one product each."""
    translator = network(
        model_options(score="general", wiring="luong", wiring_options={"input_feeding": True}, sizes=(6, 64, 128))
    )
    counts = []
    for steps in (3, 12):
        source_BS, lengths_B = sentences(40)
        target_BT, _ = sentences(steps, size=11)
        encoded = translator.encode(source_BS, lengths_B)
        with LargeTensors(40 * 128) as large:
            readout_BTR, _ = with_steps(translator, ReferenceKernels()).readout(encoded, target_BT)
            readout_BTR.sum().backward()
        counts.append(large.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("override", "unsupported_reason"),
    [
        ("model.attention={wiring: bahdanau, window: local_predictive}", "model.attention.window is not global"),
        ("model.attention={wiring: bahdanau, score: additive, heads: 2}", "model.attention.heads is not 1"),
    ],
)
def test_what_cannot_be_fused_is_said_with_the_line_of_the_yaml(
    tmp_path: Path, override: str, unsupported_reason: str
) -> None:
    for kernel in ("fused", "graphed"):
        with pytest.raises(ConfigError, match=rf"runtime\.kernel: {kernel} cannot be had: {unsupported_reason}"):
            run_config(tmp_path, f"runtime.kernel={kernel}", override)
    run_config(tmp_path, "runtime.kernel=auto", override)


def test_what_this_device_cannot_fuse_is_said_before_anything_is_read(tmp_path: Path) -> None:
    """A GPU could: the config by itself is valid. Neither text nor run is touched."""
    from nmt.tasks.training import train

    config = run_config(tmp_path, "runtime.kernel=fused", "runtime.device=cpu", "model.encoder.cell=lstm")
    with pytest.raises(ConfigError, match=r"runtime\.kernel: fused cannot be had: model\.encoder\.cell is not gru"):
        train(config)
    assert not list(tmp_path.iterdir())
    config = run_config(tmp_path, "runtime.kernel=graphed", "runtime.device=cpu")
    with pytest.raises(ConfigError, match=r"runtime\.kernel: graphed cannot be had: CUDA graphs are replayed on a GPU"):
        train(config)
    assert not list(tmp_path.iterdir())


def test_a_fused_run_learns_what_a_reference_run_learns(tmp_path: Path) -> None:
    """Without dropout, whose reference draws other numbers."""
    from nmt.tasks.training import train
    from tests.support.training_runs import records

    write_corpus(tmp_path)
    losses = []
    for kernel in ("reference", "fused"):
        overrides = (f"run={tmp_path}/{kernel}", f"runtime.kernel={kernel}", "training.max_epochs=1")
        config = run_config(tmp_path, *overrides, "model.dropout={embedding: 0, layer: 0, output: 0}")
        train(config)
        losses.append([record["loss"] for record in records(config.run)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("wiring", ["bahdanau", "luong", "conditional", "gnmt"])
@pytest.mark.parametrize("steps", STEPS)
def test_dropout_is_the_same_whichever_way_a_recurrence_is_computed(
    wiring: str, layers: int, steps: StepKernels
) -> None:
    dropout = schema.DropoutConfig(embedding=0.3, layer=0.3, output=0.3)
    options = {"residual_from": 3 if layers == 3 else None, "decoder_layers": layers, "dropout": dropout}
    translator = network(model_options(score="general", wiring=wiring, **options)).train()
    found = []
    for by in (None, steps):
        torch.manual_seed(1)
        found.append(outputs_and_gradients(translator, by))
    (expected, gradients), (actual, others) = found
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(others, gradients, rtol=0, atol=1e-11)


@needs_compiler
def test_gradients_through_scores_survive_half_precision() -> None:
    """Those of a look's scores add up to nothing: rounded one by one, what they move the query's map by is noise."""
    torch.manual_seed(0)
    translator = Translator(model_options(sizes=(64, 64, 128)), VOCABULARY, REFERENCE)
    asked = translator.decoder.wiring.attention.score.query.weight
    source_BS, lengths_B = sentences(19, 22, 17)
    target_BT, _ = sentences(6, 9, 4, size=11)

    def gradient(steps: StepKernels | None, enabled: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            readout_BTR, _ = with_steps(translator, steps).readout(translator.encode(source_BS, lengths_B), target_BT)
        (found,) = torch.autograd.grad(readout_BTR.float().sin().sum(), asked)
        return found

    exact = gradient(None, enabled=False)
    assert (gradient(StepKernels("native"), enabled=True) - exact).norm() < 0.015 * exact.norm()
