"""An update from a graph is the update itself, whatever ran before, and the shape of its batch decides what runs.

`tests.support.recorded_graphs` stands in for CUDA graphs: it repeats the operations on the tensors of the capture,
without Python, and overwrites all memory that is not promised to last. What only a GPU can show is in test_gpu.py.
"""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nmt.data.batching import Batch
from nmt.data.batching.plan import few_widths, plan_pairs
from nmt.errors import ConfigError
from nmt.kernels import select
from nmt.kernels.cross_entropy.chunked import chunk_losses
from nmt.kernels.cross_entropy.reference import Losses
from nmt.kernels.packed import Packing
from nmt.kernels.select import Kernels, reference_kernels
from nmt.runtime import Runtime
from nmt.tasks import base, training
from nmt.tasks.base import TaskSetup
from nmt.tasks.training import train
from nmt.training import graphs, trainer
from nmt.training.objectives import TranslationObjective
from nmt.training.progress import TrainingResult
from nmt.training.trainer import Trainer
from tests.support.networks import model_options, network, sentences
from tests.support.recorded_graphs import RecordedGraphs
from tests.support.reference_steps import ReferenceKernels
from tests.support.training_runs import final_weights, records, run_config, write_corpus

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")

NETWORKS: list[dict[str, Any]] = [
    {},
    {"encoder_layers": 3, "encoder_residual_from": 3, "bridge": "backward", "layer_normalization": True},
    {"score": "general", "wiring": "luong", "wiring_options": {"input_feeding": True}, "bridge": "copy"},
    {"score": "dot", "wiring": "conditional", "bridge": "mean"},
    {"cell": "lstm", "wiring": "gnmt", "decoder_layers": 2, "bidirectional": "first", "encoder_layers": 2}
    | {"bridge": "zero"},
    {"cell": "rnn", "bidirectional": False},
    {"score": "dot", "window": "local_predictive", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"score": "general", "window": "local_monotonic", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"score": "location", "wiring": "luong", "wiring_options": {"input_feeding": True}},
    {"coverage": "neural"},
    {"heads": 2, "normalizer": "sparsemax"},
    {"lexical": True},
    {"score": "general", "wiring": "luong", "lexical": True},
]


def cross_entropy(readout_NR: Tensor, weight_VR: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float) -> Losses:
    """The loss without the positions whose target is -1, by PyTorch."""
    logits_NV = F.linear(readout_NR, weight_VR, bias_V).to(torch.promote_types(readout_NR.dtype, torch.float32))
    smoothed, likelihood = (
        F.cross_entropy(logits_NV, target_N, label_smoothing=e, ignore_index=-1, reduction="sum")
        for e in (smoothing, 0.0)
    )
    return Losses(smoothed, likelihood.detach())


MASKED = replace(reference_kernels(), cross_entropy=cross_entropy, skips_positions=True)


def batch_of(source: tuple[int, ...] = (5, 2, 7), target: tuple[int, ...] = (6, 3, 4), padding: int = 2) -> Batch:
    """Pairs of these lengths, with random ids of padding."""
    source_BS, source_lengths_B = sentences(*source, padding=padding)
    target_BT, target_lengths_B = sentences(*target, size=11, padding=padding)
    sides = source_BS, source_lengths_B, target_BT, target_lengths_B
    return Batch(*sides, np.arange(len(source)), sum(target)).in_one_memory()


def gradients(objective: TranslationObjective, batch: Batch) -> dict[str, Tensor]:
    sums = objective(batch)
    sums.trained[0].backward()
    found = {name: each.grad for name, each in objective.named_parameters() if each.grad is not None}
    objective.zero_grad()
    return {"trained": sums.trained[0].detach(), "logged": sums.reported()[:1], **found}


