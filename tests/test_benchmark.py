"""The benchmark measures what it says, refuses a speed whose result is another one, and runs as one command."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmt.config import schema
from nmt.kernels.select import reference_kernels
from nmt.model.translator import Translator, Vocabulary
from nmt.training.graphs import SEEN
from scripts.benchmarks import __main__ as benchmark
from scripts.benchmarks import gnmt_v2, launches, network, training, translation
from scripts.benchmarks.growth import exponent
from scripts.benchmarks.network import (
    Spread,
    Update,
    Variant,
    caption_batches,
    comparable,
    difference,
    even_batch,
    flop_counter,
    kernel_name,
    model_options,
    recurrent_flops,
)
from tests.support.recorded_graphs import RecordedGraphs
from tests.test_update_graphs import MASKED

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
AUTO, REFERENCE = Variant("fp32", "auto"), Variant("fp32", "reference")


def quick(attention: str = "bahdanau2015", **layers: int) -> schema.ModelConfig:
    return model_options(attention, quick=True, **layers)


def test_a_size_to_the_power_of_its_exponent() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    for power in (0.0, 1.0, 2.5):
        assert exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power, abs=1e-12)


def test_a_spread_in_words() -> None:
    assert Spread.of([3.0, 1.0, 1.25]).text(".1f") == "1.2 (1.0 to 3.0)"


def test_captions_are_as_long_as_those_of_multi30k() -> None:
    batches = caption_batches(4096, 8000, count=20)
    source = torch.cat([batch.source_lengths_B for batch in batches]).double()
    target = torch.cat([batch.target_lengths_B for batch in batches]).double()
    assert 13.0 < float(source.mean()) < 16.0
    assert 13.0 < float(target.mean()) < 16.0
    assert all(batch.target_tokens == int(batch.target_lengths_B.sum()) for batch in batches)
    assert all(max(*batch.source_BS.shape, *batch.target_BT.shape) <= 4096 for batch in batches)


@pytest.mark.parametrize("attention", ["bahdanau2015", "luong2015_global_general", "gnmt_v2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_product_is_counted(attention: str, precision: Any) -> None:
    """Whichever library makes them, and added in place or not: the same to a hundredth; the kernels of the encoder make
    none for its first step. Of 16 sentences, so that none has rows of zeros."""
    batch = even_batch(16, 20, 20, 4000)
    model = model_options(attention, decoder_layers=2 if attention == "gnmt_v2" else 1)
    counted = [Update(model, 4000, Variant(precision, kernel), CPU).flops(batch) for kernel in ("reference", "auto")]
    assert counted[1] == pytest.approx(counted[0], rel=0.02)


def test_a_speed_is_refused_where_the_gradients_are_others() -> None:
    batch = even_batch(2, 3, 4, 50)
    model = comparable(quick())
    expected = Update(model, 50, REFERENCE, CPU).gradients(batch)
    update = Update(model, 50, AUTO, CPU)
    assert difference(update, expected, batch) < 1e-5
    # One target piece is another one.
    other = replace(batch, target_BT=batch.target_BT.clone(), memory_M=None)
    other.target_BT[0, 0] = 4 + (other.target_BT[0, 0] - 3) % 46
    with pytest.raises(SystemExit, match="the gradients differ from those of the reference"):
        difference(update, expected, other)
    with pytest.raises(SystemExit, match="the gradients differ"):
        difference(update, expected * float("nan"), batch)


def test_a_recurrent_matrix_without_its_gradient_is_refused_in_bf16() -> None:
    """Rounding changes all gradients together by less than the norm of one of them."""
    batch = caption_batches(128, 100)[0]
    model = comparable(quick())
    expected = Update(model, 100, REFERENCE, CPU).gradients(batch)
    update = Update(model, 100, Variant("bf16", "auto"), CPU)
    assert difference(update, expected, batch) > 1e-3
    update.translator.encoder.stack.weight_hh_l0.register_hook(torch.zeros_like)
    with pytest.raises(SystemExit, match="bf16 auto: the gradients differ"):
        difference(update, expected, batch)


def test_a_speed_is_refused_where_the_logits_are_others() -> None:
    sources = [[5, 6, 7], [8, 9]]
    networks = [translation.network(quick(), 50, precision, CPU) for precision in ("fp32", "fp32", "int8")]
    translation.check({"fp32": networks[1], "int8": networks[2]}, networks[0], sources, CPU)
    with torch.no_grad():
        networks[1].projection.bias[7] += 0.1
    with pytest.raises(SystemExit, match="fp32: the logits differ"):
        translation.check({"fp32": networks[1]}, networks[0], sources, CPU)


@pytest.mark.parametrize(
    ("attention", "layers", "name"),
    [
        ("bahdanau2015", {}, "fused"),
        ("bahdanau2015", {"decoder_layers": 2}, "fused"),
        ("sutskever2014", {}, "fused loss and encoder"),
    ],
    ids=str,
)
def test_a_row_says_what_was_chosen(attention: str, layers: dict[str, int], name: str) -> None:
    assert kernel_name(Update(quick(attention, **layers), 50, AUTO, CPU).kernels) == name
    assert kernel_name(Update(quick(attention, **layers), 50, REFERENCE, CPU).kernels) == "reference"


def run_quickly(what: str, folder: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """The table and the JSON of a command."""
    path = folder / f"{what}.json"
    command = [sys.executable, "-m", "scripts.benchmarks", what, "--quick", "--json", str(path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return done.stdout, report


def test_training_is_what_is_measured_where_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.json"
    threads = torch.get_num_threads()
    assert benchmark.main(["--quick", "--attention", "sutskever2014", "--precision", "fp32", "--json", str(path)]) == 0
    torch.set_num_threads(threads)
    table = capsys.readouterr().out
    assert "too little work to say anything about speed" in table
    assert "fused loss and encoder" in table
    plain, fused = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert (plain["kernel"], fused["kernel"]) == ("reference", "fused loss and encoder")
    assert plain["times_reference"] == [1.0, 1.0, 1.0]
    assert fused["times_reference"][0] == pytest.approx(fused["tokens_per_second"] / plain["tokens_per_second"])
    assert 0.0 < fused["share_of_bound"] < 1.0


def test_growth_has_a_row_for_every_size(tmp_path: Path) -> None:
    table, report = run_quickly("growth", tmp_path, "--dimension", "batch", "layers")
    assert [grown["dimension"] for grown in report["growth"]] == ["batch", "layers"]
    batch, layers = report["growth"]
    assert [row["size"] for row in batch["rows"]] == [2, 4]
    # Nothing is multiplied but rows of the batch.
    assert batch["products_exponent"] == pytest.approx(1.0)
    assert batch["rows"][1]["products_per_doubling"] == pytest.approx([2.0] * 3)
    assert 0.0 < layers["products_exponent"] < 1.0
    assert [row["kernel"] for row in layers["rows"]] == ["fused", "fused"]
    assert table.count("fp32") == 4


@pytest.mark.parametrize("arguments", [["speed"], ["growth", "--dimension", "width"], ["training", "--rounds", "many"]])
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        benchmark.main(arguments)
    assert error.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_the_network_of_gnmt_v2_is_that_of_the_system() -> None:
    model = gnmt_v2.model_options()
    assert (model.embedding_size, model.tie, model.dropout.layer) == (1024, "source_target", 0.2)
    for side in (model.encoder, model.decoder):
        assert (side.cell.kind, side.layers, side.hidden_size, side.residual_from) == ("lstm", 4, 1024, 3)
    assert model.encoder.bidirectional == "first"
    assert model.attention.score.model_dump() == {"kind": "additive", "hidden_size": 1024}
    assert model.attention.wiring.model_dump()["query"] == "current"
    with torch.device("meta"):
        parts = dict(Translator(model, Vocabulary(32_000, 32_000, 2), reference_kernels()).parts())
    lstm = 4 * 1024
    # 4 gates of what is read, the state before and two biases; the second layer reads both directions of the lowest.
    assert parts["encoder"] == lstm * (2 * (2 * 1024 + 2) + (3 * 1024 + 2) + 2 * (2 * 1024 + 2))
    assert parts["source embedding"] == 32_000 * 1024
    assert "target embedding" not in parts


def test_sentences_are_as_long_as_wmt_s_and_sorted_in_windows() -> None:
    source, target = gnmt_v2.sentence_lengths(20_000, np.random.default_rng(3))
    assert len(source) == len(target) == 20_000
    assert 26.0 < source.mean() < 28.0
    assert 26.0 < target.mean() < 28.0
    assert (min(source.min(), target.min()), max(source.max(), target.max())) == (2, 50)
    batches = gnmt_v2.sentence_batches(128, 1000, 40)
    assert [len(batch.source_BS) for batch in batches] == [128] * 40
    padded = sum(batch.target_BT.numel() for batch in batches)
    assert sum(batch.target_tokens for batch in batches) > 0.95 * padded
    # Drawn from all of a window: as long on average, and no two of the same pieces.
    means = [batch.target_tokens / 128 for batch in batches]
    assert 20.0 < statistics.mean(means) < 34.0
    assert max(means) > 1.5 * min(means)
    assert not torch.equal(batches[0].source_BS[:, :2], batches[1].source_BS[:, :2])


def test_tokens_of_both_sides_are_counted_without_padding(tmp_path: Path) -> None:
    table, report = run_quickly("gnmt_v2", tmp_path, "--device", "cpu", "--precision", "fp32")
    batches = gnmt_v2.sentence_batches(4, 100, 2)
    assert report["source_tokens_per_update"] == sum(int(batch.source_lengths_B.sum()) for batch in batches) / 2
    for result in report["results"]:
        both = report["source_tokens_per_update"] + report["target_tokens_per_update"]
        expected = result["tokens_per_second"] * both / report["target_tokens_per_update"]
        assert result["source_and_target_tokens_per_second"] == pytest.approx(expected)
        assert "launching" not in result, "a CPU has no launches"
    assert "GNMT v2" in table
    assert "with source" in table


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_graph_and_compiled_code_make_the_updates_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs by their stand-in, and PyTorch's compiler up to the code that it would make."""
    recorded = RecordedGraphs()
    monkeypatch.setattr(network, "choose_kernels", lambda *_: MASKED)
    monkeypatch.setattr(network, "CudaGraphs", lambda: recorded)
    monkeypatch.setattr(network, "COMPILER", "eager")
    batch, model = even_batch(6, 5, 4, 50), comparable(quick())
    kernels: tuple[network.Kernel, ...] = ("reference", "graphed", "compiled")
    updates = {kernel: Update(model, 50, Variant("fp32", kernel), CPU) for kernel in kernels}
    expected = updates["reference"].gradients(batch)
    for kernel, update in updates.items():
        assert difference(update, expected, batch) < 1e-5
        assert kernel == "reference" or kernel_name(update.kernels, update.variant.kernel) == kernel
        for _ in range(4):
            update(batch)
    assert recorded.replays == 4 - SEEN
    weights = [[*update.translator.parameters()] for update in updates.values()]
    for one, *others in zip(*weights, strict=True):
        assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for other in others)


