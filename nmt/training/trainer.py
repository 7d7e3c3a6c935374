"""The training loop: `fit` runs updates, `step` is one update, `forward_backward` one batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nmt.checkpoint import TRAINING_FILE, saved_tensors, with_scales
from nmt.config.schema import LearningConfig
from nmt.data.batching import AnyBatch, Position, UpdateStream
from nmt.errors import CheckpointError, TrainingError, counted
from nmt.runtime import (
    Runtime,
    all_reduce_sum,
    gather_objects,
    is_out_of_memory,
    logger,
    rng_state,
    set_rng_state,
)
from nmt.training.graphs import Graph, UpdateGraphs
from nmt.training.metrics_logger import DeferredMetrics, MetricsLogger, UpdateMetrics
from nmt.training.objectives import LossSums, Objective, loss_scales
from nmt.training.optimizers import OPTIMIZERS, MovingAverage, rate_on_device, step_where, with_own_settings
from nmt.training.progress import (
    EarlyStopping,
    Interrupts,
    OnValidation,
    Progress,
    SaveCheckpoint,
    TrainingResult,
    Validate,
    Validation,
)
from nmt.training.schedules import SCHEDULES, horizon

GRADIENT_BUCKETS = 8
MAX_BUCKET_MB = 25.0
"""PyTorch's default, from which on links are fully used."""


