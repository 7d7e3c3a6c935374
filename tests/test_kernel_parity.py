"""Every operation in every implementation and number format against autograd of its equation: results and gradients.

Triton's kernels are compiled where there is a GPU; elsewhere its interpreter runs them, and `test_triton_compilation`
compiles them all the same, because what the interpreter runs need not compile.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nmt.kernels.attention import attend, reference, source_gradients
from nmt.kernels.steps import Annotations, GateInputs, StepKernels
from tests.support.kernel_params import TRITON_DEVICES, needs_compiler
from tests.support.reference_steps import ReferenceKernels

Results = dict[str, Tensor]

# Both compute from the same numbers. What is written in bf16 is rounded to 8 bits, and so are the operands of products
# over all steps. A share of the largest element.
BOUNDS = {
    ("native", torch.float32): 3e-6,
    ("native", torch.bfloat16): 2e-2,
    ("native", torch.float64): 1e-13,
    ("triton", torch.float32): 5e-6,
    ("triton", torch.bfloat16): 2**-7,
}
FORMATS = [
    pytest.param(*("native", "cpu", dtype), id=f"native-{str(dtype).partition('.')[2]}", marks=needs_compiler)
    for dtype in (torch.float32, torch.bfloat16, torch.float64)
] + [
    pytest.param("triton", device.values[0], dtype, id=f"{device.id}-{name}", marks=device.marks)
    for device in TRITON_DEVICES
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bf16"))
]
in_every_format = pytest.mark.parametrize(("implementation", "device", "dtype"), FORMATS)


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan(device: str) -> Iterator[None]:
    """An element that a kernel leaves out, or reads too early, shows."""
    if device == "cuda":
        # It would want a setting of cuBLAS there.
        yield
        return
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Numbers:
    """Random tensors that are the same in every implementation: rounded to a dtype, then cast to the one wanted."""

    def __init__(self, rounded_to: torch.dtype, dtype: torch.dtype, device: str) -> None:
        self.rounded_to = rounded_to
        self.dtype = dtype
        self.accumulation_dtype = torch.promote_types(dtype, torch.float32)
        self.device = device

    def operand(self, *size: int, seed: int, scale: float = 1.0) -> Tensor:
        """In the compute dtype."""
        return (self._drawn(*size, seed=seed) * scale).to(self.rounded_to).to(self.device, self.dtype)

    def state(self, *size: int, seed: int) -> Tensor:
        """In the accumulation dtype."""
        return self._drawn(*size, seed=seed).to(self.device, self.accumulation_dtype)

    def empty(self, *size: int, state: bool = False) -> Tensor:
        return torch.empty(*size, dtype=self.accumulation_dtype if state else self.dtype, device=self.device)

    def _drawn(self, *size: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*size, generator=generator)


def assert_near(actual: Results, expected: Results, bound: float) -> None:
    """Every element, to within this share of the largest one."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = float(tensor[tensor.isfinite()].abs().max())
        torch.testing.assert_close(
            *(actual[name].double().cpu(), tensor.double().cpu()),
            **{"rtol": 0, "atol": bound * largest, "msg": lambda text, name=name: f"{name}: {text}"},
        )


GATES = {"gru": 3, "lstm": 4, "rnn": 1}
SUMMING = ("lstm", "rnn")
"""Cells that read the sum of both halves: these have one gradient."""