@pytest.mark.parametrize("reverse_source", [False, True])
@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_masked_padding_changes_nothing(options: dict[str, Any], reverse_source: bool) -> None:
    translator = network(model_options(**options), reverse_source=reverse_source, kernels=MASKED)
    assert translator.unmasked_reason() == ""
    objective, batch = TranslationObjective(translator, 0.1), batch_of()
    expected = gradients(objective, batch)
    assert batch.memory_M is not None
    actual = gradients(objective, batch.masked(batch.memory_M.clone()))
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        close = torch.isclose(actual[name], tensor, rtol=1e-10, atol=1e-12)
        assert close.all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "lstm", "wiring": "gnmt"}, "last cells"),
        ({"cell_normalization": True}, "no such layers"),
        ({"alignment": "latent", "wiring": "luong", "wiring_options": {"input_feeding": False}}, "alignment is latent"),
    ],
)
def test_a_network_that_needs_lengths_on_the_host_says_why(options: dict[str, Any], message: str) -> None:
    assert message in network(model_options(**options)).unmasked_reason()


class OnDevice(TorchDispatchMode):
    """Fails at an operation on the device that reads a tensor of the host."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        tensors = [leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, Tensor)]
        if any(each.device.type == "meta" for each in tensors):
            from_host = [each for each in tensors if each.device.type == "cpu"]
            assert not from_host, f"{function} reads {tuple(from_host[0].shape)} numbers of the host"
        return result


def on_meta(options: dict[str, Any], kernels: Kernels, batch: Batch) -> None:
    objective = TranslationObjective(network(model_options(**options), kernels=kernels).float().train().to("meta"), 0.1)
    with OnDevice():
        objective(batch).trained[0].backward()


@pytest.fixture
def meta_has_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, entered = torch.is_autocast_enabled, torch.autocast
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device != "meta" and asked(device))
    monkeypatch.setattr(
        torch, "autocast", lambda device, *a, **k: nullcontext() if device == "meta" else entered(device, *a, **k)
    )


@pytest.mark.usefixtures("meta_has_no_autocast")
@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_a_masked_update_reads_nothing_of_the_host(options: dict[str, Any]) -> None:
    """A graph would read what lay there when it was captured."""
    batch = batch_of()
    assert batch.memory_M is not None
    masked = batch.masked(batch.memory_M.to("meta"))
    on_meta(options, MASKED, masked)
    on_meta(options, replace(MASKED, steps=ReferenceKernels()), masked)
    with pytest.raises(AssertionError, match="of the host"):
        on_meta(options, MASKED, batch.to(torch.device("meta")))


def test_a_batch_is_one_copy() -> None:
    copies = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
            result = function(*arguments, **(keywords or {}))
            if function is torch.ops.aten._to_copy.default:
                copies.append(tuple(result.shape))
            return result

    batch = batch_of(padding=0)
    with Count():
        moved = batch.to(torch.device("meta"))
    assert copies == [(3 * (7 + 1 + 6 + 1),)]
    assert moved.source_BS.shape == batch.source_BS.shape
    assert moved.target_BT.shape == batch.target_BT.shape
    assert moved.source_lengths_B.device.type == "cpu"


# Trainings.


@pytest.fixture
def recorded() -> RecordedGraphs:
    return RecordedGraphs()


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch, recorded: RecordedGraphs) -> RecordedGraphs:
    """Trains from graphs."""

    def with_graphs(setup: TaskSetup, *_: object) -> TaskSetup:
        return replace(setup, stream=replace(setup.stream, in_few_shapes=True), runs_from_graphs=True)

    monkeypatch.setattr(base, "choose_kernels", lambda *_: MASKED)
    monkeypatch.setattr(training, "with_graphs", with_graphs)
    monkeypatch.setattr(graphs, "CudaGraphs", lambda: recorded)
    return recorded


def run_on(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype | None) -> None:
    monkeypatch.setattr(training, "set_up", lambda options: Runtime(torch.device("cpu"), dtype, ""))


def directly(updates: graphs.UpdateGraphs, batch: Batch, numbers: tuple[float, ...]) -> Tensor:
    """Computes an update with tensors of its own."""
    return updates._compute(updates.masked(batch), torch.tensor(numbers))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_a_training_from_graphs_is_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphed: RecordedGraphs, dtype: torch.dtype | None, optimizer: str
) -> None:
    """Dropout, the schedule of the learning rate, the moving average, the loss scale; validations in between."""
    write_corpus(tmp_path)
    run_on(monkeypatch, dtype)
    results = []
    for name in ("from graphs", "directly"):
        if name == "directly":
            monkeypatch.setattr(graphs.UpdateGraphs, "run", directly)
        of_optimizer = ["training.optimizer.kind=sgd", "training.optimizer.momentum=0.9"] if optimizer == "sgd" else []
        config = run_config(tmp_path, f"run={tmp_path}/{name}", "training.max_epochs=4", *of_optimizer)
        train(config)
        results.append((records(config.run), records(config.run, "validation"), final_weights(config.run)))
    assert graphed.replays > 10
    (one, one_validated, weights), (other, other_validated, other_weights) = results
    numbers = ("step", "loss", "gradient_norm", "learning_rate")
    assert [[each[key] for key in numbers] for each in one] == [[each[key] for key in numbers] for each in other]
    assert [each["loss"] for each in one_validated] == [each["loss"] for each in other_validated]
    assert one[-1]["loss"] < one[0]["loss"]
    for name, weight in weights.items():
        assert torch.equal(weight, other_weights[name]), name


def test_a_resumed_training_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphed: RecordedGraphs
) -> None:
    """Although it captures its graphs anew, later than the one that was not stopped."""
    write_corpus(tmp_path)
    straight = run_config(tmp_path, f"run={tmp_path}/straight", "training.max_epochs=4")
    train(straight)
    replays = graphed.replays
    run = Trainer.step

    def interrupted(training: Trainer, update: Any) -> bool:
        if training.progress.step == 17:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(training, update)

    config = run_config(tmp_path, f"run={tmp_path}/resumed", "training.max_epochs=4")
    monkeypatch.setattr(Trainer, "step", interrupted)
    assert train(config).interrupted
    monkeypatch.setattr(Trainer, "step", run)
    train(config)
    assert 0 < graphed.replays - replays < replays
    for name, weight in final_weights(straight.run).items():
        assert torch.equal(weight, final_weights(config.run)[name]), name


def assert_equal_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingResult:
    """Trains from graphs and without, to the same bits; returns the result from graphs."""
    results = []
    for seen in (graphs.SEEN, 10_000):
        monkeypatch.setattr(graphs, "SEEN", seen)
        config = run_config(folder, f"run={folder}/{seen}", "training.max_epochs=3")
        results.append((train(config), final_weights(config.run)))
    for name, weight in results[0][1].items():
        assert torch.equal(weight, results[1][1][name]), name
    return results[0][0]


def test_a_replayed_update_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphed: RecordedGraphs
) -> None:
    run, replayed = graphs.UpdateGraphs.run, []

    def poisoned(updates: graphs.UpdateGraphs, batch: Batch, numbers: tuple[float, ...]) -> Tensor:
        is_poisoned = updates.updates == 25
        results = run(updates, batch, (math.inf, *numbers[1:]) if is_poisoned else numbers)
        if is_poisoned:
            replayed.append(batch.shape in updates._captured)
        return results

    monkeypatch.setattr(graphs.UpdateGraphs, "run", poisoned)
    write_corpus(tmp_path)
    assert assert_equal_runs(tmp_path, monkeypatch).progress.skipped == 1
    assert replayed == [True, False]
    assert graphed.replays > 0


@pytest.mark.parametrize(
    ("place", "ending", "message"),
    [
        (
            (trainer, "step_where"),
            RuntimeError("not permitted when stream is capturing\nand more"),
            "from now on: not permitted when stream is",
        ),
        (
            (TranslationObjective, "forward"),
            torch.OutOfMemoryError("CUDA"),
            "no more shapes are captured as CUDA graphs: there are 1, and memory ran out",
        ),
        ((), None, "no more shapes are captured as CUDA graphs: there are 1"),
    ],
    ids=["failure", "memory", "bound"],
)
@pytest.mark.parametrize("dtype", [None, torch.float16], ids=str)
def test_when_no_more_shapes_are_captured_training_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    graphed: RecordedGraphs,
    dtype: torch.dtype | None,
    place: tuple[Any, ...],
    ending: RuntimeError | None,
    message: str,
) -> None:
    """The second capture ends in the midst of an update, with gradients that have lost their scale."""
    run_on(monkeypatch, dtype)
    if ending:
        of_place = getattr(*place)

        def failing(*arguments: Any) -> Any:
            if graphed.capturing and graphed.captured > 1:
                raise ending
            return of_place(*arguments)

        monkeypatch.setattr(*place, failing)
    else:
        monkeypatch.setattr(graphs, "MOST_GRAPHS", 1)
    write_corpus(tmp_path)
    assert_equal_runs(tmp_path, monkeypatch)
    assert graphed.captured == 1
    assert graphed.replays > 0
    log = (tmp_path / str(2) / "train.log").read_text()
    assert log.count(message) == 1
    remaining = "0 shapes" if type(ending) is RuntimeError else "1 shape"
    assert f"CUDA graphs of {remaining} ran" in log


def test_graphs_are_given_up_where_an_update_without_one_lacks_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphed: RecordedGraphs
) -> None:
    forward, failed = TranslationObjective.forward, []

    def failing(objective: TranslationObjective, batch: Batch) -> Any:
        if graphed.replays and objective.model.training and not graphed.capturing and not failed:
            failed.append((batch, graphed.replays))
            raise torch.OutOfMemoryError("CUDA")
        return forward(objective, batch)

    monkeypatch.setattr(TranslationObjective, "forward", failing)
    write_corpus(tmp_path)
    result = assert_equal_runs(tmp_path, monkeypatch)
    log = (tmp_path / str(2) / "train.log").read_text()
    assert f"updates run without CUDA graphs from now on: memory ran out with {failed[0][0].describe()}" in log
    assert "CUDA graphs of 0 shapes ran" in log
    assert failed[0][1] == graphed.replays < result.progress.step - 1


@pytest.mark.parametrize("is_wrong", [False, True])
def test_masked_padding_is_verified_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphed: RecordedGraphs, is_wrong: bool
) -> None:
    """Here the encoder's backward direction starts at the padding."""
    if is_wrong:
        as_they_are = property(lambda packing: packing.position_P * packing.rows + packing.row_P)
        monkeypatch.setattr(Packing, "mirrored_P", as_they_are)
    monkeypatch.setattr(training, "needs_verification", lambda *_: True)
    write_corpus(tmp_path)
    train(run_config(tmp_path, "training.max_epochs=2"))
    log = (tmp_path / "run" / "train.log").read_text()
    assert ("auto trains with reference, as all kernels together differ" in log) == is_wrong
    assert ("kernels are verified" in log) == (not is_wrong)
    assert (graphed.replays == 0) == is_wrong


GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("overrides", "world", "kernels", "reason"),
    [
        ((), 1, MASKED, ""),
        (("training.optimizer.kind=sgd",), 1, MASKED, ""),
        (("training.accumulation=2",), 1, MASKED, "training.accumulation is not 1"),
        (("training.objective=r_drop",), 1, MASKED, "training.objective is not likelihood"),
        ((), 2, MASKED, "2 processes exchange gradients"),
        ((), 1, reference_kernels(), "the loss has no Triton kernel here"),
        (("model.encoder.transitions=2",), 1, MASKED, "PyTorch has no such layers as model.encoder asks for"),
    ],
)
def test_on_a_gpu_updates_run_from_graphs_or_the_log_says_why_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    world: int,
    kernels: Kernels,
    reason: str,
) -> None:
    """As on a GPU, up to the first update, which a CPU makes without graphs."""
    with_graphs, found = training.with_graphs, []

    def on_gpu(setup: TaskSetup, config: Any, runtime: Runtime) -> TaskSetup:
        gpu = replace(runtime, device=GPU, world=world)
        found.append(with_graphs(setup, config, gpu))
        assert with_graphs(setup, config, runtime) is setup
        forced = config.model_copy(update={"runtime": config.runtime.model_copy(update={"kernel": "graphed"})})
        if reason:
            with pytest.raises(ConfigError, match=f"graphed cannot be had: {reason}; set it to auto or reference"):
                with_graphs(setup, forced, gpu)
        else:
            assert with_graphs(setup, forced, gpu).runs_from_graphs
        return setup

    monkeypatch.setattr(base, "choose_kernels", lambda *_: kernels)
    monkeypatch.setattr(training, "with_graphs", on_gpu)
    write_corpus(tmp_path)
    config = run_config(tmp_path, "training.max_steps=1", *overrides)
    train(config)
    (setup,) = found
    assert setup.runs_from_graphs == setup.stream.in_few_shapes == (not reason)
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"updates run without CUDA graphs: {reason}" in log if reason else "CUDA graphs" not in log


