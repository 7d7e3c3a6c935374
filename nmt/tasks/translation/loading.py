"""Saved models, ready to translate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from nmt.checkpoint import Metadata, find, load_model_files, read_metadata
from nmt.checkpoint.folder import CONFIG_FILE
from nmt.config import TranslationConfig
from nmt.config.schema import SearchConfig
from nmt.data.lexicon import Lexicon
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError
from nmt.model.modules import without_memory
from nmt.model.packing import pack
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import Runtime, rng_state, set_rng_state
from nmt.runtime.worker_pool import Job, JobResult, WorkerPool
from nmt.tasks.components import has_attention, parse_saved_config
from nmt.tasks.translation.lexicon import load_lexicon


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint in memory: nothing outside of its folder was read."""

    translator: Translator
    """In evaluation mode, on the device."""
    tokenizers: TokenizerPair
    config: TranslationConfig
    metadata: Metadata
    path: Path
    """The checkpoint's folder."""

    @property
    def has_attention(self) -> bool:
        """Whether there are weights to align by."""
        return has_attention(self.config.model)

    @property
    def looks_back(self) -> bool:
        """Whether it translates a sentence as one of a document."""
        return self.translator.context.lookback is not None


@dataclass(frozen=True)
class System:
    """What translates: one translator, or several that are averaged, and the tokenizers that they share."""

    translators: tuple[Translator, ...]
    """In evaluation mode, on the runtime's device."""
    tokenizers: TokenizerPair
    runtime: Runtime
    pool: WorkerPool | None = None
    """Shares batches out to worker processes; None does everything in this one."""
    lexicon: Lexicon | None = None
    """What a search with a shortlist needs."""

    def run(self, parts: Sequence[Job[JobResult]], sentences: int) -> Iterator[tuple[int, JobResult]]:
        """The number of each part, of so many sentences in all, with `part(system)`, as they are finished."""
        if self.pool is None:
            return ((number, part(self)) for number, part in enumerate(parts))
        return self.pool.run(replace(self, pool=None), parts, sentences)


def vocabulary(tokenizers: TokenizerPair) -> Vocabulary:
    """What the network has to know of the tokenizers."""
    return Vocabulary(tokenizers.source.size, tokenizers.target.size, tokenizers.target.bos)


def task_of_model(path: Path | str, which: Literal["best", "last"] | None) -> str:
    """What the model of a run or of a checkpoint folder has learned; raises `CheckpointError`."""
    return read_metadata(find(path, which)).task


def load_model(path: Path | str, which: Literal["best", "last"] | None, runtime: Runtime) -> TrainedModel:
    """The model of a run, of a checkpoint folder or of a pointer file; leaves the random generators as they are.

    `which` chooses between the checkpoints of a run; None takes the best, or the last where none is best yet.
    Raises `CheckpointError`, among others for a model that labels documents, or `ConfigError` for a config that was
    edited wrongly.
    """
    folder = find(path, which)
    loaded = load_model_files(folder)
    config = parse_saved_config(loaded.config_text, str(folder / CONFIG_FILE))
    if not isinstance(config, TranslationConfig):
        raise CheckpointError(f"{folder}: this model labels documents, it does not translate; nmt-classify uses it")
    network = partial(Translator, config.model, vocabulary(loaded.tokenizers), config.data.reverse_source)
    # Names and shapes are compared before the network takes memory: an edited config may describe a huge one.
    loaded.load_into(without_memory(network))
    before = rng_state()
    translator = network()
    set_rng_state(before)
    loaded.load_into(translator)
    translator.to(runtime.device).eval()
    if runtime.weights is not None:
        pack(translator, runtime.weights)
    return TrainedModel(translator, loaded.tokenizers, config, loaded.metadata, folder)


def load_ensemble(
    paths: Sequence[Path | str], which: Literal["best", "last"] | None, runtime: Runtime
) -> list[TrainedModel]:
    """Models that translate together. Raises `CheckpointError` where two of them have other tokenizers."""
    assert paths, "an ensemble has members"
    models = [load_model(path, which, runtime) for path in paths]
    first = models[0]
    problems = [
        f"{model.path}: has another tokenizer than {first.path}; models of an ensemble share their vocabularies"
        for model in models[1:]
        if _fingerprints(model) != _fingerprints(first)
    ]
    if problems:
        raise CheckpointError(*problems)
    return models


def join(models: Sequence[TrainedModel], runtime: Runtime, search: SearchConfig | None = None) -> System:
    """The models as one system, for such a search. Raises `NmtError` where its shortlist cannot be had."""
    pool = WorkerPool(torch.get_num_threads()) if runtime.device.type == "cpu" and runtime.world == 1 else None
    tokenizers = models[0].tokenizers
    lexicon = None
    if search is not None and search.shortlist:
        lexicon = load_lexicon([model.path for model in models], tokenizers, search.shortlist)
    return System(tuple(model.translator for model in models), tokenizers, runtime, pool, lexicon)


def _fingerprints(model: TrainedModel) -> tuple[str, str]:
    return model.tokenizers.source.fingerprint, model.tokenizers.target.fingerprint
