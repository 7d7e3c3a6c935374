"""Every operation in every implementation and number format, against the equation in float64: results and gradients.

Triton's kernels are compiled where there is a GPU; elsewhere its interpreter runs them, and `test_triton_compilation`
compiles them all the same, because what the interpreter runs need not compile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import nmt.kernels
from nmt.kernels.attention import attend, exponentials, reference, source_gradients
from nmt.kernels.attention import native as native_attention
from nmt.kernels.cross_entropy.chunked import (
    ChunkLosses,
    LossChunk,
    chunk_losses,
    chunked_cross_entropy,
    chunked_regularized_cross_entropy,
    chunked_target_log_probabilities,
    losses_by,
)
from nmt.kernels.cross_entropy.native import log_softmax, native_chunk_losses
from nmt.kernels.cross_entropy.reference import cross_entropy, regularized_cross_entropy, target_log_probabilities
from nmt.kernels.dropout.native import LEVELS, native_dropout
from nmt.kernels.linear import onednn, quantization
from nmt.kernels.linear.onednn import PrepackedProduct
from nmt.kernels.linear.quantization import Int8Weight, PrepackedWeight, native_quantize
from nmt.kernels.steps import Annotations, GateInputs, StepKernels
from tests.support.kernel_params import (
    INT8_PRODUCTS,
    PREPACKED_WEIGHTS,
    TRITON_DEVICES,
    needs_compiler,
    needs_gpu,
    needs_onednn_bf16,
)
from tests.support.reference_steps import ReferenceKernels

Results = dict[str, Tensor]
Bounds = dict[str, dict[torch.dtype, float]]
"""Largest error, by implementation and format."""

FP32, BF16, FP64 = FORMATS = (torch.float32, torch.bfloat16, torch.float64)
ROUNDOFF = {FP32: 2**-24, BF16: 2**-8, FP64: 2**-53, torch.int8: 0.5 / 127}
"""Largest error of rounding, as a share of the number; of int8, whose steps are equal, of the row's largest number."""
GATES = {"gru": 3, "lstm": 4, "rnn": 1}
SUMMING = ("lstm", "rnn")
"""Cells that read the sum of both halves: these have one gradient."""

# Shares of the largest element. What is written in bf16 is rounded to 8 bits, and so are the operands of products over
# all steps.
STEPS: Bounds = {
    "reference": {FP32: 3e-6, BF16: 2e-2, FP64: 1e-13},
    "native": {FP32: 3e-6, BF16: 2e-2, FP64: 1e-13},
    "triton": {FP32: 5e-6, BF16: 2**-7},
}
# Shares of the largest element. In bf16 weights and readouts are rounded, too.
LOSSES: Bounds = {
    **{name: {FP32: 3e-6, BF16: 2e-2, FP64: 1e-13} for name in ("reference", "chunked", "native")},
    "triton": {FP32: 3e-6, BF16: 2e-2},
}
# Shares of each element. PyTorch rounds 1 - p, its inverse and the product; C rounds the inverse and the product.
DROPOUT: Bounds = {
    "reference": {dtype: 3.01 * ROUNDOFF[dtype] for dtype in FORMATS},
    "native": {dtype: 2.01 * ROUNDOFF[dtype] for dtype in FORMATS},
}
# `rounding_errors` derives the bound of each element from these.
LINEAR: Bounds = {
    "reference": {dtype: ROUNDOFF[dtype] for dtype in FORMATS},
    "onednn": {dtype: ROUNDOFF[dtype] for dtype in FORMATS},
    "quantization": {dtype: ROUNDOFF[dtype] for dtype in (FP32, BF16, torch.int8)},
}
PARITY: dict[str, Bounds] = {
    **dict.fromkeys(("attention", *GATES), STEPS),
    "cross_entropy": LOSSES,
    "dropout": DROPOUT,
    "linear": LINEAR,
}
"""Bounds by operation (a folder of nmt/kernels), implementation (a file of the folder) and format."""


def in_every_format(operation: str, *implementations: str) -> Callable[[Any], Any]:
    """Parametrizes a test by implementation, device and format, of some of an operation's implementations or all."""
    rows = []
    for implementation, formats in PARITY[operation].items():
        if implementations and implementation not in implementations:
            continue
        for device in devices(operation, implementation):
            for dtype in formats:
                name = f"{implementation if device.id == 'cpu' else device.id}-{str(dtype).partition('.')[2]}"
                marks = [*device.marks, *([needs_onednn_bf16] if (implementation, dtype) == ("onednn", BF16) else [])]
                rows.append(pytest.param(implementation, device.values[0], dtype, id=name, marks=marks))
    parametrize = pytest.mark.parametrize(("implementation", "device", "dtype"), rows)
    return lambda test: pytest.mark.usefixtures("unwritten_memory_is_nan")(parametrize(test))


