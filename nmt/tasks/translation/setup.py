"""Setup of a translation training: parallel corpora, tokenizers, translator, loss and BLEU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nmt.checkpoint.folder import Loaded
from nmt.config import TranslationConfig, corpus_size
from nmt.config.schema import FiltersConfig
from nmt.data.batching import BatchStream
from nmt.data.cache import encode_corpora, hold_out_pairs, leave_out
from nmt.data.cache.pair_encoding import length_reasons
from nmt.data.cleaning import PairRules
from nmt.data.readers.base import Counts, SplitOptions
from nmt.data.readers.corpora import Corpus, JsonPairOptions, open_corpus
from nmt.data.tokenizer import Tokenizer, TokenizerPair, learn, load_or_none, require_sampling
from nmt.errors import ConfigError, try_each
from nmt.evaluation.testsets import TestSet, set_of_pairs
from nmt.kernels.select import FORCED, choose_kernels, reference_kernels
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import Runtime, logger
from nmt.tasks.base import (
    TaskSetup,
    accept_text,
    build_network,
    follow_text,
    learn_once,
    open_with_validation,
    plan_network,
)
from nmt.tasks.translation.evaluation import validator
from nmt.tasks.translation.loading import vocabulary
from nmt.training.objectives import OBJECTIVES, Objective

SHOWN_LETTERS = 20
SOURCE_TABLES = ("encoder.embedding.table.weight",)
TARGET_TABLES = ("decoder.embedding.table.weight", "projection.weight", "projection.bias")
"""Names of the weights with a row for each piece. A tied one has the first of its names."""


def open_data(config: TranslationConfig, runtime: Runtime) -> tuple[list[Corpus], Corpus | None]:
    """Opens the corpora of training and validation; the latter is None if it is split from the former.

    Raises `ConfigError` if the config forces kernels that the device does not have, and `NmtError` for the files.
    """
    if config.runtime.kernel in FORCED:
        # Checked here as well as in `plan_network`, so that a mistake shows before the text is read.
        outline = without_memory(lambda: Translator(config.model, Vocabulary(1, 1, 0), reference_kernels()))
        choose_kernels(config.runtime.kernel, runtime.device, outline.unsupported_reasons())
    _pair_rules(config).check()
    return open_with_validation(partial(open_corpus, data=config.data), config.data.train, config.data.validation)


def setup(
    config: TranslationConfig,
    runtime: Runtime,
    data: tuple[list[Corpus], Corpus | None],
    cache: Path,
    resumed: Path | None,
    initial_model: Loaded | None,
) -> TaskSetup:
    """Encodes the corpora, learns or loads the tokenizers, and builds the translator; see `nmt.tasks.base`."""
    corpora, validation = data
    cache = Path(config.data.cache or cache)
    if validation is None:
        validation = _hold_out_validation(config, corpora, cache)
    else:
        _leave_out(config, corpora, cache)
    new_tokenizer = config.training.start_tokenizer == "new"
    checkpoint = initial_model.path if initial_model and not new_tokenizer else None
    tokenizers = _tokenizers(config, runtime, corpora, resumed or checkpoint)
    if initial_model and new_tokenizer:
        initial_model = with_vocabulary(initial_model, tokenizers)
    if config.tokenizer.sampling:
        require_sampling(tokenizers)
    build = partial(Translator, config.model, vocabulary(tokenizers), reverse_source=config.data.reverse_source)
    kernels = plan_network(build, config, runtime)
    augmentation = config.data.augmentation
    if augmentation.changes_case:
        _report_unknown_capitals(tokenizers)
    keep_text = config.tokenizer.sampling > 0.0 or augmentation.is_on
    encoded = encode_corpora(corpora, tokenizers, config.data.filters, cache, config.data.workers, keep_text)
    accept_text(config.run, resumed, encoded.fingerprint, encoded.report.lines())
    pieces, batches = encoded.report.target.pieces, config.training.accumulation * runtime.world
    suitable = {
        corpus_size.VOCABULARY_SIZE: max(tokenizers.source.size, tokenizers.target.size),
        corpus_size.BATCH_TOKENS: max(corpus_size.batch_tokens(pieces) // batches, 1),
        corpus_size.MAX_EPOCHS: corpus_size.max_epochs(pieces),
    }
    config = follow_text(config, suitable)
    test_set = _validation_set(validation, tokenizers, config.data.filters)
    translator = build_network(partial(build, kernels), config, runtime, initial_model)
    training, context = config.training, translator.context.document_context
    assert training.batch_tokens is not None
    guided = training.guided_alignment.weight > 0.0
    if encoded.has_links and not guided:
        logger.info("the alignments of data.train are not used: training.guided_alignment.weight is 0")
    if encoded.document_positions is not None and context is None:
        logger.info("the documents of data.train are not used: model.context is none")
    stream = BatchStream(
        encoded,
        batch_tokens=training.batch_tokens,
        seed=config.seed,
        rank=runtime.rank,
        world=runtime.world,
        accumulation=training.accumulation,
        tokenizers=tokenizers,
        sampling=config.tokenizer.sampling,
        with_links=guided,
        context=context,
        augmentation=augmentation,
    )

    def objective(translator: Translator) -> Objective:
        return OBJECTIVES.build(training.objective, translator, training, tokenizers)

    return TaskSetup(
        config=config,
        objective=objective(translator),
        kernels=kernels,
        build=lambda kernels: objective(build(kernels).to(runtime.device)),
        stream=stream,
        validate=validator(config, runtime, tokenizers, test_set),
        tokenizers=tokenizers,
        fingerprint=encoded.fingerprint,
        sizes=tuple(part.stop - part.start for part in encoded.parts),
        commands=(
            "nmt-translate --model MODEL < SOURCE > TRANSLATION",
            "nmt-eval --model MODEL --source SOURCE --reference REFERENCE",
        ),
    )


def validation_set(config: TranslationConfig) -> TestSet:
    """Reads the validation corpus of a run; a split is drawn from the training text as it was in training.

    Raises `NmtError` where the text is gone.
    """
    cache = Path(config.data.cache or Path(config.run) / "cache")
    with tempfile.TemporaryDirectory(prefix="nmt-validation-") as scratch:
        if isinstance(config.data.validation, SplitOptions):
            corpora = [open_corpus(each, config.data) for each in config.data.train]
            corpus = _hold_out_validation(config, corpora, cache if cache.is_dir() else Path(scratch))
        else:
            corpus = open_corpus(config.data.validation, config.data)
        return set_of_pairs("validation", [list(corpus)], is_split=False)


@contextmanager
def training_text(config: TranslationConfig) -> Iterator[list[Corpus]]:
    """The corpora of a config as its training reads them: without a validation split, and without the pairs that the
    rules on text leave out.

    Raises `NmtError` where they cannot be read.
    """
    corpora = try_each(partial(open_corpus, data=config.data), config.data.train)
    cache = Path(config.data.cache or Path(config.run) / "cache")
    with tempfile.TemporaryDirectory(prefix="nmt-text-") as scratch:
        cache = cache if cache.is_dir() else Path(scratch)
        if isinstance(config.data.validation, SplitOptions):
            _hold_out_validation(config, corpora, cache)
        else:
            _leave_out(config, corpora, cache)
        yield corpora


def _hold_out_validation(config: TranslationConfig, corpora: list[Corpus], cache: Path) -> Corpus:
    """Splits the validation corpus from the training corpora, which from now on skip its pairs."""
    _leave_out(config, corpora, cache)
    data = config.data
    assert isinstance(data.validation, SplitOptions)
    path = hold_out_pairs(corpora, data.validation, data.filters.broken_utf8, cache)
    documents = "document" if any(corpus.has_documents for corpus in corpora) else None
    return open_corpus(JsonPairOptions(path=str(path), source="source", target="target", documents=documents), data)


def _pair_rules(config: TranslationConfig) -> PairRules:
    return PairRules(config.data.filters, (config.data.source_language, config.data.target_language))


def _leave_out(config: TranslationConfig, corpora: list[Corpus], cache: Path) -> None:
    """Has the corpora skip the pairs that `data.filters` leaves out by their text."""
    data = config.data
    if data.filters.text_rules:
        for line in leave_out(corpora, _pair_rules(config), cache, data.workers):
            logger.debug("%s", line)


def _tokenizers(
    config: TranslationConfig, runtime: Runtime, corpora: list[Corpus], checkpoint: Path | None
) -> TokenizerPair:
    """Loads the tokenizers from a checkpoint or the config's files, or learns them from the corpora."""
    if checkpoint:
        return TokenizerPair.load(checkpoint)
    if loaded := load_or_none(config.tokenizer):
        return loaded

    def pairs() -> Iterator[tuple[str, str]]:
        for corpus in corpora:
            yield from ((pair.source, pair.target) for pair in corpus if pair.left_out is None)

    augmentation = config.data.augmentation
    return learn_once(config.tokenizer, runtime, lambda: learn(config.tokenizer, pairs, config.seed, augmentation))


