"""The truths of a translator's network: scan == steps, batch == single, padding changes nothing, all of it learns."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from nmt.config import schema
from nmt.model import translator as translator_module
from nmt.model.attention import COVERAGES, SCORES, WINDOWS
from nmt.model.cells import CELLS
from nmt.model.modules import without_memory
from nmt.model.translator import Translator
from nmt.model.wiring import WIRINGS, DecoderState
from tests.support.networks import BOS, EOS, NO_DROPOUT, REFERENCE, VOCABULARY, model_options, network, sentences

TIGHT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-10}

# Options beside a name, where the defaults do not show everything in sentences of a few words.
WINDOW_OPTIONS: dict[str, dict[str, Any]] = {
    "local_monotonic": {"half_width": 1},
    "local_predictive": {"half_width": 2},
}
WIRING_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "luong": [{"input_feeding": True}, {"input_feeding": False}],
    "gnmt": [{"query": "current"}, {"query": "previous"}, {"context_feeding": True}],
}
WIRED = [
    {"wiring": wiring, "wiring_options": options} for wiring in WIRINGS for options in WIRING_OPTIONS.get(wiring, [{}])
]


def can_be(options: dict[str, Any]) -> bool:
    """Whether the parts say that they go together."""
    model = model_options(**options)
    parts = (part for _, part in model.attention if isinstance(part, schema.NetworkPartOptions))
    return not any(tuple(part.conflicts(model)) for part in parts)


ATTENTIONS: list[dict[str, Any]] = [
    {
        "score": score,
        "window": window,
        "window_options": WINDOW_OPTIONS.get(window),
        "heads": heads,
        "coverage": coverage,
    }
    for score, window, heads, coverage in product(SCORES, WINDOWS, (1, 2), COVERAGES)
]
ATTENTIONS = [options for options in ATTENTIONS if can_be(options)]
BUILDS = [{"cell": cell, "decoder_layers": layers} for cell in CELLS for layers in (1, 2)]
# Every score in every window and wiring; heads and coverage with each of them in one wiring after the other.
COMBINATIONS = [
    {**attention, **wired, **BUILDS[(number + other) % len(BUILDS)]}
    for number, attention in enumerate(ATTENTIONS)
    for other, wired in enumerate(WIRED)
    if (attention["heads"] == 1 and attention["coverage"] == "none") or other == number % len(WIRED)
]
PRODUCT = [{**attention, **wired, **build} for attention, wired, build in product(ATTENTIONS, WIRED, BUILDS)]
SHAPES: list[dict[str, Any]] = [
    {"cell": "lstm", "encoder_cell": "gru", "decoder_layers": 2},
    {"encoder_layers": 2, "decoder_layers": 2},
    {"bidirectional": False, "bridge": "mean"},
    {"bridge": "zero"},
    {"layer_normalization": True, "tie": "none"},
    {"decoder_layers": 3, "residual_from": 2},
    {"decoder_layers": 3, "residual_from": 3},
    {"encoder_layers": 3, "encoder_residual_from": 2},
    {"encoder_layers": 3, "bidirectional": "first", "decoder_layers": 3},
    {"encoder_layers": 4, "bidirectional": "first", "encoder_residual_from": 3, "cell": "lstm", "decoder_layers": 4},
]
MAPPED: dict[str, Any] = {"score": "none", "score_options": {"mapped": True}}
PREVIOUS, RESET = {"readout_state": "previous"}, {"reset_context": True}
# How the papers start the decoder, and what their readouts and reset gates see.
PAPERS: list[dict[str, Any]] = [
    *({"bridge": "copy", **wired} for wired in WIRED),
    {"bridge": "copy", "cell": "lstm", "encoder_layers": 2, "decoder_layers": 2},
    {"bridge": "copy", "cell": "rnn", "encoder_layers": 3, "bidirectional": False, "decoder_layers": 2},
    {"bridge": "backward", "layer_normalization": True},
    {"bridge": "backward", "cell": "lstm", "encoder_layers": 3, "decoder_layers": 2, "wiring": "conditional"},
    {**MAPPED, "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {**MAPPED, "wiring": "gnmt", "bridge": "context", "decoder_layers": 2},
    {**MAPPED, "bridge": "context", "wiring_options": RESET},
    {"wiring_options": RESET, "decoder_layers": 2},
    {"wiring_options": RESET, "cell": "lstm"},
    {"wiring_options": {**PREVIOUS, **RESET}, "heads": 2},
    {"wiring_options": PREVIOUS, "coverage": "neural", "bridge": "backward"},
    {"wiring_options": PREVIOUS, "decoder_layers": 3, "residual_from": 2, "cell": "lstm"},
    {"reverse_source": True, "encoder_layers": 2},
    {"reverse_source": True, "score": "location", "window": "local_monotonic"},
    {"reverse_source": True, "bidirectional": False, "bridge": "copy", "cell": "lstm"},
]
LATENT: list[dict[str, Any]] = [
    {"alignment": "latent", **options}
    for options in (
        {},
        {"wiring_options": PREVIOUS, "coverage": "neural"},
        {"top_k": 2, "wiring": "conditional", "layer_normalization": True, "decoder_layers": 2},
        {"wiring": "luong", "wiring_options": {"input_feeding": False}, "score": "general", "cell": "lstm"},
        {"wiring": "gnmt", "wiring_options": {"context_feeding": True}, "readout": "maxout", "decoder_layers": 2},
        {"wiring": "gnmt", "normalizer": "sparsemax", "readout": "linear", "tie": "none", "top_k": 100},
    )
]
LEXICAL: list[dict[str, Any]] = [
    {"lexical": True, **options}
    for options in (
        {"wiring_options": PREVIOUS, "tie": "none"},
        {"heads": 2, "coverage": "neural", "layer_normalization": True},
        {"wiring": "conditional", "reverse_source": True},
        {
            "wiring": "luong",
            "wiring_options": {"input_feeding": True},
            "window": "local_predictive",
            "score": "general",
        },
        {"wiring": "luong", "wiring_options": {"input_feeding": False}},
        {"wiring": "gnmt", "decoder_layers": 2, "readout": "maxout"},
    )
]
# Chains of cells (Miceli Barone 2017) and normalised ones (Ba 2016).
DEEP: list[dict[str, Any]] = [
    {"encoder_transitions": 3, "transitions": 2},
    {"encoder_layers": 2, "encoder_transitions": 2, "decoder_layers": 2, "transitions": 2, "first_transitions": 4}
    | {"wiring": "conditional", "residual_from": 2},
    {
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
        "transitions": 2,
        "cell": "lstm",
        "bridge": "copy",
        "encoder_transitions": 2,
    },
    {"wiring": "gnmt", "decoder_layers": 2, "transitions": 2, "cell": "rnn"},
    {"wiring": "gnmt", "wiring_options": {"context_feeding": True}, "first_transitions": 3},
    {"cell_normalization": True, "encoder_layers": 2, "wiring_options": RESET},
    {
        "cell_normalization": True,
        "cell": "lstm",
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
        "decoder_layers": 2,
    },
    {"cell_normalization": True, "wiring": "conditional", "transitions": 3, "encoder_transitions": 2, "bridge": "mean"},
    {"cell_normalization": True, "cell": "lstm", "encoder_transitions": 2, "transitions": 2},
]
NETWORKS = [
    *PAPERS,
    *LATENT,
    *LEXICAL,
    *DEEP,
    *COMBINATIONS,
    *({**wired, **shape} for wired, shape in product(WIRED, SHAPES)),
    {"readout": "maxout"},
    {"readout": "linear"},
    {"score": "none", "score_options": {"context": "first_state"}},
    {
        "score": "none",
        "score_options": {"context": "first_state"},
        "wiring": "luong",
        "wiring_options": {"input_feeding": True},
    },
    {"score": "none", "score_options": {"context": "first_state"}, "wiring": "gnmt", "decoder_layers": 2},
]


def named(options: dict[str, Any]) -> str:
    values = (value for value in options.values() if value not in (None, {}))
    return "-".join(",".join(map(str, value.values())) if isinstance(value, dict) else str(value) for value in values)


def build(options: dict[str, Any]) -> Translator:
    """The network of these options; `reverse_source` is the one that is not of the model's own section."""
    own = {name: value for name, value in options.items() if name != "reverse_source"}
    return network(model_options(**own), reverse_source=options.get("reverse_source", False))


