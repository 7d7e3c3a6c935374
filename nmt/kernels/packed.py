"""Recurrent layers over packed rows: the packing, and layers by PyTorch, by the native GRU, or step by step.

Under autocast products are computed in its dtype, everything else in single precision.

Shapes: L layers, D directions, P elements in packed order, T steps, R rows of a step or of the first, X input features,
H hidden, C = D x H outputs, G = 3 H gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nmt.kernels.linear.quantization import has_prepacked_weights
from nmt.kernels.steps import CellEquation, CellStep, reference_step
from nmt.runtime import pinned, product_dtype, recurrent_dtype


@dataclass(frozen=True)
class Packing:
    """The order of `torch.nn.utils.rnn.PackedSequence`: the first elements of all rows, the longest row first, then
    the second elements of those that have one, and so on. Empty rows do not occur in it; R rows do."""

    element_P: Tensor
    """Index of each element in the concatenation of all rows."""
    row_P: Tensor
    """Row of each element."""
    position_P: Tensor
    """Position of each element in its row."""
    sizes_T: Tensor
    """Rows that have an element at each position; on the CPU, where recurrent layers read it."""
    lengths_N: Tensor
    """Elements of each row; on the CPU, those of `masked` on the device."""
    is_masked: bool = False
    """Whether all rows are equally long, with padding behind the elements that `lengths_N` counts."""

    @staticmethod
    def of(lengths_N: Tensor, device: torch.device) -> Packing:
        """Returns the packing of rows with these lengths."""
        lengths_N = lengths_N.cpu()
        sorted_N, order_N = lengths_N.sort(descending=True, stable=True)
        longest = int(sorted_N[0]) if len(sorted_N) else 0
        positions_T = torch.arange(longest)
        # Rows longer than each position, counted from the shortest row.
        sizes_T = len(lengths_N) - torch.searchsorted(sorted_N.flip(0).contiguous(), positions_T, right=True)
        position_P = positions_T.repeat_interleave(sizes_T)
        starts_T = sizes_T.cumsum(0) - sizes_T
        row_P = order_N[torch.arange(len(position_P)) - starts_T[position_P]]
        element_P = (lengths_N.cumsum(0) - lengths_N)[row_P] + position_P
        # One copy to the device, not three.
        indices = pinned(torch.stack([element_P, row_P, position_P]))
        element_P, row_P, position_P = indices.to(device, non_blocking=True).unbind(0)
        return Packing(element_P, row_P, position_P, sizes_T, lengths_N)

    @staticmethod
    def masked(lengths_N: Tensor, longest: int) -> Packing:
        """Returns the packing of padded rows, none of them empty, whose lengths stay on their device.

        Nothing but the number and the width of the rows decides what runs.
        """
        rows, device = len(lengths_N), lengths_N.device
        row_P = torch.arange(rows, device=device).repeat(longest)
        position_P = torch.arange(longest, device=device).repeat_interleave(rows)
        sizes_T = torch.full((longest,), rows)
        element_P = torch.add(position_P, row_P, alpha=longest)
        return Packing(element_P, row_P, position_P, sizes_T, lengths_N, is_masked=True)

    @property
    def rows(self) -> int:
        """N, empty rows counted."""
        return len(self.lengths_N)

    @property
    def full_rows(self) -> int:
        """R."""
        if self.is_masked:
            return self.rows
        return int(self.sizes_T[0]) if len(self.sizes_T) else 0

    @property
    def row_R(self) -> Tensor:
        """Each row that is not empty, the longest first."""
        return self.row_P[: self.full_rows]

    @cached_property
    def mirrored_P(self) -> Tensor:
        """Where in packed order the element stands that is as far from the other end of its row; padding stays."""
        if self.is_masked:
            position_TN = self.position_P.view(-1, self.rows)
            mirrored_TN = self.lengths_N - 1 - position_TN
            mirrored_TN = torch.where(mirrored_TN < 0, position_TN, mirrored_TN)
            return torch.add(self.row_P, mirrored_TN.flatten(), alpha=self.rows)
        lengths_P = self.lengths_N.to(self.row_P.device, non_blocking=True)[self.row_P]
        return self._starts_T[lengths_P - 1 - self.position_P] + self._rank_P

    @cached_property
    def before_P(self) -> Tensor:
        """Where the element before it stands, of all elements that are not the first of their row."""
        position_P, place_P = self.position_P[self.full_rows :], self._rank_P[self.full_rows :]
        return self._starts_T[position_P - 1] + place_P

    @cached_property
    def last_R(self) -> Tensor:
        """Where the last element of each row stands, the longest row first."""
        return self.mirrored_P[: self.full_rows]

    @cached_property
    def _starts_T(self) -> Tensor:
        """Where each position begins."""
        return (self.sizes_T.cumsum(0) - self.sizes_T).to(self.row_P.device, non_blocking=True)

    @cached_property
    def _rank_P(self) -> Tensor:
        """The index of each element's row in the order of length, the longest first."""
        return torch.arange(len(self.row_P), device=self.row_P.device) - self._starts_T[self.position_P]