def devices(operation: str, implementation: str) -> list[Any]:
    """Returns the devices that an implementation is tested on."""
    if implementation == "triton":
        return TRITON_DEVICES
    cpu = pytest.param("cpu", id="cpu", marks=[needs_compiler] if implementation == "native" else [])
    runs_on_gpu = operation in ("cross_entropy", "dropout") and implementation != "native"
    return [cpu, pytest.param("cuda", id=f"{implementation}-cuda", marks=needs_gpu)] if runs_on_gpu else [cpu]


def test_the_table_names_every_implementation() -> None:
    """A new file in a folder of nmt/kernels needs a row of `PARITY`, of which the tests below are made."""
    folders = [path for path in Path(nmt.kernels.__file__).parent.iterdir() if (path / "__init__.py").exists()]
    files = {path.name: {file.stem for file in path.glob("*.py")} - {"__init__"} for path in folders}
    # Not operations: `tape` records them and calls their implementations; a mixture of softmaxes is its equation alone,
    # which test_latent.py compares with all alignments.
    files |= {"tape": set(), "cross_entropy": files["cross_entropy"] - {"mixture"}}
    missing = {name: left for name, found in files.items() if (left := found - PARITY.get(name, {}).keys())}
    assert missing == {}
    assert {name for name, found in files.items() if found} == PARITY.keys()


@pytest.mark.parametrize(
    ("base", "module", "named"),
    [(Int8Weight, quantization, INT8_PRODUCTS), (PrepackedWeight, quantization, PREPACKED_WEIGHTS)],
)
def test_products_of_all_classes_are_compared(base: type, module: Any, named: list[Any]) -> None:
    classes = {each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base)}
    assert classes - {PrepackedWeight} == {param.values[0] for param in named}


@pytest.fixture
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


def step_kernels(implementation: str) -> StepKernels:
    return ReferenceKernels() if implementation == "reference" else StepKernels(implementation)  # type: ignore[arg-type]


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


@in_every_format("gru")  # All cells have the same implementations.
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (6, 37), (2, 1030)], ids=str)
@pytest.mark.parametrize("cell", list(GATES))
def test_a_step_of_a_cell(
    cell: str, sizes: tuple[int, int], parts: int, implementation: str, device: str, dtype: torch.dtype
) -> None:
    actual = step(step_kernels(implementation), cell, Numbers(dtype, dtype, device), sizes, parts)
    expected = step(ReferenceKernels(), cell, Numbers(dtype, torch.float64, device), sizes, parts)
    assert_near(actual, expected, STEPS[implementation][dtype])
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


@in_every_format("attention")
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
@pytest.mark.parametrize("sizes", [*SIZES, LARGE], ids=str)
def test_attention(
    sizes: tuple[int, ...], additive: bool, implementation: str, device: str, dtype: torch.dtype
) -> None:
    bound, scale = STEPS[implementation][dtype], 1.0
    if implementation == "triton" or sizes != SIZES[-1]:
        # Scores of order one: larger ones would multiply the rounding of both sides, to 1e-5 with 300 units in float32.
        bound, scale = max(bound, STEPS["triton"][dtype]) if dtype == FP32 else bound, sizes[3] ** -0.5
    scale = 1.0 if additive else scale
    numbers, exact = Numbers(dtype, dtype, device), Numbers(dtype, torch.float64, device)
    actual = attention(step_kernels(implementation), numbers, sizes, annotations(numbers, sizes, additive, scale))
    expected = attention(ReferenceKernels(), exact, sizes, annotations(exact, sizes, additive, scale))
    assert_near(actual, expected, bound)


@in_every_format("attention")
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
def test_padding_weighs_exactly_nothing_and_may_be_all_there_is(
    additive: bool, implementation: str, device: str, dtype: torch.dtype
) -> None:
    """A sentence whose positions are all excluded has a context of zero, and no gradient is NaN."""
    sizes = (3, 2, 20, 5, 6)
    numbers, exact = Numbers(dtype, dtype, device), Numbers(dtype, torch.float64, device)
    source, exact_source = (annotations(each, sizes, additive, 0.5) for each in (numbers, exact))
    source.bias[0] = exact_source.bias[0] = -torch.inf
    actual = attention(step_kernels(implementation), numbers, sizes, source)
    weights_QBS = torch.exp(actual["scores"] - actual["normalizer"].unsqueeze(-1))
    padding_BS = source.bias == -torch.inf
    assert not weights_QBS.masked_select(padding_BS).any()
    assert not actual["context"][:, 0].any()
    assert not actual["normalizer"][:, 0].any()
    for name, gradient in actual.items():
        if name.startswith(("d_keys", "d_memory")):
            assert not gradient[padding_BS].any()
    assert not any(tensor.isnan().any() for tensor in actual.values())
    assert_near(actual, attention(ReferenceKernels(), exact, sizes, exact_source), STEPS[implementation][dtype])


