"""The Triton kernels against the reference: outputs and every gradient.

Where there is a GPU they are compiled for it, elsewhere Triton interprets them; `test_fused_compilation` compiles them
all the same, because what the interpreter runs need not compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import NumpyVersion

from nmt.kernels.tape import Annotations, Entering, StepKernels, attend
from nmt.kernels.tape.steps import source_backward
from tests.networks import model_options, network, sentences

triton = pytest.importorskip("triton", reason="the package triton is not installed: no kernel is run or interpreted")

from nmt.kernels.fused import FusedSteps  # noqa: E402

HAS_GPU = torch.cuda.is_available()
INTERPRETS = NumpyVersion(np.__version__) < "2.4.0" or tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)

pytestmark = pytest.mark.parametrize(
    "device",
    [
        pytest.param(
            "cpu",
            id="interpreter",
            marks=[
                pytest.mark.skipif(HAS_GPU, reason="compiled for the GPU instead"),
                pytest.mark.skipif(not INTERPRETS, reason="Triton below 3.7 interprets with NumPy below 2.4 alone"),
            ],
        ),
        pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="PyTorch finds no GPU")]),
    ],
)

# Sentences, queries, positions, units, features: around the sizes of blocks, and far from them.
SIZES = [(1, 1, 1, 1, 1), (3, 1, 7, 5, 9), (2, 3, 33, 40, 24), (3, 2, 16, 32, 32), (2, 2, 40, 300, 520)]
FORMATS = [torch.float32, torch.bfloat16]

# Both compute in single precision from the same numbers; what is written in bf16 is rounded to 8 bits, and so are the
# factors of the products over all steps. A share of the largest element.
BOUNDS = {torch.float32: 5e-6, torch.bfloat16: 2**-7}


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan(device: str) -> Iterator[None]:
    """What a kernel leaves out, or reads too early, shows."""
    if device == "cuda":
        # It would want a setting of cuBLAS there.
        yield
        return
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def random(*size: int, seed: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """The same numbers on every device."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device)


