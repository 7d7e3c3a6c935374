"""The setup of a training run, whatever its task, saved models, and rows that processes share.

The module `setup` of a task has two functions, which raise `NmtError`. `open_data` opens the files of training and
validation; it reads no text and writes nothing. `setup` encodes the text, learns or loads the tokenizers, and builds
the network. It gets the config, the runtime, the result of `open_data`, the folder for encoded text (unless the config
names another), the checkpoint from which training resumes, and the model whose weights and tokenizers it starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from nmt.checkpoint import find, load_model_files, read_metadata
from nmt.checkpoint.folder import Loaded, refuse_integers
from nmt.config import ExperimentConfig, corpus_size, difference
from nmt.config.registry import PartOptions
from nmt.config.schema import LearningConfig, SentencePieceConfig
from nmt.data.batching import UpdateStream
from nmt.data.readers.base import SplitOptions
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, ConfigError, counted, try_each
from nmt.kernels.select import Kernels, WeightFormat, choose_kernels, reference_kernels
from nmt.model.modules import without_initialization, without_memory
from nmt.runtime import (
    Runtime,
    broadcast_object,
    format_table,
    free_memory,
    gather_objects,
    in_bytes,
    logger,
    rng_state,
    seed_everything,
    set_rng_state,
)
from nmt.tasks.components import read_saved_config
from nmt.training.objectives import Objective
from nmt.training.optimizers import values_per_weight
from nmt.training.progress import Validate

Which = Literal["best", "last"] | None
"""Selects the checkpoint of a run: the best by default, or the last if none is best yet."""

START_FROM = "training.start_from"
NEW_WEIGHTS = "context."
"""Prefix of the weights that a model may have and its initial model need not have."""
SAME_DATA = ("language", "source_language", "target_language", "reverse_source")
"""Keys of `data` that must be equal in the configs of a model and of its initial model."""
OWN_KEYS = ("model.dropout", "model.context", "tokenizer.sampling")
"""Keys of `model` and `tokenizer` that may differ from those of the initial model."""

ConfigT = TypeVar("ConfigT", bound=ExperimentConfig)
CorpusT = TypeVar("CorpusT")
NetworkT = TypeVar("NetworkT", bound=nn.Module)
ResultT = TypeVar("ResultT")
Learned = TypeVar("Learned")


@dataclass(frozen=True)
class TaskSetup:
    """Everything of a task that the trainer and its checkpoints need."""

    config: ExperimentConfig
    """The config with the values that follow the training text."""
    objective: Objective
    """The loss, with the network that is trained."""
    stream: UpdateStream[Any]
    validate: Validate
    tokenizers: TokenizerPair
    fingerprint: str
    """Of the training text."""
    kernels: Kernels
    """Of the objective's network."""
    build: Callable[[Kernels], Objective]
    """Builds the objective with a new network of other kernels, with weights of its own, on the device."""
    sizes: tuple[int, ...]
    """Pairs or documents of each corpus of the training text."""
    commands: tuple[str, ...]
    """Commands that use the trained model, with MODEL for its name."""
    labels: tuple[str, ...] = ()
    runs_from_graphs: bool = False
    """Whether updates run from CUDA graphs, for which the stream makes batches of few shapes."""


def open_with_validation(
    open_corpus: Callable[[Any], CorpusT], train: Sequence[PartOptions], validation: PartOptions
) -> tuple[list[CorpusT], CorpusT | None]:
    """Opens the corpora of training and validation; the latter is None if it is split from the former."""
    if isinstance(validation, SplitOptions):
        return try_each(open_corpus, train), None
    *training, opened = try_each(open_corpus, [*train, validation])
    return training, opened


def plan_network(build: Callable[[Kernels], Any], config: ExperimentConfig, runtime: Runtime) -> Kernels:
    """Reports the size of the network and chooses its kernels, before any memory is allocated.

    Both need its shapes alone, so it is built on the device meta. Raises `ConfigError` if training does not fit into
    the memory, or forced kernels do not support the network.
    """
    outline = without_memory(lambda: build(reference_kernels()))
    report_size(outline.parts(), config.training, runtime)
    kernels = choose_kernels(config.runtime.kernel, runtime.device, outline.unsupported_reasons())
    logger.debug("%s", kernels.reason)
    if kernels.warning:
        logger.info("%s", kernels.warning)
    return kernels


