"""A replayed recurrence is the same recurrence, whatever its shape is rounded up to and whatever came before it.

`tests.support.recorded_graphs` stands in for CUDA graphs: it repeats the operations on the tensors of the capture,
without Python, and overwrites all memory that is not promised to last. What only a GPU can show is in test_gpu.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.config import schema
from nmt.kernels.select import Kernels, choose_kernels
from nmt.kernels.tape import BatchShape, Tape
from nmt.kernels.tape.operations import Operation
from nmt.kernels.tape.replay import GraphReplayer, rounded
from nmt.model.translator import Translator
from nmt.tasks import base
from nmt.tasks.training import train
from tests.support.networks import model_options, network, sentences, with_steps
from tests.support.recorded_graphs import RecordedGraphs
from tests.support.reference_steps import ReferenceKernels
from tests.support.training_runs import records, run_config, write_corpus
from tests.test_model import named
from tests.test_recurrence import FED, RECORDED, STACKED, flat

# Lengths of sources and targets. All are rounded to 8 sentences, 6 steps and 8 positions; the last is as large as that.
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5, 2, 7), (6, 3, 4)),
    ((5, 2, 7), (6, 3, 4)),
    ((4,), (5,)),
    ((6, 3, 3, 1, 2), (2, 5, 5, 3, 1)),
    ((8, 3, 3, 1, 2, 7, 5, 5), (2, 6, 5, 3, 1, 4, 4, 6)),
]
LARGER = (7,) * 10, (3,) * 10
NETWORK = {"score": "general", "wiring": "luong"}


class Passes:
    """Passes through a network, forward and backward, with a loss that depends on all outputs or on some."""

    def __init__(self, translator: Translator, graphs: GraphReplayer | None = None) -> None:
        self.translator = translator
        self.steps = None if graphs is None else ReferenceKernels(graphs)
        self.parameters = [each for name, each in translator.named_parameters() if "projection" not in name]

    def outputs(self, source: Sequence[int], target: Sequence[int], seed: int = 0) -> list[Tensor]:
        source_BS, lengths_B = sentences(*source, seed=seed)
        target_BT, _ = sentences(*target, size=11, seed=seed)
        encoded = self.translator.encode(source_BS, lengths_B)
        readout_BTR, weights = with_steps(self.translator, self.steps).readout(encoded, target_BT)
        assert weights is not None
        return [readout_BTR, weights.dense()]

    def gradients(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        loss = sum(output.sin().mul(torch.arange(1, output.shape[-1] + 1)).sum() for output in outputs)
        assert isinstance(loss, Tensor)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.parameters, strict=True)]

    def all(self, source: Sequence[int], target: Sequence[int], seed: int = 0) -> list[Tensor]:
        outputs = self.outputs(source, target, seed)
        return [*(output.detach() for output in outputs), *self.gradients(outputs)]


def same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.fixture
def recorded() -> RecordedGraphs:
    return RecordedGraphs()


@pytest.fixture
def graphs(recorded: RecordedGraphs) -> GraphReplayer:
    return GraphReplayer(recorded)


REPLAYED = [
    options
    for options in (*RECORDED, *({"score": "additive", "cell": "lstm", **wired} for wired in (*FED, *STACKED)))
    if options.get("wiring") != "gnmt" or options.get("wiring_options")
    if options.get("wiring_options") != {"input_feeding": False}
]


@pytest.mark.parametrize("options", REPLAYED, ids=named)
def test_what_is_replayed_is_what_autograd_makes(
    options: dict[str, Any], recorded: RecordedGraphs, graphs: GraphReplayer
) -> None:
    """Outputs and every gradient, several shapes in turn through one graph; none is touched by what comes after it."""
    translator = network(model_options(**options))
    by_autograd, replayed = Passes(translator), Passes(translator, graphs)
    expected = [by_autograd.all(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    found = [replayed.all(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    same([each for row in found for each in row], [each for row in expected for each in row])
    assert (recorded.captured, recorded.replays) == (2, 2 * (len(SHAPES) - 1)), (
        "the first is not replayed, all others are"
    )


def test_weights_are_read_where_they_are(recorded: RecordedGraphs, graphs: GraphReplayer) -> None:
    """An update between two passes is seen, and another network with the same operations has graphs of its own."""
    one, other = (network(model_options(**NETWORK), seed) for seed in (0, 1))
    for _ in range(4):
        for translator in (one, other):
            same(Passes(translator, graphs).all(*SHAPES[0]), Passes(translator).all(*SHAPES[0]))
            with torch.no_grad():
                for parameter in translator.parameters():
                    parameter.mul_(0.9).add_(0.01)
    assert (recorded.captured, recorded.replays) == (4, 12)


def test_a_second_pass_begins_before_the_first_has_come_back(recorded: RecordedGraphs, graphs: GraphReplayer) -> None:
    translator = network(model_options(**NETWORK))
    by_autograd, replayed = Passes(translator), Passes(translator, graphs)
    for shape in (*SHAPES[:2], LARGER, LARGER):
        replayed.all(*shape)
    before = recorded.replays
    shapes = (SHAPES[0], SHAPES[2], LARGER)
    outputs = [replayed.outputs(*shape) for shape in shapes]
    assert recorded.replays == before + 1, "the others run without a graph"
    for shape, each in zip(shapes, outputs, strict=True):
        same([*each, *replayed.gradients(each)], by_autograd.all(*shape))
    assert recorded.replays == before + 2
    replayed.all(*LARGER)
    assert recorded.replays == before + 4, "after its way back the memory is free"


def test_a_pass_that_never_comes_back_gives_way(recorded: RecordedGraphs, graphs: GraphReplayer) -> None:
    translator = network(model_options(**NETWORK))
    replayed = Passes(translator, graphs)
    replayed.all(*SHAPES[0])
    outputs = replayed.outputs(*SHAPES[0])
    replayed.outputs(*SHAPES[0])
    assert recorded.replays == 1, "it may still come back"
    del outputs
    gc.collect()
    same(replayed.all(*SHAPES[2]), Passes(translator).all(*SHAPES[2]))
    assert recorded.replays == 3
    # Nothing asks for a gradient.
    for parameter in translator.parameters():
        parameter.requires_grad_(False)
    for _ in range(3):
        held = replayed.outputs(*SHAPES[0])
    assert recorded.replays == 6
    same(held, Passes(translator).outputs(*SHAPES[0]))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_validation_has_graphs_without_a_way_back(
    context: type[AbstractContextManager[None]], recorded: RecordedGraphs, graphs: GraphReplayer
) -> None:
    translator = network(model_options(**NETWORK))
    by_autograd, replayed = Passes(translator), Passes(translator, graphs)
    expected = [by_autograd.all(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    for entered in (context, nullcontext, context, torch.no_grad):
        for seed, shape in enumerate(SHAPES):
            with entered():
                outputs = replayed.outputs(*shape, seed=seed)
            same(outputs, expected[seed][:2])
            if entered is nullcontext:
                same(replayed.gradients(outputs), expected[seed][2:])
    assert recorded.captured == 3
    assert recorded.replays == 4 + 2 * 4 + 5 + 5


@pytest.mark.parametrize("which", [0, 1])
def test_a_loss_may_depend_on_some_outputs(which: int, graphs: GraphReplayer) -> None:
    """A gradient that does not come is zero, whatever came in its place before."""
    translator = network(model_options(**NETWORK))
    by_autograd, replayed = Passes(translator), Passes(translator, graphs)
    for shape in SHAPES:
        outputs, expected = replayed.outputs(*shape), by_autograd.outputs(*shape)
        same(replayed.gradients(outputs[which : which + 1]), by_autograd.gradients(expected[which : which + 1]))
        same(replayed.all(*shape), by_autograd.all(*shape))


def test_only_so_many_graphs_are_kept(recorded: RecordedGraphs) -> None:
    """The one that has not been used for longest goes; it is captured anew when its shape comes again."""
    translator = network(model_options(**NETWORK))
    by_autograd, replayed = Passes(translator), Passes(translator, GraphReplayer(recorded, most_graphs=2))
    third = ((17,), (3,))
    captured = []
    for shape in [SHAPES[0], LARGER, third, SHAPES[0], LARGER, SHAPES[0], third, SHAPES[0], LARGER]:
        same(replayed.all(*shape), by_autograd.all(*shape))
        captured.append(recorded.captured // 2)
    assert captured == [0, 0, 0, 1, 2, 2, 3, 3, 4]


def test_what_is_not_a_number_does_not_stay(graphs: GraphReplayer) -> None:
    """A diverged batch ruins none that comes after it, however small."""
    translator = network(model_options(**NETWORK))
    by_autograd, replayed = Passes(translator), Passes(translator, graphs)
    weight = translator.encoder.stack.weight_ih_l0
    for shape in (SHAPES[0], SHAPES[-1], SHAPES[-1]):
        held = weight.detach().clone()
        weight.data.fill_(torch.nan)
        assert replayed.all(*shape)[0].isnan().all()
        weight.data.copy_(held)
        same(replayed.all(*SHAPES[2]), by_autograd.all(*SHAPES[2]))


@pytest.mark.parametrize("wiring", ["bahdanau", "luong"])
def test_dropout_is_drawn_outside(wiring: str, recorded: RecordedGraphs, graphs: GraphReplayer) -> None:
    dropout = schema.DropoutConfig(embedding=0.3, layer=0.3, output=0.3)
    options = model_options(score="general", wiring=wiring, decoder_layers=2, dropout=dropout)
    translator = network(options).train()
    for seed, shape in enumerate(SHAPES):
        found = []
        for passes in (Passes(translator), Passes(translator, graphs)):
            torch.manual_seed(seed)
            found.append(passes.all(*shape))
        same(found[1], found[0])
    assert recorded.replays == 2 * (len(SHAPES) - 1)


def test_bf16_products_are_as_near_the_exact_result_as_without_graphs(
    recorded: RecordedGraphs, graphs: GraphReplayer
) -> None:
    for score, wiring in (("additive", "bahdanau"), ("general", "luong")):
        translator = network(model_options(score=score, wiring=wiring)).float()
        by_autograd, replayed, by_hand = Passes(translator), Passes(translator, graphs), Passes(translator)
        by_hand.steps = ReferenceKernels()
        for shape in SHAPES:
            exact = flat(by_autograd.all(*shape))
            with torch.autocast("cpu", torch.bfloat16):
                found, expected = flat(replayed.all(*shape)), flat(by_hand.all(*shape))
            assert 0 < (found - exact).norm() <= 1.2 * (expected - exact).norm()
    assert recorded.replays == 4 * (len(SHAPES) - 1)


def test_one_graphs_memory_is_that_of_all(graphs: GraphReplayer) -> None:
    """Of shapes that differ in the order of their extents alone: nothing is allocated for the second."""
    passes = Passes(network(model_options(**NETWORK)), graphs)
    sizes = []
    for shape in (((8,) * 16, (4,) * 16), ((8,) * 8, (8,) * 8)):
        passes.all(*shape)
        passes.all(*shape)
        sizes.append(sum(whole.nbytes for whole in graphs._buffers._buffers.values()))
    assert sizes[1] == sizes[0] > 0


def batches() -> Iterator[BatchShape]:
    for size in range(1, 300):
        yield BatchShape(size, 301 - size, 1 + size * 7 % 300)


def test_rounding_adds_little() -> None:
    """At most an eighth of steps and a quarter of sentences and positions, or less than a unit; twice is once."""
    for each in batches():
        up = rounded(each)
        assert rounded(up) == up
        for size, larger, share, unit in zip(each, up, (4, 8, 4), (8, 2, 8), strict=True):
            assert size <= larger < max(size + unit, size * (1 + 1 / share))
            assert larger % unit == 0
    assert len({rounded(BatchShape(1, steps, 1)).steps for steps in range(65, 129)}) == 8
    assert len({rounded(BatchShape(size, 1, 1)).sentences for size in range(65, 129)}) == 4


def test_an_operation_that_hides_what_it_reads_is_not_replayed(graphs: GraphReplayer) -> None:
    """Otherwise another batch would be computed with what this one read."""

    class Hiding(Operation):
        def __init__(self, thing: object) -> None:
            self.thing = thing

    tape = Tape(ReferenceKernels(graphs), torch.zeros(1, 1, 1))
    tape._outputs = tape.intermediate(1), tape.intermediate(1)
    for thing, message in (
        (torch.zeros(1), "is an input of its tape"),
        (torch.Generator(), "the state of a Generator"),
    ):
        tape._operations = [Hiding(thing)]
        with pytest.raises(AssertionError, match=message):
            assert tape.structure


def test_structures_differ_in_what_reads_what() -> None:
    """Two loops whose tensors and operations are of the same kinds."""

    def structure(crossed: bool) -> Any:
        weights = torch.zeros(1, 1), torch.zeros(1, 1)
        tape = Tape(ReferenceKernels(), torch.zeros(1, 1, 1))
        one, other = tape.intermediate(1), tape.intermediate(1)
        tape.product(one.after, weights[0])
        tape.product(other.after, weights[1])
        tape._outputs = (other, one) if crossed else (one, other)
        return tape.structure[2]

    assert structure(False) == structure(False) != structure(True)


def test_a_training_with_graphs_learns_what_one_without_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: RecordedGraphs
) -> None:
    """Updates, validations with the averaged weights, which are swapped in, and translations in turn."""
    write_corpus(tmp_path)
    losses = []

    def chosen(*arguments: Any) -> Kernels:
        kernels = choose_kernels(*arguments)
        return replace(kernels, steps=None if kernels.steps is None else ReferenceKernels(GraphReplayer(recorded)))

    for kernel in ("auto", "fused"):
        config = run_config(tmp_path, f"run={tmp_path}/{kernel}", f"runtime.kernel={kernel}", "training.max_epochs=2")
        monkeypatch.setattr(base, "choose_kernels", choose_kernels if kernel == "auto" else chosen)
        train(config)
        losses.append([record["loss"] for record in records(config.run) if "loss" in record])
    assert recorded.replays > 20
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