every_network = pytest.mark.parametrize("options", NETWORKS, ids=named)


def steps(
    translator: Translator, source_BS: torch.Tensor, lengths_B: torch.Tensor, target_BT: torch.Tensor
) -> torch.Tensor:
    """Logits [B, T, V] one position after another."""
    state = translator.start(translator.encode(source_BS, lengths_B))
    previous_BT = torch.cat([torch.full_like(target_BT[:, :1], BOS), target_BT[:, :-1]], 1)
    logits = []
    for position in range(target_BT.shape[1]):
        state, logits_B1V = translator.step(state, previous_BT[:, position : position + 1])
        logits.append(logits_B1V)
    return torch.cat(logits, 1)


@every_network
def test_scan_is_step_repeated(options: dict[str, Any]) -> None:
    translator = build(options)
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(6, 3, 4, size=11)
    together = translator(source_BS, lengths_B, target_BT)
    torch.testing.assert_close(steps(translator, source_BS, lengths_B, target_BT), together, **TIGHT)


@pytest.mark.slow
def test_scan_is_step_repeated_in_every_combination_there_is() -> None:
    """Cells and layers too, each with every attention in every wiring."""
    assert len(PRODUCT) == len(ATTENTIONS) * len(WIRED) * len(BUILDS) > 2000
    source_BS, lengths_B = sentences(4, 2)
    target_BT, _ = sentences(4, 3, size=11)
    differing = []
    for options in filter(can_be, PRODUCT):
        translator = build(options)
        difference = steps(translator, source_BS, lengths_B, target_BT) - translator(source_BS, lengths_B, target_BT)
        if not difference.abs().max() < TIGHT["atol"]:
            differing.append(named(options))
    assert differing == []


