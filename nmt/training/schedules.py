"""Schedules of the learning rate, as factors of its top."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import Count, LearningConfig, Positive, Probability


class ScheduleOptions(PartOptions):
    """Options of all schedules."""

    warmup_steps: Count = 0
    """Updates over which the learning rate rises linearly from 0 to its top."""

    def warmup(self, horizon: int) -> int:
        """Returns the updates of the warm-up; `horizon` is the number of all updates."""
        return self.warmup_steps


class ConstantOptions(ScheduleOptions):
    kind: Literal["constant"] = "constant"


class InverseSquareRootOptions(ScheduleOptions):
    kind: Literal["inverse_square_root"] = "inverse_square_root"
    """sqrt(warmup_steps / step) after the warm-up (Vaswani 2017, eq. 3)."""
    warmup_steps: Count = 1000


class CosineScheduleOptions(ScheduleOptions):
    kind: Literal["cosine"] = "cosine"
    """Half a cosine from the top to the floor at the last update (Loshchilov 2017, eq. 5)."""
    warmup_steps: Count | None = None  # type: ignore[assignment]
    """Updates over which the learning rate rises linearly from 0 to its top; null: a tenth of all, 400 at most."""
    floor: Probability = 0.0
    """Factor at the last update."""

    def warmup(self, horizon: int) -> int:
        return min(horizon // 10, 400) if self.warmup_steps is None else self.warmup_steps


class LinearOptions(ScheduleOptions):
    kind: Literal["linear"] = "linear"
    floor: Probability = 0.0
    """Factor at the last update."""


class PlateauOptions(ScheduleOptions):
    kind: Literal["plateau"] = "plateau"
    decrease: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Factor at each decrease."""
    patience: Positive = 1
    """Validations without improvement before a decrease."""
    floor: Probability = 0.01
    """Smallest factor."""


class Schedule:
    """Factor of the learning rate: linear warm-up, then `decay`."""

    def __init__(self, options: Any, horizon: int) -> None:
        self.options = options
        self.warmup: int = options.warmup(horizon)
        self.horizon = horizon

    def factor(self, step: int) -> float:
        """Returns the factor of update number `step`, counted from 1."""
        return step / self.warmup if step < self.warmup else self.decay(step)

    def decay(self, step: int) -> float:
        """Returns the factor after the warm-up."""
        return 1.0

    def observe(self, value: float) -> None:
        """Records the value of a validation; larger is better."""

    def state(self) -> dict[str, float]:
        return {}

    def restore(self, state: dict[str, float]) -> None:
        pass

    def _progress(self, step: int) -> float:
        """Returns the fraction of the updates after the warm-up that are done, up to 1."""
        return min((step - self.warmup) / max(self.horizon - self.warmup, 1), 1.0)


SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.register("constant", ConstantOptions)
class ConstantSchedule(Schedule):
    """The same rate throughout."""


@SCHEDULES.register("inverse_square_root", InverseSquareRootOptions)
class InverseSquareRootSchedule(Schedule):
    """sqrt(warmup / step) after the warm-up."""

    def decay(self, step: int) -> float:
        return math.sqrt(max(self.warmup, 1) / step)


@SCHEDULES.register("cosine", CosineScheduleOptions)
class CosineSchedule(Schedule):
    """Half a cosine to the floor."""

    def decay(self, step: int) -> float:
        floor: float = self.options.floor
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * self._progress(step)))


@SCHEDULES.register("linear", LinearOptions)
class LinearSchedule(Schedule):
    """A straight line to the floor."""

    def decay(self, step: int) -> float:
        floor: float = self.options.floor
        return 1.0 - (1.0 - floor) * self._progress(step)


@SCHEDULES.register("plateau", PlateauOptions)
class PlateauSchedule(Schedule):
    """Smaller whenever validation stops improving."""

    best, waited, current = -math.inf, 0, 1.0

    def decay(self, step: int) -> float:
        return self.current

    def observe(self, value: float) -> None:
        if value > self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.options.patience:
            self.current = max(self.current * self.options.decrease, self.options.floor)
            self.waited = 0

    def state(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited, "current": self.current}

    def restore(self, state: dict[str, float]) -> None:
        self.best, self.waited, self.current = state["best"], int(state["waited"]), state["current"]


def horizon(options: LearningConfig, updates_per_epoch: int) -> int:
    """Returns the updates of the whole training without early stopping; every epoch counts as the first one."""
    by_epochs = (options.max_epochs or 0) * updates_per_epoch
    return min(limit for limit in (options.max_steps, by_epochs) if limit)
