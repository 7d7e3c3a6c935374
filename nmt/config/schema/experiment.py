"""What all experiments share, whatever their task."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from nmt.config.registry import Section
from nmt.config.schema.bounds import PathName, Seed
from nmt.config.schema.learning import LearningConfig
from nmt.config.schema.text import SentencePieceConfig
from nmt.config.schema.use import RuntimeConfig


class ExperimentConfig(Section):
    """What is learned from which text, how, and where the result goes. `task` says which kind of experiment it is."""

    run: PathName = Field(examples=["runs/example"])
    """Folder of the run: checkpoints, logs and metrics."""
    task: str
    """What is learned."""
    seed: Seed = 1
    """Seed of every random choice."""
    data: Section
    """The corpora."""
    tokenizer: SentencePieceConfig
    """SentencePiece."""
    model: Section
    """The network."""
    training: LearningConfig
    """The optimization."""
    validation: Section
    """What is measured during training."""
    runtime: RuntimeConfig = RuntimeConfig()
    """The machine."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Integers are not trained. A precision that the device does not have is the section's own mistake."""
        if self.runtime.precision == "int8" and not any(self.runtime.contradictions()):
            yield "runtime.precision", "int8 only translates (nmt-translate --precision int8); set auto, bf16 or fp32"

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages of the text, the source first."""
        raise AssertionError("a task knows its languages")