def build_network(
    build: Callable[[], NetworkT], config: ExperimentConfig, runtime: Runtime, initial_model: Loaded | None
) -> NetworkT:
    """Returns a new network on the device, initialized by the config's seed or with the weights of `initial_model`.

    Raises `CheckpointError` with a line for each weight that does not fit.
    """
    seed_everything(config.seed, 0)
    network = build().to(runtime.device)
    freeze(network, config.training.frozen)
    if initial_model:
        new = initial_model.load_into(network, may_lack=NEW_WEIGHTS)
        others = f"; {len(new)} weights of model.context start anew" if new else ""
        updates = counted(initial_model.metadata.step, "update")
        logger.info("starting from %s, after %s%s", initial_model.path, updates, others)
    return network


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Excludes the weights from training whose names, or parts of the network, the patterns describe.

    Raises `ConfigError` for a pattern that describes none, or if they describe all weights.
    """
    names = [name for name, _ in network.named_parameters()]
    frozen: set[str] = set()
    problems = []
    for number, pattern in enumerate(patterns):
        found = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not found:
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            problems.append(
                f"training.frozen.{number}: no weights are named {pattern!r}; the parts of the network are {parts}"
            )
        frozen.update(found)
    if len(frozen) == len(names):
        problems.append("training.frozen: leaves no weights to train; name fewer")
    if problems:
        raise ConfigError(*problems)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if frozen:
        logger.info("training.frozen: %s stay as they are", counted(len(frozen), "tensor"))


def learn_once(options: SentencePieceConfig, runtime: Runtime, learn: Callable[[], Learned]) -> Learned:
    """Learns tokenizers on the main process and sends them to the others."""
    learned = None
    if runtime.is_main:
        size = options.vocabulary_size
        logger.info("learning a %s vocabulary%s", options.kind, f" of {size:,} pieces" if size is not None else "")
        learned = learn()
    learned = broadcast_object(learned)
    assert learned is not None
    return learned


def accept_text(run: str, resumed: Path | None, fingerprint: str, report: Iterable[str]) -> None:
    """Logs the report of the training text; raises `ConfigError` if the checkpoint was trained on another one."""
    if resumed and (before := read_metadata(resumed).data.get("train")) != fingerprint:
        raise ConfigError(
            f"run: {run} was trained on another text ({before}, now {fingerprint}): data.train has changed; name "
            "another folder, or start again with --fresh, which keeps what is there aside"
        )
    for line in report:
        logger.info("%s", line)


def follow_text(config: ConfigT, suitable: Mapping[str, int]) -> ConfigT:
    """Returns the config with the values that suit the training text, by dotted path, where it leaves them open."""
    followed = corpus_size.fill_in(config, suitable)
    chosen = difference(config, followed)
    if chosen:
        values = ", ".join(f"{path} {value:,}" for path, (_, value) in chosen.items())
        logger.info("chosen for the size of the text: %s", values)
    return followed


def report_size(parts: Sequence[tuple[str, int]], training: LearningConfig, runtime: Runtime) -> None:
    """Logs the parts of a network, with their numbers of parameters, and the memory of training without the batches.

    Raises `ConfigError` if weights, gradients and optimizer do not fit into the free memory.
    """
    total = sum(count for _, count in parts)
    rows = [(name, f"{count:,}") for name, count in parts]
    for line in format_table([*rows, ("parameters", f"{total:,}")]).splitlines():
        logger.info("%s", line)
    # Weights, gradients, and the values of the optimizer and of the moving average, all in float32.
    values = 2 + values_per_weight(training.optimizer) + (1 if training.ema_decay else 0)
    needed = 4 * total * values
    logger.info("memory: %s of weights; training holds %s, and the batches", in_bytes(4 * total), in_bytes(needed))
    free = free_memory(runtime.device)
    if free is not None and needed > free:
        largest, count = max(parts, key=lambda part: part[1])
        raise ConfigError(
            f"model: training this network takes {in_bytes(needed)} without the batches, and {in_bytes(free)} are free "
            f"on {runtime.device}; {count / total:.0%} of its {total:,} weights are in the {largest}; make it smaller"
        )


def gather_rows(
    parts: Iterable[tuple[Sequence[int], Sequence[ResultT]]], advance: Callable[[int], object] | None = None
) -> dict[int, ResultT]:
    """Computes this process's parts, each rows and their results, and returns the results of all processes by row.

    `advance` is called with the number of rows of each part.
    """
    mine: dict[int, ResultT] = {}
    for rows, results in parts:
        mine.update(zip(rows, results, strict=True))
        if advance is not None:
            advance(len(rows))
    return {row: result for share in gather_objects(mine) for row, result in share.items()}


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows as a table, the first as its heading."""
    return format_table(rows[1:], header=rows[0])