def row_softmax(scores_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Softmax of each row over its own elements, in at least single precision; a score of minus infinity weighs 0."""
    scores_P = scores_P.to(torch.promote_types(scores_P.dtype, torch.float32))
    # A shift common to a row cancels, so it needs no gradient.
    top_N = scores_P.new_full((rows,), -torch.inf).scatter_reduce(0, row_P, scores_P.detach(), "amax")
    exponential_P = torch.exp(scores_P - top_N.index_select(0, row_P))
    return exponential_P / row_sum(exponential_P, row_P, rows).index_select(0, row_P)


def row_sum(values: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Sums [N, ...] of the elements [P, ...] of each row; an empty row has 0."""
    return values.new_zeros(rows, *values.shape[1:]).index_add(0, row_P, values)


State = tuple[Tensor, ...]
"""The parts of a cell's state, its output first."""


class StepWeights(NamedTuple):
    """Weights of one cell. Those of a layer are a chain: behind the first, a cell reads no input, only the state."""

    weight_in: Tensor | None
    """None: the cell reads no input."""
    weight_state: Tensor
    bias_in: Tensor
    bias_state: Tensor
    gain_in: Tensor | None = None
    """Gain [G] of the normalised product with the input; None without layer normalisation, or without an input."""
    gain_state: Tensor | None = None
    """Gain [G] of the normalised product with the state; None without layer normalisation."""
    gain_cell: Tensor | None = None
    bias_cell: Tensor | None = None
    """Gain and bias [H] of the normalised cell that the output reads (LSTM)."""


def run_chain(
    cell: CellEquation,
    step: CellStep,
    chain: Sequence[StepWeights],
    groups: Sequence[int],
    projected: Tensor,
    state: State,
    beside: Tensor | None = None,
) -> State:
    """Runs the cells of a layer, one behind the other (Miceli Barone 2017, section 2.3; Ba 2016, supplement).

        h_t1 = cell_1(x_t, h_{t-1,L});   h_tk = cell_k(0, h_{t,k-1}) for k = 2 .. L

    With layer normalisation LN(W x) g_x + b_x and LN(U h) g_h + b_h take the places of W x + b_x and U h + b_h, and the
    output of an LSTM reads LN(c') g_c + b_c in place of c'. LN subtracts the mean over the units and divides by their
    standard deviation: over the gates of each group together.

    Args:
        cell: equation of the cell; `step` is its step, without normalisation.
        groups: numbers of gates that are normalised together; empty without layer normalisation.
        projected: the product with the input [..., G], with its bias only where there is no normalisation.
        state: the parts of the state before, [..., H].
        beside: is added to the first cell's product with the state.
    """
    for number, weights in enumerate(chain):
        recurrent = F.linear(state[0], weights.weight_state, None if groups else weights.bias_state)
        if beside is not None and not number:
            recurrent = recurrent + beside
        if groups:
            assert weights.gain_state is not None
            recurrent = _normalized(recurrent, groups, weights.gain_state, weights.bias_state)
            if weights.gain_in is not None:
                projected = _normalized(projected, groups, weights.gain_in, weights.bias_in)
        if number:
            projected = weights.bias_in.to(recurrent.dtype).expand_as(recurrent)
        if weights.gain_cell is not None and weights.bias_cell is not None:
            normalize = partial(_normalized, groups=(1,), gain=weights.gain_cell, bias=weights.bias_cell)
            step = partial(reference_step(cell), normalize=normalize)  # type: ignore[call-arg]
        state = step(projected, recurrent, state)
    return state


def _normalized(values: Tensor, groups: Sequence[int], gain: Tensor, bias: Tensor) -> Tensor:
    """Normalises groups of gates [..., G], in at least single precision under autocast."""
    unit = values.shape[-1] // sum(groups)
    parts = torch.split(values, [unit * gates for gates in groups], -1)
    normalized = [F.layer_norm(part, part.shape[-1:]) for part in parts]
    return torch.addcmul(bias, torch.cat(normalized, -1), gain)


class SteppedLayers(nn.Module):
    """Layers of a cell that PyTorch has none of: the weights of its layers, under their names.

    Those of the k-th cell behind the first of a layer end in `_tk`.
    """

    def __init__(
        self,
        cell: CellEquation,
        parts: int,
        gates: int,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        transitions: int = 1,
        groups: Sequence[int] = (),
    ) -> None:
        """`cell` is the cell's equation; its state has this many parts.

        `transitions` are the cells of a layer; `groups` as for `run_chain`.
        """
        super().__init__()
        self.transitions, self.groups = transitions, tuple(groups)
        self.cell, self.parts = cell, parts
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.bidirectional, self.dropout = bidirectional, dropout
        gated, sides = gates * hidden_size, ("", "_reverse")[: 1 + bidirectional]
        self._suffixes = [f"_l{layer}{side}" for layer in range(num_layers) for side in sides]
        for number, suffix in enumerate(self._suffixes):
            layer = number // len(sides)
            features = hidden_size * len(sides) if layer else input_size
            self._add(suffix, gated, features)
            for cell_number in range(1, transitions):
                self._add(f"{suffix}_t{cell_number}", gated, None)

    def _add(self, suffix: str, gated: int, features: int | None) -> None:
        """Registers the parameters of a cell, in PyTorch's order, then those of its normalisation."""
        shapes: dict[str, tuple[int, ...]] = {} if features is None else {"weight_ih": (gated, features)}
        shapes |= {"bias_ih": (gated,), "weight_hh": (gated, self.hidden_size), "bias_hh": (gated,)}
        if self.groups and features is not None:
            shapes["gain_ih"] = (gated,)
        if self.groups:
            shapes["gain_hh"] = (gated,)
        if self.groups and self.parts > 1:
            shapes |= {"gain_c": (self.hidden_size,), "bias_c": (self.hidden_size,)}
        for name, shape in shapes.items():
            self.register_parameter(name + suffix, nn.Parameter(torch.empty(*shape)))

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Of the first cell of each layer and direction, as `torch.nn.GRU.all_weights`."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [[getattr(self, kind + suffix) for kind in kinds] for suffix in self._suffixes]

    @property
    def chains(self) -> list[list[StepWeights]]:
        """The cells of each layer and direction."""
        return [
            [self._weights(suffix), *(self._weights(f"{suffix}_t{number}") for number in range(1, self.transitions))]
            for suffix in self._suffixes
        ]

    def _weights(self, suffix: str) -> StepWeights:
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "gain_ih", "gain_hh", "gain_c", "bias_c")
        return StepWeights(*(getattr(self, kind + suffix, None) for kind in kinds))  # type: ignore[arg-type]


