"""Translation as a lesson: parallel corpora, a translator, and BLEU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nmt.batching import BatchStream, Lookback
from nmt.checkpoint.folder import Loaded
from nmt.config import Config
from nmt.errors import ConfigError
from nmt.experiment.evaluation import validator
from nmt.experiment.lesson import Lesson, Preparation, log_kernel, refuse_another_text, report_size
from nmt.experiment.loading import vocabulary
from nmt.experiment.starting import start
from nmt.kernels.choice import FORCED, Kernels, choose_kernels
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import Runtime, broadcast_object, logger, seed_everything
from nmt.text.corpus import open_corpora
from nmt.text.encoded import EncodedCorpus, encode_corpora
from nmt.text.tokenizer import TokenizerPair, learn, load_or_none
from nmt.training.translating import TranslationObjective

USES = (
    "nmt-translate --model MODEL < SOURCE > TRANSLATION",
    "nmt-eval --model MODEL --source SOURCE --reference REFERENCE",
)


class TranslationPreparation(Preparation):
    """Brings corpora, tokenizers, translator and objective together."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        super().__init__(config.data.cache)
        self.config = config
        self.runtime = runtime
        if config.runtime.kernel in FORCED:
            # What has no fused form on this device is said before anything is read.
            self._kernels(without_memory(lambda: Translator(config.model, Vocabulary(1, 1, 0))))
        *self.training, self.validation = open_corpora([*config.data.train, config.data.validation], config.data)

    def lesson(self, cache: Path, resumed: Path | None, begun: Loaded | None) -> Lesson:
        config, runtime = self.config, self.runtime
        tokenizers = self._tokenizers(resumed or (begun.path if begun else None))
        network = partial(Translator, config.model, vocabulary(tokenizers), config.data.reverse_source)
        report_size(without_memory(network), config.training, runtime)
        keep_text = config.tokenizer.sampling > 0.0
        options = config.data
        encoded = encode_corpora(self.training, tokenizers, options.filters, cache, options.workers, keep_text)
        refuse_another_text(config.run, resumed, encoded.fingerprint)
        for line in encoded.report.lines():
            logger.info("%s", line)
        pairs = list(self.validation)
        if not pairs:
            raise ConfigError(f"data.validation: {self.validation.name} is empty")
        sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
        documents = None
        if self.validation.has_documents:
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
