"""A training run, from its config to its best checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt.checkpoint import Origin, RunFolder, Snapshot, load_training_state, read_metadata
from nmt.config import ExperimentConfig, corpus_size
from nmt.data.batching import BatchStream
from nmt.errors import ConfigError, counted
from nmt.evaluation.metrics import ALL_METRICS, signature
from nmt.kernels.select import refusal
from nmt.runtime import (
    Runtime,
    barrier,
    broadcast_object,
    explaining_determinism,
    logger,
    seed_everything,
    set_up,
    set_up_logging,
    tear_down,
    watching_the_others,
)
from nmt.tasks.base import TaskSetup, load_initial_model
from nmt.tasks.classification import setup as classification
from nmt.tasks.components import read_saved_config
from nmt.tasks.plugins import plugins_of, require_equal_plugins
from nmt.tasks.translation import setup as translation
from nmt.tasks.verification import verified
from nmt.training import graphs
from nmt.training.metrics_logger import MetricsLogger
from nmt.training.progress import OnValidation, Progress, TrainingResult
from nmt.training.schedules import ScheduleOptions, horizon
from nmt.training.trainer import Trainer

TASKS_BY_NAME: Mapping[str, Any] = {"translation": translation, "classification": classification}
"""By the config's key `task`, the modules with `open_data` and `setup` (see `nmt.tasks.base`)."""


def train(
    config: ExperimentConfig,
    *,
    fresh: bool = False,
    verbose: bool = False,
    quiet: bool = False,
    on_validation: OnValidation | None = None,
) -> TrainingResult:
    """Trains, or resumes, the run of a config. With `fresh` an earlier run is set aside.

    `verbose` also prints debug messages, and `quiet` nothing; the run's log file has all in any case. Raises `NmtError`
    for what the user can correct.
    """
    with ExitStack() as stack:
        runtime = set_up(config.runtime)
        stack.callback(tear_down)
        stack.enter_context(watching_the_others())
        stack.enter_context(explaining_determinism())
        folder = RunFolder(config.run)
        set_up_logging(None, runtime.is_main, verbose, quiet)
        require_equal_plugins(config)
        task = TASKS_BY_NAME[config.task]
        # Mistakes in the data and in the initial model leave no run folder behind.
        data = task.open_data(config, runtime)
        initial_model = load_initial_model(config) if fresh or folder.pointed("last") is None else None
        opened = folder.open(config, fresh=fresh, read_config=read_saved_config) if runtime.is_main else (None, {})
        stack.callback(folder.close)
        resumed, values = broadcast_object(opened)
        config = corpus_size.fill_in(config, values)
        set_up_logging(folder.log_file, runtime.is_main, verbose, quiet)
        stack.callback(set_up_logging, None, runtime.is_main, quiet=quiet)
        _log_machine(runtime)
        setup = task.setup(config, runtime, data, folder.cache, resumed, initial_model)
        del initial_model  # its weights are copied
        config = setup.config
        setup = with_graphs(setup, config, runtime)
        if needs_verification(config.runtime.kernel, runtime.device):
            setup = verified(setup, runtime)
        if runtime.is_main:
            folder.write_config(config)
        state = load_training_state(resumed) if resumed else None
        metrics_logger = stack.enter_context(
            MetricsLogger(
                folder.path,
                enabled=runtime.is_main,
                log_every=config.training.log_every,
                total_steps=_updates(config, setup, runtime),
                resumed_step=read_metadata(resumed).step if resumed else 0,
                unit=setup.objective.unit,
                perplexity=setup.objective.has_perplexity,
                terminal=False if quiet else None,
            )
        )
        trainer = _build_trainer(config, runtime, setup, metrics_logger, folder, on_validation)
        if resumed is not None and state is not None:
            trainer.restore(state, resumed)
            logger.info("going on from %s", resumed)
        result = trainer.fit()
        barrier()
        if runtime.is_main:
            _summarize(result, metrics_logger, folder, setup)
    return result


def check(config: ExperimentConfig, *, verbose: bool = False) -> None:
    """Does everything that training does before its first update, runs the largest batch, and leaves nothing behind.

    Only `data.cache`, where it is set, keeps the encoded text, so that training need not encode it again.
    """
    with ExitStack() as stack:
        runtime = set_up(config.runtime)
        stack.callback(tear_down)
        stack.enter_context(explaining_determinism())
        set_up_logging(None, runtime.is_main, verbose)
        _log_machine(runtime)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nmt-check-")))
        task = TASKS_BY_NAME[config.task]
        data = task.open_data(config, runtime)
        setup = task.setup(config, runtime, data, scratch / "cache", None, load_initial_model(config))
        config = setup.config
        setup = with_graphs(setup, config, runtime)
        if needs_verification(config.runtime.kernel, runtime.device):
            setup = verified(setup, runtime)
        updates = _updates(config, setup, runtime)
        metrics_logger = stack.enter_context(MetricsLogger(scratch, enabled=False, log_every=1))
        trainer = _build_trainer(config, runtime, setup, metrics_logger, RunFolder(scratch))
        largest = trainer.try_largest_batch()
        logger.info("largest batch: %s", largest.describe())
        logger.debug("largest batch: %s of the encoded text", largest.describe(with_rows=True))
        logger.info("all right: %s would be made", counted(updates, "update"))


