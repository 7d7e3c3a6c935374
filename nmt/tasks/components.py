"""The configuration, bound to every part that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from nmt.config import (
    Check,
    ClassificationConfig,
    ExperimentConfig,
    Presets,
    Registry,
    TranslationConfig,
    load_config,
    parse_config,
    schema,
)
from nmt.config.registry import PartOptions, decided
from nmt.data.batching import Lookback
from nmt.data.labelled import COLLECTIONS
from nmt.data.readers import CORPORA, CorpusOptions
from nmt.data.readers.held_out import SplitOptions
from nmt.errors import ConfigError
from nmt.kernels.choice import FORCED, refusal
from nmt.model.attention import COVERAGES, SCORES, WINDOWS
from nmt.model.attention.base import ScoreOptions
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.cells import CELLS
from nmt.model.classifier import DocumentClassifier
from nmt.model.context import CONTEXTS, ContextOptions
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.model.wiring import WIRINGS
from nmt.training.optimizers import OPTIMIZERS
from nmt.training.schedules import SCHEDULES

FAMILIES: Mapping[str, Registry[Any]] = {
    registry.family: registry
    for registry in (CORPORA, COLLECTIONS, CELLS, SCORES, WINDOWS, WIRINGS, COVERAGES, CONTEXTS, OPTIMIZERS, SCHEDULES)
}
PRESETS: Presets = {"model.attention": ATTENTION_PRESETS}


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The experiment that a YAML describes; `overrides` are `section.key=value` each.

    Raises `ConfigError` with a line for every mistake.
    """
    return load_config(path, overrides, families=FAMILIES, presets=PRESETS, checks=CHECKS, whole_checks=NETWORK_CHECKS)


def read_translation(path: str | Path, overrides: Sequence[str] = ()) -> TranslationConfig:
    """The same, of an experiment in translation; raises `ConfigError` for another one."""
    config = read_config(path, overrides)
    if not isinstance(config, TranslationConfig):
        raise ConfigError(f"{path}: task: is {config.task}; give a YAML of a translation")
    return config


