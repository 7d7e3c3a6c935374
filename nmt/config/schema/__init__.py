"""Fixed sections of the YAML, with their default values.

Parts that are chosen by name (a cell, a score, a schedule, a kind of corpus) are named here by their family alone.
Their options live in their own files (see `registry.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from nmt.config.schema.classification_sections import (
    ClassificationConfig,
    ClassifierConfig,
    ClassifierTrainingConfig,
    DocumentDropoutConfig,
    DocumentFiltersConfig,
    LabelledDataConfig,
    LevelConfig,
)
from nmt.config.schema.experiment import (
    Beam,
    ColumnNumber,
    Count,
    ExperimentConfig,
    Heads,
    LearningConfig,
    Positions,
    Positive,
    Probability,
    RuntimeConfig,
    Samples,
    Seed,
    SentencePieceConfig,
    Sentences,
    Size,
    StoppingConfig,
    Tokens,
    Weight,
)
from nmt.config.schema.network import (
    AttentionConfig,
    DecoderConfig,
    DropoutConfig,
    EncoderConfig,
    ModelConfig,
    NetworkPartOptions,
    ReadoutConfig,
    ScoreChoice,
)
from nmt.config.schema.translation_sections import (
    DataConfig,
    EarlyStoppingConfig,
    FiltersConfig,
    GuidedAlignmentConfig,
    SearchConfig,
    TokenizerConfig,
    TrainingConfig,
    TranslationConfig,
    ValidationConfig,
)

TASKS: Mapping[str, type[ExperimentConfig]] = {"translation": TranslationConfig, "classification": ClassificationConfig}
"""The kinds of experiments by what the YAML calls them; one that names no task is of the first kind."""
