"""What a training run is given to learn, whatever its task: text, a network, an objective, and how it is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt.batching import UpdateStream
from nmt.checkpoint import read_metadata
from nmt.checkpoint.folder import Loaded
from nmt.errors import ConfigError
from nmt.runtime import format_table, logger
from nmt.text.tokenizer import TokenizerPair
from nmt.training.objective import Objective
from nmt.training.progress import Validate


@dataclass(frozen=True)
class Lesson:
    """All that a trainer takes, and what a checkpoint says of it."""

    tokenizers: TokenizerPair
    objective: Objective
    stream: UpdateStream[Any]
    validate: Validate
    fingerprint: str
    """Of the training text."""
    uses: tuple[str, ...]
    """Commands that use the model, with MODEL for its name."""
    labels: tuple[str, ...] = ()
    """What a classifier chooses from."""


class Preparation(ABC):
    """Brings the lesson of a config together. Making one opens the files; what is wrong with them is told at once."""

    def __init__(self, cache: str | None) -> None:
        self.cache = Path(cache) if cache else None
        """Where the config keeps the encoded text; None leaves it to the run."""

    @abstractmethod
    def lesson(self, cache: Path, resumed: Path | None, begun: Loaded | None) -> Lesson:
        """Read the text into the cache, learn or load the tokenizer, build the network.

        `resumed` is the checkpoint that training goes on from, `begun` the other model that it starts from instead.
        Raises `NmtError` for what the user can mend.
        """


def refuse_another_text(run: str, resumed: Path | None, fingerprint: str) -> None:
    """Raise a `ConfigError` where the training text is not the one that the checkpoint was trained on."""
    if resumed and (before := read_metadata(resumed).data.get("train")) != fingerprint:
        raise ConfigError(
            f"run: {run} was trained on another text ({before}, now {fingerprint}): data.train has changed; name "
            "another folder, or start again with --fresh, which keeps what is there aside"
        )


def log_parts(parts: list[tuple[str, int]]) -> None:
    """Say what a network is made of, and how large it is."""
    rows = [(name, f"{count:,}") for name, count in parts]
    rows.append(("parameters", f"{sum(count for _, count in parts):,}"))
    for line in format_table(rows).splitlines():
        logger.info("%s", line)