@every_network
def test_a_sentence_does_not_feel_its_batch(options: dict[str, Any]) -> None:
    translator = build(options)
    source_BS, lengths_B = sentences(5, 2, 7, padding=3)
    target_BT, target_lengths_B = sentences(6, 3, 4, size=11)
    together = translator(source_BS, lengths_B, target_BT)
    for row, (source, target) in enumerate(zip(lengths_B.tolist(), target_lengths_B.tolist(), strict=True)):
        alone = translator(
            source_BS[row : row + 1, :source], lengths_B[row : row + 1], target_BT[row : row + 1, :target]
        )
        torch.testing.assert_close(alone[0], together[row, :target], **TIGHT)


@every_network
def test_what_stands_in_the_padding_changes_nothing(options: dict[str, Any]) -> None:
    translator = build(options)
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(6, 3, 4, size=11)
    before = translator(source_BS, lengths_B, target_BT)
    for row, length in enumerate(lengths_B.tolist()):
        source_BS[row, length:] = 12 - source_BS[row, length:]
    assert torch.equal(translator(source_BS, lengths_B, target_BT), before)


@every_network
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    translator = build(options)
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(6, 3, 4, size=11)
    translator(source_BS, lengths_B, target_BT).log_softmax(-1)[..., 5].sum().backward()
    without = [
        name for name, parameter in translator.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("options", [*COMBINATIONS, *PAPERS, *LATENT, *LEXICAL, *DEEP], ids=named)
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    """Along random directions through all parameters at once: (f(x + e u) - f(x - e u)) / 2 e = grad f(x) . u."""
    translator = build(options)
    source_BS, lengths_B = sentences(4, 2)
    target_BT, _ = sentences(3, 2, size=11)
    parameters = list(translator.parameters())

    def loss() -> torch.Tensor:
        return translator(source_BS, lengths_B, target_BT).log_softmax(-1)[..., 5].sum()

    def moved(direction: list[torch.Tensor], distance: float) -> float:
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=distance)
            value = float(loss())
            torch._foreach_add_(parameters, direction, alpha=-distance)
        return value

    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in parameters]
        expected = (moved(direction, 1e-6) - moved(direction, -1e-6)) / 2e-6
        actual = sum(float((one * other).sum()) for one, other in zip(gradients, direction, strict=True))
        assert actual == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("options", [options for options in COMBINATIONS if options["score"] != "none"], ids=named)