@in_every_format("attention")
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
@pytest.mark.parametrize("queries", [1, 5])
def test_attending_at_once(queries: int, additive: bool, implementation: str, device: str, dtype: torch.dtype) -> None:
    """All queries together, by autograd, which rounds to bf16 elsewhere."""
    if dtype == BF16:
        dtype = FP32
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
            context_BQC, weights_BQS = attend(step_kernels(implementation), query_BQA, source)
        else:
            context_BQC, weights_BQS = reference.attend(query_BQA, source)
        loss = context_BQC.double().sin().sum() + weights_BQS.square().sum()
        gradients = torch.autograd.grad(loss, list(inputs.values()))
        results.append({"context": context_BQC.detach(), "weights": weights_BQS.detach()})
        results[-1] |= dict(zip(inputs, gradients, strict=True))
    assert_near(*results, STEPS[implementation][dtype])


@in_every_format("attention", "native")
def test_additive_scores_of_the_search(implementation: str, device: str, dtype: torch.dtype) -> None:
    """In C they have no gradients. The operations that training runs have, in test_additive.py."""
    numbers = Numbers(dtype, dtype, device)
    query, keys, energy = (numbers.state(*size, seed=3) for size in ((2, 3, 5, 67), (2, 3, 7, 67), (67,)))
    with torch.no_grad():
        scores = native_attention.additive_scores(query, keys, exponentials(keys), energy)
    expected = torch.tanh(query.double().unsqueeze(-2) + keys.double().unsqueeze(-3)) @ energy.double()
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-5)


def losses_of(implementation: str, name: str, others: dict[str, Any]) -> Any:
    """Returns the function of an implementation; a machine without Triton cannot import its own."""
    if implementation == "triton":
        return losses_by(import_module("nmt.kernels.cross_entropy.triton").triton_chunk_losses)[name]
    return others[implementation]


NATIVE = losses_by(native_chunk_losses)
CROSS_ENTROPIES = {"reference": cross_entropy, "chunked": chunked_cross_entropy, "native": NATIVE["cross_entropy"]}
# At the borders of chunks, too. The last one fills vectors, and not the last of them.
POSITIONS_FEATURES_PIECES = [(1, 5, 7), (511, 5, 7), (512, 5, 7), (513, 5, 7), (1500, 5, 7), (700, 33, 67)]


def interpretable(sizes: tuple[int, int, int], implementation: str, device: str) -> tuple[int, int, int]:
    """Returns the sizes with fewer positions where Triton's interpreter runs a program for each, a millisecond each."""
    return (min(sizes[0], 40), *sizes[1:]) if implementation == "triton" and device == "cpu" else sizes


def cross_entropy_inputs(numbers: Numbers, sizes: tuple[int, int, int], has_bias: bool) -> dict[str, Tensor]:
    """Readout, weight, bias and targets. Without a bias it is zero and gets no gradient."""
    rows, features, pieces = sizes
    inputs = {
        "readout": numbers.state(rows, features, seed=1).requires_grad_(),
        "weight": (numbers.state(pieces, features, seed=2) * (5 / features) ** 0.5).requires_grad_(),
        "bias": numbers.state(pieces, seed=3).requires_grad_() if has_bias else numbers.state(pieces, seed=3).zero_(),
    }
    targets = torch.randint(pieces, (rows,), generator=torch.Generator().manual_seed(rows))
    return inputs | {"targets": targets.to(numbers.device)}


@in_every_format("cross_entropy")
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", POSITIONS_FEATURES_PIECES, ids=str)
def test_cross_entropy(
    sizes: tuple[int, int, int],
    smoothing: float,
    has_bias: bool,
    implementation: str,
    device: str,
    dtype: torch.dtype,
) -> None:
    """In bf16 products alone are bf16, by autocast: losses and gradients stay in float32."""
    sizes = interpretable(sizes, implementation, device)
    results: list[Results] = []
    kernel_of_format = losses_of(implementation, "cross_entropy", CROSS_ENTROPIES)
    for kernel, each in ((kernel_of_format, dtype), (cross_entropy, FP64)):
        inputs = cross_entropy_inputs(Numbers(each, each, device), sizes, has_bias)
        operands = [operand for operand in inputs.values() if operand.requires_grad]
        with torch.autocast(device, BF16, enabled=each == BF16):
            losses = kernel(*inputs.values(), smoothing)
            with torch.no_grad():
                without_gradients = kernel(*inputs.values(), smoothing)
        assert not losses.negative_log_likelihood.requires_grad
        assert not without_gradients.smoothed.requires_grad
        gradients = torch.autograd.grad(losses.smoothed * 0.3, operands)
        values = {"smoothed": losses.smoothed.detach(), "likelihood": losses.negative_log_likelihood}
        values |= {f"{name} without gradients": value for name, value in without_gradients._asdict().items()}
        assert {tensor.dtype for tensor in (*values.values(), *gradients)} == {torch.promote_types(each, FP32)}
        results.append(values | dict(zip(inputs, gradients, strict=False)))
    actual, expected = results
    assert_near(actual, expected, LOSSES[implementation][dtype])
    if dtype == FP64:
        for name, tensor in expected.items():
            exact = {"rtol": 1e-10, "atol": 1e-12} if name in inputs else {"rtol": 1e-12, "atol": 0.0}
            torch.testing.assert_close(actual[name], tensor, **exact)
    readout, weight, bias, targets = (operand.detach() for operand in inputs.values())
    logits = F.linear(readout, weight, bias)
    for name, e in (("smoothed", smoothing), ("likelihood", 0.0)):
        by_pytorch = F.cross_entropy(logits, targets, label_smoothing=e, reduction="sum")
        torch.testing.assert_close(expected[name], by_pytorch)
        if dtype == BF16:
            # bf16 has 8 bits: a product of 5 terms is good to about 1%.
            assert actual[name].item() == pytest.approx(by_pytorch.item(), rel=0.01)


