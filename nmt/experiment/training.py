"""Train: the config's corpora, tokenizer, model and trainer brought together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nmt.batching import BatchStream, Lookback
from nmt.checkpoint import RunFolder, Snapshot, load_training_state, read_metadata
from nmt.checkpoint.folder import Loaded
from nmt.config import Config
from nmt.errors import ConfigError
from nmt.experiment.evaluation import validator
from nmt.experiment.families import parse_saved_config
from nmt.experiment.loading import vocabulary
from nmt.experiment.starting import start, starting_point
from nmt.kernels.choice import Kernels, choose_kernels
from nmt.model.translator import Translator
from nmt.runtime import (
    Runtime,
    barrier,
    broadcast_object,
    format_table,
    logger,
    seed_everything,
    set_up,
    set_up_logging,
    tear_down,
)
from nmt.text.corpus import Corpus, open_corpora
from nmt.text.encoded import EncodedCorpus, encode_corpora
from nmt.text.tokenizer import TokenizerPair, learn, load_or_none
from nmt.training.journal import Journal
from nmt.training.progress import Outcome, Progress
from nmt.training.schedules import horizon
from nmt.training.trainer import Trainer


@dataclass(frozen=True)
class Text:
    """The training text as ids, and the validation text as it stands."""

    tokenizers: TokenizerPair
    encoded: EncodedCorpus
    sources: list[str]
    references: list[str]
    documents: list[int] | None
    """Of the validation text, the number of each sentence's."""


def train(config: Config, *, fresh: bool = False) -> Outcome:
    """Train, or go on with, the run that the config describes; with `fresh` an earlier one is put aside.

    Raises `NmtError` for what the user can mend.
    """
    with ExitStack() as stack:
        runtime = set_up(config.runtime)
        stack.callback(tear_down)
        folder = RunFolder(config.run)
        set_up_logging(None, runtime.is_main)
        corpora = _open(config)
        resumed = folder.open(config, fresh=fresh, read_config=parse_saved_config) if runtime.is_main else None
        stack.callback(folder.close)
        resumed = broadcast_object(resumed)
        set_up_logging(folder.log_file, runtime.is_main)
        stack.callback(set_up_logging, None, runtime.is_main)
        _log_machine(config, runtime)
        begun = None if resumed else starting_point(config)
        known = _known_tokenizers(resumed, begun)
        text = _read(config, runtime, corpora, Path(config.data.cache or folder.cache), resumed, known)
        translator = _build(config, runtime, text.tokenizers, begun)
        kernels = _kernels(config, runtime, translator)
        stream = _stream(config, runtime, text, translator.context.lookback)
        state = load_training_state(resumed) if resumed else None
        journal = stack.enter_context(
            Journal(
                folder.path,
                enabled=runtime.is_main,
                log_every=config.training.log_every,
                total_steps=horizon(config.training, stream.updates_per_epoch(0)),
                resumed_step=state["progress"]["step"] if state else 0,
            )
        )
        trainer = _trainer(config, runtime, kernels, translator, text, stream, journal, folder)
        if state:
            trainer.restore(state)
            logger.info("going on from %s", resumed)
        outcome = trainer.fit()
        barrier()
        if runtime.is_main:
            _summarize(outcome, journal, folder)
    return outcome


def check(config: Config) -> None:
    """Everything that training does before its first update, the largest batch included, and leave nothing behind.

    Only `data.cache`, where it is set, keeps the encoded corpora, so that training need not encode them again.
    """
    with ExitStack() as stack:
        runtime = set_up(config.runtime)
        stack.callback(tear_down)
        set_up_logging(None, runtime.is_main)
        _log_machine(config, runtime)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nmt-check-")))
        begun = starting_point(config)
        cache = Path(config.data.cache or scratch / "cache")
        text = _read(config, runtime, _open(config), cache, None, _known_tokenizers(None, begun))
        translator = _build(config, runtime, text.tokenizers, begun)
        kernels = _kernels(config, runtime, translator)
        stream = _stream(config, runtime, text, translator.context.lookback)
        journal = stack.enter_context(Journal(scratch, enabled=False, log_every=1))
        trainer = _trainer(config, runtime, kernels, translator, text, stream, journal, RunFolder(scratch))
        logger.info("largest batch: %s", trainer.try_largest_batch().describe())
        logger.info("all right: %s updates would be made", f"{horizon(config.training, stream.updates_per_epoch(0)):,}")


def _open(config: Config) -> list[Corpus]:
    """The training corpora and, last, the validation corpus; the mistakes of all of them are reported together."""
    return open_corpora([*config.data.train, config.data.validation], config.data)


def _log_machine(config: Config, runtime: Runtime) -> None:
    logger.info("%s", runtime.reason)
    if runtime.world > 1:
        logger.info("%d processes train together", runtime.world)


def _known_tokenizers(resumed: Path | None, begun: Loaded | None) -> TokenizerPair | None:
    """Those of the checkpoint that training goes on or starts from."""
    if resumed:
        return TokenizerPair.load(resumed)
    return None if begun is None else begun.tokenizers


