"""Classification as a lesson: labelled documents, a classifier, and its accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nmt.checkpoint import read_metadata
from nmt.checkpoint.folder import Loaded
from nmt.config import ClassificationConfig
from nmt.data.batching import DocumentStream
from nmt.data.cache import Reader, encode_collections, hold_out_documents, known_labels
from nmt.data.labelled import Collection, Splitter, open_collection, open_collections
from nmt.data.labelled.jsonlines import JsonLinesOptions
from nmt.data.readers.held_out import SplitOptions
from nmt.data.tokenizer import Tokenizer, TokenizerPair, learn_one, load_files
from nmt.kernels.choice import choose_packed
from nmt.model.classifier import DocumentClassifier
from nmt.model.modules import without_memory
from nmt.runtime import Runtime, broadcast_object, logger, seed_everything
from nmt.tasks.base import Lesson, Preparation, log_kernel, refuse_another_text, report_size
from nmt.tasks.classification.labelling import label_validator, read_set
from nmt.tasks.starting import start
from nmt.training.objectives import ClassificationObjective

USES = ("nmt-classify --model MODEL < DOCUMENTS > LABELS", "nmt-eval --model MODEL --docs DOCUMENTS --labels LABELS")


class ClassificationPreparation(Preparation):
    """Brings documents, tokenizer, labels, classifier and objective together."""

    def __init__(self, config: ClassificationConfig, runtime: Runtime) -> None:
        super().__init__(config.data.cache)
        self.config = config
        self.runtime = runtime
        self.validation: Collection | None = None
        if isinstance(config.data.validation, SplitOptions):
            self.training = open_collections(config.data.train, config.data)
        else:
            *self.training, self.validation = open_collections(
                [*config.data.train, config.data.validation], config.data
            )

    def lesson(self, cache: Path, resumed: Path | None, begun: Loaded | None) -> Lesson:
        config, runtime, data = self.config, self.runtime, self.config.data
        earlier = resumed or (begun.path if begun else None)
        labels = tuple(read_metadata(earlier).labels) if earlier else known_labels(self.training, cache)
        # After the labels, so that one that only occurs in documents that are held out is known.
        validation = self.validation or self._held_out(cache)
        tokenizer = self._tokenizer(earlier)
        reader = Reader.of(tokenizer, data.language, data.filters)
        network = partial(DocumentClassifier, config.model, tokenizer.size, len(labels))
        report_size(without_memory(network), config.training, runtime)
        encoded = encode_collections(self.training, reader, labels, data.filters, cache, data.workers)
        refuse_another_text(config.run, resumed, encoded.fingerprint)
        for line in encoded.report.lines():
            logger.info("%s", line)
        measured = read_set(validation, reader, labels, "validation")
        seed_everything(config.seed, 0)
        classifier = network().to(runtime.device)
        if begun:
            start(classifier, begun)
        kernel = choose_packed(config.runtime.kernel, runtime.device, classifier.encoder.obstacle())
        log_kernel(kernel.reason, config.runtime.kernel, runtime)
        stream = DocumentStream(
            encoded,
            batch_tokens=config.training.batch_tokens,
            seed=config.seed,
            rank=runtime.rank,
            world=runtime.world,
            accumulation=config.training.accumulation,
        )
        return Lesson(
            tokenizers=TokenizerPair(tokenizer, tokenizer),
            objective=ClassificationObjective(classifier, config.training.label_smoothing, kernel.gru),
            stream=stream,
            validate=label_validator(config, runtime, labels, measured, kernel.gru),
            fingerprint=encoded.fingerprint,
            uses=USES,
            labels=labels,
        )

    def _held_out(self, cache: Path) -> Collection:
        """The validation collection that is taken from the training text, which from now on goes without it."""
        data = self.config.data
        assert isinstance(data.validation, SplitOptions)
        path = hold_out_documents(self.training, data.validation, data.filters.broken_utf8, cache)
        return open_collection(JsonLinesOptions(path=str(path)), data)

    def _tokenizer(self, earlier: Path | None) -> Tokenizer:
        """That of the checkpoint that training goes on or starts from, of the config's file, or learned now: on the
        main process alone."""
        if earlier:
            return TokenizerPair.load(earlier).source
        options = self.config.tokenizer
        if options.file is not None:
            return load_files(Path(options.file), Path(options.file)).source
        splitter = Splitter(self.config.data.language)

        def sentences() -> Iterator[str]:
            for collection in self.training:
                for document in collection:
                    yield from document.sentences(splitter)

        learned = None
        if self.runtime.is_main:
            logger.info("learning a %s vocabulary of %s pieces", options.kind, f"{options.vocabulary_size:,}")
            learned = learn_one(options, sentences(), self.config.seed, "")
        tokenizer = broadcast_object(learned)
        assert tokenizer is not None
        return tokenizer
