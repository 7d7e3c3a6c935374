"""Translation as a lesson: parallel corpora, a translator, and BLEU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from nmt.checkpoint.folder import Loaded
from nmt.config import TranslationConfig
from nmt.config.schema import DataConfig, FiltersConfig
from nmt.data.batching import BatchStream, Lookback
from nmt.data.cache import EncodedCorpus, encode_corpora, hold_out_pairs
from nmt.data.cache.filtering import length_reasons
from nmt.data.readers import Corpus, Counts, Pair, open_corpora, open_corpus
from nmt.data.readers.held_out import SplitOptions
from nmt.data.readers.jsonlines import JsonLinesOptions
from nmt.data.tokenizer import TokenizerPair, learn, load_or_none
from nmt.errors import ConfigError
from nmt.kernels.choice import FORCED, Kernels, choose_kernels
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import Runtime, broadcast_object, logger, seed_everything
from nmt.tasks.base import Lesson, Preparation, log_kernel, refuse_another_text, report_size
from nmt.tasks.starting import start
from nmt.tasks.translation.evaluation import validator
from nmt.tasks.translation.loading import vocabulary
from nmt.training.objectives import TranslationObjective

USES = (
    "nmt-translate --model MODEL < SOURCE > TRANSLATION",
    "nmt-eval --model MODEL --source SOURCE --reference REFERENCE",
)


class TranslationPreparation(Preparation):
    """Brings corpora, tokenizers, translator and objective together."""

    def __init__(self, config: TranslationConfig, runtime: Runtime) -> None:
        super().__init__(config.data.cache)
        self.config = config
        self.runtime = runtime
        if config.runtime.kernel in FORCED:
            # What has no fused form on this device is said before anything is read.
            self._kernels(without_memory(lambda: Translator(config.model, Vocabulary(1, 1, 0))))
        self.training, self.validation = self._opened(config.data)

    def lesson(self, cache: Path, resumed: Path | None, begun: Loaded | None) -> Lesson:
        config, runtime = self.config, self.runtime
        validation = self.validation or self._held_out(cache)
        tokenizers = self._tokenizers(resumed or (begun.path if begun else None))
        network = partial(Translator, config.model, vocabulary(tokenizers), config.data.reverse_source)
        report_size(without_memory(network), config.training, runtime)
        keep_text = config.tokenizer.sampling > 0.0
        options = config.data
        encoded = encode_corpora(self.training, tokenizers, options.filters, cache, options.workers, keep_text)
        refuse_another_text(config.run, resumed, encoded.fingerprint)
        for line in encoded.report.lines():
            logger.info("%s", line)
        pairs = _short_pairs(validation, tokenizers, options.filters)
        sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
        documents = None
        if validation.has_documents:
            documents = [pair.document for pair in pairs if pair.document is not None]
        seed_everything(config.seed, 0)
        translator = network().to(runtime.device)
        if begun:
            start(translator, begun)
        kernels = self._kernels(translator)
        log_kernel(kernels.reason, config.runtime.kernel, runtime)
        training = config.training
        return Lesson(
            tokenizers=tokenizers,
            objective=TranslationObjective(translator, kernels, training.label_smoothing, training.guided_alignment),
            stream=self._stream(encoded, tokenizers, translator.context.lookback),
            validate=validator(config, runtime, tokenizers, sources, references, kernels, documents),
            fingerprint=encoded.fingerprint,
            uses=USES,
        )

    @staticmethod
    def _opened(data: DataConfig) -> tuple[list[Corpus], Corpus | None]:
        """The corpora of training and validation; None where validation is taken from the training text."""
        if isinstance(data.validation, SplitOptions):
            return open_corpora(data.train, data), None
        *training, validation = open_corpora([*data.train, data.validation], data)
        return training, validation

    def _held_out(self, cache: Path) -> Corpus:
        """The validation corpus that is taken from the training text, which from now on goes without it."""
        data = self.config.data
        assert isinstance(data.validation, SplitOptions)
        path = hold_out_pairs(self.training, data.validation, data.filters.broken_utf8, cache)
        documents = "document" if any(corpus.has_documents for corpus in self.training) else None
        options = JsonLinesOptions(path=str(path), source="source", target="target", documents=documents)
        return open_corpus(options, data)

    def _kernels(self, translator: Translator) -> Kernels:
        obstacles = translator.obstacle(), translator.encoder.obstacle()
        return choose_kernels(self.config.runtime.kernel, self.runtime.device, *obstacles)

    def _tokenizers(self, earlier: Path | None) -> TokenizerPair:
        """Those of the checkpoint that training goes on or starts from, of the config's files, or learned now: on the
        main process alone."""
        if earlier:
            return TokenizerPair.load(earlier)
        options = self.config.tokenizer
        if loaded := load_or_none(options):
            return loaded

        def pairs() -> Iterator[tuple[str, str]]:
            for corpus in self.training:
                for pair in corpus:
                    yield pair.source, pair.target

        learned = None
        if self.runtime.is_main:
            logger.info("learning a %s vocabulary of %s pieces", options.kind, f"{options.vocabulary_size:,}")
            learned = learn(options, pairs, self.config.seed)
        tokenizers = broadcast_object(learned)
        assert tokenizers is not None
        return tokenizers

    def _stream(self, encoded: EncodedCorpus, tokenizers: TokenizerPair, lookback: Lookback | None) -> BatchStream:
        config, runtime = self.config, self.runtime
        guided = config.training.guided_alignment.weight > 0.0
        if encoded.has_links and not guided:
            logger.info("the alignments of data.train are not used: training.guided_alignment.weight is 0")
        if encoded.sentences is not None and lookback is None:
            logger.info("the documents of data.train are not used: model.context is none")
        return BatchStream(
            encoded,
            batch_tokens=config.training.batch_tokens,
            seed=config.seed,
            rank=runtime.rank,
            world=runtime.world,
            accumulation=config.training.accumulation,
            tokenizers=tokenizers,
            sampling=config.tokenizer.sampling,
            with_links=guided,
            lookback=lookback,
        )


def _short_pairs(validation: Corpus, tokenizers: TokenizerPair, filters: FiltersConfig) -> list[Pair]:
    """Returns the pairs of the validation corpus without those that the length filters leave out, which are logged.

    One sentence of thousands of pieces would cost more time and memory than the whole training. Blank sides stay.
    Raises ConfigError where nothing is left.
    """
    counts = Counts()
    pairs = list(validation.pairs(counts))
    if not pairs:
        raise ConfigError(f"data.validation: {validation.name} is empty")
    source = np.asarray([len(ids) for ids in tokenizers.source.encode([pair.source for pair in pairs])])
    target = np.asarray([len(ids) for ids in tokenizers.target.encode([pair.target for pair in pairs])])
    lines = np.asarray([pair.line for pair in pairs])
    keep = np.ones(len(pairs), np.bool_)
    for reason, mask in length_reasons(source, target, filters).items():
        counts.drop_all(reason, validation.name, lines[mask].tolist())
        keep &= ~mask
    for line in counts.report():
        logger.info("validation: %s", line)
    if not keep.any():
        raise ConfigError(f"data.validation: nothing is left of {len(pairs):,} pairs; see data.filters")
    return [pair for pair, kept in zip(pairs, keep, strict=True) if kept]
