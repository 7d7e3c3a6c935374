"""Recurrent layers of several directions and with residual connections: Wu 2016, sections 3.1 and 3.2, row by row."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.errors import ConfigError
from nmt.kernels.packed import PackedGru, Packing
from nmt.model.cells import CELLS
from nmt.model.encoder import RecurrentLayers, segments
from nmt.model.translator import Translator
from nmt.tasks.components import read_config
from tests.support.kernel_params import GRUS
from tests.support.networks import REFERENCE, VOCABULARY, model_options, network, sentences, with_gru

CPU = torch.device("cpu")
GNMT: dict[str, Any] = {"layers": 4, "bidirectional": "first", "residual_from": 3}
SHAPES: list[dict[str, Any]] = [
    GNMT,
    {"layers": 1, "bidirectional": "first"},
    {"layers": 3, "bidirectional": "first"},
    {"layers": 3, "bidirectional": True, "residual_from": 2},
    {"layers": 4, "bidirectional": False, "residual_from": 4},
]


def encoder(cell: str = "gru", **options: Any) -> schema.EncoderConfig:
    return schema.EncoderConfig(cell=CELLS[cell].options(), hidden_size=4, **options)


def layers_of(options: schema.EncoderConfig, dropout: float = 0.0, gru: PackedGru | None = None) -> RecurrentLayers:
    torch.manual_seed(1)
    layers = RecurrentLayers()
    layers.add_layers(options, 3, dropout, REFERENCE)
    with_gru(layers, gru)
    for parameter in layers.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return layers.double()


def weights_by_layer(layers: RecurrentLayers, options: schema.EncoderConfig) -> list[list[list[Tensor]]]:
    """Those of each layer's directions."""
    flat = [weights for segment in layers.segments for weights in segment.all_weights]
    return [[flat.pop(0) for _ in range(directions)] for directions in options.directions]


def read(cell: str, weights: list[Tensor], inputs_SX: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs and last state of a row, by PyTorch's own single steps."""
    hidden = (inputs_SX.new_zeros(1, 4),) * (2 if cell == "lstm" else 1)
    outputs = []
    for x in inputs_SX.split(1):
        if cell == "lstm":
            hidden = torch.lstm_cell(x, hidden, *weights)
        else:
            hidden = ({"gru": torch.gru_cell, "rnn": torch.rnn_tanh_cell}[cell](x, hidden[0], *weights),)
        outputs.append(hidden[0])
    return torch.cat(outputs), hidden


def wu2016(
    cell: str, options: schema.EncoderConfig, layers: RecurrentLayers, inputs_SX: Tensor
) -> tuple[Tensor, list[list[Tensor]]]:
    """The outputs of a row, and each layer's last states with both directions side by side."""
    finals = []
    for number, directions in enumerate(weights_by_layer(layers, options), start=1):
        forward, last = read(cell, directions[0], inputs_SX)
        if len(directions) == 2:
            backward, first = read(cell, directions[1], inputs_SX.flip(0))
            forward = torch.cat([forward, backward.flip(0)], 1)
            last = tuple(torch.cat(pair, 1) for pair in zip(last, first, strict=True))
        inputs_SX = forward + inputs_SX if options.residual_from and number >= options.residual_from else forward
        finals.append(list(last))
    return inputs_SX, finals


@pytest.mark.parametrize("gru", [pytest.param(None, id="library"), *GRUS])
@pytest.mark.parametrize(("cell", "shape"), list(product(CELLS, SHAPES)), ids=str)
def test_layers_follow_the_paper(cell: str, shape: dict[str, Any], gru: PackedGru | None) -> None:
    """Outputs, last states and every gradient, of rows of unequal length and an empty one."""
    options = encoder(cell, **shape)
    layers = layers_of(options, gru=gru)
    packing = Packing.of(torch.tensor([3, 0, 5, 1]), CPU)
    rows = [torch.randn(length, 3, dtype=torch.float64) for length in packing.lengths_N]
    outputs_PC, finals = layers.run(torch.cat(rows).index_select(0, packing.element_P), packing)
    by_layer = layers.by_layer(finals, packing)
    expected = [wu2016(cell, options, layers, row) if len(row) else None for row in rows]
    assert [part.shape for parts in by_layer for part in parts[:1]] == [(4, width) for width in options.widths]
    for number, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        if wanted is None:
            assert not any(part[number].any() for parts in by_layer for part in parts)
            continue
        found_SC = outputs_PC[packing.row_P == number]
        assert found_SC.shape == (len(row), options.output_size)
        torch.testing.assert_close(found_SC, wanted[0], rtol=0, atol=1e-12)
        last = [[part[number : number + 1] for part in parts] for parts in by_layer]
        torch.testing.assert_close(last, wanted[1], rtol=0, atol=1e-12)

    def gradients(outputs: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum(each.sin().sum() for each in outputs), list(layers.parameters()))

    ours = gradients([outputs_PC, *(part for parts in by_layer for part in parts)])
    theirs = [[wanted[0], *(part for parts in wanted[1] for part in parts)] for wanted in expected if wanted]
    torch.testing.assert_close(ours, gradients([each for row in theirs for each in row]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"layers": 1}, [(1, 1, 2)]),
        ({"layers": 4}, [(1, 4, 2)]),
        ({"layers": 3, "bidirectional": False}, [(1, 3, 1)]),
        ({"layers": 1, "bidirectional": "first"}, [(1, 1, 2)]),
        ({"layers": 4, "bidirectional": "first"}, [(1, 1, 2), (2, 4, 1)]),
        (GNMT, [(1, 1, 2), (2, 2, 1), (3, 3, 1), (4, 4, 1)]),
        ({"layers": 6, "bidirectional": "first", "residual_from": 5}, [(1, 1, 2), (2, 4, 1), (5, 5, 1), (6, 6, 1)]),
        ({"layers": 3, "residual_from": 2}, [(1, 1, 2), (2, 2, 2), (3, 3, 2)]),
        ({"layers": 3, "residual_from": 3}, [(1, 2, 2), (3, 3, 2)]),
    ],
    ids=str,
)
def test_the_library_runs_as_many_layers_at_once_as_it_can(shape: dict[str, Any], expected: list[Any]) -> None:
    assert list(segments(encoder(**shape))) == [tuple(each) for each in expected]
    assert [segment.num_layers for segment in layers_of(encoder(**shape)).segments] == [
        last - first + 1 for first, last, _ in expected
    ]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_layers_that_are_alike_are_one_stack_of_the_library(bidirectional: bool) -> None:
    """Names of parameters and first weights: what was saved when there was nothing else is read."""
    options = encoder("lstm", layers=3, bidirectional=bidirectional)
    stack = nn.LSTM(3, 4, 3, bidirectional=bidirectional)
    layers = layers_of(options)
    assert list(layers.state_dict()) == [f"stack.{name}" for name in stack.state_dict()]


