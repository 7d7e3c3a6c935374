"""The fixed sections of the YAML: one class a section, every default in one place.

What can be chosen by name (a cell, a score, a schedule, a kind of corpus) is a part: here only its family
is named, its options live in its own file (see `registry.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from nmt.config.registry import Section, decided
from nmt.config.schema.bounds import (
    ColumnNumber,
    Count,
    Heads,
    Positions,
    Positive,
    Probability,
    Sentences,
    Size,
    Weight,
)
from nmt.config.schema.classification import (
    ClassificationConfig,
    ClassifierConfig,
    ClassifierTrainingConfig,
    DocumentDropoutConfig,
    DocumentFiltersConfig,
    LabelledDataConfig,
    LevelConfig,
)
from nmt.config.schema.experiment import ExperimentConfig
from nmt.config.schema.learning import (
    EarlyStoppingConfig,
    GuidedAlignmentConfig,
    LearningConfig,
    StoppingConfig,
    TrainingConfig,
    ValidationConfig,
)
from nmt.config.schema.network import (
    AttentionConfig,
    DecoderConfig,
    DropoutConfig,
    EncoderConfig,
    ModelConfig,
    NetworkPartOptions,
    ReadoutConfig,
)
from nmt.config.schema.text import DataConfig, FiltersConfig, SentencePieceConfig, TokenizerConfig
from nmt.config.schema.use import RuntimeConfig, SearchConfig

__all__ = [
    "TASKS",
    "AttentionConfig",
    "ClassificationConfig",
    "ClassifierConfig",
    "ClassifierTrainingConfig",
    "ColumnNumber",
    "Count",
    "DataConfig",
    "DecoderConfig",
    "DocumentDropoutConfig",
    "DocumentFiltersConfig",
    "DropoutConfig",
    "EarlyStoppingConfig",
    "EncoderConfig",
    "ExperimentConfig",
    "FiltersConfig",
    "GuidedAlignmentConfig",
    "Heads",
    "LabelledDataConfig",
    "LearningConfig",
    "LevelConfig",
    "ModelConfig",
    "NetworkPartOptions",
    "Positions",
    "Positive",
    "Probability",
    "ReadoutConfig",
    "RuntimeConfig",
    "SearchConfig",
    "Section",
    "SentencePieceConfig",
    "Sentences",
    "Size",
    "StoppingConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "TranslationConfig",
    "ValidationConfig",
    "Weight",
]


class TranslationConfig(ExperimentConfig):
    """An experiment in which translations are learned."""

    task: Literal["translation"] = "translation"
    """What is learned: translations, or with `classification` the labels of documents."""
    data: DataConfig
    """The corpora."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """SentencePiece."""
    model: ModelConfig = ModelConfig()
    """The network."""
    training: TrainingConfig = TrainingConfig()
    """The optimization."""
    validation: ValidationConfig = ValidationConfig()
    """What is measured during training."""
    search: SearchConfig = SearchConfig()
    """How a translation is found."""

    @property
    def languages(self) -> tuple[str, ...]:
        return (self.data.source_language, self.data.target_language)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Embeddings of both languages can be one matrix only over one vocabulary."""
        yield from decided(super().contradictions())
        if self.model.tie in ("source_target", "all") and not self.tokenizer.shared:
            yield (
                "model.tie",
                f"{self.model.tie} needs one vocabulary for both languages; set tokenizer.shared: true, "
                "or tie: target_output",
            )


TASKS: Mapping[str, type[ExperimentConfig]] = {"translation": TranslationConfig, "classification": ClassificationConfig}
"""The kinds of experiments by what the YAML calls them; one that names no task is of the first kind."""