def load_checkpoint(path: Path | str, which: Which, kind: type[ConfigT], refusal: str) -> tuple[Loaded, ConfigT]:
    """Loads the model of a run, a checkpoint folder or a pointer file, with its config.

    Raises `CheckpointError`, with `refusal` for a model of another task, or `ConfigError` for an edited config.
    """
    loaded = load_model_files(find(path, which))
    config = read_saved_config(loaded.path)
    if not isinstance(config, kind):
        raise CheckpointError(f"{loaded.path}: {refusal}")
    return loaded, config


def restore_network(
    build: Callable[[Kernels], NetworkT], loaded: Loaded, runtime: Runtime, weights: WeightFormat | None = None
) -> NetworkT:
    """Returns a saved network in evaluation mode, its weights prepacked; leaves the random generators unchanged.

    Weights that are 8-bit integers in the file are multiplied as integers where `weights` is fp32 or int8, and
    elsewhere as the numbers that they stand for.
    """
    if loaded.scales and weights == "fp32":
        weights = "int8"
    # Names and shapes are compared before the network takes memory: an edited config may describe a huge one.
    outline: Any = without_memory(lambda: build(reference_kernels()))
    loaded.load_into(outline)
    kernels = choose_kernels("auto", runtime.device, outline.unsupported_reasons(), weights)
    before = rng_state()
    with without_initialization():
        network = build(kernels)
    set_rng_state(before)
    loaded.load_into(network)
    network.to(runtime.device).eval()
    kernels.prepack(network, loaded.scales if weights == "int8" else None)
    return network


def load_initial_model(config: ExperimentConfig) -> Loaded | None:
    """Returns the model of `training.start_from`, or None.

    Raises `ConfigError` with a line for each key that does not fit, or `CheckpointError` if there is no such model.
    """
    if config.training.start_from is None:
        return None
    try:
        loaded = load_model_files(find(config.training.start_from))
        refuse_integers(loaded, "are too coarse to train on")
    except CheckpointError as error:
        raise ConfigError(*(f"{START_FROM}: {problem}" for problem in error.problems)) from error
    saved = read_saved_config(loaded.path)
    followed = corpus_size.fill_in(config, corpus_size.values_that_follow(saved))
    own_tokenizer = getattr(config.training, "start_tokenizer", "keep") == "new"
    sections = ("model",) if own_tokenizer else ("model", "tokenizer")
    problems = list(_differences(saved, followed, loaded.path, sections))
    if problems:
        raise ConfigError(*problems)
    return loaded


def _differences(
    saved: ExperimentConfig, config: ExperimentConfig, path: Path, sections: Sequence[str]
) -> Iterator[str]:
    if saved.task != config.task:
        yield f"task: is {config.task!r}, but {path}, from which training starts, has {saved.task!r}"
        return
    for key in SAME_DATA:
        before, now = getattr(saved.data, key, None), getattr(config.data, key, None)
        if before != now:
            yield f"data.{key}: is {now!r}, but {path}, from which training starts, has {before!r}"
    verbs = {"model": "has", "tokenizer": "has a tokenizer with"}
    for section in sections:
        verb = verbs[section]
        for key, (before, now) in difference(getattr(saved, section), getattr(config, section)).items():
            name = f"{section}.{key}"
            if not any(name == own or name.startswith(f"{own}.") for own in OWN_KEYS):
                yield f"{name}: is {now!r}, but {path}, from which training starts, {verb} {before!r}; take that"
