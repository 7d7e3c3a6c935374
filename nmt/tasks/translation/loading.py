"""Saved translation models, alone or as an ensemble, and the lexicon of their run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from nmt.checkpoint import Metadata, Snapshot, find, read_metadata, write_checkpoint
from nmt.checkpoint.durable import replace_file
from nmt.checkpoint.folder import refuse_integers, with_integers
from nmt.config import TranslationConfig
from nmt.config.schema import SearchConfig
from nmt.data.cache import EncodedPairs, WeightedRows, lookup_pairs
from nmt.data.lexicons import LEXICON_FILE, Lexicon, estimate
from nmt.data.readers.corpora import CorpusOptions
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, ConfigError, DataError, counted, write_errors
from nmt.kernels.linear.quantization import Int8Weight, names_to_prepack
from nmt.kernels.select import reference_kernels
from nmt.model.attention.base import has_attention
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import Runtime, logger
from nmt.runtime.worker_pool import WorkerPool
from nmt.tasks.base import Which, load_checkpoint, restore_network
from nmt.tasks.components import read_saved_config
from nmt.tasks.plugins import execute_plugins, plugin_sources


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint in memory. Nothing outside of its folder was read."""

    translator: Translator
    """In evaluation mode, on the device."""
    tokenizers: TokenizerPair
    config: TranslationConfig
    metadata: Metadata
    path: Path
    """The checkpoint's folder."""

    @property
    def has_attention(self) -> bool:
        """Whether there are attention weights over source positions."""
        return has_attention(self.config.model)

    @property
    def uses_context(self) -> bool:
        """Whether the translator reads the sentences before in the document."""
        return self.translator.context.document_context is not None


@dataclass(frozen=True)
class System:
    """One translator, or an ensemble whose probabilities are averaged, with the tokenizers that they share."""

    translators: tuple[Translator, ...]
    """In evaluation mode, on the runtime's device."""
    tokenizers: TokenizerPair
    runtime: Runtime
    pool: WorkerPool | None = None
    """Shares batches out to worker processes; None computes everything in this process."""
    lexicon: Lexicon | None = None
    """For a search with a shortlist, or with `replace_unknown: lexicon`."""


def vocabulary(tokenizers: TokenizerPair) -> Vocabulary:
    """Returns the sizes and ids that the network needs from the tokenizers."""
    return Vocabulary(tokenizers.source.size, tokenizers.target.size, tokenizers.target.bos)


def load_model(path: Path | str, which: Which, runtime: Runtime) -> TrainedModel:
    """Loads the model of a run, a checkpoint folder or a pointer file; leaves the random generators unchanged.

    Raises `CheckpointError`, among others for a model that labels documents, or `ConfigError` for a config that was
    edited wrongly.
    """
    refusal = "this model labels documents, it does not translate; nmt-classify uses it"
    loaded, config = load_checkpoint(path, which, TranslationConfig, refusal)
    sizes = vocabulary(loaded.tokenizers)
    build = partial(Translator, config.model, sizes, reverse_source=config.data.reverse_source)
    translator = restore_network(build, loaded, runtime, runtime.weights)
    return TrainedModel(translator, loaded.tokenizers, config, loaded.metadata, loaded.path)


def load_ensemble(paths: Sequence[Path | str], which: Which, runtime: Runtime) -> list[TrainedModel]:
    """Loads the models of an ensemble; raises `CheckpointError` where two of them have different tokenizers."""
    assert paths, "an ensemble has members"
    models = [load_model(path, which, runtime) for path in paths]
    first = models[0]
    problems = [
        f"{model.path}: has another tokenizer than {first.path}; models of an ensemble share their vocabularies"
        for model in models[1:]
        if model.tokenizers.fingerprints != first.tokenizers.fingerprints
    ]
    if problems:
        raise CheckpointError(*problems)
    return models


def build_system(
    models: Sequence[TrainedModel], runtime: Runtime, search: SearchConfig | None = None, *, workers: bool = True
) -> System:
    """Combines models for translating, and loads the lexicon if the search needs it; raises `NmtError` without one.

    With `workers`, processes share large requests on a CPU.
    """
    workers = workers and runtime.device.type == "cpu" and runtime.world == 1
    pool = None
    if workers:
        pool = WorkerPool(torch.get_num_threads(), prepare=partial(execute_plugins, plugin_sources()))
    lexicon = None if search is None else lexicon_of(models, search)
    return System(tuple(model.translator for model in models), models[0].tokenizers, runtime, pool, lexicon)


def lexicon_of(models: Sequence[TrainedModel], search: SearchConfig) -> Lexicon | None:
    """Loads the lexicon that a search needs; None if it needs none. Raises `NmtError` as `load_lexicon`."""
    if not search.shortlist and search.replace_unknown != "lexicon":
        return None
    key = "search.shortlist" if search.shortlist else "search.replace_unknown"
    return load_lexicon([model.path for model in models], models[0].tokenizers, search.shortlist or 1, key)


