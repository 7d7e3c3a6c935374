"""Products of 8-bit integers: the same exact sums whoever makes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nmt.kernels import select
from nmt.kernels.linear.quantization import (
    FLOAT32_INPUTS,
    Int8Weight,
    NativeInt8Weight,
    OnednnInt8Weight,
    OnednnNativeInt8Weight,
)
from tests.support.kernel_params import INT8_PRODUCTS

every_kind = pytest.mark.parametrize("kind", INT8_PRODUCTS)


def whole(rows: int, columns: int, least: int = -126) -> Tensor:
    """Integers of which 127 is the largest of every row, so that a row's scale is 1."""
    numbers = torch.randint(least, 127, (rows, columns), generator=torch.Generator().manual_seed(rows + columns))
    numbers[:, columns // 2] = 127
    return numbers


@every_kind
def test_a_product_by_hand(kind: type[Int8Weight]) -> None:
    """x = (2, -1), scale 2/127: q = (127, -64). w = (1, 0.5), scale 1/127: q = (127, 64): the half rounds to even.

    (127 * 127 - 64 * 64) * 2 / 127 / 127 = 1.49209..., plus a bias of 10; in truth 2 - 0.5 + 10.
    """
    found = kind(torch.tensor([[1.0, 0.5]])).product(torch.tensor([[2.0, -1.0]]), torch.tensor([10.0]))
    assert found.item() == pytest.approx(10 + (127 * 127 - 64 * 64) * 2 / 127 / 127, rel=1e-6)


@every_kind
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 13])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(1, 1), (1, 16), (1, 33), (2, 1), (2, 16), (7, 17), (64, 33), (131, 48)]
)
def test_sums_are_exact(kind: type[Int8Weight], rows: int, inputs: int, outputs: int) -> None:
    """Of panels and blocks that are full, of some that are not, and of pairs that lack their second half."""
    weight, given = whole(outputs, inputs), whole(rows, inputs)
    bias = torch.arange(outputs) - 5
    expected = given @ weight.t()
    with torch.no_grad():
        assert torch.equal(kind(weight.float()).product(given.float(), None), expected.float())
        assert torch.equal(kind(weight.float()).product(given.float(), bias.float()), (expected + bias).float())


@every_kind
def test_sums_that_float32_does_not_hold_are_exact(kind: type[Int8Weight]) -> None:
    """Rounded once, when the sum of 32 bits becomes a float."""
    inputs = 3 * FLOAT32_INPUTS + 5
    weight, given = whole(20, inputs, least=100), whole(3, inputs, least=100)
    expected = given @ weight.t()
    assert expected.min() > 2 * 2**24
    with torch.no_grad():
        assert torch.equal(kind(weight.float()).product(given.float(), None), expected.float())


def test_so_many_products_add_up_exactly_in_float32() -> None:
    assert FLOAT32_INPUTS * 127**2 <= 2**24 < (FLOAT32_INPUTS + 1) * 127**2


@every_kind
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("strides", [(1, 1), (7, 1), (1, 3), (90, 2)])
@pytest.mark.parametrize(("rows", "inputs"), [(1, 1), (1, 30), (3, 1)])
def test_strides_of_sizes_that_are_one(
    kind: type[Int8Weight], rows: int, inputs: int, strides: tuple[int, int], recorded: bool
) -> None:
    """PyTorch gives such sizes any stride and calls the tensor contiguous; oneDNN reads the stride."""
    weight, given = whole(20, inputs).float(), whole(rows, inputs).float()
    apart = torch.zeros(300).as_strided(given.shape, strides)
    apart.copy_(given)
    laid_out = torch.zeros(900).as_strided(weight.shape, (inputs, 5) if inputs == 1 else (inputs, 1)).copy_(weight)
    with torch.set_grad_enabled(recorded):
        assert torch.equal(kind(laid_out).product(apart, None), given @ weight.t())


@every_kind
def test_rows_that_lie_apart(kind: type[Int8Weight]) -> None:
    weight, given = whole(20, 32).float(), whole(6, 32).float()
    wide = torch.zeros(6, 64)
    wide[:, ::2] = given
    with torch.no_grad():
        assert torch.equal(kind(weight).product(wide[:, ::2], None), kind(weight).product(given, None))


@torch.no_grad()
@every_kind
def test_a_row_depends_neither_on_others_nor_on_threads(kind: type[Int8Weight]) -> None:
    generator, threads = torch.Generator().manual_seed(4), torch.get_num_threads()
    factor = kind(torch.randn(130, 96, generator=generator))
    rows = torch.randn(61, 96, generator=generator)
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(factor.product(rows, None))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    for number in (0, 4, 5, 60):
        assert torch.equal(factor.product(rows[number : number + 1], None)[0], found[0][number])


@every_kind
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(kind: type[Int8Weight], recorded: bool, wrong: float) -> None:
    """Whether gradients are recorded or not."""
    rows = torch.ones(3, 67)
    rows[1, 40] = wrong
    with torch.set_grad_enabled(recorded):
        found = kind(whole(45, 67).float()).product(rows, None)
    assert found.isnan().all(1).tolist() == [False, True, False]
    assert found[::2].isfinite().all()


@pytest.mark.parametrize(
    ("flags", "library", "chosen"),
    [
        ({"avx2", "avx512_vnni"}, object(), OnednnNativeInt8Weight),
        ({"avx2", "avx512_vnni"}, None, OnednnInt8Weight),
        ({"avx2"}, object(), NativeInt8Weight),
        ({"avx2"}, None, Int8Weight),
    ],
)
def test_the_fastest_is_chosen(
    flags: set[str], library: object, chosen: type[Int8Weight], monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN without VNNI takes fifty times as long."""
    monkeypatch.setattr(select, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(select, "load_library", lambda: (library, ""))
    kernels = select.choose_kernels("auto", torch.device("cpu"), weights="int8")
    assert kernels.weights is not None
    assert kernels.weights is chosen
