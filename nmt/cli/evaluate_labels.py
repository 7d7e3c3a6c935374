"""nmt-eval for a model that labels documents: accuracy, macro F1 and the confusion matrix."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.cli.common import Parser, output_files
from nmt.cli.options import naming_flags
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.runtime import Runtime
    from nmt.tasks.classification.classification import TrainedClassifier
    from nmt.tasks.classification.labelling import LabelEvaluation, LabelledSet

OPTIONS = ("docs", "labels")
"""What only such a model is given."""
SHARED = ("model", "checkpoint", "test_sets", "samples", "output", "json", "progress", *OPTIONS)
"""What it can be given at all, beside where to compute."""


def add_label_options(parser: Parser) -> None:
    """The options that only a model that labels documents is given."""
    parser.add_argument("--docs", metavar="FILE", help="test set of a classifier: a document a line, as in data.test")
    parser.add_argument("--labels", metavar="FILE", help="labels of --docs, line by line")


def refuse_other_options(parser: Parser, options: argparse.Namespace) -> None:
    """Raise a `ConfigError` for what makes no sense for a model that labels documents."""
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
    """Label the test sets and write what was found."""
    from tqdm import tqdm

    from nmt.runtime import broadcast_object
    from nmt.tasks.classification.classification import load_classifier
    from nmt.tasks.classification.labelling import evaluate_labels

    with naming_flags():
        model = load_classifier(options.model[0], options.checkpoint, runtime)
    # One process reads, so that files may be pipes.
    sets = broadcast_object(_sets(options, model) if runtime.is_main else [])
    files = output_files(options.output, [each.name for each in sets], "labels") if runtime.is_main else []
    hidden = not runtime.is_main or not (options.progress or sys.stderr.isatty())
    total = sum(len(each.documents) for each in sets) // runtime.world
    labeller = model.labeller(runtime)
    with tqdm(unit=" documents", total=total, leave=False, disable=hidden) as progress:
        found = [
            (each, evaluate_labels(labeller, each, samples=options.samples, advance=progress.update)) for each in sets
        ]
    if runtime.is_main:
        _write(options, model, found, files)


def _sets(options: argparse.Namespace, model: TrainedClassifier) -> list[LabelledSet]:
    from nmt.data.labelled import open_collection
    from nmt.data.labelled.text import TextOptions
    from nmt.tasks.classification.labelling import configured_sets, read_set

    if options.docs is not None:
        files = TextOptions(docs=options.docs, labels=options.labels)
        return [read_set(open_collection(files, model.config.data), model.reader, model.labels, options.docs)]
    origin = f"the config of {model.path}"
    return configured_sets(model.config, model.reader, model.labels, options.test_sets or [], origin)


def _write(
    options: argparse.Namespace,
    model: TrainedClassifier,
    found: Sequence[tuple[LabelledSet, LabelEvaluation]],
    files: Sequence[Path],
) -> None:
    from nmt.data.labelled import one_line
    from nmt.tasks.classification.labelling import as_text, as_values
    from nmt.tasks.translation.streaming import writing

    for file, (_, evaluation) in zip(files, found, strict=options.output is not None):
        with writing(str(file)) as write:
            best = ("" if each is None else one_line(model.labels[each.best]) for each in evaluation.labelled)
            write("".join(f"{label}\n" for label in best))
    with writing(None) as write:
        if not options.json:
            write(as_text(found))
            return
        values = {
            "models": [str(model.path)],
            "sets": [as_values(labelled_set, evaluation) for labelled_set, evaluation in found],
        }
        write(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
