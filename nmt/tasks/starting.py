"""Training that starts from another model: its weights and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from nmt.checkpoint import find, load_model_files
from nmt.checkpoint.folder import CONFIG_FILE, Loaded
from nmt.config import ExperimentConfig, difference
from nmt.errors import CheckpointError, ConfigError, counted
from nmt.runtime import logger
from nmt.tasks.components import parse_saved_config

KEY = "training.start_from"
OWN_WEIGHTS = "context."
"""How the names of weights begin that a model may have beyond those of the one that it starts from."""
SAME_DATA = ("language", "source_language", "target_language", "reverse_source")
"""Keys of `data` that must be as in the config of the model that training starts from."""
OWN_KEYS = ("model.dropout", "model.context", "tokenizer.sampling")
"""What may be other than in the config of the model that training starts from."""


def starting_point(config: ExperimentConfig) -> Loaded | None:
    """The model that training starts from; None where it starts anew.

    Raises `ConfigError`, a line for each key that does not fit, or `CheckpointError` where there is no such model.
    """
    if config.training.start_from is None:
        return None
    try:
        loaded = load_model_files(find(config.training.start_from))
    except CheckpointError as error:
        raise ConfigError(*(f"{KEY}: {problem}" for problem in error.problems)) from error
    saved = parse_saved_config(loaded.config_text, str(loaded.path / CONFIG_FILE))
    problems = list(_problems(saved, config, loaded.path))
    if problems:
        raise ConfigError(*problems)
    return loaded


def start(model: nn.Module, loaded: Loaded) -> None:
    """Give the network the weights of the other model; what it has beside them stays as it is.

    Raises `CheckpointError` with a line for each weight that does not fit.
    """
    new = loaded.load_into(model, may_lack=OWN_WEIGHTS)
    others = f"; {len(new)} weights of model.context start anew" if new else ""
    logger.info("starting from %s, after %s%s", loaded.path, counted(loaded.metadata.step, "update"), others)


def _problems(saved: ExperimentConfig, config: ExperimentConfig, path: Path) -> Iterator[str]:
    if saved.task != config.task:
        yield f"task: is {config.task!r}, but {path}, from which training starts, has {saved.task!r}"
        return
    for key in SAME_DATA:
        before, now = getattr(saved.data, key, None), getattr(config.data, key, None)
        if before != now:
            yield f"data.{key}: is {now!r}, but {path}, from which training starts, has {before!r}"
    for section, what in (("model", "has"), ("tokenizer", "has a tokenizer with")):
        for key, (before, now) in difference(getattr(saved, section), getattr(config, section)).items():
            name = f"{section}.{key}"
            if not any(name == own or name.startswith(f"{own}.") for own in OWN_KEYS):
                yield f"{name}: is {now!r}, but {path}, from which training starts, {what} {before!r}; take that"