def test_weights_are_a_distribution_and_padding_weighs_exactly_nothing(options: dict[str, Any]) -> None:
    translator = build(options)
    source_BS, lengths_B = sentences(5, 2, 7, padding=2)
    target_BT, _ = sentences(6, 3, 4, size=11)
    _, weights = translator.readout(translator.encode(source_BS, lengths_B), target_BT)
    assert weights is not None
    weights_BTNS = weights.dense()
    assert weights_BTNS.shape == (3, 6, options["heads"], source_BS.shape[1])
    padding_BS = torch.arange(source_BS.shape[1]) >= lengths_B.unsqueeze(1)
    assert not weights_BTNS.masked_select(padding_BS[:, None, None]).any()
    assert (weights_BTNS >= 0).all()
    sums_BTN = weights_BTNS.sum(-1)
    if options["window"] == "global":
        torch.testing.assert_close(sums_BTN, torch.ones_like(sums_BTN), **TIGHT)
    assert (sums_BTN <= 1 + 1e-10).all()
    assert (sums_BTN[:, :2] > 0).all(), "the first positions of the target see something through every window"


@every_network
def test_selected_hypotheses_go_on_as_if_alone(options: dict[str, Any]) -> None:
    """Three hypotheses of each of two sentences against six runs of one, with sentences and hypotheses reordered."""
    translator = build(options)
    source_BS, lengths_B = sentences(5, 3)
    pieces_BQT = torch.randint(4, 11, (2, 3, 3), generator=torch.Generator().manual_seed(1))

    state = translator.start(translator.encode(source_BS, lengths_B))
    state, _ = translator.step(state, torch.full((2, 1), BOS))
    state = state.select(torch.arange(2), torch.zeros(2, 3, dtype=torch.int64))
    state, _ = translator.step(state, pieces_BQT[..., 0])
    sentences_N, hypotheses_NQ = torch.tensor([1, 0]), torch.tensor([[2, 0, 0], [1, 1, 2]])
    state = state.select(sentences_N, hypotheses_NQ)
    chosen_NQT = pieces_BQT[sentences_N.unsqueeze(1), hypotheses_NQ]
    state, logits_NQV = translator.step(state, chosen_NQT[..., 1])

    for row, sentence in enumerate(sentences_N.tolist()):
        assert state.prepared.memory.shape[0] == 2, "memory is a row a sentence, not a row a hypothesis"
        for query in range(3):
            alone = slice(sentence, sentence + 1)
            target_1T = torch.cat([chosen_NQT[row, query, :2], torch.tensor([EOS])]).unsqueeze(0)
            expected_1TV = translator(source_BS[alone], lengths_B[alone], target_1T)
            torch.testing.assert_close(logits_NQV[row, query], expected_1TV[0, 2], **TIGHT)


def test_nothing_of_a_batch_stays_on_the_modules() -> None:
    translator = network(model_options(decoder_layers=2))
    before = {name: set(vars(module)) for name, module in translator.named_modules()}
    source_BS, lengths_B = sentences(5, 2)
    translator(source_BS, lengths_B, sentences(3, 2, size=11)[0])
    assert {name: set(vars(module)) for name, module in translator.named_modules()} == before
    held = [tensor for module in translator.modules() for tensor in vars(module).values() if torch.is_tensor(tensor)]
    assert held == []


def test_the_decoders_input_is_the_target_shifted_by_one() -> None:
    """Changing piece t of the target changes what is said of t + 1 and later, never of t and before."""
    translator = network(model_options())
    source_BS, lengths_B = sentences(4)
    target_BT, _ = sentences(5, size=11)
    before = translator(source_BS, lengths_B, target_BT)
    target_BT[0, 2] = 4 if target_BT[0, 2] != 4 else 5
    after = translator(source_BS, lengths_B, target_BT)
    assert torch.equal(after[:, :3], before[:, :3])
    assert not torch.isclose(after[:, 3:], before[:, 3:]).all(-1).any()


