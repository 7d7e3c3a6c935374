"""The benchmark measures what it says, refuses a speed whose result is another one, and runs as one command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.config import schema
from scripts.benchmarks import __main__ as benchmark
from scripts.benchmarks import translation
from scripts.benchmarks.growth import exponent
from scripts.benchmarks.network import (
    Spread,
    Update,
    Variant,
    caption_batches,
    difference,
    even_batch,
    model_options,
    what_is_fused,
)

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
AUTO, REFERENCE = Variant("fp32", "auto"), Variant("fp32", "reference")


def quick(attention: str = "bahdanau2015", **layers: int) -> schema.Model:
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
    none for its first step."""
    batch = even_batch(6, 20, 20, 4000)
    model = model_options(attention, decoder_layers=2 if attention == "gnmt_v2" else 1)
    counted = [Update(model, 4000, Variant(precision, kernel), CPU).flops(batch) for kernel in ("reference", "auto")]
    assert counted[1] == pytest.approx(counted[0], rel=0.02)


def test_a_speed_is_refused_where_the_gradients_are_others() -> None:
    batch = even_batch(2, 3, 4, 50)
    expected = Update(quick(), 50, REFERENCE, CPU).gradients(batch)
    update = Update(quick(), 50, AUTO, CPU)
    assert difference(update, expected, batch) < 1e-5
    # One target piece is another one.
    other = replace(batch, target_BT=batch.target_BT.clone())
    other.target_BT[0, 0] = 4 + (other.target_BT[0, 0] - 3) % 46
    with pytest.raises(SystemExit, match="the gradients differ from those of the reference"):
        difference(update, expected, other)
    with pytest.raises(SystemExit, match="the gradients differ"):
        difference(update, expected * float("nan"), batch)


def test_a_recurrent_matrix_without_its_gradient_is_refused_in_bf16() -> None:
    """What rounding does to all gradients is less than what one of them makes out."""
    batch = caption_batches(128, 100)[0]
    expected = Update(quick(), 100, REFERENCE, CPU).gradients(batch)
    update = Update(quick(), 100, Variant("bf16", "auto"), CPU)
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
    assert what_is_fused(Update(quick(attention, **layers), 50, AUTO, CPU).kernels) == name
    assert what_is_fused(Update(quick(attention, **layers), 50, REFERENCE, CPU).kernels) == "reference"


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