def _report_unknown_capitals(tokenizers: TokenizerPair) -> None:
    """Warns of letters that a tokenizer which was learned elsewhere does not have in upper case."""
    sides = {"": tokenizers.source} if tokenizers.shared else vars(tokenizers)
    for side, tokenizer in sides.items():
        if letters := tokenizer.unknown_capitals():
            logger.warning(
                "data.augmentation: the %stokenizer has no piece for %s, which %s unknown in the changed pairs; learn "
                "it with data.augmentation, or lower upper_case and title_case to 0",
                f"{side} " if side else "",
                " ".join(letters[:SHOWN_LETTERS]) + (" ..." if len(letters) > SHOWN_LETTERS else ""),
                "is" if len(letters) == 1 else "are",
            )


def _validation_set(validation: Corpus, tokenizers: TokenizerPair, filters: FiltersConfig) -> TestSet:
    """Returns the validation pairs that pass the length filters and logs the others.

    One sentence of thousands of pieces would cost more time and memory than the whole training. Blank sides stay.
    Raises ConfigError if no pair is left.
    """
    counts = Counts(validation.name)
    pairs = list(validation.read(counts))
    if not pairs:
        raise ConfigError(f"data.validation: {validation.name} is empty")
    source = np.asarray([len(ids) for ids in tokenizers.source.encode([pair.source for pair in pairs])])
    target = np.asarray([len(ids) for ids in tokenizers.target.encode([pair.target for pair in pairs])])
    lines = np.asarray([pair.line for pair in pairs])
    keep = np.ones(len(pairs), np.bool_)
    for reason, mask in length_reasons(source, target, filters).items():
        counts.drop(reason, lines[mask].tolist())
        keep &= ~mask
    counts.kept = int(keep.sum())
    if counts.dropped:
        logger.info("validation: %s: left out: %s", validation.name, counts.dropped_text())
    if not keep.any():
        raise ConfigError(f"data.validation: nothing is left of {len(pairs):,} pairs; see data.filters")
    return set_of_pairs("validation", [[pair for pair, kept in zip(pairs, keep, strict=True) if kept]], is_split=False)