def test_dropout_is_of_what_a_layer_reads_and_not_of_what_is_added() -> None:
    """With everything dropped between layers, each but the lowest reads zeros."""
    options = encoder(**GNMT)
    layers = layers_of(options, dropout=0.999999).train()
    inputs_SX = torch.randn(5, 3, dtype=torch.float64)
    found_SC, _ = layers.run(inputs_SX, Packing.of(torch.tensor([5]), CPU))
    weights = weights_by_layer(layers, options)
    of_zeros = [read("gru", side[0], torch.zeros(5, side[0][0].shape[1], dtype=torch.float64))[0] for side in weights]
    torch.testing.assert_close(found_SC, of_zeros[1] + of_zeros[2] + of_zeros[3], rtol=0, atol=1e-12)
    found_SC, _ = layers.eval().run(inputs_SX, Packing.of(torch.tensor([5]), CPU))
    torch.testing.assert_close(found_SC, wu2016("gru", options, layers, inputs_SX)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("encoder_layers", "decoder_layers", "bridge", "beside", "widths"),
    [
        (3, 3, "final", (0, 1, 2), (20, 10, 10)),
        (3, 2, "final", (2, 2), (10, 10)),
        (1, 2, "final", (0, 0), (20, 20)),
        (3, 3, "mean", None, (10, 10, 10)),
    ],
)
def test_a_decoder_begins_with_the_layer_beside_it(
    encoder_layers: int, decoder_layers: int, bridge: str, beside: tuple[int, ...] | None, widths: tuple[int, ...]
) -> None:
    """tanh(W e + b) of the last states of that layer, however wide; of the top one where the stacks differ."""
    translator = network(
        model_options(
            encoder_layers=encoder_layers, bidirectional="first", decoder_layers=decoder_layers, bridge=bridge
        )
    )
    encoded = translator.encode(*sentences(4, 2))
    mean_BC = encoded.memory_BSC.sum(1) / torch.tensor([[4.0], [2.0]]).double()
    maps = translator.decoder.wiring.bridge.maps
    assert tuple(each.in_features for each in maps) == widths
    state = translator.start(encoded).recurrent
    for number, each in enumerate(maps):
        source_BC = mean_BC if beside is None else encoded.final_LBF[beside[number]][0]
        torch.testing.assert_close(state[number], torch.tanh(each(source_BC)).unsqueeze(1), rtol=0, atol=1e-12)


def test_parts_count_every_layer() -> None:
    options = model_options(encoder_layers=4, bidirectional="first", encoder_residual_from=3)
    gates, hidden = 3, 10
    lowest = 2 * gates * hidden * (6 + hidden + 2)
    second = gates * hidden * (2 * hidden + hidden + 2)
    upper = 2 * gates * hidden * (2 * hidden + 2)
    assert dict(Translator(options, VOCABULARY, REFERENCE).parts())["encoder"] == lowest + second + upper


MISTAKES = [
    ("{layers: 2, residual_from: 3}", "residual_from: is 3, but there are only 2 layers; leave it out"),
    (
        "{layers: 3, bidirectional: first, residual_from: 2}",
        "residual_from: is 2, but with bidirectional: first layer 2 reads 512 features and puts out 256; set it to 3",
    ),
    (
        "{layers: 2, bidirectional: first, residual_from: 2}",
        "residual_from: is 2, but with bidirectional: first layer 2 reads 512 features and puts out 256; leave it out",
    ),
    ("{layers: 1, bidirectional: first, residual_from: 2}", "residual_from: is 2, but there are only 1 layers"),
    ("{residual_from: 1}", "residual_from: must be a whole number from 2 to 100 or null, not 1"),
    ("{bidirectional: frist}", "bidirectional: must be true, false or first, not 'frist'; did you mean 'first'?"),
    ("{bidirectional: yes}", "bidirectional: must be true, false or first, not 'yes'; write true"),
    ("{bidirectional: 2}", "bidirectional: must be true, false or first, not 2"),
]


@pytest.mark.parametrize(("options", "problem"), MISTAKES)
def test_what_contradicts_itself_is_one_line(tmp_path: Any, options: str, problem: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "run: x\ndata: {source_language: a, target_language: b, train: {source: s, target: t}, "
        f"validation: {{source: s, target: t}}}}\nmodel:\n  encoder: {options}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert [line.partition("model.encoder.")[2][: len(problem)] for line in caught.value.problems] == [problem]
