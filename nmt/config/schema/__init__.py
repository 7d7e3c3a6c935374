"""Fixed sections of the YAML, with their default values.

Parts that are chosen by name (a cell, a score, a schedule, a kind of corpus) are named here by their family alone.
Their options live in their own files (see `registry.py`).
"""

from __future__ import annotations

from nmt.config.schema.sections import (
    AttentionConfig,
    Beam,
    ColumnNumber,
    Count,
    DecoderConfig,
    DropoutConfig,
    EncoderConfig,
    ExperimentConfig,
    Heads,
    LearningConfig,
    ModelConfig,
    NetworkPartOptions,
    Positions,
    Positive,
    Probability,
    ReadoutConfig,
    RuntimeConfig,
    Samples,
    ScoreChoice,
    Seed,
    SentencePieceConfig,
    Sentences,
    Size,
    StoppingConfig,
    Tokens,
    Weight,
)
from nmt.config.schema.task_sections import (
    TASKS,
    ClassificationConfig,
    ClassifierConfig,
    DataConfig,
    DocumentDropoutConfig,
    DocumentFiltersConfig,
    EarlyStoppingConfig,
    FiltersConfig,
    GuidedAlignmentConfig,
    LabelledDataConfig,
    LevelConfig,
    SearchConfig,
    TokenizerConfig,
    TranslationConfig,
    ValidationConfig,
)
