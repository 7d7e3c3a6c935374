"""Wirings against their papers' equations, written out once more with the library's cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.experiment.families import read_config
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.cells import Cell
from nmt.model.translator import Translator
from tests.networks import BOS, model_options, network, sentences

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
    """What every wiring starts from: embedded previous words, annotations, first states, a look at the source."""

    def __init__(self, translator: Translator) -> None:
        self.wiring: Any = translator.decoder.wiring
        self.words = translator.decoder.embedding(PREVIOUS_BT).unbind(1)
        encoded = translator.encode(SOURCE_BS, LENGTHS_B)
        self.prepared = self.wiring.attention.prepare(encoded)
        self.states = [state.squeeze(1) for state in self.wiring.bridge(encoded)]

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
        c = torch.zeros(2, wiring.context_size, dtype=torch.float64)
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


GNMT = {"wiring": "gnmt", "decoder_layers": 3, "residual_from": 3}
CASES: dict[str, tuple[dict[str, Any], Callable[[Translator], Tensor]]] = {
    "bahdanau": ({"decoder_layers": 2}, bahdanau),
    "conditional": ({"wiring": "conditional", "decoder_layers": 2}, conditional),
    "luong": ({"wiring": "luong", "decoder_layers": 2}, luong(feeding=True)),
    "luong without input feeding": (
        {"wiring": "luong", "decoder_layers": 2, "wiring_options": {"input_feeding": False}},
        luong(feeding=False),
    ),
    "gnmt of 2016": ({**GNMT, "wiring_options": {"query": "previous"}}, gnmt("previous", feeding=False)),
    "gnmt v2": (GNMT, gnmt("current", feeding=False)),
    "rnmt+": ({**GNMT, "heads": 2, "wiring_options": {"context_feeding": True}}, gnmt("current", feeding=True)),
}


@pytest.mark.parametrize(("options", "follow"), CASES.values(), ids=CASES)
def test_a_wiring_follows_its_paper(options: dict[str, Any], follow: Callable[[Translator], Tensor]) -> None:
    translator = network(model_options(**options))
    readout_BTR, _ = translator.readout(translator.encode(SOURCE_BS, LENGTHS_B), TARGET_BT)
    torch.testing.assert_close(readout_BTR, follow(translator), rtol=0, atol=1e-12)


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
    ({"score": "none", "heads": 2}, "model.attention.heads: is 2, but score none looks at nothing"),
    ({"score": "none", "window": "local_monotonic"}, "model.attention.window: is local_monotonic, but score none"),
    ({"score": "general", "coverage": "linguistic"}, "model.attention.coverage: is a term inside the tanh of a score"),
    ({"score": "none", "coverage": "neural"}, "model.attention.coverage: is a term inside the tanh of a score"),
    (
        {"score": "{kind: none, context: first_state}", "wiring": "conditional"},
        "model.attention.wiring: conditional updates its state with a context, and score none gives none",
    ),
]


def problems(tmp_path: Any, *overrides: str) -> tuple[str, ...]:
    from nmt.errors import ConfigError

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
        resolved = getattr(config.model.attention, key)
        wanted = {"kind": value} if isinstance(value, str) else value
        if isinstance(wanted, dict):
            assert wanted.items() <= resolved.model_dump().items()
        else:
            assert resolved == wanted