@in_every_format("cross_entropy", "triton")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_position_without_a_target_does_not_count(
    smoothing: float, implementation: str, device: str, dtype: torch.dtype
) -> None:
    """-1 is the target of padding: such rows change no loss and no gradient, and get none, whatever they hold."""
    inputs = cross_entropy_inputs(Numbers(dtype, dtype, device), (9, 33, 67), has_bias=True)
    targets, operands = inputs.pop("targets"), list(inputs.values())
    counts = torch.arange(9, device=device) % 3 != 1
    padded = targets.where(counts, -1)
    kernel = losses_of(implementation, "cross_entropy", {})
    results: list[Results] = []
    for readout, chosen in ((operands[0], padded), (operands[0][counts], targets[counts])):
        with torch.autocast(device, BF16, enabled=dtype == BF16):
            losses = kernel(readout, *operands[1:], chosen, smoothing)
        gradients = torch.autograd.grad(losses.smoothed, operands)
        results.append(dict(zip(("readout", "weight", "bias"), gradients, strict=True)))
        results[-1] |= {"smoothed": losses.smoothed.detach(), "likelihood": losses.negative_log_likelihood}
    assert not results[0]["readout"][~counts].any()
    assert_near(*results, 1e-6)


def test_a_loss_without_gradients_computes_none() -> None:
    """Validation saves the products of the backward pass, although its parameters want gradients."""
    wanted: list[bool] = []

    def noting(chunk: LossChunk) -> ChunkLosses:
        wanted.append(chunk.d_bias_V is not None)
        return chunk_losses(chunk)

    weight = torch.randn(7, 5, requires_grad=True)
    for off in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with off():
            chunked_cross_entropy(torch.randn(3, 5), weight, torch.zeros(7), torch.arange(3), 0.1, noting)
    assert wanted == [False, False, True]


REGULARIZED = {
    "reference": regularized_cross_entropy,
    "chunked": chunked_regularized_cross_entropy,
    "native": NATIVE["regularized_cross_entropy"],
}


@in_every_format("cross_entropy")
@pytest.mark.parametrize("alpha", [0.0, 5.0])
@pytest.mark.parametrize("sizes", [(1, 5, 7), (257, 5, 7), (700, 33, 67)], ids=str)
def test_cross_entropy_of_r_drop(
    sizes: tuple[int, int, int], alpha: float, implementation: str, device: str, dtype: torch.dtype
) -> None:
    """Against PyTorch's own losses and autograd in float64. Without a weight of the divergence both passes add up."""
    rows, features, pieces = sizes
    results: list[Results] = []
    for each in (dtype, FP64):
        inputs = cross_entropy_inputs(Numbers(each, each, device), (2 * rows, features, pieces), has_bias=True)
        targets = inputs.pop("targets")[:rows]
        readout, weight, bias = inputs.values()
        if not results:
            with torch.autocast(device, BF16, enabled=each == BF16):
                kernel = losses_of(implementation, "regularized_cross_entropy", REGULARIZED)
                losses = kernel(readout.unflatten(0, (2, rows)), weight, bias, targets, 0.1, alpha)
            assert not losses.negative_log_likelihood.requires_grad
            assert not losses.divergence.requires_grad
            trained, likelihood, divergence = losses
        else:
            logits = F.linear(readout, weight, bias)
            first, second = logits.log_softmax(-1).chunk(2)
            divergence = F.kl_div(first, second, log_target=True, reduction="sum") / 2
            divergence = divergence + F.kl_div(second, first, log_target=True, reduction="sum") / 2
            likelihood, smoothed = (
                F.cross_entropy(logits, targets.repeat(2), label_smoothing=e, reduction="sum") for e in (0.0, 0.1)
            )
            trained = smoothed + alpha * divergence
        gradients = torch.autograd.grad(trained * 0.3, list(inputs.values()))
        values = {"trained": trained, "likelihood": likelihood, "divergence": divergence}
        assert {tensor.dtype for tensor in (*values.values(), *gradients)} == {torch.promote_types(each, FP32)}
        results.append({name: value.detach() for name, value in values.items()})
        results[-1] |= dict(zip(inputs, gradients, strict=True))
    assert_near(*results, LOSSES[implementation][dtype])


