"""Courses of the learning rate, as factors of its top."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import Count, LearningConfig, Positive, Probability


class ScheduleOptions(PartOptions):
    """What every schedule has."""

    warmup_steps: Count = 0
    """Updates over which the learning rate rises linearly from 0 to its top."""


class Schedule:
    """Course of the learning rate, as a factor of its top. The base is constant after the warm-up."""

    def __init__(self, options: ScheduleOptions, horizon: int) -> None:
        self.warmup = options.warmup_steps
        self.horizon = horizon

    def factor(self, step: int) -> float:
        """Factor of update number `step`, counted from 1."""
        if step < self.warmup:
            return step / self.warmup
        return self.decay(step)

    def decay(self, step: int) -> float:
        """Factor after the warm-up."""
        return 1.0

    def observe(self, value: float) -> None:
        """Take note of a validation; `value` is better when it is larger."""

    def state(self) -> dict[str, float]:
        """What must be saved to go on."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""

    def _progress(self, step: int) -> float:
        """Share of the updates after the warm-up that are done, up to 1."""
        return min((step - self.warmup) / max(self.horizon - self.warmup, 1), 1.0)


SCHEDULES: Registry[Schedule] = Registry("schedule")


class ConstantOptions(ScheduleOptions):
    """The same rate throughout."""

    kind: Literal["constant"] = "constant"
    """The same rate throughout."""


class InverseSquareRootOptions(ScheduleOptions):
    """sqrt(warmup / step)."""

    kind: Literal["inverse_square_root"] = "inverse_square_root"
    """sqrt(warmup_steps / step) after the warm-up (Vaswani 2017, eq. 3)."""
    warmup_steps: Count = 1000
    """Updates over which the learning rate rises linearly from 0 to its top."""


class FloorOptions(ScheduleOptions):
    """A course that ends above zero."""

    floor: Probability = 0.0
    """Factor at the last update."""


class CosineOptions(FloorOptions):
    """Half a cosine to the floor."""

    kind: Literal["cosine"] = "cosine"
    """Half a cosine from the top to the floor at the last update (Loshchilov 2017, eq. 5)."""


class LinearOptions(FloorOptions):
    """A straight line to the floor."""

    kind: Literal["linear"] = "linear"
    """A straight line from the top to the floor at the last update."""


class PlateauOptions(ScheduleOptions):
    """Smaller whenever validation stops improving."""

    kind: Literal["plateau"] = "plateau"
    """Smaller whenever the metric of `early_stopping` stops improving."""
    decrease: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Factor at each decrease."""
    patience: Positive = 1
    """Validations without improvement before a decrease."""
    floor: Probability = 0.01
    """Smallest factor."""


@SCHEDULES.register("constant", ConstantOptions)
class ConstantSchedule(Schedule):
    """The same rate throughout."""


@SCHEDULES.register("inverse_square_root", InverseSquareRootOptions)
class InverseSquareRootSchedule(Schedule):
    """sqrt(warmup / step) after the warm-up."""

    def decay(self, step: int) -> float:
        return math.sqrt(max(self.warmup, 1) / step)


@SCHEDULES.register("cosine", CosineOptions)
class CosineSchedule(Schedule):
    """Half a cosine to the floor."""

    def __init__(self, options: CosineOptions, horizon: int) -> None:
        super().__init__(options, horizon)
        self.floor = options.floor

    def decay(self, step: int) -> float:
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * self._progress(step)))


@SCHEDULES.register("linear", LinearOptions)
class LinearSchedule(Schedule):
    """A straight line to the floor."""

    def __init__(self, options: LinearOptions, horizon: int) -> None:
        super().__init__(options, horizon)
        self.floor = options.floor

    def decay(self, step: int) -> float:
        return 1.0 - (1.0 - self.floor) * self._progress(step)


@SCHEDULES.register("plateau", PlateauOptions)
class PlateauSchedule(Schedule):
    """Smaller whenever validation stops improving."""

    def __init__(self, options: PlateauOptions, horizon: int) -> None:
        super().__init__(options, horizon)
        self.options = options
        self.best = -math.inf
        self.waited = 0
        self.current = 1.0

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
    """Updates of the whole training, unless it stops early; epochs count as the first one does."""
    by_epochs = (options.max_epochs or 0) * updates_per_epoch
    return min(limit for limit in (options.max_steps, by_epochs) if limit)
