"""Settings that follow the size of the training text where the config leaves them null.

They are written into the run's config: a run keeps its values, whatever later versions choose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeVar

from nmt.config.registry import Section
from nmt.config.schema import ExperimentConfig

ConfigT = TypeVar("ConfigT", bound=ExperimentConfig)

VOCABULARY_SIZE, BATCH_TOKENS, MAX_EPOCHS = "tokenizer.vocabulary_size", "training.batch_tokens", "training.max_epochs"
LARGEST_VOCABULARY = 32_000


def vocabulary_size(characters: int) -> int:
    """Returns 2.6 x the root of the text's characters, all vocabularies' sides together: 500 to 32,000, in hundreds."""
    return _bounded(round(2.6 * math.sqrt(characters), -2), 500, LARGEST_VOCABULARY)


def batch_tokens(pieces: int) -> int:
    """Returns the tokens of an update, 2.9 x the root of an epoch's target pieces: 512 to 4,096.

    With `max_epochs`, corpora of 35,000 to 1,990,000 pieces get about 2,400 updates of full batches,
    and 3,000 with padding.
    """
    return _bounded(2.9 * math.sqrt(pieces), 512, 4096)


def max_epochs(pieces: int) -> int:
    """Returns 7,000 / the root of an epoch's target pieces: 5 to 80."""
    return _bounded(7000.0 / math.sqrt(max(pieces, 1)), 5, 80)


def _bounded(value: float, least: int, most: int) -> int:
    return min(max(round(value), least), most)


def values_that_follow(config: ExperimentConfig) -> dict[str, int]:
    """Returns the settings of a config that may follow the text, by dotted path; those that are null are left out."""
    values = {path: getattr(section, name) for path, section, name in _settings(config)}
    return {path: value for path, value in values.items() if value is not None}


def fill_in(config: ConfigT, values: Mapping[str, int]) -> ConfigT:
    """Returns the config with these values, by dotted path, where its own are null.

    The epochs stay open where `training.max_steps` ends the training.
    """
    changed = config
    for path, section, name in _settings(config):
        if path in values and getattr(section, name) is None:
            if path == MAX_EPOCHS and config.training.max_steps is not None:
                continue
            above = path.partition(".")[0]
            filled = getattr(changed, above).model_copy(update={name: values[path]})
            changed = changed.model_copy(update={above: filled})
    return changed


def _settings(config: ExperimentConfig) -> Iterator[tuple[str, Section, str]]:
    yield VOCABULARY_SIZE, config.tokenizer, "vocabulary_size"
    yield BATCH_TOKENS, config.training, "batch_tokens"
    yield MAX_EPOCHS, config.training, "max_epochs"
