"""Deep transitions and layer normalisation of cells against their papers' equations, written out with plain tensors.

Miceli Barone 2017, sections 2.3 and 2.4; Ba 2016, eq. 3-4 and supplement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.errors import ConfigError
from nmt.kernels.packed import Packing, StepWeights, chains_of
from nmt.kernels.select import choose_kernels
from nmt.model.cells import CELLS
from nmt.model.encoder import RecurrentLayers
from nmt.tasks.components import parse_saved_config, read_config
from nmt.tasks.training import train
from tests.support.networks import REFERENCE, model_options, network, sentences
from tests.support.training_runs import CONFIG, final_weights, run_config, write_corpus

CPU = torch.device("cpu")
HIDDEN = 4
EPSILON = 1e-5


def normalized(values: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """LN(z; gain, bias) of a vector: (z - mean) / sqrt(variance + 1e-5) * gain + bias."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return (values - mean) / (variance + EPSILON) ** 0.5 * gain + bias


def halves(weights: StepWeights, x: Tensor | None, h: Tensor, groups: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """What a cell sees of its input and of its state: W x + b_x and U h + b_h, each group normalised or none."""
    of_state = weights.weight_state @ h
    of_input = torch.zeros_like(of_state) if x is None or weights.weight_in is None else weights.weight_in @ x
    if not groups:
        return of_input + weights.bias_in, of_state + weights.bias_state
    found: list[list[Tensor]] = [[], []]
    first = 0
    for gates in groups:
        part = slice(first * len(h), (first + gates) * len(h))
        assert weights.gain_state is not None
        found[1].append(normalized(of_state[part], weights.gain_state[part], weights.bias_state[part]))
        if weights.gain_in is None:
            found[0].append(weights.bias_in[part])
        else:
            found[0].append(normalized(of_input[part], weights.gain_in[part], weights.bias_in[part]))
        first += gates
    return torch.cat(found[0]), torch.cat(found[1])


def gru(weights: StepWeights, x: Tensor | None, state: list[Tensor], normalizes: bool) -> list[Tensor]:
    """r, z = sigmoid(..); n = tanh(a_n + r * b_n); h' = (1 - z) n + z h."""
    a, b = halves(weights, x, state[0], (2, 1) if normalizes else ())
    (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3), b.chunk(3)
    r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
    n = torch.tanh(a_n + r * b_n)
    return [(1 - z) * n + z * state[0]]


def lstm(weights: StepWeights, x: Tensor | None, state: list[Tensor], normalizes: bool) -> list[Tensor]:
    """i, f, o = sigmoid(..); g = tanh(..); c' = f c + i g; h' = o tanh(LN(c'))."""
    a, b = halves(weights, x, state[0], (4,) if normalizes else ())
    i, f, g, o = (a + b).chunk(4)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    read = c
    if normalizes:
        assert weights.gain_cell is not None
        assert weights.bias_cell is not None
        read = normalized(c, weights.gain_cell, weights.bias_cell)
    return [torch.sigmoid(o) * torch.tanh(read), c]


CELL_EQUATIONS = {"gru": gru, "lstm": lstm}


def options_of(cell: str, normalizes: bool, **options: Any) -> schema.EncoderConfig:
    chosen = CELLS[cell].options(layer_normalization=normalizes)
    return schema.EncoderConfig(cell=chosen, hidden_size=HIDDEN, **options)


@pytest.mark.parametrize("cell", CELL_EQUATIONS)
@pytest.mark.parametrize(
    ("normalizes", "shape"),
    [
        (False, {"transitions": 3}),
        (True, {"bidirectional": False}),
        (True, {"transitions": 2}),
        (False, {"transitions": 2, "layers": 2}),
        (True, {"transitions": 2, "layers": 3, "residual_from": 3}),
    ],
)
def test_an_encoder_is_its_papers_row_by_row(cell: str, normalizes: bool, shape: dict[str, Any]) -> None:
    """Every row by itself, each direction from its own end: the last cell's state enters the first one's next step."""
    torch.manual_seed(1)
    options = options_of(cell, normalizes, **shape)
    layers = RecurrentLayers()
    layers.add_layers(options, 3, 0.0, REFERENCE)
    for parameter in layers.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    layers.double()
    lengths = [4, 1, 3]
    inputs_PX = torch.randn(sum(lengths), 3, dtype=torch.float64)
    packing = Packing.of(torch.tensor(lengths), CPU)
    outputs_PC, finals = layers.run(inputs_PX.index_select(0, packing.element_P), packing)
    unpacked = torch.empty_like(outputs_PC).index_copy(0, packing.element_P, outputs_PC)
    last = layers.by_layer(finals, packing)

    chains = [chain for segment in layers.segments for chain in chains_of(segment)]
    assert {len(chain) for chain in chains} == {shape.get("transitions", 1)}
    for row, x_SX in enumerate(inputs_PX.split(lengths)):
        flat = list(chains)
        for number, directions in enumerate(options.directions):
            sides, ends = [], []
            for direction in range(directions):
                chain, outputs = flat.pop(0), []
                state = [torch.zeros(HIDDEN, dtype=torch.float64)] * (2 if cell == "lstm" else 1)
                for x in reversed(x_SX) if direction else x_SX:
                    for position, weights in enumerate(chain):
                        state = CELL_EQUATIONS[cell](weights, None if position else x, state, normalizes)
                    outputs.append(state[0])
                sides.append(torch.stack(outputs[::-1] if direction else outputs))
                ends.append(state)
            for part, found in enumerate(last[number]):
                expected = torch.cat([end[part] for end in ends])
                torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)
            above = torch.cat(sides, 1)
            adds = options.residual_from is not None and number + 1 >= options.residual_from
            x_SX = above + x_SX if adds else above
        torch.testing.assert_close(unpacked.split(lengths)[row], x_SX, rtol=0, atol=1e-10)