RecurrentStack = nn.RNNBase | SteppedLayers
"""Layers of one size, with only dropout between them."""


def chains_of(stack: RecurrentStack) -> list[list[StepWeights]]:
    """Returns the cells of each layer and direction; PyTorch's layers have one each."""
    if isinstance(stack, SteppedLayers):
        return stack.chains
    return [[StepWeights(*weights)] for weights in stack.all_weights]


PackedGru = Callable[[Tensor, Tensor, Tensor, Packing], tuple[Tensor, Tensor]]
"""A gated recurrent layer: from the input's half of the gates [P, D x G], and the weights [D, G, H] and biases [D, G]
of the recurrence, to the outputs [P, C] and the last states [D, R, H]."""


Dropout = Callable[[Tensor, float, bool], Tensor]
LinearProduct = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def run_packed(
    stack: RecurrentStack,
    inputs_PX: Tensor,
    packing: Packing,
    gru: PackedGru | None = None,
    dropout: Dropout = F.dropout,
    linear: LinearProduct = F.linear,
    cell_step: Callable[[CellEquation], CellStep] = reference_step,
) -> tuple[Tensor, State]:
    """Returns the outputs [P, C] of the top layer, and the parts of the last states, [L x D, R, H] each.

    `gru` runs the layers of a stack of GRUs, with `linear` for their inputs. PyTorch runs other cells, and GRUs where
    `gru` is None. Layers that PyTorch lacks, or whose prepacked weights it cannot use, run by the steps of `cell_step`.
    Between the layers is always `dropout`: cuDNN's own has a random state that no checkpoint holds.
    """
    run: Callable[[Tensor, Packing, Any], Any]
    all_weights: Sequence[Any] = stack.all_weights
    if packing.is_masked:
        assert isinstance(stack, nn.RNNBase), "PyTorch runs padded rows"
        run = partial(_masked_layer, stack)
    elif gru is not None and isinstance(stack, nn.GRU):
        run = partial(_gru_layer, gru, linear)
    elif isinstance(stack, SteppedLayers) or has_prepacked_weights(stack):
        run, all_weights = partial(_stepped_layer, stack, cell_step), chains_of(stack)
    elif stack.training and stack.dropout and stack.num_layers > 1:
        run = partial(_library_layers, stack)
    else:
        outputs_PC, *state = _library_layers(stack, inputs_PX, packing, all_weights)
        return outputs_PC, tuple(state)
    directions = 2 if stack.bidirectional else 1
    finals = []
    for layer in range(stack.num_layers):
        if layer:
            inputs_PX = dropout(inputs_PX, stack.dropout, stack.training)
        weights = all_weights[layer * directions : (layer + 1) * directions]
        inputs_PX, *final = run(inputs_PX, packing, weights)
        finals.append(final)
    return inputs_PX, tuple(torch.cat(part) for part in zip(*finals, strict=True))


