"""Sections of `task: classification` that differ from those of a translation: documents and their labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from nmt.config.registry import PartOf, PartOptions, Section
from nmt.config.schema.experiment import (
    Count,
    ExperimentConfig,
    LearningConfig,
    PathName,
    Positive,
    Probability,
    SentencePieceConfig,
    Size,
    StoppingConfig,
    Tokens,
    Workers,
)
from nmt.config.schema.network import EncoderConfig, ScoreChoice

CollectionChoice = Annotated[SerializeAsAny[PartOptions], PartOf("collection", default_kind="text")]
LabelledValidationChoice = Annotated[
    SerializeAsAny[PartOptions], PartOf("collection", default_kind="text", kind_by_key="split")
]


class DocumentFiltersConfig(Section):
    """Treatment of long, empty or damaged documents. The first two keys hold wherever the model is used."""

    max_length: Positive | None = None
    """Pieces after which a document is cut off; null reads every document whole."""
    max_sentence_length: Positive = 100
    """Pieces after which a sentence goes on as the next one, so that one long sentence does not hold up a batch."""
    empty: Literal["drop", "error"] = "drop"
    """Treatment of a document without a word."""
    broken_utf8: Literal["error", "drop"] = "error"
    """Treatment of a document with bytes that are not UTF-8."""


class LabelledDataConfig(Section):
    """The documents. Each has a label. Paths are relative to the working directory."""

    language: str = "en"
    """Code of the language, such as `en`: text without sentence boundaries is split into sentences by its rules."""
    train: Annotated[list[CollectionChoice], Field(min_length=1)]
    """One or more collections of labelled documents, each `{docs: FILE, labels: FILE}` or another kind with its
    options. A single one needs no list."""
    validation: LabelledValidationChoice
    """The collection that measures progress and chooses the best checkpoint; `{split: 1000}` takes 1,000 documents from
    the training text."""
    test: dict[str, CollectionChoice] = Field(default_factory=dict)
    """Named test sets, for `nmt-eval`."""
    filters: DocumentFiltersConfig = DocumentFiltersConfig()
    cache: PathName | None = None
    """Folder of the encoded documents; by default `cache` in the run's folder. Runs may share one."""
    workers: Workers = 0
    """Processes that tokenize; 0 means one a core."""


class LevelConfig(EncoderConfig):
    """One level of the hierarchy: a recurrent layer over the parts of a whole, and attention over its annotations."""

    hidden_size: Size = 50
    score: ScoreChoice = PartOptions(kind="additive")
    """Score of each part against a learned query; `mean` weighs all alike."""


class DocumentDropoutConfig(Section):
    """Dropout in training. Each value is a probability."""

    embedding: Probability = 0.2
    """Elements of the word embeddings."""
    word: Probability = 0.0
    """Whole words: their embedding becomes zero."""
    layer: Probability = 0.2
    """Elements between recurrent layers, and of the sentence vectors."""
    output: Probability = 0.2
    """Elements of the document vector, before the labels."""


class ClassifierConfig(Section):
    """The network. Words make sentences, sentences make a document (Yang 2016)."""

    embedding_size: Size = 200
    """Width of the word embeddings."""
    word: LevelConfig = LevelConfig()
    """From the words of a sentence to its vector."""
    sentence: LevelConfig = LevelConfig()
    """From the sentences of a document to its vector."""
    dropout: DocumentDropoutConfig = DocumentDropoutConfig()


class ClassifierStoppingConfig(StoppingConfig):
    """Early stopping, and the choice of the best checkpoint."""

    metric: Literal["accuracy", "macro_f1", "loss"] = "accuracy"
    """Metric of the validation collection that chooses the best checkpoint and decides when to stop."""


class ClassifierTrainingConfig(LearningConfig):
    """The optimization."""

    batch_tokens: Tokens = 4096
    """Pieces of the documents in a batch, on one device and in one accumulation step; there is no padding."""
    label_smoothing: Probability = 0.0
    """Probability mass spread evenly over the labels."""
    early_stopping: ClassifierStoppingConfig = ClassifierStoppingConfig()


class ClassifierValidationConfig(Section):
    """Evaluation during training. It is done by the same code as `nmt-eval`."""

    samples: Count = 3
    """Documents logged at every validation: those whose labels are least probable under the model."""


class ClassificationConfig(ExperimentConfig):
    """Config of an experiment in document classification."""

    task: Literal["classification"] = "classification"
    """The task: labels of documents."""
    data: LabelledDataConfig
    tokenizer: SentencePieceConfig = SentencePieceConfig()
    model: ClassifierConfig = ClassifierConfig()
    training: ClassifierTrainingConfig = ClassifierTrainingConfig()
    validation: ClassifierValidationConfig = ClassifierValidationConfig()

    @property
    def languages(self) -> tuple[str, ...]:
        return (self.data.language,)