def step(kernels: StepKernels, cell: str, numbers: Numbers, sizes: tuple[int, int], parts: int) -> Results:
    """A step of a cell and its gradients. With two parts of the input, all optional gradients come in as well."""
    batch, hidden = sizes
    width = GATES[cell] * hidden
    # Rows of a wider tensor, as the parts of one product are.
    scale = 2.0 if hidden > 1 else 1.0
    terms = [numbers.operand(batch, width + 5, seed=seed, scale=scale)[:, 2:-3] for seed in range(3)]
    gates = GateInputs(terms[0], terms[2], terms[1] if parts == 2 else None)
    before, cell_after = numbers.state(batch, hidden, seed=3), numbers.empty(batch, hidden, state=True)
    after, copy = numbers.empty(batch, hidden, state=True), None
    if numbers.dtype != numbers.accumulation_dtype or parts == 2:
        copy = numbers.empty(batch, hidden)
    d_after, d_before = numbers.state(batch, hidden, seed=4), numbers.state(batch, hidden, seed=5)
    pending = numbers.operand(batch, hidden, seed=6) if parts == 2 else None
    d_one, d_other = numbers.empty(2, batch, width + 2)[..., :width].unbind(0)
    forward, backward = (getattr(kernels, f"{cell}_{part}") for part in ("forward", "backward"))
    if cell == "lstm":
        forward(gates, before, cell_after, after, copy)
        d_cell = numbers.state(batch, hidden, seed=7)
        d_gates_copy = d_other if parts == 2 else None
        backward(gates, before, cell_after, d_after, pending, d_cell, d_one, d_gates_copy, d_before)
    elif cell == "rnn":
        forward(gates, after, copy)
        # The slope where the value is near 1 depends on how that was rounded: all get the same.
        value = numbers.state(batch, hidden, seed=8).tanh()
        backward(value, d_after, pending, d_one, d_other if parts == 2 else None)
    else:
        forward(gates, before, after, copy)
        backward(gates, before, d_after, pending, d_one, d_other, d_before)
    results = {"after": after, "copy": after if copy is None else copy, "d_one": d_one}
    results["d_other"] = d_other if cell not in SUMMING or parts == 2 else d_one
    if cell != "rnn":
        results["d_before"] = d_before
    return results | ({"cell": cell_after} if cell == "lstm" else {})


@in_every_format
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (6, 37), (2, 1030)], ids=str)
@pytest.mark.parametrize("cell", list(GATES))
def test_a_step_of_a_cell(
    cell: str, sizes: tuple[int, int], parts: int, implementation: str, device: str, dtype: torch.dtype
) -> None:
    actual = step(StepKernels(implementation), cell, Numbers(dtype, dtype, device), sizes, parts)
    expected = step(ReferenceKernels(), cell, Numbers(dtype, torch.float64, device), sizes, parts)
    assert_near(actual, expected, BOUNDS[implementation, dtype])
    if cell in SUMMING:
        assert torch.equal(actual["d_one"], actual["d_other"])


# Sentences, queries, positions, units, features: around the sizes of blocks, far from them, no multiple of a vector.
SIZES = [(1, 1, 1, 1, 1), (3, 1, 7, 5, 9), (2, 3, 33, 40, 24), (3, 2, 16, 32, 32), (5, 3, 9, 67, 83)]
LARGE = (2, 2, 40, 300, 520)