def annotations(
    sizes: tuple[int, ...], dtype: torch.dtype, device: str, additive: bool, *, by_position: bool = False
) -> Annotations:
    """A source whose sentences are padded, but for the last one; `by_position` lays it out as [S, B, ..].

    Scores are of order one. Scores that grow with the square root of the units would multiply the rounding of both
    sides: 1e-5 with 300 units in float32, for the reference as for the kernels.
    """
    batch, _, positions, units, features = sizes
    scale = 1.0 if additive else units**-0.5
    keys = (random(batch, positions, units, seed=1, dtype=torch.float32, device=device) * scale).to(dtype)
    memory = random(batch, positions, features, seed=2, dtype=dtype, device=device)
    lengths_B = torch.linspace(max(1, positions // 2), positions, batch).long().to(device)
    mask_BS = torch.arange(positions, device=device) < lengths_B.unsqueeze(1)
    bias = torch.zeros(batch, positions, device=device).masked_fill(~mask_BS, -torch.inf)
    if by_position:
        keys, memory = (part.transpose(0, 1).contiguous().transpose(0, 1) for part in (keys, memory))
    return Annotations(keys, memory, bias, random(units, seed=3, dtype=dtype, device=device) if additive else None)


def exactly(source: Annotations) -> Annotations:
    """The same numbers in float32, for the reference."""
    keys, memory, bias, energy = source
    return Annotations(keys.float(), memory.float(), bias, None if energy is None else energy.float())


def looked(
    steps: StepKernels, sizes: tuple[int, ...], source: Annotations, dtype: torch.dtype, *, everything: bool
) -> dict[str, torch.Tensor]:
    """What a look and its backward pass write; with `everything`, all optional gradients come in and add up."""
    batch, queries, positions, units, features = sizes
    device, own = source.keys.device.type, source.keys.dtype

    def given(*size: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return random(*size, seed=seed, dtype=dtype, device=device)

    query = given(queries, batch, units, seed=4, dtype=dtype).to(own)
    context = query.new_empty(queries, batch, features)
    scores, normalizer = source.bias.new_empty(queries, batch, positions), source.bias.new_empty(queries, batch)
    steps.look(query, source, context, scores, normalizer)

    d_context = given(queries, batch, features, seed=5)
    sent = given(queries, batch, features, seed=6, dtype=dtype).to(own) if everything else None
    d_weights = given(queries, batch, positions, seed=7) if everything else None
    d_query = given(queries, batch, units, seed=8) if everything else torch.empty_like(query)
    d_looked = torch.empty_like(scores)
    steps.look_backward(
        query, source, scores, normalizer, d_context, sent, d_weights, d_query, d_looked, add=everything
    )
    d_keys, d_memory, d_energy = source_backward(steps, query, source, scores, normalizer, d_context, d_looked)
    written = {"context": context, "scores": scores, "normalizer": normalizer, "d_context": d_context}
    written |= {"d_query": d_query, "d_looked": d_looked, "d_keys": d_keys, "d_memory": d_memory}
    return written if d_energy is None else written | {"d_energy": d_energy}


def assert_near(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], bound: float) -> None:
    """Every element, to within this share of the largest one."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = float(tensor[tensor.isfinite()].abs().max())
        found = actual[name].to(tensor.dtype)
        torch.testing.assert_close(
            found, tensor, rtol=0, atol=bound * largest, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("dtype", FORMATS, ids=["float32", "bf16"])
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_look_is_the_reference(sizes: tuple[int, ...], additive: bool, dtype: torch.dtype, device: str) -> None:
    odd = sizes[0] % 2 == 1
    source = annotations(sizes, dtype, device, additive, by_position=odd)
    expected = looked(StepKernels(), sizes, exactly(source), dtype, everything=odd != additive)
    assert_near(looked(FusedSteps(), sizes, source, dtype, everything=odd != additive), expected, BOUNDS[dtype])


@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
def test_padding_weighs_exactly_nothing_and_may_be_all_there_is(additive: bool, device: str) -> None:
    """A sentence whose positions are all excluded has a context of zero, and no gradient is NaN."""
    sizes = (3, 2, 20, 5, 6)
    source = annotations(sizes, torch.float32, device, additive)
    source.bias[0] = -torch.inf
    written = looked(FusedSteps(), sizes, source, torch.float32, everything=True)
    weights_QBS = torch.exp(written["scores"] - written["normalizer"].unsqueeze(-1))
    padding_BS = source.bias == -torch.inf
    assert not weights_QBS.masked_select(padding_BS).any()
    assert not written["context"][:, 0].any()
    assert not written["d_keys"][padding_BS].any()
    assert not written["d_memory"][padding_BS].any()
    assert not any(tensor.isnan().any() for tensor in written.values())
    assert_near(written, looked(StepKernels(), sizes, source, torch.float32, everything=True), BOUNDS[torch.float32])


@pytest.mark.parametrize("dtype", FORMATS, ids=["float32", "bf16"])
@pytest.mark.parametrize(("batch", "hidden"), [(1, 1), (3, 7), (2, 1030)])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_gated_step_is_the_reference(batch: int, hidden: int, parts: int, dtype: torch.dtype, device: str) -> None:
    def stepped(steps: StepKernels, own: torch.dtype) -> dict[str, torch.Tensor]:
        def given(*size: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return random(*size, seed=seed, dtype=dtype, device=device)

        # Rows of a wider tensor, as the parts of one product are.
        halves = [given(batch, 3 * hidden + 5, seed=seed, dtype=dtype).to(own)[:, 2:-3] for seed in range(3)]
        inputs, more, recurrent = halves[0], halves[1] if parts == 2 else None, halves[2]
        before, after = given(batch, hidden, seed=3), torch.empty(batch, hidden, device=device)
        copy = None if own is torch.float32 else torch.empty(batch, hidden, device=device, dtype=own)
        entering = Entering(inputs, recurrent, more)
        steps.gru(entering, before, after, copy)
        d_after, d_before = given(batch, hidden, seed=4), given(batch, hidden, seed=5)
        sent = given(batch, hidden, seed=6, dtype=dtype).to(own) if parts == 2 else None
        d_inputs, d_recurrent = torch.empty_like(inputs), torch.empty_like(recurrent)
        steps.gru_backward(entering, before, d_after, sent, d_inputs, d_recurrent, d_before)
        copied = {"copy": after if copy is None else copy}
        return copied | {"after": after, "d_inputs": d_inputs, "d_recurrent": d_recurrent, "d_before": d_before}

    assert_near(stepped(FusedSteps(), dtype), stepped(StepKernels(), torch.float32), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", FORMATS, ids=["float32", "bf16"])
@pytest.mark.parametrize(("batch", "hidden"), [(1, 1), (3, 7), (2, 1030)])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_with_memory_is_the_reference(
    batch: int, hidden: int, parts: int, dtype: torch.dtype, device: str
) -> None:
    def stepped(steps: StepKernels, own: torch.dtype) -> dict[str, torch.Tensor]:
        def given(*size: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return random(*size, seed=seed, dtype=dtype, device=device)

        halves = [given(batch, 4 * hidden + 5, seed=seed, dtype=dtype).to(own)[:, 2:-3] for seed in range(3)]
        entering = Entering(*halves[:2], halves[2] if parts == 2 else None)
        cell, after_cell, after = given(batch, hidden, seed=3), *torch.empty(2, batch, hidden, device=device)
        copy = None if own is torch.float32 else torch.empty(batch, hidden, device=device, dtype=own)
        steps.lstm(entering, cell, after_cell, after, copy)
        d_after, d_cell = given(batch, hidden, seed=4), given(batch, hidden, seed=5)
        sent = given(batch, hidden, seed=6, dtype=dtype).to(own) if parts == 2 else None
        d_one, d_other = torch.empty_like(halves[0]), torch.empty_like(halves[0]) if parts == 2 else None
        d_after_cell = given(batch, hidden, seed=7)
        steps.lstm_backward(entering, cell, after_cell, d_after, sent, d_after_cell, d_one, d_other, d_cell)
        written = {"after": after, "after_cell": after_cell, "d_one": d_one, "d_cell": d_cell}
        return written | {"copy": after if copy is None else copy, "d_other": d_one if d_other is None else d_other}

    assert_near(stepped(FusedSteps(), dtype), stepped(StepKernels(), torch.float32), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", FORMATS, ids=["float32", "bf16"])
@pytest.mark.parametrize(("batch", "features"), [(1, 1), (3, 1030)])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_mixture_is_the_reference(batch: int, features: int, parts: int, dtype: torch.dtype, device: str) -> None:
    def mixed(steps: StepKernels, own: torch.dtype) -> dict[str, torch.Tensor]:
        one, other, more, sent, value = (
            random(batch, features, seed=seed, dtype=dtype, device=device).to(own) for seed in range(5)
        )
        result, copy, d_one, d_other = (torch.empty_like(one) for _ in range(4))
        steps.mix(Entering(one, other, more if parts == 2 else None), result, copy if parts == 2 else None)
        d_result = random(batch, features, seed=5, dtype=torch.float32, device=device)
        # The slope where the value is near 1 depends on how that was rounded: both get the same.
        steps.mix_backward(value.div(4), d_result, sent, d_one, d_other if parts == 2 else None)
        written = {"result": result, "d_one": d_one}
        return written | ({"copy": copy, "d_other": d_other} if parts == 2 else {})

    assert_near(mixed(FusedSteps(), dtype), mixed(StepKernels(), torch.float32), BOUNDS[dtype])


WHOLE: list[dict[str, Any]] = [
    {"score": "additive", "wiring": "bahdanau"},
    {"score": "concat", "wiring": "conditional"},
    {"score": "general", "wiring": "luong"},
    {"score": "additive", "wiring": "luong", "wiring_options": {"input_feeding": False}},
    {"score": "general", "wiring": "luong", "cell": "lstm", "decoder_layers": 2},
    {"score": "general", "wiring": "conditional", "cell": "rnn"},
]


def whole(options: dict[str, Any], steps: StepKernels | None, device: str) -> dict[str, torch.Tensor]:
    """Readout and weights of a network, and the gradients of a loss that depends on both."""
    translator = network(model_options(**options)).float().to(device).train()
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(4, 3, 4, size=11)
    encoded = translator.encode(source_BS.to(device), lengths_B)
    readout_BTR, weights = translator.readout(encoded, target_BT.to(device), steps)
    assert weights is not None
    (readout_BTR.float().sin().sum() + weights.mean().square().sum()).backward()
    gradients = {name: each.grad for name, each in translator.named_parameters() if each.grad is not None}
    return {"readout": readout_BTR.detach(), "weights": weights.mean().detach(), **gradients}


def distance(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Of all elements together."""
    return sum(float((actual[name] - tensor).square().sum()) for name, tensor in expected.items()) ** 0.5


@pytest.mark.parametrize("options", WHOLE, ids=lambda options: "-".join(map(str, options.values())))
def test_a_network_gives_what_it_gives_without_kernels(options: dict[str, Any], device: str) -> None:
    expected = whole(options, None, device)
    assert_near(whole(options, FusedSteps(), device), expected, 2e-5)
    with torch.autocast(device, torch.bfloat16):
        by_kernels = distance(whole(options, FusedSteps(), device), expected)
        by_autograd = distance(whole(options, None, device), expected)
    # The same format of the products. A GPU rounds to bf16, the interpreter cuts off: twice the error, to one side.
    assert 0 < by_kernels <= (1.5 if device == "cuda" else 4.0) * by_autograd


@pytest.mark.parametrize("queries", [1, 5])
def test_attending_at_once_is_the_reference(queries: int, device: str) -> None:
    sizes = (2, queries, 9, 12, 8)
    found = []
    for steps in (FusedSteps(), StepKernels()):
        source = annotations(sizes, torch.float32, device, additive=True)
        query_BQA = random(2, queries, 12, seed=4, dtype=torch.float32, device=device)
        inputs = [part.requires_grad_() for part in (query_BQA, source.keys, source.memory, source.energy)]
        context_BQC, weights_BQS = attend(steps, query_BQA, source)
        gradients = torch.autograd.grad(context_BQC.sin().sum() + weights_BQS.square().sum(), inputs)
        found.append(dict(enumerate([context_BQC.detach(), weights_BQS.detach(), *gradients])))
    assert_near(*({str(name): tensor for name, tensor in each.items()} for each in found), BOUNDS[torch.float32])


def test_what_the_kernels_rely_on_is_asserted(device: str) -> None:
    source = annotations((2, 1, 9, 12, 8), torch.float32, device, additive=True)
    query_BQA = random(2, 1, 12, seed=4, dtype=torch.float32, device=device)
    crossed = source._replace(keys=source.keys.transpose(1, 2).contiguous().transpose(1, 2))
    with pytest.raises(AssertionError, match="side by side"):
        attend(FusedSteps(), query_BQA, crossed)
    with pytest.raises(AssertionError, match="single precision"):
        attend(FusedSteps(), query_BQA, source._replace(bias=source.bias.double()))