def test_the_conditional_decoder_goes_on_behind_attention() -> None:
    """s_1 = cell_1(E y, s); c = attend(s_1); s_2 = cell_2(c, s_1); s_3, s_4 without input (section 2.3); above two."""
    options = model_options(wiring="conditional", first_transitions=4, transitions=2, decoder_layers=2)
    translator = network(options)
    source_BS, lengths_B = sentences(4)
    target_BT, _ = sentences(3, size=11)
    encoded = translator.encode(source_BS, lengths_B)
    inputs_BTE, output, _ = translator.scan(encoded, target_BT)
    wiring: Any = translator.decoder.wiring
    prepared = wiring.attention.prepare(encoded)
    lower, upper = (state[0, 0] for state in wiring.bridge(encoded, prepared))
    (one,), (behind,) = chains_of(wiring.before.layer), chains_of(wiring.behind.layer)
    (above,) = chains_of(wiring.above.cells[0].layer)
    assert (len(one), len(behind), len(above)) == (1, 3, 2)
    for position, word in enumerate(inputs_BTE[0]):
        (lower,) = gru(one[0], word, [lower], False)
        context = wiring.attention(lower[None, None], prepared, (), position).context_BQC[0, 0]
        for number, weights in enumerate(behind):
            (lower,) = gru(weights, None if number else context, [lower], False)
        for number, weights in enumerate(above):
            (upper,) = gru(weights, None if number else lower, [upper], False)
        torch.testing.assert_close(output.hidden[0, position], upper, rtol=0, atol=1e-10)
        torch.testing.assert_close(output.context[0, position], context, rtol=0, atol=1e-10)


def test_normalisation_is_of_the_whole_sum_where_a_context_enters_the_first_cell() -> None:
    """Bahdanau's cell reads x = [E y; c]: LN(W x), not LN(W E y) + C c."""
    translator = network(model_options(cell_normalization=True))
    source_BS, lengths_B = sentences(4)
    target_BT, _ = sentences(2, size=11)
    encoded = translator.encode(source_BS, lengths_B)
    inputs_BTE, output, _ = translator.scan(encoded, target_BT)
    wiring: Any = translator.decoder.wiring
    prepared = wiring.attention.prepare(encoded)
    state = wiring.bridge(encoded, prepared)[0][0, 0]
    context = wiring.attention(state[None, None], prepared, (), 0).context_BQC[0, 0]
    ((weights,),) = chains_of(wiring.stack.cells[0].layer)
    assert weights.weight_in is not None
    joint = weights._replace(weight_in=torch.cat([weights.weight_in, wiring.context.weight], 1))
    (after,) = gru(joint, torch.cat([inputs_BTE[0, 0], context]), [state], True)
    torch.testing.assert_close(output.hidden[0, 0], after, rtol=0, atol=1e-10)


