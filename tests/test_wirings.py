"""Wirings against their papers' equations, written out once more with the library's cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.errors import ConfigError
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.cells import Cell
from nmt.model.translator import Translator
from nmt.tasks.components import read_config
from tests.support.networks import BOS, REFERENCE, VOCABULARY, model_options, network, sentences
from tests.test_model import build

SOURCE_BS, LENGTHS_B = sentences(5, 3)
TARGET_BT, _ = sentences(4, 4, size=11)
PREVIOUS_BT = torch.cat([torch.full((2, 1), BOS), TARGET_BT[:, :-1]], 1)


def library_cell(cell: Cell) -> nn.GRUCell:
    """PyTorch's single step with a cell's weights."""
    single = nn.GRUCell(cell.layer.input_size, cell.hidden_size).double()
    with torch.no_grad():
        for mine, its in zip(single.parameters(), cell.layer.parameters(), strict=True):
            mine.copy_(its)
    return single


def with_context(cell: Cell, context: nn.Linear) -> nn.GRUCell:
    """The step of a cell over [input; context], where the model keeps the two halves of the matrix apart."""
    single = nn.GRUCell(cell.layer.input_size + context.in_features, cell.hidden_size).double()
    with torch.no_grad():
        weight_in, weight_state, bias_in, bias_state = cell.layer.parameters()
        single.weight_ih.copy_(torch.cat([weight_in, context.weight], 1))
        single.weight_hh.copy_(weight_state)
        single.bias_ih.copy_(bias_in)
        single.bias_hh.copy_(bias_state)
    return single


class Paper:
    """Inputs of every wiring: embedded previous words, annotations, first states, a look at the source."""

    def __init__(self, translator: Translator) -> None:
        self.wiring: Any = translator.decoder.wiring
        self.words = translator.decoder.embedding(PREVIOUS_BT).unbind(1)
        encoded = translator.encode(SOURCE_BS, LENGTHS_B)
        self.prepared = self.wiring.attention.prepare(encoded)
        self.states = [state.squeeze(1) for state in self.wiring.bridge(encoded, self.prepared)]

    def attend(self, query_BH: Tensor, position: int) -> Tensor:
        """The context [B, C]."""
        look = self.wiring.attention(query_BH.unsqueeze(1), self.prepared, (), position)
        context_BC: Tensor = look.context_BQC.squeeze(1)
        return context_BC


def deep_output(translator: Translator, states: list[Tensor], contexts: list[Tensor], words: Any) -> Tensor:
    """t_i = tanh(W [s_i; c_i; E y_{i-1}] + b) (Bahdanau 2015, A.2.2)."""
    mix: Any = translator.decoder.readout.mix
    parts = [torch.cat(triple, -1) for triple in zip(states, contexts, words, strict=True)]
    return torch.stack([torch.tanh(mix(part)) for part in parts], 1)


def bahdanau(translator: Translator) -> Tensor:
    """Bahdanau 2015, eq. 4-6, two layers: the top looks, the context enters the lowest."""
    paper = Paper(translator)
    wiring = paper.wiring
    lower, upper = with_context(wiring.stack.cells[0], wiring.context), library_cell(wiring.stack.cells[1])
    s_1, s_2 = paper.states
    states, contexts = [], []
    for i, word in enumerate(paper.words):
        c = paper.attend(s_2, i)
        s_1 = lower(torch.cat([word, c], -1), s_1)
        s_2 = upper(s_1, s_2)
        states.append(s_2)
        contexts.append(c)
    return deep_output(translator, states, contexts, paper.words)


def conditional(translator: Translator) -> Tensor:
    """Sennrich 2017, section 2: s' = GRU_1(y, s), c = ATT(s'), s = GRU_2(c, s'); one more layer above."""
    paper = Paper(translator)
    wiring = paper.wiring
    first, second = library_cell(wiring.before), library_cell(wiring.behind)
    upper = library_cell(wiring.above.cells[0])
    s, above = paper.states
    states, contexts = [], []
    for i, word in enumerate(paper.words):
        between = first(word, s)
        c = paper.attend(between, i)
        s = second(c, between)
        above = upper(s, above)
        states.append(above)
        contexts.append(c)
    return deep_output(translator, states, contexts, paper.words)


def luong(feeding: bool) -> Callable[[Translator], Tensor]:
    """Luong 2015, eq. 5 and section 3.3: the readout is the attentional state, and the next step's input where fed."""

    def follow(translator: Translator) -> Tensor:
        paper = Paper(translator)
        wiring = paper.wiring
        cells = wiring.stack.cells
        lower = with_context(cells[0], wiring.feed) if feeding else library_cell(cells[0])
        upper = library_cell(cells[1])
        h_1, h_2 = paper.states
        attentional = torch.zeros(2, wiring.mix.out_features, dtype=torch.float64)
        readouts = []
        for t, word in enumerate(paper.words):
            h_1 = lower(torch.cat([word, attentional], -1) if feeding else word, h_1)
            h_2 = upper(h_1, h_2)
            attentional = torch.tanh(wiring.mix.weight @ torch.cat([paper.attend(h_2, t), h_2], -1).t()).t()
            readouts.append(attentional)
        return torch.stack(readouts, 1)

    return follow


def gnmt(query: str, feeding: bool) -> Callable[[Translator], Tensor]:
    """Wu 2016, section 3: the first layer looks, the layers above read [below; context]; the third adds its input."""

    def follow(translator: Translator) -> Tensor:
        paper = Paper(translator)
        wiring = paper.wiring
        lowest = with_context(wiring.lowest, wiring.feed) if feeding else library_cell(wiring.lowest)
        second, third = map(library_cell, wiring.above.cells)
        h_1, h_2, h_3 = paper.states
        c = torch.zeros(2, wiring.attention.context_size, dtype=torch.float64)
        states, contexts = [], []
        for t, word in enumerate(paper.words):
            before = h_1
            h_1 = lowest(torch.cat([word, c], -1) if feeding else word, h_1)
            c = paper.attend(before if query == "previous" else h_1, t)
            h_2 = second(torch.cat([h_1, c], -1), h_2)
            h_3 = third(torch.cat([h_2, c], -1), h_3)
            states.append(h_3 + h_2)
            contexts.append(c)
        return deep_output(translator, states, contexts, paper.words)

    return follow


def bahdanau_appendix(translator: Translator) -> Tensor:
    """Bahdanau 2015, A.2.2: s_0 = tanh(W_s h_1), h_1 the backward state of the first word; the readout t_i sees
    s_{i-1}, c_i and y_{i-1} and takes the larger of each pair."""
    paper = Paper(translator)
    wiring = paper.wiring
    cell = with_context(wiring.stack.cells[0], wiring.context)
    annotations = translator.encode(SOURCE_BS, LENGTHS_B).memory_BSC
    backward = annotations[:, 0, annotations.shape[2] // 2 :]
    (initial,) = wiring.bridge.maps
    s = torch.tanh(backward @ initial.weight.t() + initial.bias)
    mix: Any = translator.decoder.readout.mix
    readouts = []
    for i, word in enumerate(paper.words):
        c = paper.attend(s, i)
        pairs = mix(torch.cat([s, c, word], -1)).unflatten(-1, (-1, 2))
        readouts.append(torch.maximum(pairs[..., 0], pairs[..., 1]))
        s = cell(torch.cat([word, c], -1), s)
    return torch.stack(readouts, 1)


def cho(translator: Translator) -> Tensor:
    """Cho 2014, A.1: c = tanh(V h_N), h'_0 = tanh(V' c), and r multiplies U h + C c in the new state."""
    encoded = translator.encode(SOURCE_BS, LENGTHS_B)
    wiring: Any = translator.decoder.wiring
    mapped, (initial,) = wiring.attention.map, wiring.bridge.maps
    last = torch.stack([encoded.memory_BSC[0, 4], encoded.memory_BSC[1, 2]])
    c = torch.tanh(last @ mapped.weight.t() + mapped.bias)
    h = torch.tanh(c @ initial.weight.t() + initial.bias)
    W, U, b_in, b_state = wiring.stack.cells[0].layer.parameters()
    C = wiring.context.weight
    mix: Any = translator.decoder.readout.mix
    readouts = []
    for word in translator.decoder.embedding(PREVIOUS_BT).unbind(1):
        of_word = (word @ W.t() + b_in).chunk(3, -1)
        of_state = (h @ U.t() + b_state).chunk(3, -1)
        of_context = (c @ C.t()).chunk(3, -1)
        r = torch.sigmoid(of_word[0] + of_state[0] + of_context[0])
        z = torch.sigmoid(of_word[1] + of_state[1] + of_context[1])
        new = torch.tanh(of_word[2] + r * (of_state[2] + of_context[2]))
        h = z * h + (1 - z) * new
        pairs = mix(torch.cat([h, c, word], -1)).unflatten(-1, (-1, 2))
        readouts.append(torch.maximum(pairs[..., 0], pairs[..., 1]))
    return torch.stack(readouts, 1)


def lstm_steps(layers: list[Cell], words: Any, states: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The top layer's outputs of a stack of LSTMs from these states, by PyTorch's own single steps."""
    tops = []
    for below in words:
        for number, layer in enumerate(layers):
            states[number] = torch.lstm_cell(below, states[number], *layer.layer.parameters())
            below = states[number][0]
        tops.append(below)
    return torch.stack(tops, 1)


def sutskever(translator: Translator) -> Tensor:
    """Sutskever 2014, sections 2 and 3.3: an LSTM reads c b a EOS, and another one goes on from its states."""
    embedding = translator.encoder.embedding
    encoder: Any = translator.encoder.stack
    rows = []
    for row, length in zip(SOURCE_BS.tolist(), LENGTHS_B.tolist(), strict=True):
        *words, end = row[:length]
        _, (hidden, cell) = encoder(embedding(torch.tensor([*reversed(words), end])))
        rows.append((hidden, cell))
    states = [tuple(torch.stack([row[part][layer] for row in rows]) for part in (0, 1)) for layer in (0, 1)]
    wiring: Any = translator.decoder.wiring
    words = translator.decoder.embedding(PREVIOUS_BT).unbind(1)
    tops = lstm_steps(list(wiring.stack.cells), words, states)
    nothing = tops.new_zeros(2, 0)
    return deep_output(translator, list(tops.unbind(1)), [nothing] * len(words), words)


def luong_appendix(translator: Translator) -> Tensor:
    """Luong 2015 without input feeding: the decoder's LSTMs go on from the states of the encoder's, as they are."""
    encoded = translator.encode(SOURCE_BS, LENGTHS_B)
    paper = Paper(translator)
    cells = list(paper.wiring.stack.cells)
    tops = lstm_steps(cells, paper.words, [tuple(layer) for layer in encoded.final_LBF])
    readouts = [
        torch.tanh(paper.wiring.mix(torch.cat([paper.attend(h, t), h], -1))) for t, h in enumerate(tops.unbind(1))
    ]
    return torch.stack(readouts, 1)


GNMT = {"wiring": "gnmt", "decoder_layers": 3, "residual_from": 3}
CASES: dict[str, tuple[dict[str, Any], Callable[[Translator], Tensor]]] = {
    "bahdanau": ({"decoder_layers": 2}, bahdanau),
    "conditional": ({"wiring": "conditional", "decoder_layers": 2}, conditional),
    "luong": ({"wiring": "luong", "wiring_options": {"input_feeding": True}, "decoder_layers": 2}, luong(feeding=True)),
    "luong without input feeding": (
        {"wiring": "luong", "decoder_layers": 2, "wiring_options": {"input_feeding": False}},
        luong(feeding=False),
    ),
    "gnmt of 2016": ({**GNMT, "wiring_options": {"query": "previous"}}, gnmt("previous", feeding=False)),
    "gnmt v2": (GNMT, gnmt("current", feeding=False)),
    "bahdanau, appendix": (
        {"readout": "maxout", "bridge": "backward", "wiring_options": {"readout_state": "previous"}},
        bahdanau_appendix,
    ),
    "cho": (
        {
            "score": "none",
            "score_options": {"mapped": True},
            "bridge": "context",
            "bidirectional": False,
            "wiring_options": {"reset_context": True},
            "readout": "maxout",
        },
        cho,
    ),
    "sutskever": (
        {
            "score": "none",
            "score_options": {"context": "first_state"},
            "bridge": "copy",
            "cell": "lstm",
            "bidirectional": False,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "reverse_source": True,
        },
        sutskever,
    ),
    "luong, states copied": (
        {
            "score": "general",
            "wiring": "luong",
            "wiring_options": {"input_feeding": False},
            "bridge": "copy",
            "cell": "lstm",
            "bidirectional": False,
            "encoder_layers": 2,
            "decoder_layers": 2,
        },
        luong_appendix,
    ),
    "rnmt+": ({**GNMT, "heads": 2, "wiring_options": {"context_feeding": True}}, gnmt("current", feeding=True)),
}


@pytest.mark.parametrize(("options", "follow"), CASES.values(), ids=CASES)
def test_a_wiring_follows_its_paper(options: dict[str, Any], follow: Callable[[Translator], Tensor]) -> None:
    translator = build(options)
    readout_BTR, _ = translator.readout(translator.encode(SOURCE_BS, LENGTHS_B), TARGET_BT)
    torch.testing.assert_close(readout_BTR, follow(translator), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": False, "cell": "lstm", "encoder_layers": 2},
        {"score": "general", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    ],
    ids=["bidirectional", "forward", "luong"],
)
def test_a_source_read_backwards_keeps_its_positions(options: dict[str, Any]) -> None:
    """Reading `a b c EOS` backwards equals reading `c b a EOS` forwards, with annotations and attention weights at the
    positions of `a b c EOS`."""
    plain, backwards = (build({**options, "reverse_source": reverse}) for reverse in (False, True))
    turned_BS = SOURCE_BS.clone()
    for row, length in enumerate(LENGTHS_B.tolist()):
        turned_BS[row, : length - 1] = SOURCE_BS[row, : length - 1].flip(0)
    expected, found = plain.encode(turned_BS, LENGTHS_B), backwards.encode(SOURCE_BS, LENGTHS_B)
    assert torch.equal(found.mask_BS, expected.mask_BS)
    for parts in zip(found.final_LBF, expected.final_LBF, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(*parts, strict=True))
    readouts = [net.readout(encoded, TARGET_BT) for net, encoded in ((plain, expected), (backwards, found))]
    torch.testing.assert_close(readouts[1][0], readouts[0][0], rtol=0, atol=1e-12)
    weights = [weights.dense() for _, weights in readouts if weights is not None]
    for row, length in enumerate(LENGTHS_B.tolist()):
        order = [*reversed(range(length - 1)), *range(length - 1, SOURCE_BS.shape[1])]
        assert torch.equal(found.memory_BSC[row], expected.memory_BSC[row, order])
        torch.testing.assert_close(weights[1][row], weights[0][row][..., order], rtol=0, atol=1e-12)
    assert not torch.allclose(plain.encode(SOURCE_BS, LENGTHS_B).final_LBF[-1][0], found.final_LBF[-1][0])


@pytest.mark.parametrize(
    "options",
    [{"wiring": "luong", "wiring_options": {"input_feeding": False}}, {"wiring": "gnmt", "decoder_layers": 3}],
    ids=["luong", "gnmt"],
)
def test_without_attention_in_the_recurrence_all_positions_are_computed_at_once(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one step is taken in training."""
    translator = network(model_options(**options))
    wiring = translator.decoder.wiring
    monkeypatch.setattr(type(wiring), "advance", None)
    translator(SOURCE_BS, LENGTHS_B, TARGET_BT)


MISTAKES = [
    ({"score": "dot"}, "model.attention.score: dot multiplies decoder states of 512 with annotations of 300"),
    ({"score": "scaled_dot"}, "model.attention.score: scaled_dot multiplies decoder states of 512"),
    ({"heads": 3}, "model.attention.heads: is 3, but must divide model.decoder.hidden_size (512)"),
    ({"score": "none", "heads": 2}, "model.attention.heads: is 2, but score none has no attention weights"),
    ({"score": "none", "window": "local_monotonic"}, "model.attention.window: is local_monotonic, but score none"),
    ({"score": "general", "coverage": "linguistic"}, "model.attention.coverage: is a term inside the tanh of a score"),
    ({"score": "none", "coverage": "neural"}, "model.attention.coverage: is a term inside the tanh of a score"),
    (
        {"score": "{kind: none, context: first_state}", "wiring": "{kind: bahdanau, reset_context: true}"},
        "model.attention.wiring.reset_context: is true, but score none gives no context; leave it out, or set",
    ),
    (
        {"score": "{kind: none, context: first_state, mapped: true}"},
        "model.attention.score.mapped: is true, but with context: first_state there is no context; leave it out",
    ),
    (
        {"score": "{kind: none, context: first_state}", "wiring": "conditional"},
        "model.attention.wiring: conditional updates its state with a context, and score none gives none",
    ),
]


def problems(tmp_path: Any, *overrides: str) -> tuple[str, ...]:
    path = tmp_path / "config.yaml"
    path.write_text(
        "run: x\ndata: {source_language: a, target_language: b, train: {source: s, target: t}, "
        "validation: {source: s, target: t}}\nmodel: {encoder: {hidden_size: 150}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    return caught.value.problems


@pytest.mark.parametrize(("attention", "problem"), MISTAKES, ids=lambda value: str(value)[:40])
def test_what_cannot_be_combined_says_why(tmp_path: Any, attention: dict[str, Any], problem: str) -> None:
    found = problems(tmp_path, *(f"model.attention.{key}={value}" for key, value in attention.items()))
    assert any(problem in line for line in found), found
    assert all(line.count("\n") == 0 for line in found)


def test_a_decoder_option_that_a_wiring_excludes_says_why(tmp_path: Any) -> None:
    luong_maxout = problems(tmp_path, "model.attention.wiring=luong", "model.decoder.readout.kind=maxout")
    assert any("model.decoder.readout.kind: is maxout, but the attentional state" in line for line in luong_maxout)
    residual = problems(tmp_path, "model.decoder.residual_from=3", "model.decoder.layers=2")
    assert any("model.decoder.residual_from: is 3, but there are only 2 layers" in line for line in residual)


COPY = "model.decoder.bridge=copy"
BRIDGES = [
    (
        (COPY,),
        "model.decoder.bridge: is copy, but the last state of encoder layer 1 has 300 features (2 directions of 150) "
        "and a decoder layer 512; set model.decoder.hidden_size to 300, or model.decoder.bridge to final",
    ),
    (
        (COPY, "model.encoder.bidirectional=first", "model.encoder.layers=2", "model.decoder.hidden_size=300"),
        "model.decoder.bridge: is copy, but the last state of encoder layer 2 has 150 features and a decoder layer "
        "300; set model.decoder.hidden_size to 150, or model.decoder.bridge to final",
    ),
    (
        (COPY, "model.decoder.hidden_size=300", "model.decoder.cell=lstm"),
        "model.decoder.bridge: is copy, but states of gru cannot be copied into cells of lstm; set model.encoder.cell "
        "and model.decoder.cell to the same cell, or model.decoder.bridge to final",
    ),
    (
        ("model.decoder.bridge=backward", "model.encoder.bidirectional=first", "model.encoder.layers=2"),
        "model.decoder.bridge: is backward, but layer 2 of the encoder reads forward only; set "
        "model.encoder.bidirectional to true, or model.decoder.bridge to final",
    ),
    (
        ("model.decoder.bridge=context",),
        "model.decoder.bridge: is context, which needs a context that is the same at every step; set "
        "model.attention.score to {kind: none, context: every_step}, or model.decoder.bridge to final",
    ),
]


@pytest.mark.parametrize(("overrides", "problem"), BRIDGES, ids=lambda value: str(value)[:40])
def test_a_bridge_that_does_not_fit_says_what_to_do(tmp_path: Any, overrides: tuple[str, ...], problem: str) -> None:
    assert problems(tmp_path, *overrides) == (f"--set {problem}",)


def test_a_copied_state_takes_no_summary_of_the_document(tmp_path: Any) -> None:
    found = problems(tmp_path, COPY, "model.decoder.hidden_size=300", "model.context=summary")
    assert any("model.context.where: is both, but with model.decoder.bridge: copy the first" in line for line in found)


def test_a_mistake_of_a_preset_stands_where_the_preset_is_named(tmp_path: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "run: x\ndata: {source_language: a, target_language: b, train: {source: s, target: t}, "
        "validation: {source: s, target: t}}\nmodel:\n  decoder: {hidden_size: 100}\n  attention: sutskever2014\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert [line.partition("has 512")[0] for line in caught.value.problems] == [
        f"{path}:5: model.decoder.bridge: is copy, but the last state of encoder layer 1 "
    ]
    assert read_config(path, ["model.decoder.bridge=zero"]).model.decoder.bridge == "zero"


def test_a_config_without_the_newer_keys_means_what_it_meant(tmp_path: Any) -> None:
    """As checkpoints were saved before there was `reverse_source`, `readout_state`, `reset_context` and `mapped`."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "run: x\ndata: {source_language: a, target_language: b, train: {source: s, target: t}, "
        "validation: {source: s, target: t}}\nmodel: {decoder: {bridge: final}, attention: {score: {kind: none, "
        "context: every_step}, window: global, wiring: bahdanau, heads: 1, coverage: none}}\n"
    )
    config = read_config(path)
    assert config.model.attention.wiring.model_dump() == {
        "kind": "bahdanau",
        "readout_state": "current",
        "reset_context": False,
    }
    assert config.model.attention.score.model_dump() == {"kind": "none", "context": "every_step", "mapped": False}
    assert config.data.reverse_source is False
    names = dict(Translator(config.model, VOCABULARY, REFERENCE).named_parameters())
    assert [name for name in names if name.startswith("decoder.wiring")] == [
        *(f"decoder.wiring.stack.cells.0.layer.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        "decoder.wiring.context.weight",
        "decoder.wiring.bridge.maps.0.weight",
        "decoder.wiring.bridge.maps.0.bias",
    ]


@pytest.mark.parametrize("preset", ATTENTION_PRESETS)
def test_a_preset_is_written_out_in_full(tmp_path: Any, preset: str) -> None:
    from nmt.config import dump_config

    path = tmp_path / "config.yaml"
    path.write_text(
        "run: x\ndata: {source_language: a, target_language: b, train: {source: s, target: t}, "
        f"validation: {{source: s, target: t}}}}\nmodel: {{attention: {preset}}}\n"
    )
    config = read_config(path)
    written = tmp_path / "written.yaml"
    written.write_text(dump_config(config))
    assert preset not in written.read_text()
    assert read_config(written) == config
    for key, value in ATTENTION_PRESETS[preset].items():
        section, _, name = f"model.attention.{key}".rpartition(".") if "." not in key else key.rpartition(".")
        resolved = getattr(reduce(getattr, section.split("."), config), name)
        if resolved != value:
            wanted = {"kind": value} if isinstance(value, str) else value
            assert wanted.items() <= resolved.model_dump().items()