def _gru_layer(gru: PackedGru, linear: LinearProduct, inputs_PX: Tensor, packing: Packing, weights: Any) -> Any:
    """Runs one layer of gated recurrent units by `gru`."""
    input_weights, recurrent_weights, input_biases, recurrent_biases = zip(*weights, strict=True)
    gates_PG = linear(inputs_PX, torch.cat(input_weights), torch.cat(input_biases))
    recurrent_DGH = torch.stack(recurrent_weights).to(product_dtype(inputs_PX))
    return gru(gates_PG, recurrent_DGH, torch.stack(recurrent_biases), packing)


def _library_layers(stack: nn.RNNBase, inputs_PX: Tensor, packing: Packing, weights: Any) -> Any:
    """Runs some of the layers by PyTorch, from zero states."""
    first_NRH = inputs_PX.new_zeros(len(weights), packing.full_rows, stack.hidden_size)
    first = (first_NRH,) * LIBRARY_CELLS[stack.mode][1]
    outputs_PC, state = library_layers(stack, inputs_PX, first, weights, packing.sizes_T)
    return outputs_PC, *state


def _masked_layer(stack: nn.RNNBase, inputs_PX: Tensor, packing: Packing, weights: Any) -> Any:
    """Runs one layer over padded rows by PyTorch, from zero states: the outputs, and of the last states the output.

    Each direction runs alone: backwards, a row starts at its own end, and its padding comes last there too. The outputs
    of padding are meaningless.
    """
    sides, finals = [], []
    first = (inputs_PX.new_zeros(1, packing.rows, stack.hidden_size),) * LIBRARY_CELLS[stack.mode][1]
    for direction, of_direction in enumerate(weights):
        side_PX = _mirrored(inputs_PX, packing) if direction else inputs_PX
        side_TRX = side_PX.view(-1, packing.rows, side_PX.shape[1])
        outputs_TRH, _ = library_layers(stack, side_TRX, first, [of_direction], directions=1, batch_first=False)
        side_PH = outputs_TRH.flatten(0, 1)
        if direction:
            side_PH = _mirrored(side_PH, packing)
        # Backwards, a row ends at its first element.
        finals.append(side_PH[: packing.rows] if direction else side_PH.index_select(0, packing.last_R))
        sides.append(side_PH)
    return torch.cat(sides, 1), torch.stack(finals)


def _mirrored(rows_PF: Tensor, packing: Packing) -> Tensor:
    """Returns the elements of each padded row from its end to its beginning."""
    mirrored_PF: Tensor = _Mirrored.apply(rows_PF, packing.mirrored_P)  # type: ignore[no-untyped-call]
    return mirrored_PF


class _Mirrored(torch.autograd.Function):
    """Rows [P, F] in an order that is its own inverse: the backward pass is the same, and adds nothing up."""

    @staticmethod
    def forward(ctx: Any, rows_PF: Tensor, mirrored_P: Tensor) -> Tensor:
        ctx.save_for_backward(mirrored_P)
        return rows_PF.index_select(0, mirrored_P)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows_PF: Tensor) -> tuple[Tensor, None]:
        (mirrored_P,) = ctx.saved_tensors
        return d_rows_PF.index_select(0, mirrored_P), None


