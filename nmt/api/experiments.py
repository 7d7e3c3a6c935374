"""Training and evaluation in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt.api.arguments import texts
from nmt.api.text_classifier import TextClassifier, load_classifier
from nmt.api.text_translator import TextTranslator, load
from nmt.checkpoint import RunFolder, find, read_metadata
from nmt.runtime import logging_restored
from nmt.tasks import training
from nmt.tasks.components import read_config
from nmt.training.progress import OnValidation


@dataclass(frozen=True)
class TrainingRun:
    """A training that has ended; the same call goes on with one that was interrupted."""

    run: Path
    """Folder of the run, which `nmt.load` takes."""
    reason: str
    """Why it ended."""
    interrupted: bool
    """Whether it was interrupted; everything is saved."""
    updates: int
    metrics: Mapping[str, float]
    """Of the best validation; empty before the first one."""


def train(
    config: str | Path,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    fresh: bool = False,
    on_validation: OnValidation | None = None,
    progress: bool = False,
) -> TrainingRun:
    """Trains the translator or classifier that a YAML describes, or goes on with its run, as `nmt-train` does.

    It seeds PyTorch's and Python's random generators. In the main thread an interrupt (Ctrl-C, or that of a notebook)
    ends it after the current update, with everything saved.

    Args:
        config: YAML of the experiment.
        overrides: `section.key=value` each, the value in YAML, as `--set` has them.
        plugins: files of Python with further parts (docs/plugins.md), beside those that the YAML names.
        fresh: start again; an earlier run in the folder is kept aside.
        on_validation: is called after each validation, with its `step`, `epoch`, `metrics`, `samples`, and whether it
            is the best so far. An error that it raises ends the training, with the validated weights saved.
        progress: whether to print the log, with a progress bar on a terminal. The run's folder has the log in any case.

    Raises:
        ConfigError: the YAML or an override has mistakes, a line each.
        DataError: the text cannot be read.
        TrainingError: the loss stays non-finite, or a batch does not fit into memory.
    """
    parsed = read_config(str(config), texts("overrides", overrides), [str(path) for path in plugins])
    with logging_restored():
        result = training.train(parsed, fresh=fresh, quiet=not progress, on_validation=on_validation)
    folder = RunFolder(parsed.run)
    best = folder.pointed("best")
    metrics = {name: value for name, value in read_metadata(best).metrics.items() if value is not None} if best else {}
    return TrainingRun(folder.path, result.reason, result.interrupted, result.progress.step, metrics)


def evaluate(model: str | Path | TextTranslator | TextClassifier, **arguments: Any) -> list[Any]:
    """Scores a model on test sets, as `nmt-eval` does: calls its method `evaluate` with these arguments.

    Args:
        model: what `nmt.load` or `nmt.load_classifier` returned, or the folder of a run or checkpoint.
        arguments: those of `TextTranslator.evaluate` or `TextClassifier.evaluate`.

    Returns:
        An evaluation of each test set, with `scores`, `loss`, the translations or labels as `lines`, and `as_text()`.
    """
    if isinstance(model, (str, Path)):
        model = load_classifier(model) if read_metadata(find(model)).task == "classification" else load(model)
    return model.evaluate(**arguments)