def test_a_gpu_takes_the_triton_loss_where_triton_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("nmt.kernels.cross_entropy.triton")
    for missing in ("", "no Triton"):
        monkeypatch.setattr(select, "_unsupported_device", lambda _, missing=missing: missing)
        kernels = select.choose_kernels("auto", GPU)
        assert isinstance(kernels.cross_entropy, partial)
        assert kernels.cross_entropy.keywords["of_chunk"] is (chunk_losses if missing else triton.triton_chunk_losses)
        assert kernels.skips_positions == (not missing)


def plans(lengths: tuple[Any, Any], batch_tokens: int, seeds: range) -> list[list[tuple[int, int, int]]]:
    """The shapes of a window's batches, planned with each of these seeds."""
    source, target = lengths
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        plan = plan_pairs(np.arange(len(source)), source, target, batch_tokens, 1, rng, in_few_shapes=True)
        assert np.array_equal(np.sort(plan.rows), np.arange(len(source)))
        found.append([])
        for number in range(len(plan)):
            rows = plan.batch(number)
            widths = int(few_widths(source[rows].max(), 4)), int(few_widths(target[rows].max(), 8))
            assert len(rows) * max(widths) <= batch_tokens
            found[-1].append((len(rows), *widths))
    return found


def captions(pairs: int = 29_000) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    target = np.rint(rng.lognormal(np.log(13.2), 0.30, pairs)).clip(3, 60).astype(np.int64) + 1
    source = np.rint(target * rng.normal(0.98, 0.15, pairs)).clip(3, 60).astype(np.int64) + 1
    return source, target