TARGET_LOG_PROBABILITIES = {
    "reference": target_log_probabilities,
    "chunked": chunked_target_log_probabilities,
    "native": NATIVE["target_log_probabilities"],
}


@in_every_format("cross_entropy")
@pytest.mark.parametrize("sizes", [(1, 5, 7), (513, 5, 7), (700, 33, 67)], ids=str)
def test_log_probabilities_of_targets(
    sizes: tuple[int, int, int], implementation: str, device: str, dtype: torch.dtype
) -> None:
    """Against PyTorch's own losses in float64; each position has another weight in what follows."""
    sizes = interpretable(sizes, implementation, device)
    results: list[Results] = []
    for each in (dtype, FP64):
        inputs = cross_entropy_inputs(Numbers(each, each, device), sizes, has_bias=True)
        targets = inputs.pop("targets")
        if not results:
            with torch.autocast(device, BF16, enabled=each == BF16):
                kernel = losses_of(implementation, "target_log_probabilities", TARGET_LOG_PROBABILITIES)
                values = kernel(*inputs.values(), targets)
        else:
            values = -F.cross_entropy(F.linear(*inputs.values()), targets, reduction="none")
        weights = torch.linspace(-1.0, 2.0, len(values), dtype=values.dtype, device=device)
        gradients = torch.autograd.grad((values * weights).sum(), list(inputs.values()))
        assert {tensor.dtype for tensor in (values, *gradients)} == {torch.promote_types(each, FP32)}
        results.append({"values": values.detach(), **dict(zip(inputs, gradients, strict=True))})
    assert_near(*results, LOSSES[implementation][dtype])


@in_every_format("cross_entropy", "native")
def test_log_softmax(implementation: str, device: str, dtype: torch.dtype) -> None:
    """In C it has no gradients."""
    numbers = Numbers(dtype, dtype, device)
    logits = numbers.operand(4, 501, seed=1, scale=3.0)
    with torch.no_grad():
        actual = log_softmax(logits)
    assert actual.dtype == numbers.accumulation_dtype
    expected = torch.log_softmax(logits.to(numbers.accumulation_dtype), -1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=3e-6)
    torch.testing.assert_close(actual.double(), torch.log_softmax(logits.double(), -1), rtol=0, atol=3e-6)


DROPOUTS: dict[str, Callable[[Tensor, float, bool], Tensor]] = {"reference": F.dropout, "native": native_dropout}


@in_every_format("dropout")
@pytest.mark.parametrize("in_one_piece", [True, False], ids=["in one piece", "transposed"])
@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_dropout_scales_what_it_keeps(
    probability: float, in_one_piece: bool, implementation: str, device: str, dtype: torch.dtype
) -> None:
    """And its gradient is the mask, scaled alike."""
    numbers, dropout = Numbers(dtype, dtype, device), DROPOUTS[implementation]
    sizes = (60, 70) if in_one_piece else (70, 60)
    inputs, arrives = (numbers.operand(*sizes, seed=seed) for seed in (1, 2))
    if not in_one_piece:
        inputs, arrives = inputs.t(), arrives.t()
    inputs.requires_grad_()
    torch.manual_seed(7)
    outputs = dropout(inputs, probability, True)
    (gradient,) = torch.autograd.grad(outputs, inputs, arrives)
    kept = (outputs != 0).double()
    deviation = (len(kept.flatten()) * probability * (1 - probability)) ** 0.5
    assert abs(float(kept.sum()) - len(kept.flatten()) * (1 - probability)) < 5 * deviation
    bound = DROPOUT[implementation][dtype]
    if implementation == "native":
        # The probability is rounded to a multiple of 1 / LEVELS.
        bound += 0.5 / LEVELS / (1 - probability)
    for actual, given in ((outputs, inputs), (gradient, arrives)):
        expected = given.detach().double() * kept / (1 - probability)
        assert actual.dtype == dtype
        assert ((actual.detach().double() - expected).abs() <= bound * expected.abs()).all()


