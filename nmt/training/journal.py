"""What one sees of a training run: log lines or a progress bar, `metrics.jsonl`, TensorBoard, a summary."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nmt.errors import counted
from nmt.runtime import FILE_ONLY, format_table, logger
from nmt.training.records import Records, plain
from nmt.training.stopwatch import Stopwatch
from nmt.training.window import Number, Window

_REFRESH_SECONDS = 1.0
_COLUMNS = 80
"""Of a terminal that does not tell its width."""
_PERCENT_COLUMNS = len("100% ")
_LEAST_COLUMNS_OF_BAR = 99
"""Fixed, so that the bar does not come and go with the length of the numbers."""


Sample = Mapping[str, str]
"""What is shown at a validation, such as a source, its reference and its hypothesis; all have the same names."""


class Journal:
    """Writes down the course of a run. On ranks other than 0 (`enabled=False`) it takes everything and writes nothing.

    On a terminal a progress line, never wider than the terminal, replaces the lines of updates, which then go into the
    log file alone.
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
        """Open the journal of the run folder `run` after `resumed_step` updates; later lines of before are dropped.

        `total_steps` is where training ends as far as is known, for the time left; `unit` is what tokens are, and
        `perplexity` whether the loss is that of one; `terminal` by default asks standard error.
        """
        self.run = run
        self.log_every = log_every
        self.total_steps = total_steps
        self.resumed_step = resumed_step
        self.unit = unit
        self.perplexity = perplexity
        self._terminal = _shows_a_bar() if terminal is None else terminal
        self._watch = Stopwatch(clock)
        self._window = Window()
        self._tokens = 0
        self._step = resumed_step
        self._bar: tqdm[Any] | None = None
        self._refreshed = -math.inf
        self._records = Records(run, resumed_step) if enabled else None

    def update(
        self,
        step: int,
        epoch: int,
        *,
        sums: Mapping[str, tuple[Number, int]],
        tokens: int,
        learning_rate: float,
        gradient_norm: Number,
    ) -> None:
        """Note one update: of each term its sum on all ranks and what that is divided by, `loss` first; and its tokens.

        An update that was skipped for a loss that is not finite is an `event`, not one of these.
        Tensors are read only when a line or the bar is due: reading one waits for the GPU.
        """
        if self._records is None:
            return
        self._step = step
        self._tokens += tokens
        self._window.add(sums, tokens, learning_rate, gradient_norm)
        if self._terminal:
            self._advance_bar(step, epoch)
        if step % self.log_every == 0:
            self._log_window(step, epoch)

    def validation(
        self,
        step: int,
        epoch: int,
        metrics: Mapping[str, float],
        samples: Sequence[Sample] = (),
        *,
        is_best: bool = False,
    ) -> None:
        """One line with the metrics, and some samples."""
        values = {name: plain(value) for name, value in metrics.items()}
        self.event("validation", step, epoch, {**values, "best": is_best})
        if self._records is None:
            return
        text = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        logger.info("validation at step %d, epoch %d: %s%s", step, epoch, text, " (best so far)" if is_best else "")
        for sample in samples:
            width = max(map(len, sample))
            for name, shown in sample.items():
                logger.info("  %s  %s", name.ljust(width), shown)
        if samples:
            self._records.table("samples", step, tuple(samples[0]), [tuple(sample.values()) for sample in samples])

    def event(self, kind: str, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """A line of `metrics.jsonl`, its numbers also to TensorBoard; says nothing on the screen."""
        if self._records is not None:
            self._records.write(kind, step, epoch, self.seconds, values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While validating or saving: this time counts neither for the speed nor for the time left."""
        with self._watch.stopped():
            yield

    @property
    def enabled(self) -> bool:
        return self._records is not None

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run, that of the processes before this one included (up to their last line)."""
        return (self._records.seconds if self._records else 0.0) + self._watch.elapsed

    @property
    def training_seconds(self) -> float:
        """Time of this process without what was `paused`."""
        return self._watch.running

    def summary(
        self,
        reason: str,
        best: Path | None,
        metrics: Mapping[str, float] | None = None,
        epoch: int | None = None,
        uses: Sequence[str] = (),
    ) -> None:
        """At the end: why training ended, what came out, and how to use it: commands with MODEL for the model."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        updates = self._step - self.resumed_step
        rows: list[tuple[str, str]] = [("training ended", reason)]
        rows.append(("updates", f"{self._step:,}" + (f" in {counted(epoch, 'epoch')}" if epoch is not None else "")))
        rows.append(("time", _duration(self.seconds)))
        if updates and self.training_seconds:
            rows.append(("speed", f"{self._tokens / self.training_seconds:,.0f} {self.unit}/s"))
        if best is not None:
            rows.append(("best checkpoint", str(best)))
        rows += [(f"  {name}", _short(plain(value))) for name, value in (metrics or {}).items()]
        lines = format_table(rows).splitlines()
        if best is not None and uses:
            lines += ["Use it:", *(f"  {use.replace('MODEL', shlex.quote(str(self.run)))}" for use in uses)]
        for line in lines:
            logger.info("%s", line)

    def close(self) -> None:
        """Close the files; the journal takes nothing more."""
        if self._bar is not None:
            self._bar.close()
        if self._records is not None:
            self._records.close()
            self._records = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _log_window(self, step: int, epoch: int) -> None:
        values = self._window.values(self._watch.lap(), perplexity=self.perplexity)
        self._window = Window()
        self.event("train", step, epoch, values)
        numbers = dict(values)
        rate, norm, speed = (numbers.pop(name) for name in ("learning_rate", "gradient_norm", "tokens_per_second"))
        logger.info(
            "step %d, epoch %d: %s, learning rate %.3g, gradient norm %s, %s tokens/s%s",
            step,
            epoch,
            ", ".join(f"{name} {_short(plain(value))}" for name, value in numbers.items()),
            rate,
            _short(plain(norm)),
            f"{speed:,.0f}",
            self._time_left(step),
            extra=FILE_ONLY if self._terminal else None,
        )

    def _time_left(self, step: int) -> str:
        done = step - self.resumed_step
        if self.total_steps is None or not done:
            return ""
        return f", {_duration(max(self.total_steps - step, 0) * self.training_seconds / done)} left"

    def _advance_bar(self, step: int, epoch: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=self.total_steps,
                initial=self.resumed_step,
                bar_format="{desc}",
                dynamic_ncols=True,
                file=sys.stderr,
                leave=False,
            )
        if self._watch.elapsed - self._refreshed < _REFRESH_SECONDS and step != self.total_steps:
            return
        self._refreshed = self._watch.elapsed
        values = self._window.values(self._watch.since_lap, perplexity=self.perplexity)
        total = "" if self.total_steps is None else f"/{self.total_steps:,}"
        fields = [
            f"epoch {epoch}, step {step:,}{total}",
            f", loss {_short(plain(values['loss']))}",
            self._time_left(step),
            f", {values['tokens_per_second']:,.0f} tokens/s",
        ]
        percent = "" if self.total_steps is None else "{percentage:3.0f}% "
        columns = self._bar.format_dict["ncols"] or _COLUMNS
        has_bar = percent and columns >= _LEAST_COLUMNS_OF_BAR
        self._bar.bar_format = percent + ("|{bar}| {desc}" if has_bar else "{desc}")
        self._bar.n = step
        self._bar.set_description_str(fitting(fields, columns - _PERCENT_COLUMNS))


def fitting(fields: Sequence[str], columns: int) -> str:
    """Joins the fields that fit into so many columns, each whole; a field that does not fit ends the line."""
    text = ""
    for field in fields:
        if len(text) + len(field) > columns:
            break
        text += field
    return text


def _shows_a_bar() -> bool:
    """Standard error is a terminal that says how wide it is; a bar on one that does not would stay invisible."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "not finite" if value is None else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