# Fine-tuning with a tokenizer of the new text


def with_vocabulary(model: Loaded, tokenizers: TokenizerPair) -> Loaded:
    """Returns the model with rows for the pieces of these tokenizers, in place of its own.

    A piece that the model has keeps its row. Another one gets the mean of the rows of those that spell it, or the mean
    of all rows.
    """
    tensors = dict(model.tensors)
    sides = (
        ("source", SOURCE_TABLES, model.tokenizers.source, tokenizers.source),
        ("target", TARGET_TABLES, model.tokenizers.target, tokenizers.target),
    )
    for side, names, old, new in sides:
        spellings = spell(old, new)
        known = sum(len(ids) == 1 for ids in spellings)
        logger.info("%s: the model to start from knows %s of %s pieces", side, f"{known:,}", f"{new.size:,}")
        for name in names:
            if name in tensors:
                tensors[name] = _rows(tensors[name], spellings)
    return replace(model, tensors=tensors, tokenizers=tokenizers)


def spell(old: Tokenizer, new: Tokenizer) -> list[list[int]]:
    """Returns for each piece of the new tokenizer the old pieces that spell it: itself, or the longest from its left.

    A character that no old piece begins with is left out, so that a spelling may be empty.
    """
    ids = {piece: id_ for id_, piece in enumerate(old.pieces(range(old.size)))}
    special = {new.pad: old.pad, new.unk: old.unk, new.bos: old.bos, new.eos: old.eos}
    longest = max(map(len, ids))
    pieces = new.pieces(range(new.size))
    return [[special[id_]] if id_ in special else _spelling(piece, ids, longest) for id_, piece in enumerate(pieces)]


def _spelling(piece: str, ids: Mapping[str, int], longest: int) -> list[int]:
    spelling, begin = [], 0
    while begin < len(piece):
        ends = range(min(len(piece), begin + longest), begin, -1)
        end = next((end for end in ends if piece[begin:end] in ids), None)
        if end is None:
            begin += 1
        else:
            spelling.append(ids[piece[begin:end]])
            begin = end
    return spelling


def _rows(table: Tensor, spellings: Sequence[Sequence[int]]) -> Tensor:
    everything = table.mean(0)
    rows = [table[list(ids)].mean(0) if ids else everything for ids in spellings]
    return torch.stack(rows)