def _read(
    config: Config,
    runtime: Runtime,
    corpora: Sequence[Corpus],
    cache: Path,
    resumed: Path | None,
    known: TokenizerPair | None,
) -> Text:
    *training, validation = corpora
    tokenizers = known or _tokenizers(config, runtime, training)
    keep_text = config.tokenizer.sampling > 0.0
    options = config.data
    encoded = encode_corpora(training, tokenizers, options.filters, cache, options.workers, keep_text)
    if resumed and (before := read_metadata(resumed).data.get("train")) != encoded.fingerprint:
        raise ConfigError(
            f"run: {config.run} was trained on another text ({before}, now {encoded.fingerprint}): data.train has "
            "changed; name another folder, or start again with --fresh, which keeps what is there aside"
        )
    for line in encoded.report.lines():
        logger.info("%s", line)
    pairs = list(validation)
    if not pairs:
        raise ConfigError(f"data.validation: {validation.name} is empty")
    documents = [pair.document for pair in pairs if pair.document is not None] if validation.has_documents else None
    return Text(tokenizers, encoded, [pair.source for pair in pairs], [pair.target for pair in pairs], documents)


def _tokenizers(config: Config, runtime: Runtime, training: Sequence[Corpus]) -> TokenizerPair:
    """Those of the files that the config names, or learned now, on the main process alone."""
    if loaded := load_or_none(config.tokenizer):
        return loaded

    def pairs() -> Iterator[tuple[str, str]]:
        for corpus in training:
            for pair in corpus:
                yield pair.source, pair.target

    learned = None
    if runtime.is_main:
        options = config.tokenizer
        logger.info("learning a %s vocabulary of %s pieces", options.kind, f"{options.vocabulary_size:,}")
        learned = learn(options, pairs, config.seed)
    tokenizers = broadcast_object(learned)
    assert tokenizers is not None
    return tokenizers


def _build(config: Config, runtime: Runtime, tokenizers: TokenizerPair, begun: Loaded | None) -> Translator:
    seed_everything(config.seed, 0)
    translator = Translator(config.model, vocabulary(tokenizers)).to(runtime.device)
    if begun is not None:
        start(translator, begun)
    rows: list[tuple[str, str]] = [(name, f"{count:,}") for name, count in translator.parts()]
    rows.append(("parameters", f"{sum(parameter.numel() for parameter in translator.parameters()):,}"))
    for line in format_table(rows).splitlines():
        logger.info("%s", line)
    return translator


def _kernels(config: Config, runtime: Runtime, translator: Translator) -> Kernels:
    kernels = choose_kernels(config.runtime.kernel, runtime.device, translator.obstacle())
    logger.info("%s", kernels.reason)
    return kernels


def _stream(config: Config, runtime: Runtime, text: Text, lookback: Lookback | None) -> BatchStream:
    guided = config.training.guided_alignment.weight > 0.0
    if text.encoded.has_links and not guided:
        logger.info("the alignments of data.train are not used: training.guided_alignment.weight is 0")
    if text.encoded.sentences is not None and lookback is None:
        logger.info("the documents of data.train are not used: model.context is none")
    return BatchStream(
        text.encoded,
        batch_tokens=config.training.batch_tokens,
        seed=config.seed,
        rank=runtime.rank,
        world=runtime.world,
        accumulation=config.training.accumulation,
        tokenizers=text.tokenizers,
        sampling=config.tokenizer.sampling,
        with_links=guided,
        lookback=lookback,
    )


def _trainer(
    config: Config,
    runtime: Runtime,
    kernels: Kernels,
    translator: Translator,
    text: Text,
    stream: BatchStream,
    journal: Journal,
    folder: RunFolder,
) -> Trainer:
    validate = validator(config, runtime, text.tokenizers, text.sources, text.references, kernels, text.documents)

    def save(
        progress: Progress,
        weights: Mapping[str, Tensor],
        state: dict[str, Any],
        metrics: dict[str, float],
        is_best: bool,
    ) -> None:
        snapshot = Snapshot(
            model=weights,
            config=config,
            tokenizers=text.tokenizers,
            step=progress.step,
            epoch=progress.epoch,
            metrics=metrics,
            data={"train": text.encoded.fingerprint},
            training=state,
        )
        folder.save(snapshot, is_best=is_best)

    # Ranks draw different dropout; a run that goes on gets back the state that its generators had.
    seed_everything(config.seed, runtime.rank)
    return Trainer(config.training, runtime, kernels, translator, stream, journal, validate, save)


def _summarize(outcome: Outcome, journal: Journal, folder: RunFolder) -> None:
    if outcome.interrupted:
        logger.info(
            "%s after update %s; everything is saved, the same command goes on from here",
            outcome.reason,
            f"{outcome.progress.step:,}",
        )
        return
    best = folder.pointed("best")
    metrics = read_metadata(best).metrics if best else {}
    numbers = {name: value for name, value in metrics.items() if value is not None}
    if outcome.progress.skipped:
        logger.info("%d updates were skipped for a non-finite loss or gradient", outcome.progress.skipped)
    journal.summary(outcome.reason, best, numbers, outcome.progress.epoch + 1)
