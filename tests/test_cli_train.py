"""nmt-train: what it prints, how it ends, and that every mistake is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nmt.cli import train
from nmt.tasks.components import parse_saved_config
from tests.support.commands import Call
from tests.support.training_runs import CONFIG, records, write_corpus


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_corpus(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    return path


def test_the_printed_config_is_the_resolved_one_and_reads_back(call: Call, config: Path) -> None:
    ended = call(train.main, "--config", config, "--set", "model.attention=cho2014", "--print-config")
    assert ended.code == 0
    assert "# " in ended.output
    printed = parse_saved_config(ended.output, "printed")
    assert printed.model.attention.score.kind == "none"
    assert printed.training.batch_tokens == 128
    assert not (config.parent / "run").exists()


def test_it_trains_and_says_how_to_use_what_it_learned(call: Call, config: Path) -> None:
    ended = call(train.main, "--config", config, "--set", "training.max_epochs=1")
    assert ended.code == 0
    assert ended.output == ""
    lines = ended.errors.splitlines()
    run = config.parent / "run"
    assert any(line.startswith("parameters") for line in lines)
    assert any(line.startswith("validation at step 8, epoch 1: loss") for line in lines)
    assert any(line.startswith("best checkpoint") for line in lines)
    assert f"  nmt-translate --model {run} < SOURCE > TRANSLATION" in lines
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "metrics.jsonl", "train.log", "tensorboard"}


def test_the_size_of_the_network_is_told_before_it_takes_memory(call: Call, config: Path) -> None:
    """Weights, gradients, two averages of Adam and the moving average: five numbers of four bytes for each weight."""
    ended = call(train.main, "--config", config, "--check")
    lines = ended.errors.splitlines()
    parameters = int(next(line for line in lines if line.startswith("parameters")).split()[-1].replace(",", ""))
    weights, whole = parameters * 4 / 1024, parameters * 20 / 1024
    assert 10 <= weights < whole < 1024
    assert f"memory: {weights:.0f} KiB of weights; training holds {whole:.0f} KiB, and the batches" in lines


def test_a_network_larger_than_the_memory_is_refused_in_one_line(call: Call, config: Path) -> None:
    sizes = ("model.encoder.hidden_size=65536", "model.encoder.layers=100", "model.decoder.hidden_size=65536")
    started = time.process_time()
    ended = call(train.main, "--config", config, *(f"--set={size}" for size in sizes))
    assert time.process_time() - started < 20
    assert ended.code == 2
    *_, line = ended.errors.splitlines()
    assert line.startswith("model: training this network takes ")
    assert "are in the encoder; make it smaller" in line
    assert "Traceback" not in ended.errors


def test_details_of_the_implementation_are_in_the_log_file_and_printed_when_asked_for(call: Call, config: Path) -> None:
    """The log of a run has the words of its user; with --verbose it also says which kernels run."""
    kernels = "kernel auto: recurrent layers are differentiated by hand"
    quiet = call(train.main, "--config", config, "--set", "training.max_epochs=1")
    assert quiet.code == 0
    assert "kernel" not in quiet.errors
    assert "training ended   1 epoch, as training.max_epochs asks\n" in quiet.errors
    assert "in 1 epoch\n" in quiet.errors
    assert kernels in (config.parent / "run" / "train.log").read_text()
    quiet = call(train.main, "--config", config, "--check")
    assert "rows" not in quiet.errors
    assert " source and 8 target pieces\n" in quiet.errors
    verbose = call(train.main, "--config", config, "--check", "--verbose")
    assert kernels in verbose.errors
    assert " source and 8 target pieces, rows " in verbose.errors


def test_a_warm_up_longer_than_the_run_is_a_warning(call: Call, config: Path) -> None:
    warm_up = ("--check", "--set", "training.schedule.warmup_steps=25", "--set")
    for longest in ("training.max_epochs=3", "training.max_steps=24"):  # of 8 updates each
        ended = call(train.main, "--config", config, *warm_up, longest)
        assert ended.code == 0
        assert "warning: training.schedule.warmup_steps: the warm-up takes 25 updates" in ended.errors
        assert "the run only has 24 updates" in ended.errors
    assert "warning" not in call(train.main, "--config", config, *warm_up, "training.max_epochs=4").errors


def test_checking_says_that_all_is_right(call: Call, config: Path) -> None:
    ended = call(train.main, "--config", config, "--check")
    assert ended.code == 0
    assert "all right" in ended.errors
    assert not (config.parent / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "training.bach_tokens=3"), "training.bach_tokens"),
        (("--set", "data.train={source: no.xx, target: no.yy}"), "no.xx"),
        (("--set", "data.validation={source: no.xx, target: no.yy}"), "no.xx"),
        (("--set", "tokenizer.vocabulary_size=5000"), "tokenizer.vocabulary_size: 5000 is too large for this text"),
        (("--set", "tokenizer={file: no.model, shared: true}"), "no.model"),
        (("--set", "runtime.device=cuda"), "runtime.device"),
        (("--ckeck",), "did you mean --check"),
        (("--lr", "0.1"), "unknown option --lr; did you mean --set training.optimizer.learning_rate=VALUE?"),
        (("-batch_size", "64"), "unknown option -batch_size; did you mean --set training.batch_tokens=VALUE?"),
        (("--check", "--print-config"), "not allowed with"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    call: Call, config: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = call(train.main, "--config", config, *arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.errors
    said = [line for line in ended.errors.splitlines() if message in line]
    assert said
    assert ended.errors.splitlines()[-1] in said or "no.yy" in ended.errors.splitlines()[-1]


@pytest.mark.parametrize("checked", [True, False])
def test_an_epoch_without_a_pair_is_one_line(call: Call, config: Path, checked: bool) -> None:
    arguments = ("--set", "data.train.0.weight=1e-6", *(["--check"] if checked else []))
    ended = call(train.main, "--config", config, *arguments)
    assert ended.code == 2
    message = "data.train: the weights of the corpora leave nothing for the first epoch; raise `weight`"
    assert ended.errors.splitlines()[-1] == message
    assert "Traceback" not in ended.errors


def test_a_missing_config_is_one_line(call: Call, tmp_path: Path) -> None:
    ended = call(train.main, "--config", tmp_path / "no.yaml")
    assert ended.code == 2
    assert len(ended.errors.splitlines()) == 1
    assert "no.yaml" in ended.errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(config: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "nmt.cli.train", "--config", str(config), "--set", "training.max_epochs=60"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
    )
    run = config.parent / "run"
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or not records(run):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"stopped by {number.name}" in errors
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    before = records(run)[-1]["step"]
    ended = subprocess.run(
        [*command, "--set", f"training.max_steps={before + 2}"], check=True, capture_output=True, text=True
    )
    assert "going on from" in ended.stderr
    assert records(run)[-1]["step"] == before + 2
