"""Training and evaluation in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from nmt.api.arguments import (
    SearchOptions,
    as_many,
    checked_value,
    document_numbers,
    naming_keywords,
    shown_progress,
    texts,
)
from nmt.api.text_classifier import TextClassifier, as_lines, load_classifier
from nmt.api.text_translator import TextTranslator, load
from nmt.checkpoint import RunFolder, find, read_metadata
from nmt.config.schema import Positive, Samples, Seed
from nmt.data.readers.labelled import unknown_label
from nmt.errors import ConfigError, DataError
from nmt.evaluation import BOOTSTRAP_SAMPLES
from nmt.evaluation.metrics import ALL_METRICS, MetricName
from nmt.evaluation.testsets import LONGEST_SAMPLE, LabelledTestSet, TestSet, from_config, labelled_from_config
from nmt.runtime import logging_restored
from nmt.tasks import training
from nmt.tasks.classification.labelling import LabelEvaluation, evaluate_labels, sentences_of
from nmt.tasks.components import read_config
from nmt.tasks.translation import evaluation
from nmt.tasks.translation.evaluation import Evaluation
from nmt.tasks.translation.text_translation import Request
from nmt.training.progress import OnValidation

if TYPE_CHECKING:
    from typing_extensions import Unpack

GIVEN = "given"
"""Name of a test set that consists of arguments."""


@dataclass(frozen=True)
class TrainingRun:
    """A training that has ended; the same call goes on with one that was interrupted."""

    run: Path
    """Folder of the run, which `nmt.load` takes."""
    reason: str
    """Why it ended."""
    interrupted: bool
    """Whether it was interrupted; everything is saved."""
    updates: int
    metrics: Mapping[str, float]
    """Of the best validation; empty before the first one."""


def train(
    config: str | Path,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    fresh: bool = False,
    on_validation: OnValidation | None = None,
    progress: bool = False,
) -> TrainingRun:
    """Trains the translator or classifier that a YAML describes, or goes on with its run, as `nmt-train` does.

    It seeds PyTorch's and Python's random generators. In the main thread an interrupt (Ctrl-C, or that of a notebook)
    ends it after the current update, with everything saved.

    Args:
        config: YAML of the experiment.
        overrides: `section.key=value` each, the value in YAML, as `--set` has them.
        plugins: files of Python with further parts (docs/plugins.md), beside those that the YAML names.
        fresh: start again; an earlier run in the folder is kept aside.
        on_validation: is called after each validation, with its `step`, `epoch`, `metrics`, `samples`, and whether it
            is the best so far. An error that it raises ends the training, with the validated weights saved.
        progress: whether to print the log, with a progress bar on a terminal. The run's folder has the log in any case.

    Raises:
        ConfigError: the YAML or an override has mistakes, a line each.
        DataError: the text cannot be read.
        TrainingError: the loss stays non-finite, or a batch does not fit into memory.
    """
    parsed = read_config(str(config), texts("overrides", overrides), [str(path) for path in plugins])
    with logging_restored():
        result = training.train(parsed, fresh=fresh, quiet=not progress, on_validation=on_validation)
    folder = RunFolder(parsed.run)
    best = folder.pointed("best")
    metrics = {name: value for name, value in read_metadata(best).metrics.items() if value is not None} if best else {}
    return TrainingRun(folder.path, result.reason, result.interrupted, result.progress.step, metrics)


@overload
def evaluate(
    model: TextTranslator,
    *,
    test_sets: Sequence[str] = (),
    sources: Sequence[str] | None = None,
    references: Sequence[str] | Sequence[Sequence[str]] | None = None,
    documents: Sequence[object] | None = None,
    metrics: Sequence[MetricName] = ALL_METRICS,
    baseline: Sequence[str] | None = None,
    samples: int = BOOTSTRAP_SAMPLES,
    max_length: int | None = None,
    seed: int = 1,
    progress: bool = False,
    **search: Unpack[SearchOptions],
) -> list[Evaluation]: ...


@overload
def evaluate(
    model: TextClassifier,
    *,
    test_sets: Sequence[str] = (),
    documents: Sequence[str] | Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    samples: int = BOOTSTRAP_SAMPLES,
    progress: bool = False,
) -> list[LabelEvaluation]: ...


@overload
def evaluate(model: str | Path, **arguments: Any) -> list[Evaluation] | list[LabelEvaluation]: ...


@naming_keywords()
def evaluate(
    model: str | Path | TextTranslator | TextClassifier, **arguments: Any
) -> list[Evaluation] | list[LabelEvaluation]:
    """Scores a model on test sets, as `nmt-eval` does.

    Args:
        model: what `nmt.load` or `nmt.load_classifier` returned, or the folder of a run or checkpoint.
        test_sets: names of test sets in the model's config; by default all of them.
        sources: sentences to translate instead, with `references`.
        references: their translations, or several lists of them.
        documents: of a translator the name of each sentence's document: models with context use them, and the bootstrap
            resamples documents. Of a classifier the documents to label instead, with `labels`.
        labels: the labels of the documents.
        metrics: of bleu, chrf and ter; by default all.
        baseline: other translations of a single test set, which are compared by paired bootstrap.
        samples: of the bootstrap for confidence intervals; 0 for none.
        max_length, seed, search: as for `TextTranslator.translate`.
        progress: whether to show a progress bar.

    Returns:
        An evaluation of each test set, with `scores`, `loss`, the translations or labels as `lines`, and `as_text()`.

    Raises:
        ConfigError: an argument is wrong, or there is no such test set.
        DataError: a test set cannot be read.
    """
    if isinstance(model, (str, Path)):
        model = load_classifier(model) if read_metadata(find(model)).task == "classification" else load(model)
    if isinstance(model, TextClassifier):
        return _evaluate_classifier(model, **_known(arguments, CLASSIFIER_ARGUMENTS, model))
    return _evaluate_translator(model, **arguments)


CLASSIFIER_ARGUMENTS = ("test_sets", "documents", "labels", "samples", "progress")


def _known(arguments: Mapping[str, Any], known: Sequence[str], model: TextClassifier) -> Mapping[str, Any]:
    unknown = [name for name in arguments if name not in known]
    if unknown:
        path = model.model.path
        raise ConfigError(*(f"{name}: is for models that translate, and {path} labels documents" for name in unknown))
    return arguments


def _evaluate_translator(
    translator: TextTranslator,
    *,
    test_sets: Sequence[str] = (),
    sources: Sequence[str] | None = None,
    references: Sequence[str] | Sequence[Sequence[str]] | None = None,
    documents: Sequence[object] | None = None,
    metrics: Sequence[MetricName] = ALL_METRICS,
    baseline: Sequence[str] | None = None,
    samples: int = BOOTSTRAP_SAMPLES,
    max_length: int | None = None,
    seed: int = 1,
    progress: bool = False,
    **search: Any,
) -> list[Evaluation]:
    chosen = translator.search(**search)
    metrics = [checked_value("metrics", MetricName, name) for name in texts("metrics", metrics)]
    request = Request(
        max_length=checked_value("max_length", Positive | None, max_length), seed=checked_value("seed", Seed, seed)
    )
    samples = checked_value("samples", Samples, samples)
    if (sources is None) != (references is None):
        raise ConfigError("sources: goes together with references")
    if sources is not None and references is not None:
        sets = [_given_set(sources, references, documents)]
    elif documents is not None:
        raise ConfigError("documents: goes with sources; test sets of the config have documents of their own")
    else:
        origin = f"the config of {translator.models[0].path}"
        sets = from_config(translator.config, texts("test_sets", test_sets), origin)
    other = None
    if baseline is not None:
        other = texts("baseline", baseline)
        if len(sets) > 1:
            names = ", ".join(each.name for each in sets)
            raise ConfigError(f"baseline: is for one test set, and there are {len(sets)}; choose by test_sets: {names}")
        as_many("baseline", other, "the test set", len(sets[0].sources))
    total = sum(len(each.sources) for each in sets)
    with translator.alone(), shown_progress(progress, total, " sentences") as advance:
        return [
            evaluation.evaluate(
                translator.system(chosen),
                each,
                chosen,
                metrics=metrics,
                samples=samples,
                request=request,
                baseline=None if other is None else lambda test_set: other,
                advance=advance,
            )
            for each in sets
        ]


def _given_set(
    sources: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    documents: Sequence[object] | None,
) -> TestSet:
    sources = texts("sources", sources)
    if isinstance(references, str) or not references or isinstance(references[0], str):
        several = [texts("references", references)]
    else:
        several = [texts("references", each) for each in references]
    for each in several:
        as_many("references", each, "sources", len(sources))
    if documents is not None:
        as_many("documents", documents, "sources", len(sources))
    if not sources:
        raise DataError("sources: is empty; there is nothing to evaluate")
    return TestSet(GIVEN, sources, several, None if documents is None else document_numbers(documents))


def _evaluate_classifier(
    classifier: TextClassifier,
    *,
    test_sets: Sequence[str] = (),
    documents: Sequence[str] | Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    samples: int = BOOTSTRAP_SAMPLES,
    progress: bool = False,
) -> list[LabelEvaluation]:
    model, samples = classifier.model, checked_value("samples", Samples, samples)
    tokenizer = model.document_tokenizer
    if (documents is None) != (labels is None):
        raise ConfigError("documents: goes together with labels")
    if documents is not None and labels is not None:
        lines, _ = as_lines(documents)
        labels = texts("labels", labels)
        as_many("labels", labels, "documents", len(lines))
        if not lines:
            raise DataError("documents: is empty; there is nothing to evaluate")
        for number, label in enumerate(labels, start=1):
            if label not in model.labels:
                raise unknown_label(f"labels: entry {number}", label, model.labels)
        ids = tokenizer.encode([sentences_of(line, number, tokenizer) for number, line in enumerate(lines, start=1)])
        indices = [model.labels.index(label) for label in labels]
        sets = [LabelledTestSet(GIVEN, ids, indices, [line[:LONGEST_SAMPLE] for line in lines])]
    else:
        origin = f"the config of {model.path}"
        sets = labelled_from_config(model.config, texts("test_sets", test_sets), origin, tokenizer, model.labels)
    with shown_progress(progress, sum(len(each.documents) for each in sets), " documents") as advance:
        return [evaluate_labels(model.system, each, samples=samples, advance=advance) for each in sets]
