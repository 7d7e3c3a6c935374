"""Metrics of a training run: deferred on the device, then log lines or a progress bar, `metrics.jsonl`, TensorBoard."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from nmt.checkpoint.durable import replace_file
from nmt.data.batching import AnyBatch
from nmt.errors import TrainingError, counted
from nmt.runtime import FILE_ONLY, format_table, logger
from nmt.training.progress import Progress, Sample

Number = float | Tensor
LOSS = "loss"
"""The first term of every objective."""
GPU_FLUSH_INTERVAL = 50
"""Updates between two flushes on a GPU, each of which waits some milliseconds for the launched work."""

_REFRESH_SECONDS = 1.0
_DEFAULT_COLUMNS = 80
_PERCENT_COLUMNS = len("100% ")
_MIN_COLUMNS_FOR_BAR = 99
"""A constant, so that the bar does not come and go with the length of the numbers."""


@dataclass(frozen=True)
class UpdateMetrics:
    """Metrics of an update. Its tensors may not be computed yet."""

    step: int
    epoch: int
    """Counted from 1."""
    sums: Mapping[str, tuple[Number, int]]
    """The sum of each term over all ranks and its denominator, `loss` first."""
    tokens: int
    learning_rate: float
    gradient_norm: Number
    is_finite: Tensor
    """Whether loss and gradient are finite; where not, the update was skipped."""
    batches: Sequence[AnyBatch] = ()


class MetricsLogger(AbstractContextManager["MetricsLogger"]):
    """Logs the metrics of a run. On ranks other than 0 (`enabled=False`) all calls are accepted and nothing is written.

    On a terminal a progress line, never wider than the terminal, replaces the log lines of updates, which then go to
    the log file alone.
    """

    def __init__(
        self,
        run: Path,
        *,
        enabled: bool,
        log_every: int,
        total_steps: int | None = None,
        resumed_step: int = 0,
        unit: str = "target tokens",
        perplexity: bool = True,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the files of the run folder `run` after `resumed_step` updates. Later lines in them are dropped.

        `total_steps` is the expected end of the training, for the time left. `unit` is that of the tokens, and
        `perplexity` says whether the loss is per token. `terminal` is by default detected from standard error.
        """
        self.run = run
        self.log_every = log_every
        self.total_steps = total_steps
        self.resumed_step = resumed_step
        self.unit = unit
        self.perplexity = perplexity
        self._terminal = _has_terminal() if terminal is None else terminal
        self._clock = clock
        self._start = clock()
        self._paused_seconds = 0.0
        self._window_start = 0.0
        self._window = MetricsWindow()
        self._tokens = 0
        self._step = resumed_step
        self._bar: tqdm[Any] | None = None
        self._refreshed = -math.inf
        self._writer = MetricsWriter(run, resumed_step) if enabled else None

    def log_update(self, update: UpdateMetrics) -> None:
        """Logs an update that was not skipped.

        Tensors are read only where a line or the bar is due, because reading one waits for the GPU.
        """
        if self._writer is None:
            return
        self._step = update.step
        self._tokens += update.tokens
        self._window.add(update)
        if self._terminal:
            self._advance_bar(update.step, update.epoch)
        if update.step % self.log_every == 0:
            self._log_window(update.step, update.epoch)

    def log_validation(
        self,
        step: int,
        epoch: int,
        metrics: Mapping[str, float],
        samples: Sequence[Sample] = (),
        *,
        is_best: bool = False,
    ) -> None:
        """Logs the metrics of a validation in a line, and some samples."""
        self.log_event("validation", step, epoch, {**metrics, "best": is_best})
        if self._writer is None:
            return
        text = ", ".join(f"{name} {_format_value(value)}" for name, value in metrics.items())
        logger.info("validation at step %d, epoch %d: %s%s", step, epoch, text, " (best so far)" if is_best else "")
        for sample in samples:
            width = max(map(len, sample))
            for name, value in sample.items():
                logger.info("  %s  %s", name.ljust(width), value)
        if samples:
            self._writer.write_samples(step, samples)

    def log_event(self, kind: str, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Writes a line of `metrics.jsonl`, its numbers also to TensorBoard, and nothing to the screen."""
        if self._writer is not None:
            self._writer.write(kind, step, epoch, self.seconds, values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of validating or saving from the speed and the time left."""
        started = self._clock()
        try:
            yield
        finally:
            self._paused_seconds += self._clock() - started

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run, including that of earlier processes up to their last line."""
        return (self._writer.seconds if self._writer else 0.0) + self._clock() - self._start

    @property
    def training_seconds(self) -> float:
        """Time of this process without what was `paused`."""
        return self._clock() - self._start - self._paused_seconds

    def log_summary(
        self,
        reason: str,
        best: Path | None,
        metrics: Mapping[str, float] | None = None,
        epoch: int | None = None,
        uses: Sequence[str] = (),
    ) -> None:
        """Logs why training ended, its results, and the commands `uses`, in which MODEL stands for the run."""
        if self._writer is None:
            return
        self._close_bar()
        updates = self._step - self.resumed_step
        rows: list[tuple[str, str]] = [("training ended", reason)]
        rows.append(("updates", f"{self._step:,}" + (f" in {counted(epoch, 'epoch')}" if epoch is not None else "")))
        rows.append(("time", _format_duration(self.seconds)))
        if updates and self.training_seconds:
            rows.append(("speed", f"{self._tokens / self.training_seconds:,.0f} {self.unit}/s"))
        if best is not None:
            rows.append(("best checkpoint", str(best)))
        rows += [(f"  {name}", _format_value(value)) for name, value in (metrics or {}).items()]
        lines = format_table(rows).splitlines()
        if best is not None and uses:
            lines += ["Use it:", *(f"  {use.replace('MODEL', shlex.quote(str(self.run)))}" for use in uses)]
        for line in lines:
            logger.info("%s", line)

    def close(self) -> None:
        """Closes the files. Later calls write nothing."""
        self._close_bar()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def _log_window(self, step: int, epoch: int) -> None:
        seconds = self.training_seconds - self._window_start
        values = self._window.values(seconds, perplexity=self.perplexity)
        self._window = MetricsWindow()
        self._window_start += seconds
        self.log_event("train", step, epoch, values)
        numbers = dict(values)
        rate, norm, speed = (numbers.pop(name) for name in ("learning_rate", "gradient_norm", "tokens_per_second"))
        logger.info(
            "step %d, epoch %d: %s, learning rate %.3g, gradient norm %s, %s tokens/s%s",
            step,
            epoch,
            ", ".join(f"{name} {_format_value(value)}" for name, value in numbers.items()),
            rate,
            _format_value(norm),
            f"{speed:,.0f}",
            self._time_left(step),
            extra=FILE_ONLY if self._terminal else None,
        )

    def _time_left(self, step: int) -> str:
        done = step - self.resumed_step
        if self.total_steps is None or not done:
            return ""
        return f", {_format_duration(max(self.total_steps - step, 0) * self.training_seconds / done)} left"

    def _advance_bar(self, step: int, epoch: int) -> None:
        if self._bar is None:
            shape: Any = {"bar_format": "{desc}", "dynamic_ncols": True, "leave": False}
            self._bar = tqdm(total=self.total_steps, initial=self.resumed_step, file=sys.stderr, **shape)
        if self._clock() - self._refreshed < _REFRESH_SECONDS and step != self.total_steps:
            return
        self._refreshed = self._clock()
        values = self._window.values(self.training_seconds - self._window_start, perplexity=self.perplexity)
        total = "" if self.total_steps is None else f"/{self.total_steps:,}"
        fields = [
            f"epoch {epoch}, step {step:,}{total}",
            f", loss {_format_value(values['loss'])}",
            self._time_left(step),
            f", {values['tokens_per_second']:,.0f} tokens/s",
        ]
        percent = "" if self.total_steps is None else "{percentage:3.0f}% "
        columns = self._bar.format_dict["ncols"] or _DEFAULT_COLUMNS
        has_bar = percent and columns >= _MIN_COLUMNS_FOR_BAR
        self._bar.bar_format = percent + ("|{bar}| {desc}" if has_bar else "{desc}")
        self._bar.n = step
        self._bar.set_description_str(_join_fitting(fields, columns - _PERCENT_COLUMNS))

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class DeferredMetrics:
    """Buffers the metrics of updates, passes them to the metrics logger in order, and counts skipped updates.

    On a CPU every update is flushed at once. On a GPU a flush waits for the device, so it happens only where a log line
    is due or after `GPU_FLUSH_INTERVAL` updates.
    """

    def __init__(self, metrics_logger: MetricsLogger, limit: int, device: torch.device) -> None:
        """`limit` skipped updates in a row are an error."""
        self.flush_interval = 1 if device.type == "cpu" else GPU_FLUSH_INTERVAL
        self._metrics_logger = metrics_logger
        self._limit = limit
        self._buffer: list[UpdateMetrics] = []

    def append(self, update: UpdateMetrics, progress: Progress) -> None:
        """Buffers an update and flushes where it is time, on all ranks at the same update."""
        self._buffer.append(update)
        if len(self._buffer) >= self.flush_interval or update.step % self._metrics_logger.log_every == 0:
            self.flush(progress)

    def flush(self, progress: Progress) -> None:
        """Reads the buffered updates in one transfer, logs them, and counts skipped ones in `progress`.

        Raises `TrainingError` after too many skipped updates in a row.
        """
        if not self._buffer:
            return
        updates, self._buffer = self._buffer, []
        finite: list[bool] = torch.stack([update.is_finite for update in updates]).tolist()
        for update, is_finite in zip(updates, finite, strict=True):
            if is_finite:
                progress.skipped_in_row = 0
                self._metrics_logger.log_update(update)
            else:
                self._log_skipped(update, progress)

    def _log_skipped(self, update: UpdateMetrics, progress: Progress) -> None:
        progress.skipped += 1
        progress.skipped_in_row += 1
        sizes = "; ".join(batch.describe() for batch in update.batches)
        rows = "; ".join(batch.describe(with_rows=True) for batch in update.batches)
        logger.warning("update %d skipped: its loss or gradient is not finite (%s)", update.step, sizes)
        logger.debug("update %d had %s of the encoded text", update.step, rows)
        self._metrics_logger.log_event("skipped", update.step, update.epoch, {"batches": rows})
        if progress.skipped_in_row >= self._limit:
            raise TrainingError(
                f"{counted(progress.skipped_in_row, 'update')} in a row had a non-finite loss or gradient, the last "
                f"one with {sizes}; lower training.optimizer.learning_rate, or set runtime.precision to fp32"
            )


class MetricsWindow:
    """Sums up the updates between two log lines, on their device. Only `values` waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Number] = {LOSS: 0.0}
        self._counts: dict[str, int] = {LOSS: 0}
        self._tokens = 0
        self._gradient_norm: Number = 0.0
        self._learning_rate = 0.0
        self._updates = 0

    def add(self, update: UpdateMetrics) -> None:
        for name, (total, count) in update.sums.items():
            if count:
                # Not in place: the first tensor is the caller's. Detached: with its graph it would keep a batch alive.
                self._sums[name] = self._sums.get(name, 0.0) + _detached(total)
                self._counts[name] = self._counts.get(name, 0) + count
        self._gradient_norm = self._gradient_norm + _detached(update.gradient_norm)
        self._tokens += update.tokens
        self._learning_rate = update.learning_rate
        self._updates += 1

    def values(self, seconds: float, *, perplexity: bool) -> dict[str, float]:
        """Returns the mean of each term that occurred, the loss first and optionally its perplexity, then the learning
        rate, the mean gradient norm, and the speed over `seconds`."""
        means = {
            name: float(total) / self._counts[name] if self._counts[name] else math.nan
            for name, total in self._sums.items()
        }
        loss = means.pop(LOSS)
        perplexities = {"perplexity": math.exp(loss) if loss < 700.0 else math.inf if loss == loss else math.nan}
        return {
            LOSS: loss,
            **(perplexities if perplexity else {}),
            **means,
            "learning_rate": self._learning_rate,
            "gradient_norm": float(self._gradient_norm) / max(self._updates, 1),
            "tokens_per_second": self._tokens / seconds if seconds > 0.0 else 0.0,
        }