def test_batches_have_few_shapes_and_little_padding() -> None:
    """The same shapes in every epoch, so that nearly all updates are replayed."""
    source, target = captions()
    first, second = plans((source, target), 4096, range(2))
    assert Counter(first) == Counter(second)
    assert first != second
    assert len(Counter(first)) <= 64
    assert sum(rows % 8 != 0 for rows, _, _ in first) <= 1
    padded = sum(rows * (one + other) for rows, one, other in first)
    assert 1 - (source.sum() + target.sum()) / padded < 0.08


def test_pairs_of_a_shape_meet_others_in_every_epoch() -> None:
    source, target = (lengths[:2000] for lengths in captions())
    batches = []
    for seed in (1, 2):
        plan = plan_pairs(np.arange(2000), source, target, 1024, 1, np.random.default_rng(seed), True)
        batches.append({frozenset(plan.batch(number).tolist()) for number in range(len(plan))})
    assert len(batches[0] & batches[1]) < len(batches[0]) / 4


def test_widths_are_few() -> None:
    lengths = np.arange(1, 200)
    for steps in (4, 8):
        widths = few_widths(lengths, steps)
        assert (widths >= lengths).all()
        assert (widths < lengths * (1 + 1 / steps) + 1e-9).all()
        assert np.array_equal(few_widths(widths, steps), widths)
        assert len(np.unique(widths[(lengths > 64) & (lengths <= 128)])) == steps
    assert math.isclose(float(few_widths(13, 8)), 13.0)
