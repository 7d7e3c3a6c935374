"""Components that a config selects by name, and the rules between them: reads configs with both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nmt.checkpoint import read_metadata
from nmt.checkpoint.folder import CONFIG_FILE, read_config_text
from nmt.config import (
    Check,
    ClassificationConfig,
    Components,
    ExperimentConfig,
    Families,
    TranslationConfig,
    parse_config,
    schema,
)
from nmt.config.document import Node, Problem, error_of
from nmt.config.reader import build_config, read_tree
from nmt.config.registry import PartOptions, decided
from nmt.data.batching import DocumentContext
from nmt.data.readers.base import SplitOptions
from nmt.data.readers.corpora import CorpusOptions
from nmt.errors import ConfigError
from nmt.kernels.select import FORCED, reference_kernels, refusal
from nmt.model.attention.base import ScoreOptions, has_attention
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.classifier import DocumentClassifier
from nmt.model.context import ContextOptions
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.tasks.plugins import FAMILIES, Plugin, load_plugin, load_plugins, plugins_for, with_plugins
from nmt.training.objectives import ObjectiveOptions


def read_config(
    path: str | Path, overrides: Sequence[str] = (), plugins: Sequence[str | Path] = ()
) -> ExperimentConfig:
    """Reads a YAML file, and executes the plugins that it names, and those of `plugins`, which it names from now on.

    `overrides` are `section.key=value`. Raises `ConfigError` with a line for every mistake.
    """
    origin = str(path)
    root, problems = read_tree(path, FAMILIES, overrides)
    families = _families_of(root, load_plugins(plugins), origin)
    return build_config(root, problems, origin, replace(COMPONENTS, families=families))


def _families_of(root: Node, plugins: list[Plugin], origin: str) -> Families:
    """Executes the plugins that a YAML names, and adds the names of others; returns the families with all parts.

    Raises `ConfigError` for mistakes in plugins alone: without their parts, others would be reported wrongly.
    """
    named = root.child("plugins")
    if named is None or named.value is None:
        named = Node([], root.location)
    if not isinstance(root.value, dict) or not isinstance(named.value, list):
        return FAMILIES  # a mistake that the schema reports
    problems = []
    for number, node in enumerate(named.value):
        if isinstance(node.value, str) and node.value:
            try:
                plugins.append(load_plugin(node.value))
            except ConfigError as error:
                problems += [Problem(node.location, ("plugins", number), line) for line in error.problems]
    if problems:
        raise error_of(problems, origin)
    written = [node.value for node in named.value]
    paths = [plugin.path for plugin in plugins if plugin.path not in written]
    if paths:
        root.value["plugins"] = Node([*named.value, *(Node(each, root.location) for each in paths)], named.location)
    try:
        return with_plugins(plugins)
    except ConfigError as error:
        raise error_of([Problem(named.location, ("plugins",), line) for line in error.problems], origin) from None


def read_translation(path: str | Path, overrides: Sequence[str] = ()) -> TranslationConfig:
    """Reads a config as `read_config` does; raises `ConfigError` for another task than translation."""
    config = read_config(path, overrides)
    if not isinstance(config, TranslationConfig):
        raise ConfigError(f"{path}: task: is {config.task}; give a YAML of a translation")
    return config


_BEFORE = {"model.decoder.readout.lexical": False}
"""Keys that configs of earlier versions lack, with what these versions did."""


def parse_saved_config(
    text: str, origin: str, overrides: Sequence[str] = (), plugins: Sequence[Plugin] = ()
) -> ExperimentConfig:
    """Returns the config of YAML text, which `origin` names in messages; executes no plugin. Raises `ConfigError`."""
    components = replace(COMPONENTS, families=with_plugins(plugins))
    return parse_config(text, origin, components, overrides, _BEFORE)


def read_saved_config(folder: Path) -> ExperimentConfig:
    """Reads the config of a checkpoint. Its plugins must have been executed.

    Raises `CheckpointError`, among others for a plugin that is missing, or `ConfigError` for an edited config.
    """
    plugins = plugins_for(folder, read_metadata(folder).plugins)
    return parse_saved_config(read_config_text(folder), str(folder / CONFIG_FILE), plugins=plugins)


def document_context(model: schema.ModelConfig) -> DocumentContext | None:
    """Returns the document context that the translator reads, or None if it translates sentences alone."""
    return model.context.document_context if isinstance(model.context, ContextOptions) else None


ConfigT = TypeVar("ConfigT", bound=ExperimentConfig)
Problems = Iterable[tuple[str, str]]
"""Dotted path of a key, and its mistake."""


def _only_for(kind: type[ConfigT], *rules: Callable[[ConfigT], Problems]) -> list[Check]:
    """Restricts rules to the configs of one task."""

    def restrict(rule: Callable[[ConfigT], Problems]) -> Check:
        return lambda config: rule(config) if isinstance(config, kind) else ()

    return list(map(restrict, rules))


def _coverage_needs_attention(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    if config.search.coverage_penalty and not has_attention(config.model):
        yield "search.coverage_penalty", "needs attention, and model.attention.score is none; leave it out"


def _replacement_needs_attention(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    if config.search.replace_unknown != "none" and not has_attention(config.model):
        yield "search.replace_unknown", "needs attention, and model.attention.score is none; leave it out"


def _lexical_model_needs_attention(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    if config.model.decoder.readout.lexical and not has_attention(config.model):
        yield (
            "model.decoder.readout.lexical",
            "needs attention, and model.attention.score is none; choose another score, or leave it out",
        )


def _parts_go_together(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """The options of the attention and of the context know their own conflicts."""
    known = dict(config.model)
    for part in (*dict(known.get("attention", {})).values(), known.get("context")):
        if isinstance(part, schema.NetworkPartOptions):
            yield from decided(part.conflicts(config.model))


def _bridge_has_a_context(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """Before the first step a context exists only if it does not depend on the decoder's state."""
    score = config.model.attention.score
    if config.model.decoder.bridge != "context" or not isinstance(score, ScoreOptions):
        return
    if score.has_weights or not score.gives_context:
        yield (
            "model.decoder.bridge",
            "is context, which needs a context that is the same at every step; set model.attention.score to "
            "{kind: none, context: every_step}, or model.decoder.bridge to final",
        )