class MetricsWriter:
    """Writes one JSON object a line, and the numbers among its values as TensorBoard scalars `KIND/NAME`."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        """Continues after `resumed_step` updates: lines that an earlier process wrote beyond them are dropped."""
        # Imported here: it takes a second, which programs that do not train need not wait.
        from torch.utils.tensorboard import SummaryWriter

        file = run / "metrics.jsonl"
        lines = _lines_up_to(file, resumed_step) if file.exists() else []
        self.seconds = max((float(line.get("seconds") or 0.0) for line in lines), default=0.0)
        """Wall-clock time of the run up to its last line."""
        replace_file(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._file = file.open("a", encoding="utf-8")
        purge_step = resumed_step + 1 if resumed_step else None
        self._board: Any = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)

    def write(self, kind: str, step: int, epoch: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Writes a line and flushes it. An OSError names the file."""
        line = {"type": kind, "step": step, "epoch": epoch, "seconds": round(seconds, 3)}
        assert not line.keys() & values.keys(), f"{kind}: {sorted(values)} take the name of a fixed field"
        line |= {name: json_value(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error
        try:
            for name in values:
                if isinstance(line[name], (int, float)) and not isinstance(line[name], bool):
                    self._board.add_scalar(f"{kind}/{name}", line[name], step)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._board.log_dir) from error

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Writes samples to TensorBoard, as a table of text with a column for each name."""
        rows = [[value.replace("|", "\\|") for value in sample.values()] for sample in samples]
        lines = [[*samples[0]], ["---"] * len(samples[0]), *rows]
        self._board.add_text("samples", "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    def close(self) -> None:
        """Closes the files. Write errors are ignored: they have been raised before, and closing tries again."""
        for file in (self._board, self._file):
            with suppress(OSError):
                file.close()


def json_value(value: Any) -> Any:
    """Converts tensors and NumPy numbers to Python numbers, and numbers that are not finite to None."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _lines_up_to(file: Path, step: int) -> list[dict[str, Any]]:
    """Returns the lines of a file up to this update. A line that was cut off by a kill is left out."""
    kept = []
    for text in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int) and line["step"] <= step:
            kept.append(line)
    return kept


def _join_fitting(fields: Sequence[str], columns: int) -> str:
    """Joins the leading fields that fit into so many columns."""
    text = ""
    for field in fields:
        if len(text) + len(field) > columns:
            break
        text += field
    return text


def _has_terminal() -> bool:
    """Whether standard error is a terminal that reports its width: on others the bar would stay invisible."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def _detached(number: Number) -> Number:
    return number.detach() if isinstance(number, Tensor) else number


def _format_value(value: Any) -> str:
    value = json_value(value)
    return f"{value:.4g}" if isinstance(value, float) else "not finite" if value is None else str(value)


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
