"""Recurrent cells, and the decoder's stack of layers.

The product with the input is separate from the recurrence: in training the inputs of all target positions are known, so
it is one product. A recurrence without attention runs by PyTorch's own layers over all positions.

Shapes: B sentences, Q queries, T positions, X input features, H hidden, G gates x H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, create_model
from torch import Tensor, nn

from nmt.config import schema
from nmt.config.registry import PartOptions, Registry
from nmt.kernels.packed import (
    RecurrentStack,
    State,
    SteppedLayers,
    StepWeights,
    chains_of,
    library_layers,
    run_chain,
)
from nmt.kernels.select import Kernels
from nmt.kernels.steps import CellEquation, CellStep, has_step_kernels
from nmt.kernels.tape import Row, Tape, Term, Value
from nmt.model.modules import module_list

Values = tuple[Value, ...]
"""State of a layer on a tape."""
Rows = tuple[Row, ...]
"""State of a layer on a tape, before or after a step."""


def rows_before(values: Values) -> Rows:
    """Returns the state before the step."""
    return tuple(value.before for value in values)


def rows_after(values: Values) -> Rows:
    """Returns the state after the step."""
    return tuple(value.after for value in values)


class NormalizableOptions(PartOptions):
    """Options of a cell that can be normalised."""

    layer_normalization: bool = False
    """Normalise the products with input and state, and the cell of an LSTM (Ba 2016, supplement)."""


class Cell(nn.Module):
    """A recurrent layer that advances by one position, or runs over all positions at once.

    Its weights are those of one PyTorch layer, such as `torch.nn.GRU`, on every path. With several transitions it is a
    chain of cells, which run one behind the other in each step (Miceli Barone 2017, section 2.3); chain and layer
    normalisation are those of `packed.run_chain`.
    """

    kind: ClassVar[str]
    """The cell's name in the YAML."""
    equation: ClassVar[CellEquation]
    """Name of the cell's folder in `nmt/kernels`, which is its name in the YAML, or its step."""
    gates: ClassVar[int]
    parts: ClassVar[int] = 1
    """Tensors in the state."""
    library: ClassVar[Callable[..., nn.RNNBase] | None] = None
    """PyTorch's own layers with the same equation; None: the step runs over whole sequences."""
    accumulates: ClassVar[int | None] = None
    """The gate whose bias begins as 1, so that the cell starts out remembering."""
    groups: ClassVar[tuple[int, ...]] = ()
    """Numbers of gates that layer normalisation takes together; empty: the cell has none."""

    def __init__(
        self, options: PartOptions, input_size: int, hidden_size: int, kernels: Kernels, transitions: int = 1
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.layer = build_stack(
            options, input_size, hidden_size, layers=1, bidirectional=False, dropout=0.0, transitions=transitions
        )
        self.normalized = self.layer.groups if isinstance(self.layer, SteppedLayers) else ()
        self.projected_size = self.gates * hidden_size
        self.step = kernels.cell_step(type(self).equation)
        """Computes the next state from both halves of the pre-activations [..., G] and the state [..., H]."""
        self.product = kernels.linear

    @property
    def input_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the product with the input."""
        weight, _, bias, _ = self.layer.all_weights[0]
        return weight, bias

    @property
    def recurrent_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the product with the state."""
        _, weight, _, bias = self.layer.all_weights[0]
        return weight, bias

    def project(self, inputs: Tensor) -> Tensor:
        """Returns the input half of the pre-activations, [.., G], of inputs [.., input_size].

        With layer normalisation it is the product alone, to which wirings may add further terms: `forward` normalises.
        """
        weight, bias = self.input_weights
        return self.product(inputs, weight, None if self.normalized else bias)

    def forward(self, projected_BQG: Tensor, state: State, beside_BQG: Tensor | None = None) -> State:
        """Returns the state after one step.

        `projected_BQG` is the input half, with further terms; `beside_BQG` is added to the recurrent half, which the
        reset gate of a GRU multiplies.
        """
        (chain,) = chains_of(self.layer)
        return run_chain(type(self).equation, self.step, chain, self.normalized, projected_BQG, state, beside_BQG)

    def scan(self, inputs_BTX: Tensor, state: State) -> Tensor:
        """The outputs [B, T, H] of all positions from a state with one query, by PyTorch's layers where it has some."""
        if isinstance(self.layer, SteppedLayers):
            outputs = []
            for projected_BG in self.project(inputs_BTX).unbind(1):
                state = self(projected_BG.unsqueeze(1), state)
                outputs.append(state[0])
            return torch.cat(outputs, 1)
        first = tuple(part.transpose(0, 1).contiguous() for part in state)
        outputs_BTH, _ = library_layers(self.layer, inputs_BTX.to(first[0].dtype), first, self.layer.all_weights)
        return outputs_BTH

    def unsupported_reason(self) -> str:
        """Returns why a step cannot be recorded, with the path in the YAML; empty if it can."""
        if self.normalized:
            return "model.decoder.cell.layer_normalization has no native or Triton kernel"
        return "" if has_step_kernels(type(self).equation) else "model.decoder.cell has no native or Triton kernel"

    def carry(self, tape: Tape, state: State) -> Values:
        """Adds the state to a tape, from a state with one query. Products read the output only."""
        output, *rest = state
        return tape.carried(output), *(tape.carried(part, "state") for part in rest)

    def intermediate(self, tape: Tape) -> Values:
        """Adds a state within a step to a tape."""
        rest = (tape.intermediate(self.hidden_size, "state") for _ in range(self.parts - 1))
        return tape.intermediate(self.hidden_size), *rest

    def record(self, tape: Tape, inputs: Sequence[Term], before: Rows, after: Rows) -> None:
        """Records a step from `before` to `after`, the input's half of the gates being the sum of `inputs`."""
        (chain,) = chains_of(self.layer)
        for number, weights in enumerate(chain):
            if number:
                inputs = (tape.constant(weights.bias_in),)
            last = number == len(chain) - 1
            following = after if last else rows_after(self.intermediate(tape))
            recurrent = tape.product(before[0], weights.weight_state, weights.bias_state)
            self.record_cell(tape, inputs, recurrent, before, following)
            before = following

    def record_cell(self, tape: Tape, inputs: Sequence[Term], recurrent: Term, before: Rows, after: Rows) -> None:
        """Records a cell whose gates' recurrent half is `recurrent`."""
        tape.gated(self.kind, inputs, recurrent, before[0], after[0])


def cell_class(options: PartOptions) -> type[Cell]:
    """Returns the class of the cell."""
    return cast(type[Cell], CELLS.entry_of(options).build)


def build_stack(
    options: PartOptions,
    input_size: int,
    hidden_size: int,
    layers: int,
    bidirectional: bool,
    dropout: float,
    transitions: int = 1,
) -> RecurrentStack:
    """Layers of the cell that the options name, PyTorch's where it has some, initialised as the cell is.

    Each layer has a chain of `transitions` cells in each direction.
    """
    cell = cell_class(options)
    dropout = dropout if layers > 1 else 0.0
    stack: RecurrentStack
    groups = cell.groups if isinstance(options, NormalizableOptions) and options.layer_normalization else ()
    if cell.library is None or groups or transitions > 1:
        sizes = cell.gates, input_size, hidden_size, layers
        stack = SteppedLayers(cell.equation, cell.parts, *sizes, bidirectional, dropout, transitions, groups)
    else:
        stack = cell.library(
            input_size, hidden_size, num_layers=layers, bidirectional=bidirectional, dropout=dropout, batch_first=True
        )
    for chain in chains_of(stack):
        for weights in chain:
            _initialize(cell, weights)
    return stack


def _initialize(cell: type[Cell], weights: StepWeights) -> None:
    """Initialises each gate's input matrix by Glorot, its recurrent matrix orthogonal; the LSTM's forget bias is 1.

    Gains of layer normalisation are 1, its biases 0.
    """
    with torch.no_grad():
        if weights.weight_in is not None:
            for block in weights.weight_in.chunk(cell.gates):
                nn.init.xavier_uniform_(block)
        for block in weights.weight_state.chunk(cell.gates):
            nn.init.orthogonal_(block)
        for gain in (weights.gain_in, weights.gain_state, weights.gain_cell):
            if gain is not None:
                gain.fill_(1.0)
        for bias in (weights.bias_in, weights.bias_state, weights.bias_cell):
            if bias is not None:
                bias.zero_()
        if cell.accumulates is not None:
            weights.bias_in.chunk(cell.gates)[cell.accumulates].fill_(1.0)


CELLS: Registry[Cell] = Registry("cell")


def add_cell(kind: str, description: str, *, gates: int, step: CellStep | None = None) -> None:
    """Registers a cell whose state is its output, under its name in the YAML.

    `step` is its equation, a function of a module; by default that of the folder of this name in `nmt/kernels`.
    """
    attributes: dict[str, object] = {"gates": gates, "__doc__": description}
    if step is not None:
        attributes["equation"] = step
    register_cell(kind, description)(type(f"{kind.capitalize()}Cell", (Cell,), attributes))


def register_cell(
    kind: str, description: str, base: type[PartOptions] = PartOptions
) -> Callable[[type[Cell]], type[Cell]]:
    """Returns a decorator that registers a cell, whose options are its name and those of `base`."""
    options = create_model(
        f"{kind.capitalize()}Options",
        __base__=base,
        __doc__=description,
        kind=(Literal[kind], Field(kind, description=description)),  # type: ignore[arg-type]
    )

    def register(cell: type[Cell]) -> type[Cell]:
        cell.kind = kind
        if not hasattr(cell, "equation"):
            cell.equation = kind
        CELLS.register(kind, options)(cell)
        return cell

    return register


@register_cell("gru", "Gated recurrent unit.", NormalizableOptions)
class GruCell(Cell):
    """Gated recurrent unit (Cho 2014)."""

    gates = 3
    groups = (2, 1)
    library = nn.GRU


@register_cell("lstm", "Long short-term memory.", NormalizableOptions)
class LstmCell(Cell):
    """Long short-term memory (Hochreiter 1997)."""

    gates = 4
    parts = 2
    accumulates = 1
    groups = (4,)
    library = nn.LSTM

    def record_cell(self, tape: Tape, inputs: Sequence[Term], recurrent: Term, before: Rows, after: Rows) -> None:
        tape.lstm(inputs, recurrent, (before[1], after[1]), after[0])


@register_cell("rnn", "Simple recurrent network with tanh.")
class RnnCell(Cell):
    """Simple recurrent network (Elman 1990)."""

    gates = 1
    library = nn.RNN

    def record_cell(self, tape: Tape, inputs: Sequence[Term], recurrent: Term, before: Rows, after: Rows) -> None:
        tape.tanh(inputs, recurrent, after[0])


DropoutMasks = tuple[Tensor, ...]
"""Scaled dropout masks, [B, Q, H] or [B, T, H], of each layer that reads another one's output. Empty without dropout,
or if they are drawn when needed."""


class Stack(nn.Module):
    """Layers from `first` (counted from 0) to the top of the decoder: each reads the output of the one below.

    With `context_size` each also reads the context. From `residual_from` on a layer's input is added to its output
    (He 2016; Wu 2016, section 3.1). There may be no layer at all.
    """

    def __init__(
        self, model: schema.ModelConfig, input_size: int, kernels: Kernels, *, first: int = 0, context_size: int = 0
    ) -> None:
        super().__init__()
        decoder = model.decoder
        self.first = first
        self.dropout = model.dropout.layer
        self.drop = kernels.dropout
        self.residual_from = decoder.residual_from
        self.cells = module_list(
            CELLS.build(
                decoder.cell,
                (input_size if layer == first else decoder.hidden_size) + context_size,
                decoder.hidden_size,
                kernels,
                decoder.transitions_by_layer[layer],
            )
            for layer in range(first, decoder.layers)
        )

    def step(
        self,
        state: State,
        *,
        below: Tensor | None = None,
        projected: Tensor | None = None,
        beside: Tensor | None = None,
        context: Tensor | None = None,
        masks: DropoutMasks = (),
    ) -> tuple[Tensor, State]:
        """Returns the output [B, Q, H] of the top layer, and the states after one step.

        The lowest layer reads `below` [B, Q, ..], or `projected` [B, Q, G] is its input half; `beside` is added to its
        recurrent half. Without the dropout masks `masks` of this step, masks are drawn.
        """
        following: State = ()
        for number, cell in enumerate(self.cells):
            if number or projected is None:
                assert below is not None, "the lowest layer reads something"
                projected = cell.project(self._input(number, below, context, masks))
            after = cell(projected, self._part(state, number), None if number else beside)
            following += after
            below = self._output(number, after[0], below)
        assert below is not None, "a stack without layers hands on what is below"
        return below, following

    def draw(self, batch: int, positions: int) -> DropoutMasks:
        """Draws the dropout masks of all positions in the order of `scan`; empty without dropout."""
        if not self.training or not self.dropout:
            return ()
        readers = list(self.cells)[not self.first :]
        ones = [cell.recurrent_weights[0].new_ones(batch, positions, cell.hidden_size) for cell in readers]
        return tuple(self.drop(each, self.dropout, True) for each in ones)

    def unsupported_reason(self) -> str:
        """Returns why a step of the stack cannot be recorded, with the path in the YAML; empty if it can."""
        return self.cells[0].unsupported_reason()

    def carry(self, tape: Tape, state: State) -> list[Values]:
        """Adds the state of each layer to a tape, from a state with one query."""
        return [cell.carry(tape, self._part(state, number)) for number, cell in enumerate(self.cells)]

    def record(self, tape: Tape, inputs: Sequence[Term], carried: Sequence[Values], masks: DropoutMasks) -> Value:
        """Records a step and returns the top layer's output; the sum of `inputs` is the lowest layer's input half."""
        assert not self.first, "the lowest layer of the decoder is part of the recurrence"
        below: Value | None = None
        for number, (cell, values) in enumerate(zip(self.cells, carried, strict=True)):
            if below is not None:
                entered = tape.scale(below.after, masks[number - 1]) if masks else below
                inputs = (tape.product(entered.after, *cell.input_weights),)
            cell.record(tape, inputs, rows_before(values), rows_after(values))
            output = values[0]
            if below is not None and self._is_residual(number):
                output = tape.sum(output.after, below.after)
            below = output
        assert below is not None, "a recurrence has a layer"
        return below

    def scan(self, state: State, inputs: Tensor, context: Tensor | None = None, masks: DropoutMasks = ()) -> Tensor:
        """Returns the outputs [B, T, H] of the top layer for inputs [B, T, ..]; `masks` as for `step`."""
        for number, cell in enumerate(self.cells):
            outputs = cell.scan(self._input(number, inputs, context, masks), self._part(state, number))
            inputs = self._output(number, outputs, inputs)
        return inputs

    def _part(self, state: State, number: int) -> State:
        parts = self.cells[0].parts
        return state[number * parts : (number + 1) * parts]

    def _input(self, number: int, below: Tensor, context: Tensor | None, masks: DropoutMasks = ()) -> Tensor:
        if self.first + number:
            mask = masks[number - (not self.first)] if masks else None
            below = self.drop(below, self.dropout, self.training) if mask is None else below * mask
        return below if context is None else torch.cat([below, context.to(below.dtype)], -1)

    def _output(self, number: int, output: Tensor, below: Tensor | None) -> Tensor:
        return output if below is None or not self._is_residual(number) else output + below

    def _is_residual(self, number: int) -> bool:
        return self.residual_from is not None and self.first + number + 1 >= self.residual_from
