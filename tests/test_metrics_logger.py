"""The metrics logger of a run: its numbers, its files, and the screen."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import pty
import struct
import subprocess
import sys
import termios
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nmt import runtime
from nmt.training.metrics_logger import MetricsLogger, UpdateMetrics

FINITE = torch.tensor(True)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _log(tmp_path: Path) -> Iterator[None]:
    runtime.set_up_logging(tmp_path / "train.log", is_main=True)
    yield
    for handler in list(runtime.logger.handlers):
        runtime.logger.removeHandler(handler)
        handler.close()
    runtime.logger.propagate = True


def open_logger(run: Path, clock: Clock, **changes: Any) -> MetricsLogger:
    given: dict[str, Any] = {"enabled": True, "log_every": 2, "terminal": False, "clock": clock}
    return MetricsLogger(run, **(given | changes))


def update(metrics: MetricsLogger, step: int, *, loss: float = 2.0, tokens: int = 100, epoch: int = 1) -> None:
    """An update with this loss per token."""
    metrics.log_update(
        UpdateMetrics(step, epoch, {"loss": (loss * tokens, tokens)}, tokens, 0.001, torch.tensor(0.5), FINITE)
    )


def lines(run: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]]


def scalars(run: Path, tag: str) -> dict[int, float]:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return {event.step: event.value for event in board.Scalars(tag)}


def test_a_line_is_the_mean_over_the_tokens_since_the_line_before(tmp_path: Path, clock: Clock) -> None:
    with open_logger(tmp_path, clock) as metrics:
        for step, (loss, tokens) in enumerate([(1.0, 100), (3.0, 300), (2.0, 10), (4.0, 10)], start=1):
            clock.now += 2.0
            update(metrics, step, loss=loss, tokens=tokens)
    first, second = lines(tmp_path)
    assert first == {
        "type": "train",
        "step": 2,
        "epoch": 1,
        "seconds": 4.0,
        "loss": 2.5,  # (1 * 100 + 3 * 300) / 400
        "perplexity": pytest.approx(math.exp(2.5)),
        "learning_rate": 0.001,
        "gradient_norm": 0.5,
        "tokens_per_second": 100.0,  # 400 in 4 seconds
    }
    assert (second["step"], second["loss"], second["tokens_per_second"]) == (4, 3.0, 5.0)


def test_tensors_are_added_up_without_their_graph_and_left_alone(tmp_path: Path, clock: Clock) -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    alive = weakref.ref(weight)
    loss_sum = weight * 2
    with open_logger(tmp_path, clock, log_every=3) as metrics:
        for step in (1, 2):
            metrics.log_update(UpdateMetrics(step, 1, {"loss": (loss_sum, 2)}, 2, 0.1, 1.0, FINITE))
        assert loss_sum.item() == 6.0
        del weight, loss_sum
        assert alive() is None
        metrics.log_update(UpdateMetrics(3, 1, {"loss": (0.0, 0)}, 0, 0.1, 1.0, FINITE))
    assert lines(tmp_path)[0]["loss"] == 3.0


def test_speed_leaves_out_what_is_no_training(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with open_logger(tmp_path, clock) as metrics:
        clock.now += 1.0
        update(metrics, 1)
        with metrics.paused():
            clock.now += 1000.0
        clock.now += 1.0
        update(metrics, 2)
        assert metrics.training_seconds == 2.0
        assert metrics.seconds == 1002.0
        metrics.log_summary("it was enough", None)
    assert lines(tmp_path)[0]["tokens_per_second"] == 100.0  # 200 in 2 seconds
    err = capsys.readouterr().err
    assert "100 target tokens/s" in err
    assert "0:16:42" in err


def test_what_is_not_finite_is_null(tmp_path: Path, clock: Clock) -> None:
    with open_logger(tmp_path, clock) as metrics:
        update(metrics, 1, loss=math.nan)
        update(metrics, 2)
        metrics.log_validation(2, 1, {"loss": math.inf, "bleu": 1.5})
        metrics.log_event("skipped", 2, 1, {"norm": torch.tensor(math.nan), "batch": "rows 1 to 9", "number": 3})
    train, validation, skipped = lines(tmp_path)
    assert train["loss"] is None
    assert train["perplexity"] is None
    assert validation["loss"] is None
    assert validation["bleu"] == 1.5
    assert skipped["norm"] is None
    assert (skipped["batch"], skipped["number"]) == ("rows 1 to 9", 3)


def test_every_line_is_in_the_file_at_once(tmp_path: Path, clock: Clock) -> None:
    with open_logger(tmp_path, clock) as metrics:
        metrics.log_event("note", 1, 1, {})
        assert len(lines(tmp_path)) == 1


def test_resuming_drops_what_lies_beyond_the_checkpoint(tmp_path: Path, clock: Clock) -> None:
    with open_logger(tmp_path, clock) as metrics:
        for step in range(1, 9):
            clock.now += 1.0
            update(metrics, step, loss=1.0)
            if step == 4:
                metrics.log_validation(4, 1, {"bleu": 4.0}, [{"source": "a", "reference": "b", "hypothesis": "c"}])
                metrics.log_event("note", 4, 1, {"text": "a line \u2028 separator"})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"type": "train", "step": 3, "los')
    clock.now += 5000.0
    time.sleep(1.0)  # TensorBoard reads files in the order of their names, which have the second of their making.
    with open_logger(tmp_path, clock, resumed_step=4) as metrics:
        assert [(line["type"], line["step"]) for line in lines(tmp_path)] == [
            ("train", 2),
            ("train", 4),
            ("validation", 4),
            ("note", 4),
        ]
        for step in (5, 6):
            clock.now += 1.0
            update(metrics, step, loss=9.0)
    last = lines(tmp_path)[-1]
    assert (last["step"], last["loss"]) == (6, 9.0)
    assert last["seconds"] == 6.0  # four of the first process, two of the second
    assert scalars(tmp_path, "train/loss") == {2: 1.0, 4: 1.0, 6: 9.0}
    assert scalars(tmp_path, "validation/bleu") == {4: 4.0}


def test_a_new_run_in_a_used_folder_keeps_no_line(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"type": "train", "step": 3, "seconds": 9}\n{"to')
    with open_logger(tmp_path, clock) as metrics:
        assert lines(tmp_path) == []
        assert metrics.seconds == 0.0


def test_other_ranks_write_nothing(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with open_logger(run, clock, enabled=False, terminal=True) as metrics:
        for step in (1, 2, 3):
            update(metrics, step)
        with metrics.paused():
            metrics.log_validation(2, 1, {"bleu": 1.0}, [{"source": "a", "reference": "b", "hypothesis": "c"}])
        metrics.log_event("note", 2, 1, {})
        metrics.log_summary("done", run)
    assert list(run.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_without_a_terminal_there_are_plain_lines(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_logger(tmp_path, clock, total_steps=10) as metrics:
        for step in (1, 2, 3):
            clock.now += 30.0
            update(metrics, step)
    assert capsys.readouterr().err == (
        "step 2, epoch 1: loss 2, perplexity 7.389, learning rate 0.001, gradient norm 0.5, 3 tokens/s, 0:04:00 left\n"
    )


def test_the_time_left_is_that_of_the_steps_of_this_process(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_logger(tmp_path, clock, total_steps=110, resumed_step=100) as metrics:
        clock.now += 2.0
        update(metrics, 101)
        with metrics.paused():
            clock.now += 99.0
        clock.now += 2.0
        update(metrics, 102)
    assert ", 0:00:16 left" in capsys.readouterr().err  # 8 steps of 2 seconds


def test_a_validation_is_one_line_and_its_samples(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_logger(tmp_path, clock) as metrics:
        samples = [{"source": "ein Hund", "reference": "a dog", "hypothesis": "a | cat 100%s"}]
        metrics.log_validation(40, 2, {"loss": 2.34567, "bleu": 30.512}, samples, is_best=True)
        metrics.log_validation(50, 2, {"loss": math.nan})
    assert capsys.readouterr().err.splitlines() == [
        "validation at step 40, epoch 2: loss 2.346, bleu 30.51 (best so far)",
        "  source      ein Hund",
        "  reference   a dog",
        "  hypothesis  a | cat 100%s",
        "validation at step 50, epoch 2: loss not finite",
    ]
    assert [line["best"] for line in lines(tmp_path)] == [True, False]


def test_the_summary_says_how_to_use_the_model(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    with open_logger(run, clock) as metrics:
        clock.now += 4.0
        update(metrics, 1, tokens=8000)
        best = run / "checkpoints" / "step-00000001"
        uses = ["nmt-translate --model MODEL < SOURCE > TRANSLATION"]
        metrics.log_summary("10 epochs were asked for", best, {"bleu": 38.52}, epoch=10, uses=uses)
    err = capsys.readouterr().err
    assert "training ended   10 epochs were asked for\n" in err
    assert "updates          1 in 10 epochs\n" in err
    assert "speed            2,000 target tokens/s\n" in err
    assert f"best checkpoint  {run}/checkpoints/step-00000001\n" in err
    assert "  bleu           38.52\n" in err
    assert f"  nmt-translate --model '{run}' < SOURCE > TRANSLATION\n" in err


def test_on_a_terminal_there_is_a_bar_and_the_lines_go_to_the_file(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_logger(tmp_path, clock, terminal=True, total_steps=4) as metrics:
        for step in (1, 2, 3, 4):
            clock.now += 2.0
            update(metrics, step)
            with metrics.paused():
                logging.getLogger("nmt").info("a remark")
        metrics.log_summary("done", None)
    err = capsys.readouterr().err
    assert "100% epoch 1, step 4/4, loss 2, 0:00:00 left, 50 tokens/s" in err
    assert "step 2, epoch 1: loss 2" not in err
    assert "a remark\n" in err
    assert "step 2, epoch 1: loss 2" in (tmp_path / "train.log").read_text()


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int, written: list[str]) -> Iterator[None]:
    """Makes standard error a terminal of this width; `written` holds its output after the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    with monkeypatch.context() as patch, os.fdopen(theirs, "w") as screen:
        patch.setattr(sys, "stderr", screen)
        yield
    received = b""
    # When all has been read of a terminal that nobody writes to any longer, the system reports an error.
    with suppress(OSError):
        while chunk := os.read(ours, 10_000):
            received += chunk
    os.close(ours)
    written.append(received.decode())


