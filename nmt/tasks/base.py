"""What a training run is given to learn, whatever its task: text, a network, an objective, and how it is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nmt.checkpoint import read_metadata
from nmt.checkpoint.folder import Loaded
from nmt.config.schema import LearningConfig
from nmt.data.batching import UpdateStream
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError
from nmt.kernels.native.build import load
from nmt.runtime import Runtime, format_table, free_memory, in_bytes, logger
from nmt.training.objectives import Objective
from nmt.training.optimizers import OptimizerOptions
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


def log_kernel(reason: str, kernel: str, runtime: Runtime) -> None:
    """Logs the chosen implementation for debugging, and for everybody why nothing is compiled on a CPU."""
    logger.debug("%s", reason)
    if runtime.device.type == "cpu" and kernel != "reference" and (missing := load()[1]):
        logger.info("no compiled kernels, so training is slower: %s", missing)


class Network(Protocol):
    """A network that knows its parts."""

    def parts(self) -> list[tuple[str, int]]:
        """The parts and their numbers of parameters."""


def report_size(network: Network, training: LearningConfig, runtime: Runtime) -> None:
    """Log the parts of a network and the memory that training it takes, before any of it is allocated.

    Batches come on top of that. Raises `ConfigError` where the network alone does not fit into the free memory.
    """
    parts = network.parts()
    total = sum(count for _, count in parts)
    rows = [(name, f"{count:,}") for name, count in parts]
    for line in format_table([*rows, ("parameters", f"{total:,}")]).splitlines():
        logger.info("%s", line)
    # The weights, their gradients, and what the optimizer and the moving average keep of each, in float32.
    assert isinstance(training.optimizer, OptimizerOptions)
    values = 2 + training.optimizer.values_per_weight + (1 if training.ema_decay else 0)
    needed = 4 * total * values
    logger.info("memory: %s of weights; training holds %s, and the batches", in_bytes(4 * total), in_bytes(needed))
    free = free_memory(runtime.device)
    if free is not None and needed > free:
        largest, count = max(parts, key=lambda part: part[1])
        raise ConfigError(
            f"model: training this network takes {in_bytes(needed)} without the batches, and {in_bytes(free)} are free "
            f"on {runtime.device}; {count / total:.0%} of its {total:,} weights are in the {largest}; make it smaller"
        )
