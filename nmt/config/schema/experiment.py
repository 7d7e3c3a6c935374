"""Ranges of values, and the sections that all experiments have, whatever their task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from nmt.config.registry import PartOf, PartOptions, Section

# Every number has an upper bound, so that a typing error is not taken for a size.
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Size = Annotated[int, Field(ge=1, le=65_536)]
"""Width of a layer."""
Layers = Annotated[int, Field(ge=1, le=100)]
Heads = Annotated[int, Field(ge=1, le=1_024)]
Sentences = Annotated[int, Field(ge=1, le=100)]
"""Sentences of context."""
Positions = Annotated[int, Field(ge=1, le=100_000)]
"""Source positions."""
Samples = Annotated[int, Field(ge=0, le=100_000)]
"""Of the bootstrap."""
Beam = Annotated[int, Field(ge=1, le=1_000)]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
"""Tokens in a batch."""
ColumnNumber = Annotated[int, Field(ge=1, le=10_000)]
Workers = Annotated[int, Field(ge=0, le=1_024)]
VocabularySize = Annotated[int, Field(ge=16, le=1_000_000)]
Weight = Annotated[float, Field(gt=0.0, le=1_000.0)]
"""How often a corpus is read in an epoch."""
Penalty = Annotated[float, Field(ge=0.0, le=100.0)]
Ratio = Annotated[float, Field(ge=0.0, le=1_000.0)]
PathName = Annotated[str, Field(min_length=1, max_length=1_000)]
"""Name of a file or folder. An empty one would mean the current folder; folders in each other are made one by one."""
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]

OptimizerChoice = Annotated[SerializeAsAny[PartOptions], PartOf("optimizer")]
ScheduleChoice = Annotated[SerializeAsAny[PartOptions], PartOf("schedule")]


class StoppingConfig(Section):
    """Early stopping, and the choice of the best checkpoint."""

    metric: str
    """Metric of the validation corpus that chooses the best checkpoint and decides when to stop."""
    patience: Count = 0
    """Validations without improvement before training stops; 0 never stops early."""
    min_delta: Penalty = 0.0
    """Smallest change that counts as an improvement."""


class LearningConfig(Section):
    """The optimization."""

    start_from: PathName | None = None
    """Run or checkpoint whose weights and tokenizer training starts with."""
    batch_tokens: Tokens = 4096
    accumulation: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Batches whose gradients are added up to one update, on each device."""
    max_steps: Positive | None = None
    """Updates after which training ends."""
    max_epochs: Positive | None = 10
    """Passes over the training corpus after which training ends."""
    optimizer: OptimizerChoice = PartOptions(kind="adamw")
    """Update rule with its learning rate."""
    schedule: ScheduleChoice = PartOptions(kind="constant")
    """Course of the learning rate."""
    clip_norm: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    """Largest norm of the gradient of an update; 0 switches clipping off."""
    label_smoothing: Probability = 0.0
    ema_decay: Probability = 0.0
    """Decay of the moving average of the weights, used in validation and in checkpoints; 0 switches it off."""
    non_finite_limit: Positive = 10
    """Updates in a row with a non-finite loss or gradient that are skipped before training stops."""
    log_every: Positive = 50
    """Updates between two lines of the log."""
    validate_every: Positive | None = None
    """Updates between two validations; by default one at the end of every epoch."""
    save_every: Positive | None = None
    """Updates between two checkpoints besides those at every validation."""
    keep_last: Positive = 3
    """Most recent checkpoints that are kept, besides the best one."""
    early_stopping: StoppingConfig

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Training has an end."""
        if self.max_steps is None and self.max_epochs is None:
            yield "max_epochs", "is null, and so is `max_steps`; set one of them, so that training ends"


class SentencePieceConfig(Section):
    """SentencePiece. Learned from the training text, or loaded from a file."""

    kind: Literal["bpe", "unigram"] = "bpe"
    """Algorithm that is learned: byte-pair encoding or the unigram language model."""
    vocabulary_size: VocabularySize = 8000
    """Pieces in a vocabulary, the four special ones included."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1.0)] = 1.0
    """Share of the characters of the training text that get pieces of their own; 0.9995 for Chinese or Japanese."""
    byte_fallback: bool = False
    """Spell unknown characters in bytes, so that there is no unknown piece."""
    normalization: Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"] = "nmt_nfkc"
    """SentencePiece's text normalisation before tokenization; `_cf` folds case."""
    user_defined_symbols: list[str] = Field(default_factory=list)
    """Strings that always stay one piece."""
    training_sentences: Positive = 1_000_000
    """Sentences drawn from the training text to learn from."""
    file: PathName | None = None
    """SentencePiece model to load instead of learning one."""


class RuntimeConfig(Section):
    """The machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; `auto` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Number format of the matrix products; `auto` chooses for the device and logs why, `int8` translates on a CPU."""
    kernel: Literal["auto", "reference", "fused", "graphed"] = "auto"
    """Implementation of the recurrent inner loops; an unavailable choice is an error. `graphed` is `fused`
    with the decoder's recurrence replayed from CUDA graphs, of rounded shapes."""
    threads: Workers = 0
    """CPU threads of this process; 0 leaves the choice to PyTorch."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Half precision with a scaled loss exists on GPUs only."""
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs a GPU; set bf16, fp32 or auto"
        if self.device == "cuda" and self.precision == "int8":
            yield "precision", "int8 is for CPUs; set bf16, fp16, fp32 or auto"


class ExperimentConfig(Section):
    """Config of an experiment. `task` chooses the class, and with it the other sections."""

    run: PathName = Field(examples=["runs/example"])
    """Folder of the run: checkpoints, logs and metrics."""
    task: str
    seed: Seed = 1
    """Seed of every random choice."""
    data: Section
    tokenizer: SentencePieceConfig
    model: Section
    training: LearningConfig
    validation: Section
    runtime: RuntimeConfig = RuntimeConfig()

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Int8 is for translation only. A precision that the device lacks is a contradiction of the section itself."""
        if self.runtime.precision == "int8" and not any(self.runtime.contradictions()):
            yield "runtime.precision", "int8 only translates (nmt-translate --precision int8); set auto, bf16 or fp32"

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages of the text, the source first."""
        raise NotImplementedError