@pytest.mark.parametrize(("columns", "shown"), [(110, "| epoch 1, step 1/9, loss 2"), (0, "step 2, epoch 1: loss 2")])
def test_a_terminal_gets_a_bar_where_it_has_a_width(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int, shown: str
) -> None:
    written: list[str] = []
    with (
        terminal(monkeypatch, columns, written),
        open_logger(tmp_path, clock, terminal=None, total_steps=9) as metrics,
    ):
        update(metrics, 1)
        update(metrics, 2)
    assert shown in written[0]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (44, " 50% epoch 12, step 750,000/1,500,000"),
        (55, " 50% epoch 12, step 750,000/1,500,000, loss 0.5867"),
        (80, " 50% epoch 12, step 750,000/1,500,000, loss 0.5867, 104:10:00 left"),
        (86, " 50% epoch 12, step 750,000/1,500,000, loss 0.5867, 104:10:00 left, 123,456 tokens/s"),
    ],
)
def test_the_progress_line_fits_and_every_number_in_it_is_whole(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int, line: str
) -> None:
    written: list[str] = []
    steps = {"total_steps": 1_500_000, "resumed_step": 749_999}
    with (
        terminal(monkeypatch, columns, written),
        open_logger(tmp_path, clock, log_every=9, terminal=None, **steps) as metrics,
    ):
        clock.now += 0.5
        update(metrics, 750_000, loss=0.58671, tokens=61_728, epoch=12)
    lines = written[0].split("\r")
    assert line in lines
    assert max(map(len, lines)) <= columns