class Trainer:
    """Trains the network of an objective on a stream of batches.

    `state()` holds everything that changes during training: a trainer restored from it continues bit for bit.
    """

    def __init__(
        self,
        options: LearningConfig,
        runtime: Runtime,
        objective: Objective,
        stream: UpdateStream[Any],
        metrics_logger: MetricsLogger,
        validate: Validate,
        save: SaveCheckpoint,
        on_validation: OnValidation | None = None,
        new_graph: Callable[[], Graph] | None = None,
    ) -> None:
        """With `new_graph` whole updates run from graphs; `graphs.reason_without_graphs` says where they cannot."""
        self.options = options
        self.runtime = runtime
        self.objective = objective
        self.model = objective.model
        self.stream = stream
        self.metrics_logger = metrics_logger
        self.validate_model = validate
        self.save_checkpoint = save
        self.on_validation = on_validation
        self.progress = Progress()
        self.parallel: nn.Module = data_parallel(objective, runtime.device) if runtime.world > 1 else objective
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = OPTIMIZERS.build(options.optimizer, self.model)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.schedule = SCHEDULES.build(options.schedule, horizon(options, stream.updates_per_epoch(0)))
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.needs_scaler)
        self.average = MovingAverage(self.parameters, options.ema_decay) if options.ema_decay else None
        self.graphs = UpdateGraphs(self.compute_masked, runtime.device, new_graph) if new_graph else None
        self.deferred = DeferredMetrics(metrics_logger, options.non_finite_limit, runtime.device)
        self.stopping = EarlyStopping(options.early_stopping)
        self.interrupts = Interrupts()
        self.metrics: dict[str, float] = {}

    def fit(self) -> TrainingResult:
        """Trains to the configured end, or until interrupted. Every validation saves a checkpoint."""
        with self.interrupts:
            self.try_largest_batch()
            if self.progress.validation_due:
                self.validate()
            self.model.train()
            reason = self._finished()
            for update in self._updates() if not reason else ():
                interrupted = self.step(update)
                due = self._validation_due()
                if interrupted:
                    self.progress.validation_due = due
                    self.save()
                    by = self.interrupts.signal
                    reason = f"stopped by {by.name if by else 'another process'}"
                    return TrainingResult(reason, True, self.progress, self.stopping.best_step)
                if due:
                    self.validate()
                elif self.options.save_every and self.progress.step % self.options.save_every == 0:
                    self.save()
                if reason := self._finished():
                    break
            if self.progress.validated_step != self.progress.step:
                self.validate()
        if self.graphs:
            logger.info("%s", self.graphs.summary())
        return TrainingResult(reason, False, self.progress, self.stopping.best_step)

    def step(self, update: list[AnyBatch]) -> bool:
        """Runs an update: the gradients of all batches of all ranks, normalised by all that they count.

        Nothing here synchronizes with the device: it skips an update that is not finite itself, which `deferred` reads
        later. Returns whether a rank was interrupted.
        """
        progress = self.progress
        objective = self.objective
        objective.begin_update(progress.step)
        counts_by_batch = torch.tensor([(0, objective.tokens(batch), *objective.counts(batch)) for batch in update])
        numbers = counts_by_batch.sum(0)
        # All processes stop after the same update: one in which one of them was interrupted before.
        numbers[0] = self.is_interrupted
        interrupted, tokens, *counts = all_reduce_sum(numbers).tolist()
        scales = loss_scales(counts, objective.weights(progress.epoch), self.runtime.world)
        factor, rate = self.schedule.factor(progress.step + 1), 0.0
        for group in self.optimizer.param_groups:
            rate = group["lr"] = group["initial_lr"] * factor
        if self.graphs:
            batch: Any = update[0]
            results = self.graphs.run(batch, (*scales, rate))
            reported, norm, is_finite = results[:-2], results[-2], results[-1]
        else:
            reported, norm, is_finite = self.compute(update, scales)
        progress.step += 1
        progress.move(self.stream.following(progress.position))
        progress.tokens += tokens

        terms = dict(zip(objective.terms, zip(reported, counts, strict=True), strict=True))
        metrics = UpdateMetrics(progress.step, progress.epoch + 1, terms, tokens, rate, norm, is_finite, update)
        self.deferred.append(metrics, progress)
        return bool(interrupted) if self.runtime.world > 1 else self.is_interrupted

    def compute(self, update: Sequence[AnyBatch], scales: Sequence[float] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes an update on the device: returns the sums of its terms over all ranks, the norm of its gradient,
        and whether both are finite. If not, nothing changes."""
        sums = torch.zeros(len(scales), device=self.runtime.device)
        for number, batch in enumerate(update):
            sums += self.forward_backward(batch, scales, number == len(update) - 1)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm or float("inf"))
        reported = all_reduce_sum(sums)
        is_finite = torch.isfinite(norm + reported[0])
        step_where(self.optimizer, is_finite)
        if self.average:
            self.average.update(is_finite)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return reported, norm, is_finite

    def compute_masked(self, batch: AnyBatch, numbers: Tensor) -> Tensor:
        """Computes an update of one batch. All that changes between updates is on the device: the scales of the terms
        and the learning rate are `numbers`. Returns the results of `compute` as one tensor."""
        # A capture that failed may have left gradients, and that they are unscaled.
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            self.scaler._per_optimizer_states.clear()
        with rate_on_device(self.optimizer, numbers[-1]):
            reported, norm, is_finite = self.compute([batch], numbers[:-1])
        return torch.cat((reported, torch.stack((norm, is_finite.to(norm.dtype)))))

    @property
    def is_interrupted(self) -> bool:
        """Whether this process was asked to stop."""
        return self.interrupts.signal is not None

    def forward_backward(self, batch: AnyBatch, scales: Sequence[float] | Tensor, exchange: bool = True) -> Tensor:
        """Adds the gradients of a batch. Returns the sums of its terms for the logs, [terms].

        Without `exchange` the gradients stay on their rank. Raises `TrainingError` where memory runs out.
        """
        on_device = batch.to(self.runtime.device)
        local = isinstance(self.parallel, DistributedDataParallel) and not exchange
        try:
            with self.parallel.no_sync() if local else nullcontext():  # type: ignore[operator]
                with self.runtime.autocast():
                    sums: LossSums = self.parallel(on_device)
                self.scaler.scale(sums.loss(scales) * batch.weight).backward()  # type: ignore[no-untyped-call]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory on {self.runtime.device} with {batch.describe()}; set training.batch_tokens below "
                f"{self.options.batch_tokens}, and training.accumulation above {self.options.accumulation} to keep the "
                "size of an update"
            ) from error
        return sums.reported() * batch.weight

    def validate(self) -> None:
        """Validates the weights (the averaged ones, if any), and saves a checkpoint."""
        progress = self.progress
        self.deferred.flush(progress)
        progress.validation_due, progress.validated_step = False, progress.step
        with self.metrics_logger.paused(), self.averaged(), torch.no_grad():
            self.model.eval()
            result = self.validate_model(self.model)
            self.model.train()
        self.metrics = result.metrics
        is_best = self.stopping.observe(progress.step, self.metrics)
        self.schedule.observe(self.stopping.value(self.metrics))
        self.metrics_logger.log_validation(
            progress.step, progress.epoch + 1, self.metrics, result.samples, is_best=is_best
        )
        self.save(is_best)
        if self.on_validation is not None and self.runtime.is_main:
            # Whatever it draws, training goes on as without it.
            generators = rng_state()
            validation = Validation(progress.step, progress.epoch + 1, dict(self.metrics), result.samples, is_best)
            with self.metrics_logger.paused():
                self.on_validation(validation)
            set_rng_state(generators)

    def save(self, is_best: bool = False) -> None:
        """Saves a checkpoint: the weights (the averaged ones, if any) and the state to resume from."""
        self.deferred.flush(self.progress)
        with self.metrics_logger.paused():
            generators = gather_objects(rng_state())
            if not self.runtime.is_main:
                return
            state = self.state() | {"generators": generators}
            with self.averaged():
                self.save_checkpoint(self.progress, self.weights(), state, self.metrics, is_best)

    def weights(self) -> dict[str, Tensor]:
        """Returns the parameters by name, a tied one once, and the constants of the network."""
        return saved_tensors(self.model)

    def state(self) -> dict[str, Any]:
        """Returns everything that changes during training, except random generators, as plain values and tensors."""
        return {
            "weights": {name: weight.clone() for name, weight in self.weights().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state() if self.average else None,
            "stopping": self.stopping.state(),
            "progress": asdict(self.progress),
            "metrics": dict(self.metrics),
        }

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """Restores the state of the checkpoint `source`. Resuming is bit-exact with the same ranks and device.

        Raises `CheckpointError` if it is the state of another network, or of another version.
        """
        try:
            self._restore(state)
        except (LookupError, ArithmeticError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"{source / TRAINING_FILE}: does not fit this training ({type(error).__name__}: {error}); remove "
                f"{source} to continue from the checkpoint before it"
            ) from error

    def _restore(self, state: dict[str, Any]) -> None:
        own = self.weights()
        saved = with_scales(state["weights"], own)
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(saved[name])
        self.optimizer.load_state_dict(with_own_settings(state["optimizer"], self.optimizer))
        self.schedule.restore(state["schedule"])
        if state["scaler"]:  # a run that changed its precision continues with a new scale
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.restore(state["average"])
        self.stopping.restore(state["stopping"])
        self.progress = Progress(**state["progress"])
        self.metrics = dict(state["metrics"])
        generators = state["generators"]
        if len(generators) == self.runtime.world:
            set_rng_state(generators[self.runtime.rank])
        else:
            now, before = counted(self.runtime.world, "process"), counted(len(generators), "process")
            logger.warning("resumed with %s a run of %s: random choices go on with new seeds", now, before)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While entered, the network has the moving average of its weights, if there is one."""
        if self.average:
            self.average.swap()
        try:
            yield
        finally:
            if self.average:
                self.average.swap()

    def try_largest_batch(self) -> AnyBatch:
        """Runs the largest batch, so that memory runs out at the start of a training, and undoes all its effects."""
        before = rng_state()
        self.model.train()
        batch: AnyBatch = self.stream.largest_batch()
        tried: Any = batch
        if self.graphs:
            tried = self.graphs.masked(tried)
        self.forward_backward(tried, (0.0,) * len(self.objective.terms))
        self.optimizer.zero_grad(set_to_none=True)
        set_rng_state(before)
        return batch

    def _updates(self) -> Iterator[list[AnyBatch]]:
        progress = self.progress
        while True:
            yield from self.stream.updates(progress.position)
            progress.move(Position(progress.epoch + 1))

    def _validation_due(self) -> bool:
        if every := self.options.validate_every:
            return self.progress.step % every == 0
        return self.stream.ends_epoch(self.progress.position)

    def _finished(self) -> str:
        """Returns why training is over, or an empty string."""
        progress, options = self.progress, self.options
        if options.max_steps and progress.step >= options.max_steps:
            return f"{counted(options.max_steps, 'update')}, as training.max_steps asks"
        at_end = self.stream.ends_epoch(progress.position)
        if options.max_epochs and progress.epoch + at_end >= options.max_epochs:
            return f"{counted(options.max_epochs, 'epoch')}, as training.max_epochs asks"
        if self.stopping.is_over:
            metric, patience = options.early_stopping.metric, options.early_stopping.patience
            return f"{metric} has not improved for {counted(patience, 'validation')}"
        return ""


def data_parallel(objective: Objective, device: torch.device) -> DistributedDataParallel:
    """Wraps an objective so that its backward pass averages the gradients over all ranks.

    Gradients travel in buckets, each as soon as all of its own are computed. A bucket of 25 MB would hold nearly all
    gradients of a model of some million parameters, including those of the source embedding, which come last, so that
    nothing would travel before the backward pass ends. A bucket is therefore at most an eighth of the gradients.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in objective.parameters())
    # Buffers are constants, equal on all ranks. PyTorch 2.13 renames the option.
    named = inspect.signature(DistributedDataParallel).parameters
    keep_buffers: Any = {"forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers": False}
    return DistributedDataParallel(
        objective,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=objective.has_unused_parameters,
        bucket_cap_mb=min(size / 2**20 / GRADIENT_BUCKETS, MAX_BUCKET_MB),
        **keep_buffers,
    )