def quantize_model(path: Path | str, which: Which, output: Path) -> tuple[int, int]:
    """Writes a model with its constant weights as 8-bit integers into a new folder, beside a copy of its lexicon.

    It is a checkpoint that translates as the model does with `--precision int8`. Returns the bytes of the weights
    before and after. Raises `CheckpointError`, among others for a model that labels documents or is quantized already.
    """
    refusal = "this model labels documents; int8 only translates"
    loaded, config = load_checkpoint(path, which, TranslationConfig, refusal)
    refuse_integers(loaded, "need not be made again")
    build = partial(Translator, config.model, vocabulary(loaded.tokenizers), reverse_source=config.data.reverse_source)
    outline = without_memory(lambda: build(reference_kernels()))
    loaded.load_into(outline)
    tensors = with_integers(loaded.tensors, names_to_prepack(outline, Int8Weight))
    write_checkpoint(output, Snapshot(tensors, config, loaded.tokenizers, loaded.metadata))
    copy_lexicon(loaded.path, output)
    before, after = (sum(tensor.nbytes for tensor in tensors.values()) for tensors in (loaded.tensors, tensors))
    return before, after


def copy_lexicon(folder: Path, output: Path) -> None:
    """Copies the lexicon of a checkpoint, or of its run, into another folder, where there is one."""
    file = next((path for path in _lexicon_files(folder) if path.is_file()), None)
    if file is not None:
        with write_errors(output / LEXICON_FILE):
            shutil.copyfile(file, output / LEXICON_FILE)


def load_lexicon(
    folders: Sequence[Path], tokenizers: TokenizerPair, candidates: int, key: str = "search.shortlist"
) -> Lexicon:
    """Loads the lexicon of checkpoints that translate together: that of the first one that has one.

    Raises `DataError` where it is damaged, and `ConfigError` where there is none with so many candidates; `key` is the
    one that asks for it.
    """
    file = next((path for folder in folders for path in _lexicon_files(folder) if path.is_file()), None)
    if file is None:
        raise ConfigError(
            f"{key}: {folders[0]} has no lexicon, neither there nor in its run; build it with nmt-lexicon "
            f"--model {folders[0]}"
        )
    lexicon = Lexicon.load(file, tokenizers)
    if candidates > lexicon.most:
        raise ConfigError(
            f"{key}: {file} has {lexicon.most} candidates of a piece, not {candidates}; lower it, or build "
            f"the lexicon again with nmt-lexicon --candidates {candidates}"
        )
    return lexicon


def build_lexicon(path: Path | str, which: Which, candidates: int, iterations: int, most_rows: int) -> Path:
    """Builds the lexicon of a model from its encoded training text, and writes it into its run, or its own folder.

    Args:
        candidates: most translations of each source piece.
        iterations: of expectation-maximisation.
        most_rows: pairs that are read; of a larger training text every n-th one.

    Raises `CheckpointError`, or `DataError` where the encoded training text is gone.
    """
    folder = find(path, which)
    tokenizers = TokenizerPair.load(folder)
    pairs, parts = _training_text(folder)
    sizes = tokenizers.source.size, tokenizers.target.size
    table = estimate(pairs, *sizes, iterations=iterations, parts=parts, most_rows=most_rows)
    file = _lexicon_files(folder)[-1]
    with write_errors(file):
        replace_file(file, Lexicon.of(table, candidates, tokenizers).to_bytes())
    return file


def _lexicon_files(folder: Path) -> list[Path]:
    """Where the lexicon of a checkpoint may be: beside it, or in its run, where it is written."""
    run = _run_of(folder)
    return [folder / LEXICON_FILE] + ([run / LEXICON_FILE] if run is not None else [])


def _run_of(folder: Path) -> Path | None:
    return folder.parent.parent if folder.resolve().parent.name == "checkpoints" else None


def _training_text(folder: Path) -> tuple[EncodedPairs, list[WeightedRows]]:
    """The pairs that the checkpoint was trained on, from the first cache that has them, and their parts."""
    config = read_saved_config(folder)
    if not isinstance(config, TranslationConfig):
        raise CheckpointError(f"{folder}: this model labels documents; shortlists are for translating")
    run = _run_of(folder)
    caches = [Path(config.data.cache)] if config.data.cache else []
    caches += [each / "cache" for each in (run, Path(config.run)) if each is not None]
    key = read_metadata(folder).data.get("train", "")
    for cache in dict.fromkeys(caches):
        if key and (pairs := lookup_pairs(cache, key)) is not None:
            logger.info("%s in %s", counted(len(pairs), "pair"), cache)
            weights = [corpus.weight for corpus in config.data.train if isinstance(corpus, CorpusOptions)]
            return pairs, pairs.parts_with(weights)
    raise DataError(
        f"{folder}: the encoded training text is not in {' or '.join(map(str, dict.fromkeys(caches)))}; the command "
        f"that trained the model puts it there again: nmt-train --config {(run or folder) / 'config.yaml'}"
    )