def test_a_wide_terminal_has_room_for_a_bar(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    with (
        terminal(monkeypatch, 100, written),
        open_logger(tmp_path, clock, log_every=9, terminal=None, total_steps=4, resumed_step=1) as metrics,
    ):
        clock.now += 2.0
        update(metrics, 2)
    text = "epoch 1, step 2/4, loss 2, 0:00:04 left, 50 tokens/s"
    bar = next(part for part in written[0].split("\r") if part.endswith(text))
    assert bar.startswith(" 50% |█")
    assert len(bar) == 99  # tqdm leaves the last column free


def test_one_epoch_is_singular(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with open_logger(tmp_path, clock) as metrics:
        update(metrics, 1)
        metrics.log_summary("done", None, epoch=1)
    assert "updates         1 in 1 epoch\n" in capsys.readouterr().err


FULL_DISK = """
import resource, sys
from pathlib import Path
from nmt.cli.common import run
from nmt.training.metrics_logger import MetricsWriter

def main():
    records = MetricsWriter(Path(sys.argv[1]), 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        for step in range(100_000):
            records.write("train", step, 0, 0.0, {f"value_{number}": 0.5 for number in range(10)})
    finally:
        records.close()

run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_one_line_for_each_writer_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), "30000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ended.returncode == 2, ended.stderr
    refusal = "File too large; raise the limit on the size of files (ulimit -f)"
    named = {f"{tmp_path / name}: {refusal}" for name in ("tensorboard", "metrics.jsonl")}
    lines = ended.stderr.splitlines()  # TensorBoard writes in a thread of its own, whose error may come first or last
    assert len(named.intersection(lines)) == 1
    assert set(lines) - named <= {f"a file cannot be written: {refusal}"}
