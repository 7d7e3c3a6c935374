"""Setup of a classification training: labelled documents, tokenizer, classifier, loss and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nmt.checkpoint import read_metadata
from nmt.checkpoint.folder import Loaded
from nmt.config import ClassificationConfig, corpus_size
from nmt.data.batching import DocumentStream
from nmt.data.cache import DocumentTokenizer, encode_collections, hold_out_documents, known_labels
from nmt.data.readers.base import SplitOptions
from nmt.data.readers.labelled import Collection, JsonDocumentOptions, open_collection
from nmt.data.sentences import Splitter
from nmt.data.tokenizer import Tokenizer, TokenizerPair, learn_one, load_files
from nmt.evaluation.testsets import read_labelled
from nmt.model.classifier import DocumentClassifier
from nmt.runtime import Runtime
from nmt.tasks.base import (
    TaskSetup,
    accept_text,
    build_network,
    follow_text,
    learn_once,
    open_with_validation,
    plan_network,
)
from nmt.tasks.classification.labelling import label_validator
from nmt.training.objectives import ClassificationObjective


def open_data(config: ClassificationConfig, runtime: Runtime) -> tuple[list[Collection], Collection | None]:
    """Opens the documents of training and validation, None if they are split from training; raises `NmtError`."""
    return open_with_validation(partial(open_collection, data=config.data), config.data.train, config.data.validation)


def setup(
    config: ClassificationConfig,
    runtime: Runtime,
    data: tuple[list[Collection], Collection | None],
    cache: Path,
    resumed: Path | None,
    initial_model: Loaded | None,
) -> TaskSetup:
    """Encodes the documents, learns or loads the tokenizer, and builds the classifier; see `nmt.tasks.base`."""
    collections, validation = data
    cache = Path(config.data.cache or cache)
    checkpoint = resumed or (initial_model.path if initial_model else None)
    labels = tuple(read_metadata(checkpoint).labels) if checkpoint else known_labels(collections, cache)
    if validation is None:
        # After the labels: a label that occurs only in held-out documents is known.
        validation = _hold_out_validation(config, collections, cache)
    tokenizer = _tokenizer(config, runtime, collections, checkpoint)
    document_tokenizer = DocumentTokenizer.of(tokenizer, config.data.language, config.data.filters)
    build = partial(DocumentClassifier, config.model, tokenizer.size, len(labels))
    kernels = plan_network(build, config, runtime)
    encoded = encode_collections(
        collections, document_tokenizer, labels, config.data.filters, cache, config.data.workers
    )
    accept_text(config.run, resumed, encoded.fingerprint, encoded.report.lines())
    config = follow_text(config, {corpus_size.VOCABULARY_SIZE: tokenizer.size})
    validation_set = read_labelled(validation, document_tokenizer, labels, "validation")
    classifier = build_network(partial(build, kernels), config, runtime, initial_model)
    stream = DocumentStream(
        encoded,
        batch_tokens=config.training.batch_tokens,
        seed=config.seed,
        rank=runtime.rank,
        world=runtime.world,
        accumulation=config.training.accumulation,
    )
    smoothing = config.training.label_smoothing
    return TaskSetup(
        config=config,
        objective=ClassificationObjective(classifier, smoothing),
        kernels=kernels,
        build=lambda kernels: ClassificationObjective(build(kernels).to(runtime.device), smoothing),
        stream=stream,
        validate=label_validator(config, runtime, labels, validation_set),
        tokenizers=TokenizerPair(tokenizer, tokenizer),
        fingerprint=encoded.fingerprint,
        sizes=tuple(part.stop - part.start for part in encoded.parts),
        commands=(
            "nmt-classify --model MODEL < DOCUMENTS > LABELS",
            "nmt-eval --model MODEL --docs DOCUMENTS --labels LABELS",
        ),
        labels=labels,
    )


def _hold_out_validation(config: ClassificationConfig, collections: list[Collection], cache: Path) -> Collection:
    """Splits the validation documents from the training documents, which from now on skip them."""
    data = config.data
    assert isinstance(data.validation, SplitOptions)
    path = hold_out_documents(collections, data.validation, data.filters.broken_utf8, cache)
    return open_collection(JsonDocumentOptions(path=str(path)), data)


def _tokenizer(
    config: ClassificationConfig, runtime: Runtime, collections: list[Collection], checkpoint: Path | None
) -> Tokenizer:
    """Loads the tokenizer from a checkpoint or the config's file, or learns it from the documents."""
    if checkpoint:
        return TokenizerPair.load(checkpoint).source
    options = config.tokenizer
    if options.file is not None:
        return load_files(Path(options.file), Path(options.file)).source
    splitter = Splitter(config.data.language)

    def sentences() -> Iterator[str]:
        for collection in collections:
            for document in collection:
                yield from document.sentences(splitter)

    return learn_once(options, runtime, lambda: learn_one(options, sentences(), config.seed, ""))
