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
    Classifier,
    ClassifierTraining,
    DocumentDropout,
    DocumentFilters,
    LabelledData,
    Level,
)
from nmt.config.schema.experiment import Experiment
from nmt.config.schema.learning import EarlyStopping, GuidedAlignment, Learning, Stopping, Training, Validation
from nmt.config.schema.network import Attention, Decoder, Dropout, Encoder, Model, NetworkPart, Readout
from nmt.config.schema.text import Data, Filters, SentencePiece, Tokenizer
from nmt.config.schema.use import Runtime, Search

__all__ = [
    "TASKS",
    "Attention",
    "ClassificationConfig",
    "Classifier",
    "ClassifierTraining",
    "ColumnNumber",
    "Config",
    "Count",
    "Data",
    "Decoder",
    "DocumentDropout",
    "DocumentFilters",
    "Dropout",
    "EarlyStopping",
    "Encoder",
    "Experiment",
    "Filters",
    "GuidedAlignment",
    "Heads",
    "LabelledData",
    "Learning",
    "Level",
    "Model",
    "NetworkPart",
    "Positions",
    "Positive",
    "Probability",
    "Readout",
    "Runtime",
    "Search",
    "Section",
    "SentencePiece",
    "Sentences",
    "Size",
    "Stopping",
    "Tokenizer",
    "Training",
    "Validation",
    "Weight",
]


class Config(Experiment):
    """An experiment in which translations are learned."""

    task: Literal["translation"] = "translation"
    """What is learned: translations, or with `classification` the labels of documents."""
    data: Data
    """The corpora."""
    tokenizer: Tokenizer = Tokenizer()
    """SentencePiece."""
    model: Model = Model()
    """The network."""
    training: Training = Training()
    """The optimization."""
    validation: Validation = Validation()
    """What is measured during training."""
    search: Search = Search()
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


TASKS: Mapping[str, type[Experiment]] = {"translation": Config, "classification": ClassificationConfig}
"""The kinds of experiments by what the YAML calls them; one that names no task is of the first kind."""