def library_layers(
    stack: nn.RNNBase,
    inputs: Tensor,
    first: State,
    weights: Sequence[Sequence[Tensor]],
    sizes_T: Tensor | None = None,
    *,
    directions: int | None = None,
    batch_first: bool = True,
) -> tuple[Tensor, State]:
    """Runs layers by PyTorch, without dropout between them: the outputs and the parts of the last states.

    On a GPU the weights are cast and autocast is off: it would have cuDNN compute in fp16, whatever its dtype
    (PyTorch's AutocastRNN.cpp), and the gradients of bf16 have no loss scale.

    Args:
        inputs: [B, T, X], without `batch_first` [T, B, X], or with `sizes_T` in packed order [P, X].
        first: the parts of the first states, [layers x D, B or R, H] each.
        weights: of each of the layers and directions, as in `stack.all_weights`.
        directions: by default those of the stack.
    """
    run: Any = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh}[stack.mode]
    flat = [weight for layer in weights for weight in layer]
    dtype = recurrent_dtype(inputs)
    if dtype is not None:
        inputs, first = inputs.to(dtype), tuple(part.to(dtype) for part in first)
        flat = [weight.to(dtype) for weight in flat]
    state = first if len(first) > 1 else first[0]
    # cuDNN differentiates only what ran in training mode; without dropout that changes nothing else.
    directions = directions or 1 + stack.bidirectional
    options = (True, len(weights) // directions, 0.0, torch.is_grad_enabled(), directions == 2)
    with nullcontext() if dtype is None else torch.autocast(inputs.device.type, enabled=False):
        if sizes_T is None:
            outputs, *after = run(inputs, state, flat, *options, batch_first)
        else:
            outputs, *after = run(inputs, sizes_T, state, flat, *options)
    return outputs, tuple(after)


LIBRARY_CELLS = {"GRU": ("gru", 1), "LSTM": ("lstm", 2), "RNN_TANH": ("rnn", 1)}
"""Name of the cell and number of parts of its state, for each mode of PyTorch's layers."""


def _stepped_layer(
    stack: RecurrentStack,
    cell_step: Callable[[CellEquation], CellStep],
    inputs_PX: Tensor,
    packing: Packing,
    weights: Any,
) -> Any:
    """Runs one layer step by step, from zero states in at least single precision."""
    cell, parts = (stack.cell, stack.parts) if isinstance(stack, SteppedLayers) else LIBRARY_CELLS[stack.mode]
    groups = stack.groups if isinstance(stack, SteppedLayers) else ()
    step, dtype = cell_step(cell), torch.promote_types(inputs_PX.dtype, torch.float32)
    sides, finals = [], []
    for direction, chain in enumerate(weights):
        state: State = (inputs_PX.new_zeros(packing.full_rows, stack.hidden_size, dtype=dtype),) * parts
        outputs: list[Tensor] = []
        bias_in = None if groups else chain[0].bias_in
        steps = F.linear(inputs_PX, chain[0].weight_in, bias_in).split_with_sizes(packing.sizes_T.tolist())
        # Backwards, each row starts at its own end.
        for projected_NG in reversed(steps) if direction else steps:
            size = len(projected_NG)
            before = tuple(part[:size] for part in state)
            after = run_chain(cell, step, chain, groups, projected_NG, before)
            after = tuple(new.to(dtype) for new in after)
            outputs.append(after[0])
            # Rows that have ended, or have not begun, keep their state.
            state = tuple(
                new if size == len(part) else torch.cat([new, part[size:]])
                for part, new in zip(state, after, strict=True)
            )
        sides.append(torch.cat(outputs[::-1] if direction else outputs))
        finals.append(state)
    return torch.cat(sides, 1), *(torch.stack(part) for part in zip(*finals, strict=True))


def by_direction(rows_PF: Tensor, directions: int, packing: Packing) -> Tensor:
    """Returns a new tensor [D, P, F / D] of [P, F], each direction in the order in which it runs."""
    forwards_PF, *backwards = rows_PF.chunk(directions, 1)
    return torch.stack([forwards_PF, *(each_PF.index_select(0, packing.mirrored_P) for each_PF in backwards)])


def before_each(states_DPH: Tensor, packing: Packing) -> Tensor:
    """Returns the state before each element; zero before the first element of a row."""
    before_DPH = torch.zeros_like(states_DPH)
    before_DPH[:, packing.full_rows :] = states_DPH.index_select(1, packing.before_P)
    return before_DPH