def test_a_run_of_updates_is_timed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """And waited for once, at its end."""
    update, batch = Update(quick(), 50, AUTO, CPU), even_batch(2, 3, 4, 50)
    clock, waits = iter([10.0, 16.0]), []
    monkeypatch.setattr(launches.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(launches, "synchronize", waits.append)
    assert update.timed(batch, batch, batch) == 2.0
    assert len(waits) == 2


def test_launches_are_counted_by_their_correlation() -> None:
    """Two kernels of one launch, as of a graph; a copy and a fill of their own; what the host does is none."""
    events = [
        {"cat": "kernel", "name": "a", "args": {"correlation": 7}},
        {"cat": "kernel", "name": "b", "args": {"correlation": 7}},
        {"cat": "gpu_memcpy", "name": "c", "args": {"correlation": 8}},
        {"cat": "gpu_memset", "name": "d", "args": {"correlation": 9}},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "args": {"correlation": 7}},
        {"cat": "cpu_op", "name": "aten::add"},
        {"ph": "M", "name": "process_name", "args": {"name": "python"}},
    ]
    assert launches.counted({"traceEvents": events}) == launches.Launches(3, 4)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_trace_of_the_profiler_is_read() -> None:
    """A CPU launches nothing."""
    assert launches.count_launches(lambda: torch.ones(3) + 1, CPU) == launches.Launches(0, 0)