@pytest.mark.parametrize(
    ("tie", "shared"),
    [
        ("none", set()),
        ("target_output", {("target", "output")}),
        ("source_target", {("source", "target")}),
        ("all", {("source", "target"), ("target", "output"), ("source", "output")}),
    ],
)
def test_embeddings_are_tied_as_asked(tie: str, shared: set[tuple[str, str]]) -> None:
    from nmt.model.translator import Vocabulary

    translator = Translator(model_options(tie=tie), Vocabulary(11, 11, BOS), REFERENCE)
    weights = {
        "source": translator.encoder.embedding.table.weight,
        "target": translator.decoder.embedding.table.weight,
        "output": translator.projection.weight,
    }
    pairs = {
        (a, b)
        for a, b in [("source", "target"), ("target", "output"), ("source", "output")]
        if weights[a] is weights[b]
    }
    assert pairs == shared
    assert sum(count for _, count in translator.parts()) == sum(p.numel() for p in translator.parameters())


def test_dropout_of_whole_words_silences_them() -> None:
    """With every word dropped the encoder hears zeros, whatever the sentence."""
    options = model_options(dropout=NO_DROPOUT.model_copy(update={"source_word": 0.999999}))
    translator = network(options).train()
    lengths_B = torch.tensor([4])
    one = translator.encode(torch.tensor([[4, 5, 6, EOS]]), lengths_B).memory_BSC
    other = translator.encode(torch.tensor([[7, 8, 9, EOS]]), lengths_B).memory_BSC
    assert torch.equal(one, other)
    translator.eval()
    assert not torch.equal(translator.encode(torch.tensor([[4, 5, 6, EOS]]), lengths_B).memory_BSC, one)


def test_dropout_changes_training_and_not_translation() -> None:
    options = model_options(dropout=schema.DropoutConfig(embedding=0.3, layer=0.3, output=0.3), decoder_layers=2)
    translator = network(options)
    source_BS, lengths_B = sentences(5, 2)
    target_BT, _ = sentences(3, 2, size=11)
    assert torch.equal(translator(source_BS, lengths_B, target_BT), translator(source_BS, lengths_B, target_BT))
    translator.train()
    assert not torch.equal(translator(source_BS, lengths_B, target_BT), translator(source_BS, lengths_B, target_BT))


def test_a_state_knows_its_position() -> None:
    translator = network(model_options())
    state: DecoderState = translator.start(translator.encode(*sentences(3)))
    assert state.position == 0
    state, _ = translator.step(state, torch.tensor([[BOS]]))
    assert state.position == 1


def test_a_network_without_memory_has_the_same_parts_and_draws_nothing() -> None:
    model = model_options(score="concat", coverage="neural", cell="lstm", tie="none", decoder_layers=2)
    before = torch.get_rng_state()
    empty = without_memory(lambda: Translator(model, VOCABULARY, REFERENCE))
    assert torch.equal(torch.get_rng_state(), before)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert empty.parts() == Translator(model, VOCABULARY, REFERENCE).parts()


def test_logits_that_are_ranked_have_no_ties_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between 8 and 16 bf16 has steps of 1/16: 10.03 is 10. A CPU stands for a GPU."""
    readout_BQR, weight_VR, bias_V = torch.ones(1, 1, 1), torch.tensor([[10.0], [10.03]]), torch.zeros(2)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = translator_module.ranked_logits(readout_BQR, weight_VR, bias_V)
        monkeypatch.setattr(translator_module, "NARROW_LOGITS", set())
        wide = translator_module.ranked_logits(readout_BQR.bfloat16(), weight_VR, bias_V)
        model = build({}).float()
        source_BS, lengths_B = sentences(3, 2)
        state = model.start(model.encode(source_BS, lengths_B))
        for steps in (model, model.with_shortlist(torch.arange(7))):
            _, logits = steps.step(state, torch.full((2, 1), 2))
            assert logits.dtype == torch.float32
    assert narrow.flatten().tolist() == [10.0, 10.0]
    assert wide.dtype == torch.float32
    assert wide.flatten().tolist() == pytest.approx([10.0, 10.03])
