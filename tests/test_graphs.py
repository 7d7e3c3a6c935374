"""Recurrences that are replayed, with everything but CUDA: what is captured is run again in its place.

`tests/test_gpu.py` has the same with graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.errors import ConfigError
from nmt.kernels.choice import choose_kernels
from nmt.kernels.recurrence import FactoredSteps, Graphs, Steps
from nmt.kernels.recurrence.graphs import KEPT, Outside, _rounded
from nmt.model.translator import Translator
from tests.networks import model_options, network, sentences
from tests.runs import run_config
from tests.test_model import named


class Again:
    """A graph that runs the function again and leaves the results where they were when it was captured."""

    count = 0

    def capture(self, function: Callable[[], Any]) -> Any:
        Again.count += 1
        self._function = function
        self._results = function()
        for result in self._results:
            if result is not None:
                # Nothing is computed while it is captured.
                result.fill_(torch.nan)
        return self._results

    def replay(self) -> None:
        for place, result in zip(self._results, self._function(), strict=True):
            if result is not None and place is not result:
                place.copy_(result)


def graphed(kept: int = KEPT, steps: Steps | None = None) -> Steps:
    steps = FactoredSteps() if steps is None else steps
    steps.graphs = Graphs(Again, kept)
    return steps


class Task:
    """A batch of a shape, and what a network makes of it."""

    def __init__(self, translator: Translator, source: tuple[int, ...], target: tuple[int, ...], seed: int = 0) -> None:
        self.translator = translator
        self.source_BS, self.lengths_B = sentences(*source)
        self.target_BT, _ = sentences(*target, size=11)
        self.source_BS, self.target_BT = (self.source_BS + seed) % 7 + 4, (self.target_BT + seed) % 7 + 4

    def forward(self, steps: Steps | None) -> tuple[Tensor, Tensor]:
        encoded = self.translator.encode(self.source_BS, self.lengths_B)
        readout_BTR, weights = self.translator.readout(encoded, self.target_BT, steps)
        assert weights is not None
        return readout_BTR, weights.dense()

    def gradients(self, outputs: tuple[Tensor, ...]) -> list[Tensor]:
        loss = sum(each.sin().mul(torch.arange(1, each.shape[-1] + 1)).sum() for each in outputs)
        named = [parameter for name, parameter in self.translator.named_parameters() if "projection" not in name]
        found = torch.autograd.grad(loss, named, allow_unused=True)
        return [each for each in found if each is not None]

    def run(self, steps: Steps | None, weighed: bool = True) -> list[Tensor]:
        """Outputs and gradients, of a loss of the readout alone or of the weights too."""
        outputs = self.forward(steps)
        return [each.detach() for each in outputs] + self.gradients(outputs if weighed else outputs[:1])


NETWORKS: list[dict[str, Any]] = [
    {"score": "additive", "wiring": "bahdanau"},
    {"score": "concat", "wiring": "conditional"},
    {"score": "dot", "wiring": "luong"},
    {"score": "general", "wiring": "luong", "cell": "lstm", "decoder_layers": 3, "residual_from": 2},
    {"score": "additive", "wiring": "gnmt", "decoder_layers": 2, "wiring_options": {"context_feeding": True}},
]
# Of one rounded shape, 18 x 8 x 8, and the last one fills it.
SHAPES = [
    ((7, *[5] * 16), (7, *[3] * 16)),
    ((8, *[2] * 17), (5, *[4] * 17)),
    ((5, *[5] * 16), (6, *[6] * 16)),
    ((8, *[3] * 17), (8, *[1] * 17)),
]


@pytest.mark.parametrize("options", NETWORKS, ids=named)
def test_what_is_replayed_is_what_runs_step_by_step(options: dict[str, Any]) -> None:
    """Through all stages, with weights that move in between, and with two kinds of losses."""
    translator = network(model_options(**options))
    steps, before = graphed(), Again.count
    for number, (source, target) in enumerate([*SHAPES, *SHAPES, *SHAPES]):
        task, weighed = Task(translator, source, target, number), number % 3 != 1
        torch.testing.assert_close(task.run(steps, weighed), task.run(None, weighed), rtol=0, atol=1e-11)
        with torch.no_grad():
            for parameter in translator.parameters():
                parameter.mul_(0.99).add_(0.001)
    assert Again.count - before == 3, "one forward pass, and a backward pass of each kind"


def test_dropout_between_layers_is_drawn_anew() -> None:
    from nmt.config import schema

    dropout = schema.Dropout(embedding=0.0, layer=0.4, output=0.0)
    options = model_options(score="general", wiring="luong", decoder_layers=3, dropout=dropout)
    translator, steps = network(options).train(), graphed()
    for number, (source, target) in enumerate([*SHAPES, *SHAPES]):
        found = []
        for by in (steps, None):
            torch.manual_seed(number)
            found.append(Task(translator, source, target).run(by))
        torch.testing.assert_close(*found, rtol=0, atol=1e-11)


def test_while_one_waits_for_its_backward_pass_others_run_as_they_are() -> None:
    translator = network(model_options())
    steps = graphed()
    one, other = Task(translator, *SHAPES[0]), Task(translator, *SHAPES[1], seed=3)
    for number in range(4):
        first = one.forward(steps)
        assert steps.graphs.is_busy == bool(number)
        second = other.run(steps)
        with torch.no_grad():
            third = other.forward(steps)
        torch.testing.assert_close(second, other.run(None), rtol=0, atol=1e-11)
        torch.testing.assert_close(list(third), second[:2], rtol=0, atol=1e-11)
        torch.testing.assert_close(one.gradients(first), one.run(None)[2:], rtol=0, atol=1e-11)
        assert not steps.graphs.is_busy


def test_a_backward_pass_that_never_comes_is_not_waited_for() -> None:
    translator = network(model_options())
    steps, task = graphed(), Task(translator, *SHAPES[0])
    task.forward(steps)
    for _ in range(3):
        outputs = task.forward(steps)
        assert steps.graphs.is_busy
        del outputs
        assert not steps.graphs.is_busy
    torch.testing.assert_close(task.run(steps), task.run(None), rtol=0, atol=1e-11)


def test_without_gradients_nothing_is_waited_for_either() -> None:
    translator = network(model_options())
    steps, task = graphed(), Task(translator, *SHAPES[1])
    with torch.no_grad():
        for _ in range(4):
            found = task.forward(steps)
            assert not steps.graphs.is_busy
            torch.testing.assert_close(list(found), list(task.forward(None)), rtol=0, atol=1e-12)


def test_what_leaves_is_a_copy() -> None:
    translator = network(model_options())
    steps, task = graphed(), Task(translator, *SHAPES[0])
    found = [task.run(steps) for _ in range(4)]
    kept = [each.clone() for each in found[2]]
    Task(translator, *SHAPES[0], seed=2).run(steps)
    assert all(torch.equal(one, other) for one, other in zip(kept, found[2], strict=True))


def test_other_weights_are_another_recurrence() -> None:
    steps = graphed()
    tasks = [Task(network(model_options(), seed), *SHAPES[0]) for seed in (1, 2)]
    for _ in range(4):
        for task in tasks:
            torch.testing.assert_close(task.run(steps), task.run(None), rtol=0, atol=1e-11)


def test_the_shape_that_was_not_seen_for_longest_goes_first() -> None:
    translator = network(model_options())
    steps = graphed(kept=2)
    far, farther = ((30, 20), (9, 4)), ((60, 20), (9, 4))
    for shape, kept in [
        (SHAPES[0], {8}),
        (far, {8, 32}),
        (SHAPES[0], {8, 32}),
        (farther, {8, 64}),
        (SHAPES[0], {8, 64}),
        (far, {8, 32}),
    ]:
        task = Task(translator, *shape)
        torch.testing.assert_close(task.run(steps), task.run(None), rtol=0, atol=1e-11)
        assert {extents[-1][-1] for extents in steps.graphs._shapes} == kept


def test_nothing_of_a_batch_is_kept() -> None:
    """The first batch of a shape is copied as all others are: it and its graph of autograd are freed."""
    import weakref

    translator = network(model_options())
    steps, task = graphed(), Task(translator, *SHAPES[0])
    task.run(steps)
    encoded = translator.encode(task.source_BS, task.lengths_B)
    seen = weakref.ref(encoded.memory_BSC)
    readout_BTR, _ = translator.readout(encoded, task.target_BT, steps)
    readout_BTR.sum().backward()
    assert steps.graphs._shapes
    del encoded, readout_BTR, _
    assert seen() is None


def test_what_was_infinite_once_leaves_no_trace() -> None:
    """Where a smaller batch leaves room, nothing of a larger one is left."""
    translator = network(model_options())
    steps = graphed()
    large, small = Task(translator, *SHAPES[3]), Task(translator, *SHAPES[2])
    for _ in range(3):
        large.run(steps)
    with torch.no_grad():
        translator.encoder.embedding.table.weight[large.source_BS[0, -1]] *= torch.nan
    assert any(each.isnan().any() for each in large.run(steps))
    with torch.no_grad():
        translator.encoder.embedding.table.weight.nan_to_num_(0.5)
    torch.testing.assert_close(small.run(steps), small.run(None), rtol=0, atol=1e-11)


def test_extents_are_rounded() -> None:
    numbers = (1, 7, 16, 17, 18, 19, 64, 65, 200, 257)
    assert [_rounded(number) for number in numbers] == [1, 7, 16, 18, 18, 20, 64, 72, 208, 288]
    assert all(number <= _rounded(number) <= 1.125 * number for number in range(1, 2000))


def test_weights_and_their_parts_stay_where_they_are() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    with torch.no_grad():
        assert Outside(weight).is_fixed
        assert Outside(weight[:, :3]).is_fixed
        assert not Outside(weight.clone()).is_fixed
        assert not Outside(torch.cat([weight, weight])).is_fixed


def test_a_cpu_replays_nothing(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.kernel: graphed cannot be had: CUDA graphs are replayed on a GPU"):
        choose_kernels("graphed", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"runtime\.kernel: graphed cannot be had: model\.attention\.heads is not 1"):
        run_config(tmp_path, "runtime.kernel=graphed", "model.attention={score: additive, heads: 2}")
    run_config(tmp_path, "runtime.kernel=graphed")
