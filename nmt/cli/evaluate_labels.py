"""nmt-eval for classifiers: accuracy, macro F1 and the confusion matrix."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.cli.common import Parser, output_files, writing
from nmt.cli.options import naming_flags
from nmt.errors import ConfigError, counted

if TYPE_CHECKING:
    from nmt.evaluation.testsets import LabelledTestSet
    from nmt.runtime import Runtime
    from nmt.tasks.classification.labelling import LabelEvaluation, TrainedClassifier

OPTIONS = ("docs", "labels")
"""Options for classifiers alone."""
SHARED = ("model", "checkpoint", "test_sets", "samples", "output", "json", "progress", *OPTIONS)
"""Options for classifiers, beside those of the machine."""


def add_label_options(parser: Parser) -> None:
    """Adds the options for classifiers alone."""
    parser.add_argument("--docs", metavar="FILE", help="test set of a classifier: a document a line, as in data.test")
    parser.add_argument("--labels", metavar="FILE", help="labels of --docs, line by line")


def refuse_other_options(parser: Parser, options: argparse.Namespace) -> None:
    """Raises `ConfigError` for options that classifiers do not have."""
    given = [
        action.option_strings[0]
        for action in parser._actions
        if hasattr(options, action.dest)
        and action.dest not in SHARED
        and not action.dest.startswith("runtime.")
        and getattr(options, action.dest) != action.default
    ]
    problems = [f"{name}: is for models that translate, and {options.model[0]} labels documents" for name in given]
    if len(options.model) > 1:
        problems.append("--model: models that label documents are evaluated one by one; name a single one")
    if problems:
        raise ConfigError(*problems)


def evaluate_labelling(options: argparse.Namespace, runtime: Runtime) -> None:
    """Classifies the test sets and writes the scores."""
    from tqdm import tqdm

    from nmt.runtime import broadcast_object
    from nmt.tasks.classification.labelling import evaluate_labels, load_classifier

    with naming_flags():
        model = load_classifier(options.model[0], options.checkpoint, runtime)
    # One process reads, so that files may be pipes.
    sets = broadcast_object(_test_sets(options, model) if runtime.is_main else [])
    files = output_files(options.output, [each.name for each in sets], "labels") if runtime.is_main else []
    hidden = not runtime.is_main or not (options.progress or sys.stderr.isatty())
    total = sum(len(each.documents) for each in sets) // runtime.world
    with tqdm(unit=" documents", total=total, leave=False, disable=hidden) as progress:
        evaluations = [
            evaluate_labels(model.system, each, samples=options.samples, advance=progress.update) for each in sets
        ]
    if runtime.is_main:
        _write(options, model, evaluations, files)


def _test_sets(options: argparse.Namespace, model: TrainedClassifier) -> list[LabelledTestSet]:
    from nmt.data.readers.labelled import TextDocumentOptions, open_collection
    from nmt.evaluation.testsets import labelled_from_config, read_labelled

    if options.docs is not None:
        collection = open_collection(TextDocumentOptions(docs=options.docs, labels=options.labels), model.config.data)
        return [read_labelled(collection, model.reader, model.labels, options.docs)]
    origin = f"the config of {model.path}"
    return labelled_from_config(model.config, options.test_sets or [], origin, model.reader, model.labels)


def _write(
    options: argparse.Namespace, model: TrainedClassifier, evaluations: Sequence[LabelEvaluation], files: Sequence[Path]
) -> None:
    from nmt.data.readers.labelled import one_line
    from nmt.evaluation.label_metrics import label_score_values

    for file, evaluation in zip(files, evaluations, strict=options.output is not None):
        with writing(str(file)) as write:
            labels = ("" if each is None else one_line(model.labels[each.label]) for each in evaluation.predictions)
            write("".join(f"{label}\n" for label in labels))
    with writing(None) as write:
        if not options.json:
            write("\n\n".join(map(_table, evaluations)) + "\n")
            return
        sets = [
            {
                "name": evaluation.test_set.name,
                "documents": len(evaluation.test_set.documents),
                "loss": evaluation.loss,
                **label_score_values(evaluation.scores),
            }
            for evaluation in evaluations
        ]
        values = {"models": [str(model.path)], "sets": sets}
        write(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _table(evaluation: LabelEvaluation) -> str:
    from nmt.evaluation import score_rows
    from nmt.evaluation.label_metrics import confusion_rows
    from nmt.runtime import format_table

    scores, confusion = score_rows(evaluation.scores.scores), confusion_rows(evaluation.scores)
    return "\n".join(
        (
            f"{evaluation.test_set.name}: {counted(len(evaluation.test_set.documents), 'document')}",
            f"loss of the labels {evaluation.loss:.4f}",
            format_table(scores[1:], header=scores[0]),
            format_table(confusion[1:], header=confusion[0]),
        )
    )