def test_an_update_takes_at_least_its_products_launches_and_kernels() -> None:
    latency = launches.Latency(4.0, 1.0)
    assert launches.least_seconds(50.0, launches.Launches(3, 20), latency) == 50.0
    assert launches.least_seconds(5.0, launches.Launches(3, 20), latency) == 20.0
    assert launches.least_seconds(5.0, launches.Launches(6, 20), latency) == 24.0
    found = training.launching(48e-3, 5e-3, launches.Launches(6000, 20), launches.Latency(4e-6, 1e-6))
    assert found["share_of_allowed"] == pytest.approx(0.5)
    assert found["launches_milliseconds"] == pytest.approx(24.0)


def test_a_table_of_launches_stands_below_the_other() -> None:
    report = training.measured(quick(), [even_batch(2, 3, 4, 50)], options(rounds=1, precision=["fp32"]))
    report = {"network": "x", "vocabulary": 50, **report}
    assert len(list(training.lines(report))) == 2
    found = training.launching(48e-3, 5e-3, launches.Launches(6000, 7000), launches.Latency(4e-6, 1.5e-6))
    for result in report["results"]:
        result["launching"] = found
    *_, table = training.lines(report)
    assert "6,000 x 4.00" in table
    assert "7,000 x 1.50" in table
    report["results"][0]["launching"] = {**found, "kernels": 0}
    assert "the profiler saw no kernel: launches are not counted, and bound nothing below" in training.lines(report)


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"device": "cpu", "vocabulary": 50, **values})


