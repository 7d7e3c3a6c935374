"""The training loop: `fit` reads as prose, `step` is one update, `forward_backward` one batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nmt.checkpoint import TRAINING_FILE, state_problems
from nmt.config.schema import LearningConfig
from nmt.data.batching import AnyBatch, Position, UpdateStream
from nmt.errors import CheckpointError, TrainingError, counted
from nmt.runtime import (
    Runtime,
    all_reduce_sum,
    gather_objects,
    is_out_of_memory,
    is_rng_state,
    logger,
    rng_state,
    set_rng_state,
)
from nmt.training.averaging import MovingAverage
from nmt.training.exchange import exchanging
from nmt.training.journal import Journal
from nmt.training.ledger import Ledger, Update
from nmt.training.objective import Objective, Scales, Sums
from nmt.training.optimizers import OPTIMIZERS, optimizer_problems, step_where, with_own_settings
from nmt.training.progress import Outcome, Progress, Save, Validate
from nmt.training.schedules import SCHEDULES, horizon
from nmt.training.stopping import EarlyStopping, Interrupts


class Trainer:
    """Trains a network for an objective on a stream of batches.

    All that changes during training is in `state()`: what is restored from it goes on as if it had never stopped.
    """

    def __init__(
        self,
        options: LearningConfig,
        runtime: Runtime,
        objective: Objective,
        stream: UpdateStream[Any],
        journal: Journal,
        validate: Validate,
        save: Save,
    ) -> None:
        self.options = options
        self.runtime = runtime
        self.objective = objective
        self.model = objective.model
        self.stream = stream
        self.journal = journal
        self.validate_model = validate
        self.save_checkpoint = save
        self.progress = Progress()
        self.parallel: nn.Module = objective
        if runtime.world > 1:
            self.parallel = exchanging(objective, runtime.device, objective.spares)
        self.parameters = list(self.model.parameters())
        self.optimizer = OPTIMIZERS.build(options.optimizer, self.model)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.schedule = SCHEDULES.build(options.schedule, horizon(options, stream.updates_per_epoch(0)))
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.needs_scaler)
        self.average = MovingAverage(self.parameters, options.ema_decay) if options.ema_decay else None
        self.ledger = Ledger(journal, objective.terms, options.non_finite_limit, runtime.device)
        self.stopping = EarlyStopping(options.early_stopping)
        self.interrupts = Interrupts()
        self.metrics: dict[str, float] = {}

    def fit(self) -> Outcome:
        """Train until it is enough, or somebody asks to stop; every validation leaves a checkpoint."""
        with self.interrupts:
            self.try_largest_batch()
            if self.progress.validation_due:
                self.validate()
            self.model.train()
            reason = self._finished()
            for update in self._updates() if not reason else ():
                stop = self.step(update)
                due = self._due(self.options.validate_every)
                if stop:
                    self.progress.validation_due = due
                    self.save()
                    by = self.interrupts.signal
                    return self._outcome(f"stopped by {by.name if by else 'another process'}", interrupted=True)
                if due:
                    self.validate()
                elif self.options.save_every and self.progress.step % self.options.save_every == 0:
                    self.save()
                if reason := self._finished():
                    break
            if self.progress.validated_step != self.progress.step:
                self.validate()
        return self._outcome(reason)

    def step(self, update: list[AnyBatch]) -> bool:
        """One update: gradients of all batches, of all ranks, over all that they count.

        Nothing here asks the device: an update that is not finite is skipped by the device itself, and the ledger
        learns of it when it looks. Returns whether some rank was asked to stop.
        """
        counted = torch.tensor([self.objective.batch_counts(batch) for batch in update])
        tokens, *counts = all_reduce_sum(counted.sum(0)).tolist()
        scales = Scales.of_update(counts, self.objective.weights(self.progress.epoch), self.runtime.world)
        sums = torch.zeros(len(counts), device=self.runtime.device)
        for number, batch in enumerate(update):
            sums += self.forward_backward(batch, scales, number == len(update) - 1)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm or float("inf"))
        reported = all_reduce_sum(sums)
        is_finite = torch.isfinite(norm) & torch.isfinite(reported[0])
        self.progress.step += 1
        self.progress.move(self.stream.following(self.progress.position))
        self.progress.tokens += tokens
        rate = self._apply(is_finite)
        self.optimizer.zero_grad(set_to_none=True)
        done = Update(self.progress.step, self.progress.epoch, update, reported, counts, tokens, rate, norm, is_finite)
        self.ledger.add(done, self.progress)
        return self._asked_to_stop()

    def forward_backward(self, batch: AnyBatch, scales: Scales, exchange: bool = True) -> Tensor:
        """Add the gradients of a batch; its sums as they are reported, [terms]."""
        on_device = batch.to(self.runtime.device)
        alone = isinstance(self.parallel, DistributedDataParallel) and not exchange
        try:
            with self.parallel.no_sync() if alone else nullcontext():  # type: ignore[operator]
                with self.runtime.autocast():
                    sums: Sums = self.parallel(on_device)
                self.scaler.scale(scales.total(sums) * batch.weight).backward()  # type: ignore[no-untyped-call]
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
        """Measure the weights that will be used, keep them if they are the best, save."""
        progress = self.progress
        self.ledger.look(progress)
        progress.validation_due, progress.validated_step = False, progress.step
        with self.journal.paused(), self.averaged(), torch.no_grad():
            self.model.eval()
            measured = self.validate_model(self.model)
            self.model.train()
        self.metrics = measured.metrics
        is_best = self.stopping.observe(progress.step, self.metrics)
        self.schedule.observe(self.stopping.value(self.metrics))
        self.journal.validation(progress.step, progress.epoch + 1, self.metrics, measured.samples, is_best=is_best)
        self.save(is_best)

    def save(self, is_best: bool = False) -> None:
        """Write a checkpoint: the weights that are used, and beside them what training needs to go on."""
        self.ledger.look(self.progress)
        with self.journal.paused():
            generators = gather_objects(rng_state())
            if not self.runtime.is_main:
                return
            state = self.state() | {"generators": generators}
            with self.averaged():
                self.save_checkpoint(self.progress, self.weights(), state, self.metrics, is_best)

    def weights(self) -> dict[str, Tensor]:
        """The parameters by name, a tied one once."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def state(self) -> dict[str, Any]:
        """Everything that changes during training but the random generators; plain values and tensors only."""
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
        """Goes on from the state of the checkpoint `source`, bit for bit if the ranks and the device are the same.

        Raises `CheckpointError` with one line for each part that is missing or does not fit, before any is used.
        """
        if problems := self._state_problems(state):
            remedy = f"remove {source} to continue from the checkpoint before it"
            raise CheckpointError(*(f"{source / TRAINING_FILE}: {problem}; {remedy}" for problem in problems))
        with torch.no_grad():
            for name, weight in self.weights().items():
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(with_own_settings(state["optimizer"], self.optimizer))
        self.schedule.restore(state["schedule"])
        if state["scaler"]:  # a run that changed its precision goes on with a new scale
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

    def _state_problems(self, saved: dict[str, Any]) -> list[str]:
        """Returns one line for each part of a saved state that is missing or does not fit this training."""
        expected = self.state() | {"generators": [rng_state()]}
        parts = expected | saved
        expected["optimizer"] = parts["optimizer"]  # has a check of its own
        if isinstance(parts["generators"], list):  # one for each process, whatever their number
            expected["generators"] *= len(parts["generators"])
        if isinstance(parts["metrics"], dict):  # any metrics
            expected["metrics"] = dict.fromkeys(parts["metrics"], 0.0)
        if isinstance(parts["scaler"], dict) and not (parts["scaler"] and expected["scaler"]):  # other precision
            expected["scaler"] = parts["scaler"]
        problems = state_problems(saved, expected)
        if not problems and not all(map(is_rng_state, saved["generators"])):
            problems.append("generators has numbers that no random generator has")
        complete = not problems and saved["progress"]["step"] > 0 and not self.objective.spares
        options = self.options.optimizer
        return problems + optimizer_problems(parts["optimizer"], options, self.optimizer, complete=complete)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While entered, the network has the moving average of its weights, where there is one."""
        if self.average:
            self.average.swap()
        try:
            yield
        finally:
            if self.average:
                self.average.swap()

    def try_largest_batch(self) -> AnyBatch:
        """What would run out of memory does so in the first second. Leaves no trace in the training."""
        before = rng_state()
        self.model.train()
        batch: AnyBatch = self.stream.largest_batch()
        self.forward_backward(batch, Scales((0.0,) * len(self.objective.terms)))
        self.optimizer.zero_grad(set_to_none=True)
        set_rng_state(before)
        return batch

    def _updates(self) -> Iterator[list[AnyBatch]]:
        progress = self.progress
        while True:
            yield from self.stream.updates(progress.position)
            progress.move(Position(progress.epoch + 1))

    def _apply(self, is_finite: Tensor) -> float:
        """Move the weights, unless the update is not finite. Returns the learning rate."""
        factor = self.schedule.factor(self.progress.step)
        rate = 0.0
        for group in self.optimizer.param_groups:
            rate = group["lr"] = group["initial_lr"] * factor
        step_where(self.optimizer, is_finite)
        if self.average:
            self.average.update(is_finite)
        self.scaler.update()
        return rate

    def _asked_to_stop(self) -> bool:
        """Whether some rank was; asked on the host, where the processes' CPUs talk to each other."""
        return any(all_reduce_sum(torch.tensor([self.interrupts.signal is not None], dtype=torch.int64)).tolist())

    def _due(self, every: int | None) -> bool:
        if every:
            return self.progress.step % every == 0
        return self.stream.ends_epoch(self.progress.position)

    def _finished(self) -> str:
        """Why training is over, or nothing."""
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

    def _outcome(self, reason: str, interrupted: bool = False) -> Outcome:
        return Outcome(reason, interrupted, self.progress, self.stopping.best_step)