def _latent_alignment_has_likelihoods(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """Other objectives read the readout, of which a latent alignment has one for each source position."""
    if config.model.attention.alignment == "latent" and config.training.objective.kind != "likelihood":
        yield (
            "training.objective",
            f"is {config.training.objective.kind}, which needs one softmax for each piece, and "
            "model.attention.alignment is latent; set it to likelihood",
        )


def _guided_alignment_needs_alignments(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    guided = config.training.guided_alignment.weight > 0.0
    if guided and not any(isinstance(each, CorpusOptions) and each.has_alignments for each in config.data.train):
        yield (
            "training.guided_alignment.weight",
            "needs alignments, and no corpus of data.train has any; give one of them `alignments`, or set the weight "
            "to 0",
        )


def _guided_alignment_needs_attention(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    if config.training.guided_alignment.weight and not has_attention(config.model):
        yield (
            "training.guided_alignment.weight",
            "needs attention, and model.attention.score is none; choose another score, or set the weight to 0",
        )


def _objective_goes_with_the_rest(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    """The options of an objective know their own conflicts with the section `training`."""
    objective = config.training.objective
    if not isinstance(objective, ObjectiveOptions):
        return
    yield from ((f"training.{key}", text) for key, text in decided(objective.conflicts(config.training)))
    if not objective.reads_context and document_context(config.model) is not None:
        yield (
            "training.objective",
            f"{objective.kind} translates sentences alone; leave model.context out, or set the objective to likelihood "
            "or r_drop",
        )


def _context_needs_documents(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    if document_context(config.model) is not None and not any(map(_has_documents, config.data.train)):
        yield "data.train", f"has no documents, {_NEEDED_BY_CONTEXT}"


def _context_needs_documents_in_validation(config: TranslationConfig) -> Iterator[tuple[str, str]]:
    if document_context(config.model) is not None and not _has_documents(config.data.validation):
        yield "data.validation", f"has no documents, {_NEEDED_BY_CONTEXT}"


_NEEDED_BY_CONTEXT = "which model.context needs; say where they end with `documents`, or leave model.context out"


def _has_documents(corpus: PartOptions) -> bool:
    # A split takes whole documents from the training text, which must have some.
    return isinstance(corpus, SplitOptions) or (isinstance(corpus, CorpusOptions) and corpus.has_documents)


def _only_validation_is_split(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    data = config.data
    if not isinstance(data, (schema.DataConfig, schema.LabelledDataConfig)):
        return
    corpora = [(f"data.train.{number}", each) for number, each in enumerate(data.train)]
    corpora += [(f"data.test.{name}", each) for name, each in data.test.items()]
    for path, each in corpora:
        if isinstance(each, SplitOptions):
            yield path, "split is for data.validation alone; name files here"


def _levels_have_attention(config: ClassificationConfig) -> Iterator[tuple[str, str]]:
    for name, level in (("word", config.model.word), ("sentence", config.model.sentence)):
        if isinstance(level.score, ScoreOptions) and not level.score.has_weights:
            yield f"model.{name}.score", f"{level.score.kind} gives no weights; set it to mean, which weighs all alike"


def _graphs_are_for_translators(config: ClassificationConfig) -> Iterator[tuple[str, str]]:
    if config.runtime.kernel == "graphed":
        yield "runtime.kernel", "graphed is for the training of translators; set it to auto, fused or reference"


def _supports_forced_kernels(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    reason = None
    if config.runtime.kernel in FORCED and isinstance(config, TranslationConfig):
        translator = without_memory(lambda: Translator(config.model, Vocabulary(1, 1, 0), reference_kernels()))
        reason = refusal(config.runtime.kernel, translator.unsupported_reasons().recurrence)
    elif config.runtime.kernel in FORCED and isinstance(config, ClassificationConfig):
        classifier = without_memory(lambda: DocumentClassifier(config.model, 1, 1, reference_kernels()))
        reason = refusal(config.runtime.kernel, classifier.unsupported_reasons().layers)
    if reason:
        yield "runtime.kernel", reason


CHECKS: tuple[Check, ...] = (
    _only_validation_is_split,
    *_only_for(ClassificationConfig, _levels_have_attention, _graphs_are_for_translators),
    *_only_for(
        TranslationConfig,
        _coverage_needs_attention,
        _replacement_needs_attention,
        _lexical_model_needs_attention,
        _parts_go_together,
        _bridge_has_a_context,
        _latent_alignment_has_likelihoods,
        _guided_alignment_needs_alignments,
        _guided_alignment_needs_attention,
        _objective_goes_with_the_rest,
        _context_needs_documents,
        _context_needs_documents_in_validation,
    ),
)
"""Rules between parts. Each is checked as far as the correct values decide it."""
NETWORK_CHECKS: tuple[Check, ...] = (_supports_forced_kernels,)
"""Rules for a config without any other mistake. They build the network on the device meta, only if kernels are forced:
a mistake in the YAML, with its line, comes before anything is read."""
COMPONENTS = Components(FAMILIES, {"model.attention": ATTENTION_PRESETS}, CHECKS, NETWORK_CHECKS)
"""Selectable parts of a config, its presets and its rules."""