@pytest.mark.parametrize("cell", CELL_EQUATIONS)
def test_a_fresh_cell_has_gains_of_one_and_remembers(cell: str) -> None:
    layer: Any = CELLS.build(CELLS[cell].options(layer_normalization=True), 3, 4, REFERENCE, 2).layer
    (chain,) = layer.chains
    forget = 1.0 if cell == "lstm" else 0.0
    for weights in chain:
        assert weights.gain_state.eq(1.0).all()
        assert weights.bias_in.chunk(4)[1].eq(forget).all() if cell == "lstm" else weights.bias_in.eq(0.0).all()
        block = weights.weight_state.chunk(CELLS[cell].build.gates)[0]  # type: ignore[attr-defined]
        torch.testing.assert_close(block @ block.t(), torch.eye(4))
    assert [name for name, _ in layer.named_parameters() if name.endswith("_t1")] == [
        *("bias_ih_l0_t1", "weight_hh_l0_t1", "bias_hh_l0_t1", "gain_hh_l0_t1"),
        *(("gain_c_l0_t1", "bias_c_l0_t1") if cell == "lstm" else ()),
    ]


def test_a_plain_cell_keeps_the_librarys_layer_and_its_names() -> None:
    """So that checkpoints of earlier versions fit, and draws the same first weights."""
    cell = CELLS.build(CELLS["gru"].options(), 3, 4, REFERENCE)
    assert type(cell.layer) is nn.GRU
    assert list(dict(cell.named_parameters())) == [
        f"layer.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]


# Kernels


@pytest.mark.parametrize(
    ("options", "layers", "recurrence"),
    [
        ({"encoder_transitions": 2, "transitions": 2}, "model.encoder.transitions is not 1", ""),
        (
            {"cell_normalization": True},
            "model.encoder.cell.layer_normalization is true",
            "model.decoder.cell.layer_normalization has no native or Triton kernel",
        ),
    ],
)
def test_the_log_says_what_has_no_fast_form(options: dict[str, Any], layers: str, recurrence: str) -> None:
    unsupported = network(model_options(**options)).unsupported_reasons()
    assert unsupported[:2] == (layers, recurrence)
    reason = choose_kernels("auto", CPU, unsupported).reason
    assert layers in reason or "nothing is compiled" in reason
    assert recurrence in reason


# Training


OVERRIDES = {
    "transitions": ("model.encoder.transitions=2", "model.decoder.transitions=2", "model.attention=nematus2017"),
    "normalisation": (
        "model.encoder.cell={kind: lstm, layer_normalization: true}",
        "model.decoder.cell={kind: gru, layer_normalization: true}",
        "model.encoder.transitions=2",
    ),
}


@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=list(OVERRIDES))
def test_a_run_learns_and_goes_on_to_the_same_bits(overrides: tuple[str, ...], tmp_path: Path) -> None:
    write_corpus(tmp_path, pairs=40)
    quick = ("training.max_epochs=null", "training.batch_tokens=64", *overrides)
    straight = run_config(tmp_path, *quick, "training.max_steps=4", f"run={tmp_path}/straight")
    train(straight)
    for steps in (2, 4):
        train(run_config(tmp_path, *quick, f"training.max_steps={steps}", f"run={tmp_path}/stopped"))
    one, other = final_weights(straight.run), final_weights(tmp_path / "stopped")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any("_t1" in name for name in one)


# The YAML


def test_a_config_without_the_newer_keys_means_what_it_meant() -> None:
    old = CONFIG.replace("hidden_size: 16", "cell: gru, hidden_size: 16").replace(
        "hidden_size: 24", "cell: {{kind: lstm}}, hidden_size: 24"
    )
    model = parse_saved_config(old.format(folder="x"), "run.yaml").model
    assert isinstance(model, schema.ModelConfig)
    assert model.encoder.cell.model_dump() == {"kind": "gru", "layer_normalization": False}
    assert (model.encoder.transitions, model.decoder.transitions_by_layer) == (1, (1,))


def test_the_lowest_layer_of_the_conditional_unit_has_two_cells() -> None:
    config = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
    with pytest.raises(ConfigError) as caught:
        read_config(config, ["model.attention=nematus2017", "model.decoder.first_transitions=1"])
    (problem,) = caught.value.problems
    assert "model.decoder.first_transitions: is 1, but wiring conditional has a cell before attention" in problem
    decoder = schema.DecoderConfig(layers=3, transitions=2, first_transitions=4)
    assert decoder.transitions_by_layer == (4, 2, 2)