@in_every_format("dropout")
def test_dropout_of_an_input_that_lies_apart(implementation: str, device: str, dtype: torch.dtype) -> None:
    inputs = torch.arange(1.0, 61.0, device=device, dtype=dtype).view(6, 10).t().requires_grad_()
    torch.manual_seed(7)
    outputs = DROPOUTS[implementation](inputs, 0.5, True)
    arrives = torch.arange(60.0, device=device, dtype=dtype).view(6, 10).t()
    (gradient,) = torch.autograd.grad(outputs, inputs, arrives)
    kept = (outputs != 0).to(dtype)
    assert 10 < kept.sum() < 50
    torch.testing.assert_close(outputs.detach(), inputs.detach() * kept * 2)
    torch.testing.assert_close(gradient, arrives * kept * 2)


@in_every_format("dropout")
def test_dropout_of_a_quarter_by_hand(implementation: str, device: str, dtype: torch.dtype) -> None:
    """Quarters are multiples of 1 / 65,536: 3 becomes 4, or 0; the gradient goes where the element went."""
    torch.manual_seed(2)
    inputs = torch.full((7, 9), 3.0, dtype=dtype, device=device, requires_grad=True)
    outputs = DROPOUTS[implementation](inputs, 0.25, True)
    assert outputs.dtype == dtype
    assert set(outputs.flatten().tolist()) == {0.0, 4.0}
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
    torch.testing.assert_close(gradient * 3, outputs.detach())


@in_every_format("dropout")
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_each_element_is_dropped_with_this_probability(
    probability: float, implementation: str, device: str, dtype: torch.dtype
) -> None:
    """The share of a million elements, and of pairs that one draw decides or two, within five standard deviations."""
    torch.manual_seed(1)
    count = 2**20
    dropped = DROPOUTS[implementation](torch.ones(count, device=device, dtype=dtype), probability, True) == 0
    assert abs(float(dropped.double().mean()) - probability) < 5 * math.sqrt(probability * (1 - probability) / count)
    lanes = dropped.view(-1, 8)
    for one in range(8):
        for other in range(one):
            both, expected = float((lanes[:, one] & lanes[:, other]).double().mean()), probability**2
            assert abs(both - expected) < 5 * math.sqrt(expected * (1 - expected) / (count / 8)), (one, other)