def with_graphs(setup: TaskSetup, config: ExperimentConfig, runtime: Runtime) -> TaskSetup:
    """Returns the setup whose updates run from CUDA graphs, where `runtime.kernel` asks for them and they can.

    Raises `ConfigError` where `graphed` is unavailable; `auto` logs the reason.
    """
    kernel, stream = config.runtime.kernel, setup.stream
    if runtime.device.type != "cuda" or kernel not in ("auto", "graphed"):
        return setup
    reason = graphs.reason_without_graphs(config.training, runtime, setup.objective, setup.kernels)
    if reason and kernel == "graphed":
        raise ConfigError(f"runtime.kernel: {refusal(kernel, reason)}")
    if reason:
        logger.info("updates run without CUDA graphs: %s", reason)
        return setup
    assert isinstance(stream, BatchStream)
    return replace(setup, stream=replace(stream, in_few_shapes=True), runs_from_graphs=True)


def needs_verification(kernel: str, device: torch.device) -> bool:
    """Whether the kernels are compared with the reference at the start: those of a GPU that the user did not choose."""
    return kernel == "auto" and device.type == "cuda"


def _updates(config: ExperimentConfig, setup: TaskSetup, runtime: Runtime) -> int:
    """Returns the updates of the whole run; warns if the warm-up of the learning rate does not end within them.

    Raises `ConfigError` if the first epoch has none: rows of a corpus whose weight is below 1 are drawn at random.
    """
    of_epoch = setup.stream.updates_per_epoch(0)
    if not of_epoch:
        raise ConfigError("data.train: the weights of the corpora leave nothing for the first epoch; raise `weight`")
    updates = horizon(config.training, of_epoch)
    schedule = config.training.schedule
    assert isinstance(schedule, ScheduleOptions)
    if schedule.warmup(updates) > updates and runtime.is_main:
        logger.warning(
            "training.schedule.warmup_steps: the warm-up takes %s and the run only has %s, so that the learning rate "
            "never reaches training.optimizer.learning_rate; lower warmup_steps, or train longer",
            counted(schedule.warmup(updates), "update"),
            counted(updates, "update"),
        )
    return updates


def _log_machine(runtime: Runtime) -> None:
    logger.info("%s", runtime.reason)
    if runtime.world > 1:
        logger.info("%d processes train together", runtime.world)


def _build_trainer(
    config: ExperimentConfig,
    runtime: Runtime,
    setup: TaskSetup,
    metrics_logger: MetricsLogger,
    folder: RunFolder,
    on_validation: OnValidation | None = None,
) -> Trainer:
    """Returns the trainer, which saves checkpoints in the folder."""

    def save(
        progress: Progress,
        weights: Mapping[str, Tensor],
        state: dict[str, Any],
        metrics: dict[str, float],
        is_best: bool,
    ) -> None:
        origin = Origin(
            step=progress.step,
            epoch=progress.epoch,
            metrics=dict(metrics),
            signatures={name: signature(name) for name in ALL_METRICS if name in metrics},
            data={"train": setup.fingerprint},
            training_sizes=list(setup.sizes),
            labels=list(setup.labels),
            plugins=list(plugins_of(config)),
        )
        folder.save(Snapshot(weights, config, setup.tokenizers, origin, state), is_best=is_best)

    # Ranks draw different dropout. A resumed run restores the states of its generators.
    seed_everything(config.seed, runtime.rank)
    return Trainer(
        *(config.training, runtime, setup.objective, setup.stream, metrics_logger, setup.validate, save, on_validation),
        new_graph=graphs.CudaGraphs() if setup.runs_from_graphs else None,
    )


def _summarize(result: TrainingResult, metrics_logger: MetricsLogger, folder: RunFolder, setup: TaskSetup) -> None:
    if result.interrupted:
        logger.info(
            "%s after update %s; everything is saved, the same command goes on from here",
            result.reason,
            f"{result.progress.step:,}",
        )
        return
    best = folder.pointed("best")
    metrics = read_metadata(best).metrics if best else {}
    numbers = {name: value for name, value in metrics.items() if value is not None}
    if result.progress.skipped:
        skipped = counted(result.progress.skipped, "update")
        logger.info("%s skipped, because loss or gradient was not finite", skipped)
    metrics_logger.log_summary(result.reason, best, numbers, result.progress.epoch + 1, setup.commands)