def annotations(numbers: Numbers, sizes: tuple[int, ...], additive: bool, scale: float) -> Annotations:
    """A source whose sentences are padded, the last one not at all; an odd number of them lies by position."""
    batch, _, positions, units, features = sizes
    keys = numbers.operand(batch, positions, units, seed=1, scale=scale)
    memory = numbers.operand(batch, positions, features, seed=2)
    lengths_B = torch.linspace(max(1, positions // 2), positions, batch).long().to(numbers.device)
    mask_BS = torch.arange(positions, device=numbers.device) < lengths_B.unsqueeze(1)
    bias = torch.zeros(batch, positions, dtype=numbers.accumulation_dtype, device=numbers.device)
    if batch % 2:
        keys, memory = (part.transpose(0, 1).contiguous().transpose(0, 1) for part in (keys, memory))
    energy = numbers.operand(units, seed=3) if additive else None
    return Annotations(keys, memory, bias.masked_fill_(~mask_BS, -torch.inf), energy)


def attention(kernels: StepKernels, numbers: Numbers, sizes: tuple[int, ...], source: Annotations) -> Results:
    """Attention and its gradients: alone, with all optional gradients, and added to what is there."""
    batch, queries, positions, units, features = sizes
    # A part of a wider tensor, as a joined product leaves it.
    query = torch.nn.functional.pad(numbers.operand(queries, batch, units, seed=4), (0, 5))[..., :units]
    prepared = kernels.attention_prepare(source)
    context = numbers.empty(queries, batch, features)
    scores, normalizer = (
        numbers.empty(queries, batch, positions, state=True),
        numbers.empty(queries, batch, state=True),
    )
    kernels.attention_forward(query, prepared, context, scores, normalizer)
    results = {"context": context, "scores": scores, "normalizer": normalizer}
    for extras, add in ((False, False), (True, False), (True, True)):
        d_context = numbers.state(queries, batch, features, seed=5)
        pending = numbers.operand(queries, batch, features, seed=6) if extras else None
        d_weights = numbers.state(queries, batch, positions, seed=7) if extras else None
        d_query = numbers.state(queries, batch, units, seed=8) if add else numbers.empty(queries, batch, units)
        d_all_weights = torch.empty_like(scores)
        kernels.attention_backward(
            *(query, prepared, scores, normalizer, d_context, pending, d_weights, d_query, d_all_weights), add=add
        )
        forward = (query, prepared, scores, normalizer, d_context)
        d_keys, d_memory, d_energy = source_gradients(kernels, *forward, d_all_weights)
        gradients = {"d_query": d_query, "d_context": d_context, "d_all_weights": d_all_weights}
        gradients |= {"d_keys": d_keys, "d_memory": d_memory} | ({} if d_energy is None else {"d_energy": d_energy})
        results |= {f"{name} {extras} {add}": gradient for name, gradient in gradients.items()}
    return results


@in_every_format
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
@pytest.mark.parametrize("sizes", [*SIZES, LARGE], ids=str)
def test_attention(
    sizes: tuple[int, ...], additive: bool, implementation: str, device: str, dtype: torch.dtype
) -> None:
    bound, scale = BOUNDS[implementation, dtype], 1.0
    if implementation == "triton" or sizes != SIZES[-1]:
        # Scores of order one: larger ones would multiply the rounding of both sides, to 1e-5 with 300 units in float32.
        bound, scale = max(bound, BOUNDS["triton", dtype]) if dtype == torch.float32 else bound, sizes[3] ** -0.5
    scale = 1.0 if additive else scale
    numbers, exact = Numbers(dtype, dtype, device), Numbers(dtype, torch.float64, device)
    actual = attention(StepKernels(implementation), numbers, sizes, annotations(numbers, sizes, additive, scale))
    expected = attention(ReferenceKernels(), exact, sizes, annotations(exact, sizes, additive, scale))
    assert_near(actual, expected, bound)


@in_every_format
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
def test_padding_weighs_exactly_nothing_and_may_be_all_there_is(
    additive: bool, implementation: str, device: str, dtype: torch.dtype
) -> None:
    """A sentence whose positions are all excluded has a context of zero, and no gradient is NaN."""
    sizes = (3, 2, 20, 5, 6)
    numbers, exact = Numbers(dtype, dtype, device), Numbers(dtype, torch.float64, device)
    source, exact_source = (annotations(each, sizes, additive, 0.5) for each in (numbers, exact))
    source.bias[0] = exact_source.bias[0] = -torch.inf
    actual = attention(StepKernels(implementation), numbers, sizes, source)
    weights_QBS = torch.exp(actual["scores"] - actual["normalizer"].unsqueeze(-1))
    padding_BS = source.bias == -torch.inf
    assert not weights_QBS.masked_select(padding_BS).any()
    assert not actual["context"][:, 0].any()
    assert not actual["normalizer"][:, 0].any()
    for name, gradient in actual.items():
        if name.startswith(("d_keys", "d_memory")):
            assert not gradient[padding_BS].any()
    assert not any(tensor.isnan().any() for tensor in actual.values())
    assert_near(actual, attention(ReferenceKernels(), exact, sizes, exact_source), BOUNDS[implementation, dtype])


@in_every_format
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
@pytest.mark.parametrize("queries", [1, 5])
def test_attending_at_once(queries: int, additive: bool, implementation: str, device: str, dtype: torch.dtype) -> None:
    """All queries together, by autograd, which rounds to bf16 elsewhere."""
    if dtype == torch.bfloat16:
        dtype = torch.float32
    sizes = (2, queries, 9, 12, 8)
    results: list[Results] = []
    for numbers in (Numbers(dtype, dtype, device), Numbers(dtype, torch.float64, device)):
        source = annotations(numbers, sizes, additive, 0.5)
        query_BQA = numbers.operand(2, queries, 12, seed=4)
        inputs = {"query": query_BQA, "keys": source.keys, "memory": source.memory}
        inputs |= {} if source.energy is None else {"energy": source.energy}
        for part in inputs.values():
            part.requires_grad_()
        if numbers.dtype == dtype and not results:
            context_BQC, weights_BQS = attend(StepKernels(implementation), query_BQA, source)
        else:
            context_BQC, weights_BQS = reference.attend(query_BQA, source)
        loss = context_BQC.double().sin().sum() + weights_BQS.square().sum()
        gradients = torch.autograd.grad(loss, list(inputs.values()))
        results.append({"context": context_BQC.detach(), "weights": weights_BQS.detach()})
        results[-1] |= dict(zip(inputs, gradients, strict=True))
    assert_near(*results, BOUNDS[implementation, dtype])