@in_every_format("dropout")
def test_dropout_draws_from_the_generator(implementation: str, device: str, dtype: torch.dtype) -> None:
    dropout, inputs, drawn = DROPOUTS[implementation], torch.ones(1003, device=device, dtype=dtype), []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        drawn.append(dropout(inputs, 0.5, True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[2], dropout(inputs, 0.5, True))


@in_every_format("dropout")
def test_dropout_without_training_or_probability_does_nothing(
    implementation: str, device: str, dtype: torch.dtype
) -> None:
    dropout, inputs = DROPOUTS[implementation], Numbers(dtype, dtype, device).operand(50, seed=1)
    state = torch.get_rng_state()
    assert torch.equal(dropout(inputs, 0.5, False), inputs)
    assert torch.equal(dropout(inputs, 0.0, True), inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert not dropout(inputs, 1.0, True).any()


LINEARS: dict[str, Callable[..., Tensor]] = {"reference": F.linear, "onednn": onednn.linear}


def factor_errors(factor: Tensor, roundoff: float) -> Tensor:
    """Bounds of the errors of a matrix that is rounded; half a step of its row for 8-bit integers."""
    if roundoff != ROUNDOFF[torch.int8]:
        return factor.double().abs() * roundoff
    # A quotient of up to 127 steps is rounded before.
    return factor.double().abs().amax(1, keepdim=True).expand_as(factor) * (roundoff + ROUNDOFF[FP32])


def rounding_errors(rows: Tensor, weight: Tensor, bias: Tensor | None, output: float, factors: float = 0.0) -> Tensor:
    """Bounds of the errors of W x + b, by the roundoff of outputs and that of both factors.

    |(x + dx) (w + dw) - x w| <= |dx| |w| + |x| |dw| + |dx| |dw|. A sum of n terms, of products that are scaled, is off
    by n + 4 roundoffs of the accumulation dtype at most.
    """
    d_rows, d_weight = factor_errors(rows, factors), factor_errors(weight, factors)
    rows, weight = rows.double().abs(), weight.double().abs()
    magnitudes = rows @ weight.t() if bias is None else rows @ weight.t() + bias.double().abs()
    accumulation = (weight.shape[1] + 4) * min(output, ROUNDOFF[FP32])
    return d_rows @ weight.t() + (rows + d_rows) @ d_weight.t() + (2 * output + accumulation) * magnitudes


@in_every_format("linear", "reference", "onednn")
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("exact", [True, False], ids=["integers", "random"])
@pytest.mark.usefixtures("every_product_suits_onednn")
def test_linear(exact: bool, has_bias: bool, implementation: str, device: str, dtype: torch.dtype) -> None:
    """Small integers have products and sums that all formats hold, in any order of addition."""
    numbers = Numbers(dtype, dtype, device)
    operands = [numbers.operand(*size, seed=seed) for seed, size in enumerate(((2, 9, 24), (40, 24), (40,)))]
    arrives = numbers.operand(2, 9, 40, seed=4)
    if exact:
        operands, arrives = [each.round() for each in operands], arrives.round()
    operands = [each.requires_grad_() for each in operands[: 3 if has_bias else 2]]
    outputs = LINEARS[implementation](*operands)
    assert (type(outputs.grad_fn).__name__ == "_LinearBackward") == (implementation == "onednn" and dtype == FP32)
    actual = [outputs, *torch.autograd.grad(outputs, operands, arrives)]
    rows, weight, bias, gradient = (
        *(operands[0].detach().flatten(0, 1), operands[1].detach()),
        *(operands[2].detach() if has_bias else None, arrives.flatten(0, 1)),
    )
    ones = torch.ones(1, len(rows), dtype=dtype)
    # Each as a product of two matrices, with a bias.
    factors = [(rows, weight, bias), (gradient, weight.t(), None), (gradient.t(), rows.t(), None)]
    factors += [(ones, gradient.t(), None)] if has_bias else []
    for found, (left, right, constant) in zip(actual, factors, strict=True):
        expected = F.linear(left.double(), right.double(), None if constant is None else constant.double())
        assert found.dtype == dtype
        error = (found.detach().double().view_as(expected) - expected).abs()
        bound = rounding_errors(left, right, constant, LINEAR[implementation][dtype])
        assert (error <= (0.0 if exact else 1.0) * bound).all()


@pytest.mark.parametrize(
    ("rows", "more"), [(1, 1), (16, 16), (17, 32), (255, 256), (257, 288), (1200, 1280), (2049, 2304)]
)
def test_products_with_amx_have_few_numbers_of_rows(rows: int, more: int) -> None:
    assert onednn.rounded(rows) == more


def test_rounded_numbers_of_rows_are_few_and_near() -> None:
    """Eight in each octave from 128 rows on, and at most 15 or an eighth more than asked for."""
    rounded = {rows: onednn.rounded(rows) for rows in range(1, 4097)}
    assert len(set(rounded.values())) == 16 + 7 + 8 * 5
    assert all(rows <= more <= max(rows + 15, 1.125 * rows) for rows, more in rounded.items())


@needs_onednn_bf16
@pytest.mark.usefixtures("every_product_suits_onednn")
def test_rows_of_zeros_change_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products, sums into a tensor, and the gradient of a weight, with rows of zeros and without."""
    numbers = Numbers(BF16, BF16, "cpu")
    rows, weight, arrives = (
        numbers.operand(*size, seed=seed) for seed, size in enumerate(((2, 77, 64), (96, 64), (2, 77, 96)))
    )
    found, shapes = [], []
    for padded in (True, False):
        monkeypatch.setattr(onednn, "has_amx", lambda padded=padded: padded)
        shapes.append(onednn.pad(rows).shape[1])
        found.append(
            (PrepackedProduct(weight).product(rows), onednn.weight_gradient(arrives, rows), onednn.linear(rows, weight))
        )
    assert shapes == [80, 77]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-2)
    assert torch.equal(found[0][0], found[1][0])
    monkeypatch.setattr(onednn, "has_amx", lambda: True)
    assert onednn.linear(rows[:, :0], weight).shape == PrepackedProduct(weight).product(rows[:, :0]).shape == (2, 0, 96)


@needs_onednn_bf16
@pytest.mark.usefixtures("every_product_suits_onednn")
def test_rows_that_follow_in_memory_change_no_product() -> None:
    """A product reads up to a round number of rows, whatever they are; behind the last row of the memory are zeros."""
    numbers = Numbers(BF16, BF16, "cpu")
    memory, weight = (numbers.operand(*size, seed=seed) for seed, size in enumerate(((100, 64), (96, 64))))
    product = PrepackedProduct(weight)
    for first, last, copied in ((0, 20, False), (40, 68, False), (80, 100, True)):
        rows = memory[first:last]
        expected = product.product(torch.cat((rows, rows.new_zeros(12, 64))))[: len(rows)]
        after = memory[last:].clone()
        memory[last:] = torch.nan
        assert (onednn.extend(rows).data_ptr() != rows.data_ptr()) == copied
        assert torch.equal(product.product(rows), expected)
        memory[last:] = after
    # Rows that do not follow each other are copied.
    assert torch.equal(product.product(memory[:40:2]), product.product(memory[:40:2].clone()))


@pytest.mark.parametrize("dtype", [FP32, BF16, FP64])
def test_the_gradient_of_a_bias(dtype: torch.dtype) -> None:
    """In at least single precision, of rows of any layout."""
    values = Numbers(dtype, dtype, "cpu").operand(700, 600, seed=1)
    for rows in (values, values[:, ::2], values[:0]):
        found = onednn.bias_gradient(rows)
        assert found.dtype == torch.promote_types(dtype, FP32)
        torch.testing.assert_close(found.double(), rows.double().sum(0), rtol=1e-5, atol=1e-4)


@in_every_format("linear", "reference", "onednn")
@pytest.mark.usefixtures("every_product_suits_onednn")
def test_products_of_a_prepacked_matrix(implementation: str, device: str, dtype: torch.dtype) -> None:
    """Of 512 terms, written to a new tensor, to an existing one and added to it."""
    numbers = Numbers(dtype, dtype, device)
    sizes = ((31, 512), (96, 512), (96,), (31, 96))
    rows, weight, bias, before = (numbers.operand(*size, seed=seed) for seed, size in enumerate(sizes))
    if implementation == "reference":
        actual = [F.linear(rows, weight), F.linear(rows, weight, bias), before + F.linear(rows, weight)]
    else:
        product = PrepackedProduct(weight)
        assert (product._prepacked is not None) == (dtype != FP64)
        actual = [product.product(rows), product.write(rows, bias, torch.empty_like(before))]
        actual.append(product.add(rows, before.clone()))
        if dtype == FP32:
            torch.testing.assert_close(actual[0], F.linear(rows, weight), rtol=0, atol=1e-4)
    for found, constant in zip(actual, (None, bias, before), strict=True):
        expected = rows.double() @ weight.double().t() + (0.0 if constant is None else constant.double())
        bound = rounding_errors(rows, weight, constant, LINEAR[implementation][dtype])
        assert found.dtype == dtype
        assert ((found.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("features", [24, 64, 67])
@pytest.mark.parametrize(("kind", "dtype"), PREPACKED_WEIGHTS)
@pytest.mark.usefixtures("every_product_suits_onednn")
def test_products_of_prepacked_weights(
    kind: type[PrepackedWeight], dtype: torch.dtype, features: int, has_bias: bool
) -> None:
    """Factors are rounded to the format, or to half a step of it: no product is off by more, and some are off."""
    numbers = Numbers(FP32, FP32, "cpu")
    rows, matrix, bias = (
        numbers.operand(*size, seed=i) for i, size in enumerate(((5, 10, features), (40, features), (40,)))
    )
    outputs = F.linear(rows, kind(matrix), bias if has_bias else None)
    assert outputs.dtype == (BF16 if dtype == BF16 else FP32)
    rows, outputs = rows.flatten(0, 1), outputs.flatten(0, 1)
    expected = F.linear(rows.double(), matrix.double(), bias.double() if has_bias else None)
    roundoff = LINEAR["quantization"][dtype]
    bound = rounding_errors(rows, matrix, bias if has_bias else None, ROUNDOFF[outputs.dtype], roundoff)
    error = (outputs.double() - expected).abs()
    assert (error <= bound).all()
    assert error.max() > 0
    if dtype != FP32:
        # Errors of rounding are spread evenly up to their bound: a third of its square is their variance, or less.
        squares = factor_errors(rows, roundoff).square() @ matrix.double().square().t()
        squares += rows.double().square() @ factor_errors(matrix, roundoff).square().t()
        squares += (ROUNDOFF[outputs.dtype] * expected).square()
        assert error.square().mean() < 1.2 * squares.mean() / 3


@pytest.mark.parametrize("kind", INT8_PRODUCTS)
def test_products_of_8_bit_integers(kind: type[Int8Weight]) -> None:
    """Rows of any size, whether gradients are recorded or not."""
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(45, 67, generator=generator), torch.randn(45, generator=generator)
    rows = torch.randn(9, 67, generator=generator) * torch.logspace(-3, 3, 9).unsqueeze(1)
    rows[4] = 0.0
    for constant in (None, bias):
        expected = Int8Weight(weight).product(rows, constant)
        exact = F.linear(rows.double(), weight.double(), None if constant is None else constant.double())
        bound = rounding_errors(rows, weight, constant, ROUNDOFF[FP32], LINEAR["quantization"][torch.int8])
        assert ((expected.double() - exact).abs() <= bound).all()
        torch.testing.assert_close(kind(weight).product(rows, constant), expected, rtol=1e-6, atol=1e-5)
        with torch.no_grad():
            found = kind(weight).product(rows, constant)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
        assert torch.equal(found[4], torch.zeros(45) if constant is None else constant)


@needs_compiler
def test_8_bit_integers_are_those_of_the_operations() -> None:
    numbers = Numbers(FP32, FP32, "cpu")
    rows = torch.zeros(9, 67)
    rows[1:] = numbers.operand(8, 67, seed=1, scale=5.0)
    scale_M1 = rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny) / 127
    integers, scale_M = native_quantize(rows)
    assert torch.equal(scale_M, scale_M1.squeeze(1))
    assert torch.equal(integers, (rows / scale_M1).round().to(torch.int8))
