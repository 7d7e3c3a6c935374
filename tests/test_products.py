"""Products by oneDNN by hand and in any layout; a row does not depend on the others; where PyTorch multiplies."""

from __future__ import annotations

import pytest
import torch

from nmt.kernels.linear import onednn
from nmt.kernels.linear.onednn import PrepackedProduct, PrepackedProducts, linear, suits
from scripts.benchmarks.network import Update, Variant, caption_batches, comparable, flop_counter, model_options
from tests.support.kernel_params import needs_onednn_bf16

pytestmark = pytest.mark.usefixtures("every_product_suits_onednn")
FORMATS = [torch.float32, pytest.param(torch.bfloat16, marks=needs_onednn_bf16)]


def pretend(monkeypatch: pytest.MonkeyPatch, vectors: str) -> None:
    """To run on a processor with these vectors."""
    monkeypatch.setattr(onednn, "_vectors", lambda: vectors)


def whole(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Small integers, whose products and sums both formats hold exactly, in any order of addition."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_product_by_hand(dtype: torch.dtype) -> None:
    """(1, 2) and (3, 4) times (5, 6): 17 and 39, plus 1 and -1."""
    factor = PrepackedProduct(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype))
    rows, bias = torch.tensor([[5.0, 6.0]], dtype=dtype), torch.tensor([1.0, -1.0], dtype=dtype)
    assert factor.product(rows).tolist() == [[17, 39]]
    assert factor.product(rows, bias).tolist() == [[18, 38]]
    room = torch.full((1, 2), 100.0, dtype=dtype)
    assert factor.add(rows, room) is room
    assert room.tolist() == [[117, 139]]
    assert factor.write(rows, bias, room) is room
    assert room.tolist() == [[18, 38]]


@pytest.mark.parametrize("vectors", ["AVX512", "AVX2"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_rows_and_weights_that_lie_apart(dtype: torch.dtype, vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transposed weight, rows that are part of wider ones, and further dimensions."""
    pretend(monkeypatch, vectors)
    weight, rows = whole(24, 40, dtype=dtype).t(), whole(3, 5, 64, dtype=dtype)[..., 8:32]
    assert suits(weight) == (vectors == "AVX512")
    expected = (rows.double() @ weight.double().t()).to(dtype)
    assert torch.equal(PrepackedProduct(weight).product(rows), expected)
    room = torch.zeros(5, 40, dtype=dtype)
    assert torch.equal(PrepackedProduct(weight).write(rows[0], None, room), expected[0])
    assert torch.equal(PrepackedProduct(weight).add(rows[1], room), expected[0] + expected[1])
    sides = torch.stack((weight, -weight))
    products, biases, two = PrepackedProducts(sides), whole(2, 40, dtype=dtype), torch.stack((rows[0], rows[1]))
    for side, sign in enumerate((1, -1)):
        assert torch.equal(products.product(two)[side], sign * expected[side])
        assert torch.equal(products.product(two, biases)[side], sign * expected[side] + biases[side])
        # C kernels get the address of its first element only.
        assert products.product(two)[side].is_contiguous()


def test_oneDNN_with_few_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where vectors have 256 bits, and in float32."""
    pretend(monkeypatch, "AVX2")
    weight = whole(40, 24)
    assert suits(weight, few_rows=True)
    assert not suits(weight)
    assert not suits(weight.bfloat16(), few_rows=True)
    found = []
    for few_rows in (True, False):
        with flop_counter() as counter:
            found.append(PrepackedProduct(weight, few_rows=few_rows).product(whole(5, 24)))
        assert ("mkldnn._linear_pointwise" in str(counter.get_flop_counts())) == few_rows
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_row_does_not_depend_on_how_many_there_are(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((67, 96), (144, 96), (144,)))
    factor = PrepackedProduct(weight)
    together = factor.product(rows, bias)
    for count in (1, 2, 5, 16, 17, 33, 64):
        assert torch.equal(factor.product(rows[:count], bias), together[:count]), count


def test_what_it_is_not_for_goes_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another format, autocast, few rows, or a process that has switched oneDNN off."""
    weight = whole(40, 24).requires_grad_()

    def is_blocked(inputs: torch.Tensor, matrix: torch.Tensor) -> bool:
        return type(linear(inputs, matrix).grad_fn).__name__ == "_LinearBackward"

    assert is_blocked(whole(9, 24), weight)
    assert not is_blocked(whole(9, 24).double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_blocked(whole(9, 24), weight)
    torch._C._set_mkldnn_enabled(False)
    try:
        assert not is_blocked(whole(9, 24), weight)
    finally:
        torch._C._set_mkldnn_enabled(True)
    monkeypatch.setattr(onednn, "FEWEST_ROWS", 10)
    assert not is_blocked(whole(9, 24), weight)
    assert is_blocked(whole(10, 24), weight)


@pytest.mark.parametrize("attention", ["bahdanau2015", "luong2015_global_general"])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), pytest.param("bf16", 2e-2, marks=needs_onednn_bf16)])
def test_a_network_s_gradients_are_those_of_the_reference(attention: str, precision: str, bound: float) -> None:
    model, batch, cpu = (
        comparable(model_options(attention, quick=True)),
        caption_batches(128, 100)[0],
        torch.device("cpu"),
    )
    expected = Update(model, 100, Variant("fp32", "reference"), cpu).gradients(batch)
    found = Update(model, 100, Variant(precision, "auto"), cpu).gradients(batch)
    assert 0 < (found - expected).norm() / expected.norm() < bound


def test_its_operations_are_counted() -> None:
    """2 x 6 rows x 24 x 40, whichever way it is computed."""
    for rows in (torch.ones(6, 24), torch.ones(2, 3, 24)):
        with flop_counter() as counter:
            PrepackedProduct(torch.ones(40, 24)).product(rows)
        assert counter.get_total_flops() == 2 * 6 * 24 * 40