@pytest.mark.parametrize(("bidirectional", "layers"), [(False, 1), (True, 2)])
def test_recurrent_layers_of_libraries_are_counted_as_those_that_are_taken_apart(
    bidirectional: bool, layers: int
) -> None:
    """In float64 an LSTM is products of every element, one after another; in float32 it is oneDNN's, or cuDNN's."""
    apart = torch.nn.LSTM(5, 8, layers, bidirectional=bidirectional).double()
    at_once = torch.nn.LSTM(5, 8, layers, bidirectional=bidirectional)
    counts = []
    for stack in (apart, at_once):
        rows = torch.randn(7, 3, 5, dtype=stack.weight_ih_l0.dtype, requires_grad=True)
        # With a gradient, so that none of the products backward is left out.
        first = [rows.new_zeros(layers * (1 + bidirectional), 3, 8, requires_grad=True) for _ in range(2)]
        with flop_counter() as forward:
            outputs, _ = stack(rows, tuple(first))
        with flop_counter() as backward:
            outputs.sum().backward()
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    shapes = [weight.shape for weights in apart.all_weights for weight in weights]
    expected = recurrent_flops(torch.Size((7, 3, 5)), shapes)
    assert expected == 2 * 21 * sum(shape.numel() for shape in shapes if len(shape) == 2)
    assert counts == [(expected, 2 * expected)] * 2
    # With the arguments that the operation is called with on a GPU.
    with flop_counter() as counter, torch.device("meta"):
        meta = [torch.empty(shape) for shape in shapes]
        state = torch.empty(layers * (1 + bidirectional), 3, 8)
        more = (False, 0.0, True, bidirectional, [], None)
        torch.ops.aten._cudnn_rnn(torch.empty(7, 3, 5), meta, 4, None, state, state, 2, 8, 0, layers, *more)
    assert counter.get_total_flops() == expected


def test_gradients_are_compared_without_dropout_which_implementations_draw_differently() -> None:
    model = comparable(quick())
    assert set(model.dropout.model_dump().values()) == {0.0}
    assert model.model_copy(update={"dropout": quick().dropout}) == quick()


def test_a_gpu_translates_in_fp32_and_bf16() -> None:
    gpu = torch.device("cuda")
    asked: tuple[Any, ...] = ("fp32", "bf16", "int8")
    assert translation.precisions(asked, CPU) == list(asked)
    assert translation.precisions(asked, gpu) == ["fp32", "bf16"]
    with pytest.raises(SystemExit, match="int8 is for a CPU"):
        translation.precisions(("int8",), gpu)


@pytest.mark.slow
def test_every_other_command_measures(tmp_path: Path) -> None:
    _, report = run_quickly("translation", tmp_path)
    assert {result["precision"] for result in report["results"]} == {"fp32", "bf16", "int8"}
    _, report = run_quickly(
        "memory", tmp_path, "--precision", "fp32", "--sentences", "32", "--length", "30", "--vocabulary", "4000"
    )
    plain, fused = (result["megabytes"] for result in report["results"])
    # 960 logits of 4,000 pieces, 15 MB: the reference has them and their gradients, the fused loss 512 at a time.
    assert plain > 30 > fused > 0
    _, report = run_quickly("startup", tmp_path)
    seconds = {name: taken[0] for name, taken in report["seconds"].items()}
    assert 0.0 < seconds["Python alone"] < seconds["import torch"]
    assert seconds["nmt-translate, one sentence"] > seconds["its first sentence"] > 0.0
    _, report = run_quickly("pipeline", tmp_path)
    assert report["target_tokens"] > 20 * report["pairs"]
    assert all(epoch["tokens"] == report["target_tokens"] for epochs in report["epochs"].values() for epoch in epochs)
