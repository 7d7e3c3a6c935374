"""The fixed sections of the YAML: one class a section, every default in one place.

What can be chosen by name (a cell, a score, a schedule, a kind of corpus) is a part: here only its family
is named, its options live in its own file (see `registry.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from nmt.config.registry import Section
from nmt.config.schema.bounds import Count, Positive, Probability
from nmt.config.schema.learning import EarlyStopping, GuidedAlignment, Training, Validation
from nmt.config.schema.network import Attention, Decoder, Dropout, Encoder, Model, NetworkPart, Readout
from nmt.config.schema.text import Data, Filters, Tokenizer
from nmt.config.schema.use import Runtime, Search

__all__ = [
    "Attention",
    "Config",
    "Count",
    "Data",
    "Decoder",
    "Dropout",
    "EarlyStopping",
    "Encoder",
    "Filters",
    "GuidedAlignment",
    "Model",
    "NetworkPart",
    "Positive",
    "Probability",
    "Readout",
    "Runtime",
    "Search",
    "Tokenizer",
    "Training",
    "Validation",
]


class Config(Section):
    """An experiment: what is learned from which text, how, and where the result goes."""

    run: str = Field(min_length=1, examples=["runs/example"])
    """Folder of the run: checkpoints, logs and metrics."""
    seed: Count = 1
    """Seed of every random choice."""
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
    runtime: Runtime = Runtime()
    """The machine."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Embeddings of both languages can be one matrix only over one vocabulary; integers are not trained."""
        if self.model.tie in ("source_target", "all") and not self.tokenizer.shared:
            yield (
                "model.tie",
                f"{self.model.tie} needs one vocabulary for both languages; set tokenizer.shared: true, "
                "or tie: target_output",
            )
        if self.runtime.precision == "int8":
            yield "runtime.precision", "int8 only translates (nmt-translate --precision int8); set auto, bf16 or fp32"
