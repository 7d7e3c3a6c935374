"""Training and what is measured during it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from nmt.config.registry import PartOf, PartOptions, Section
from nmt.config.schema.bounds import Beam, Count, PathName, Penalty, Positive, Probability, Ratio, Tokens

OptimizerChoice = Annotated[SerializeAsAny[PartOptions], PartOf("optimizer")]
ScheduleChoice = Annotated[SerializeAsAny[PartOptions], PartOf("schedule")]


class StoppingConfig(Section):
    """Stop when validation no longer improves, whatever is learned."""

    metric: str
    """Metric of the validation corpus that chooses the best checkpoint and decides when to stop."""
    patience: Count = 0
    """Validations without improvement before training stops; 0 never stops early."""
    min_delta: Penalty = 0.0
    """Smallest change that counts as an improvement."""


class EarlyStoppingConfig(StoppingConfig):
    """Stop when validation no longer improves."""

    metric: Literal["bleu", "chrf", "loss"] = "bleu"
    """Metric of the validation corpus that chooses the best checkpoint and decides when to stop."""


class GuidedAlignmentConfig(Section):
    """Attention learns to follow the alignments that corpora bring (Chen 2016; Liu 2016; Mi 2016)."""

    weight: Ratio = 0.0
    """Weight of the alignment loss beside the likelihood, whose own weight is 1; 0 switches it off."""
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of the weight at the end of every epoch."""
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    """How far attention is from the links of a target piece."""


class LearningConfig(Section):
    """The optimization, whatever is learned."""

    start_from: PathName | None = None
    """Run or checkpoint whose weights and tokenizer training starts with."""
    batch_tokens: Tokens = 4096
    """Tokens in a batch, on one device and in one accumulation step."""
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
    """Probability mass spread evenly over all that could be said."""
    ema_decay: Probability = 0.0
    """Decay of the moving average of the weights that validation and use take; 0 switches it off."""
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
    """When to stop, and what the best checkpoint is."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Training has an end."""
        if self.max_steps is None and self.max_epochs is None:
            yield "max_epochs", "is null, and so is `max_steps`; set one of them, so that training ends"


class TrainingConfig(LearningConfig):
    """The optimization."""

    start_from: PathName | None = None
    """Run or checkpoint whose weights and tokenizer training starts with; what `model.context` adds starts anew."""
    batch_tokens: Tokens = 4096
    """Padded tokens of the longer side in a batch, on one device and in one accumulation step."""
    label_smoothing: Probability = 0.1
    """Probability mass spread evenly over the vocabulary."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    """When to stop, and what the best checkpoint is."""
    guided_alignment: GuidedAlignmentConfig = GuidedAlignmentConfig()
    """A second loss, for attention, from the `alignments` of corpora."""


class ValidationConfig(Section):
    """What is measured during training, through the same code as `nmt-eval`."""

    sentences: Positive = 500
    """Sentences of the validation corpus that are translated for BLEU and chrF, from its beginning."""
    beam_size: Beam = 1
    """Beam of these translations."""
    samples: Count = 3
    """Translations that are shown at every validation."""