def parse_saved_config(text: str, origin: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Returns the config of a checkpoint, or of any YAML text; `origin` stands for it in messages.

    Raises `ConfigError`.
    """
    return parse_config(
        text, origin, overrides, families=FAMILIES, presets=PRESETS, checks=CHECKS, whole_checks=NETWORK_CHECKS
    )


def has_attention(model: schema.ModelConfig) -> bool:
    """Whether the decoder looks at source positions, so that there are weights to align by."""
    score = model.attention.score
    return isinstance(score, ScoreOptions) and score.looks


def lookback(model: schema.ModelConfig) -> Lookback | None:
    """What the translator wants of the sentences before; None where it translates each by itself."""
    return model.context.lookback if isinstance(model.context, ContextOptions) else None


def _of_translation(check: Callable[[TranslationConfig], Iterable[tuple[str, str]]]) -> Check:
    """The rule, for experiments in translation alone."""

    @wraps(check)
    def only(config: ExperimentConfig) -> Iterable[tuple[str, str]]:
        return check(config) if isinstance(config, TranslationConfig) else ()

    return only


@_of_translation
def _coverage_needs_attention(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """Coverage is what attention has left out."""
    if config.search.coverage_penalty and not has_attention(config.model):
        yield "search.coverage_penalty", "needs attention, and model.attention.score is none; leave it out"


@_of_translation
def _parts_go_together(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """Every part of the attention, and the context, says itself what it cannot go with."""
    known = dict(config.model)
    for part in (*dict(known.get("attention", {})).values(), known.get("context")):
        if isinstance(part, schema.NetworkPartOptions):
            yield from decided(part.conflicts(config.model))


@_of_translation
def _bridge_has_a_context(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """Before the first step there is a context only where it does not depend on the decoder's state."""
    score = config.model.attention.score
    if config.model.decoder.bridge != "context" or not isinstance(score, ScoreOptions):
        return
    if score.looks or not score.gives_context:
        yield (
            "model.decoder.bridge",
            "is context, which needs a context that is the same at every step; set model.attention.score to "
            "{kind: none, context: every_step}, or model.decoder.bridge to final",
        )


@_of_translation
def _guided_alignment_needs_alignments(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """Attention is guided by the alignments of the training text."""
    guided = config.training.guided_alignment.weight > 0.0
    if guided and not any(isinstance(each, CorpusOptions) and each.has_alignments for each in config.data.train):
        yield (
            "training.guided_alignment.weight",
            "needs alignments, and no corpus of data.train has any; give one of them `alignments`, or set the weight "
            "to 0",
        )


@_of_translation
def _guided_alignment_needs_attention(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """Only attention can be guided."""
    if config.training.guided_alignment.weight and not has_attention(config.model):
        yield (
            "training.guided_alignment.weight",
            "needs attention, and model.attention.score is none; choose another score, or set the weight to 0",
        )


@_of_translation
def _context_needs_documents(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """The sentences before another one are those of its document."""
    if lookback(config.model) is not None and not any(map(_has_documents, config.data.train)):
        yield "data.train", f"has no documents, {_NEEDED_BY_CONTEXT}"


@_of_translation
def _context_needs_documents_in_validation(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """The same for the validation corpus."""
    if lookback(config.model) is not None and not _has_documents(config.data.validation):
        yield "data.validation", f"has no documents, {_NEEDED_BY_CONTEXT}"


_NEEDED_BY_CONTEXT = "which model.context needs; say where they end with `documents`, or leave model.context out"


def _only_validation_is_split(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """A split is taken from the training text."""
    data = config.data
    if not isinstance(data, (schema.DataConfig, schema.LabelledDataConfig)):
        return
    places = [(f"data.train.{number}", each) for number, each in enumerate(data.train)]
    places += [(f"data.test.{name}", each) for name, each in data.test.items()]
    for path, each in places:
        if isinstance(each, SplitOptions):
            yield path, "split is for data.validation alone; name files here"


def _has_documents(corpus: PartOptions) -> bool:
    # A split takes whole documents from the training text, which has to have some.
    return isinstance(corpus, SplitOptions) or (isinstance(corpus, CorpusOptions) and corpus.has_documents)


@_of_translation
def _a_fused_recurrence_can_be_had(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """What has no fused form is said before anything is read, where it is asked for."""
    if config.runtime.kernel not in FORCED:
        return
    model = config.model
    obstacle = without_memory(lambda: Translator(model, Vocabulary(1, 1, 0))).obstacle()
    if refused := refusal(config.runtime.kernel, obstacle):
        yield "runtime.kernel", refused


def _levels_of_a_document_look(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """What matters in a sentence or in a document is found by looking."""
    if not isinstance(config, ClassificationConfig):
        return
    for name, level in (("word", config.model.word), ("sentence", config.model.sentence)):
        if isinstance(level.score, ScoreOptions) and not level.score.looks:
            yield f"model.{name}.score", f"{level.score.kind} gives no weights; set it to mean, which weighs all alike"


def _graphs_are_for_translators(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """A classifier has no decoder."""
    if isinstance(config, ClassificationConfig) and config.runtime.kernel == "graphed":
        yield "runtime.kernel", "graphed is for the decoder of a translator; set it to auto, fused or reference"


def _fused_layers_can_be_had(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """The same for a classifier, whose kernels are others."""
    if not isinstance(config, ClassificationConfig) or config.runtime.kernel not in FORCED:
        return
    model = config.model
    obstacle = without_memory(lambda: DocumentClassifier(model, vocabulary_size=1, labels=1)).encoder.obstacle()
    if refused := refusal(config.runtime.kernel, obstacle):
        yield "runtime.kernel", refused


CHECKS: tuple[Check, ...] = (
    _only_validation_is_split,
    _levels_of_a_document_look,
    _graphs_are_for_translators,
    _coverage_needs_attention,
    _parts_go_together,
    _bridge_has_a_context,
    _guided_alignment_needs_alignments,
    _guided_alignment_needs_attention,
    _context_needs_documents,
    _context_needs_documents_in_validation,
)
"""Rules between parts; each is asked as far as the values that are right decide it."""
NETWORK_CHECKS: tuple[Check, ...] = (_fused_layers_can_be_had, _a_fused_recurrence_can_be_had)
"""Rules that build a network, so that the whole config must be right."""
