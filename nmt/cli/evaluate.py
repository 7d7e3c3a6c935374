"""nmt-eval: scores of translations, or of the labels of documents."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.cli.common import Parser, check_paths, naming_flags, output_files, run, write_json, writing
from nmt.cli.options import (
    add_line_options,
    add_machine_options,
    add_model_options,
    add_number_option,
    add_progress_option,
    add_search_options,
    longest_line,
    machine_options,
    search_options,
)
from nmt.config.schema import Samples
from nmt.errors import ConfigError, counted
from nmt.evaluation import BOOTSTRAP_SAMPLES

if TYPE_CHECKING:
    from nmt.config.schema import SearchConfig
    from nmt.evaluation.testsets import LabelledTestSet, TestSet
    from nmt.runtime import Runtime
    from nmt.tasks.classification.labelling import LabelEvaluation, TrainedClassifier
    from nmt.tasks.translation.evaluation import Baseline, Evaluation
    from nmt.tasks.translation.loading import TrainedModel
    from nmt.tasks.translation.text_translation import Request

DESCRIPTION = """Translates test sets and scores the translations: BLEU, chrF and TER with their signatures and
bootstrap confidence intervals, loss and perplexity of the references. Or labels documents: accuracy and macro F1 with
bootstrap confidence intervals, and the confusion matrix. The test sets are those of the model's config, unless
--test-set, --source, --docs or --sacrebleu chooses others."""

BLANK_LINES = "blank_lines"
CLASSIFIER_OPTIONS = ("model", "checkpoint", "test_sets", "samples", "output", "json", "progress", "docs", "labels")
"""Options for classifiers, beside those of the machine."""


def main() -> None:
    run(_main)


def _main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.source is None) != (options.reference is None):
        parser.error("--source and --reference go together")
    if options.langpair is not None and options.sacrebleu is None:
        parser.error("--langpair goes with --sacrebleu")
    if options.documents is not None and options.source is None:
        parser.error("--documents goes with --source; corpora of a config have an option of this name")
    if (options.docs is None) != (options.labels is None):
        parser.error("--docs and --labels go together")
    machine_options(options)
    named = None if options.documents == BLANK_LINES else options.documents
    read = [options.source, *(options.reference or ()), named, options.baseline, options.docs, options.labels]
    check_paths(read, options.output)
    return _evaluate(parser, options)


def _parser() -> Parser:
    parser = Parser("nmt-eval", DESCRIPTION, instead={"--set": "a test set of the model's config is --test-set NAME"})
    add = parser.add_argument
    add_model_options(parser)
    add_test_set = parser.add_mutually_exclusive_group().add_argument
    add_test_set("--source", metavar="FILE", help="test set: file in the source language")
    add_test_set(
        "--test-set",
        action="append",
        metavar="NAME",
        dest="test_sets",
        help="test set of the model's config; may be repeated",
    )
    add_test_set("--sacrebleu", metavar="NAME", help="test set of sacrebleu, cached or downloaded")
    add("--docs", metavar="FILE", help="test set of a classifier: a document a line, as in data.test")
    add("--labels", metavar="FILE", help="labels of --docs, line by line")
    add("--reference", nargs="+", metavar="FILE", help="translations of --source, one file or several")
    add(
        "--documents",
        nargs="?",
        const=BLANK_LINES,
        metavar="FILE",
        help="documents of --source and --reference: they end at blank lines, or this file names the document of each "
        "line, up to the first tab; models with context use them, and the bootstrap resamples documents",
    )
    add("--langpair", metavar="PAIR", help="languages of --sacrebleu, such as de-en (default: the model's)")
    metrics = ["bleu", "chrf", "ter"]
    add("--metrics", nargs="+", choices=metrics, default=metrics, help="metrics (default: all)")
    text = "samples of the bootstrap for confidence intervals; 0 for none"
    add_number_option(parser, "--samples", Samples, BOOTSTRAP_SAMPLES, text)
    add(
        "--baseline",
        metavar="PATH",
        help="file of translations, or run or checkpoint that translates, to compare with by paired bootstrap",
    )
    add("--output", metavar="PATH", help="write the translations to this file, or a folder for several test sets")
    add("--json", action="store_true", help="write JSON instead of tables")
    add_progress_option(parser)
    add_line_options(parser)
    add_search_options(parser)
    add_machine_options(parser)
    return parser


@naming_flags()
def _evaluate(parser: Parser, options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from tqdm import tqdm

    from nmt.checkpoint import find, read_metadata
    from nmt.runtime import broadcast_object, logger, set_up, set_up_logging, tear_down
    from nmt.tasks.translation.evaluation import evaluate
    from nmt.tasks.translation.loading import build_system, load_ensemble
    from nmt.tasks.translation.text_translation import Request

    with ExitStack() as stack:
        runtime = set_up(machine_options(options))
        stack.callback(tear_down)
        set_up_logging(None, runtime.is_main)
        if read_metadata(find(options.model[0], options.checkpoint)).task == "classification":
            _refuse_translation_options(parser, options)
            _evaluate_classifier(options, runtime)
            return 0
        if options.docs is not None:
            raise ConfigError(f"--docs: is for models that label documents, and {options.model[0]} translates")
        models = load_ensemble(options.model, options.checkpoint, runtime)
        search = search_options(options, models[0].config.search)
        # One process reads, so that one downloads.
        sets = broadcast_object(_test_sets(options, models[0]) if runtime.is_main else [])
        request = Request(max_length=longest_line(options), seed=options.seed)
        for test_set in sets:
            if any(model.uses_context for model in models) and test_set.documents is None:
                logger.warning("%s has no documents: every sentence stands alone", test_set.name)
        names = [test_set.name for test_set in sets]
        files = output_files(options.output, names, models[0].config.data.target_language) if runtime.is_main else []
        baseline = _baseline(options, runtime, request, sets)
        hidden = not runtime.is_main or not (options.progress or sys.stderr.isatty())
        total = sum(len(test_set.sources) for test_set in sets) // runtime.world
        with tqdm(unit=" sentences", total=total, leave=False, disable=hidden) as progress:
            system = build_system(models, runtime, search)
            scored = partial(evaluate, metrics=options.metrics, samples=options.samples, baseline=baseline)
            evaluations = [
                scored(system, test_set, search, request=request, advance=progress.update) for test_set in sets
            ]
        if runtime.is_main:
            _write_translations(options, evaluations, models, search, files)
    return 0


def _test_sets(options: argparse.Namespace, model: TrainedModel) -> list[TestSet]:
    from nmt.evaluation.testsets import TestSet, from_config, from_files, load_sacrebleu_set

    data = model.config.data
    if options.source is not None:
        return [from_files(options.source, options.reference, options.documents)]
    if options.sacrebleu is not None:
        languages = options.langpair or f"{data.source_language}-{data.target_language}"
        return [TestSet(f"{options.sacrebleu} {languages}", *load_sacrebleu_set(options.sacrebleu, languages))]
    return from_config(model.config, options.test_sets or [], f"the config of {model.path}")


def _baseline(
    options: argparse.Namespace, runtime: Runtime, request: Request, sets: Sequence[TestSet]
) -> Baseline | None:
    from nmt.tasks.translation.evaluation import baseline_file, baseline_model, is_model

    if options.baseline is None:
        return None
    path = Path(options.baseline)
    if is_model(path):
        return baseline_model(path, options.checkpoint, runtime, partial(search_options, options), request)
    if len(sets) > 1:
        names = ", ".join(test_set.name for test_set in sets)
        raise ConfigError(
            f"--baseline: {path} is for one test set, and there are {len(sets)}; choose by --test-set: {names}"
        )
    return baseline_file(path)


def _write_translations(
    options: argparse.Namespace,
    evaluations: Sequence[Evaluation],
    models: Sequence[TrainedModel],
    search: SearchConfig,
    files: Sequence[Path],
) -> None:
    outputs = [evaluation.test_set.lines_of(evaluation.hypotheses) for evaluation in evaluations]
    tables = [_translation_table(evaluation, options.baseline) for evaluation in evaluations]
    values = {
        "models": [str(model.path) for model in models],
        "baseline": options.baseline,
        "search": search.model_dump(),
        "sets": [_translation_values(evaluation) for evaluation in evaluations],
    }
    _write(options, files, outputs, tables, values)


def _translation_table(evaluation: Evaluation, baseline: str | None) -> str:
    from nmt.evaluation import score_rows
    from nmt.evaluation.metrics import comparison_rows

    test_set, loss = evaluation.test_set, evaluation.loss
    heading = f"{test_set.name}: {counted(len(test_set.sources), 'sentence')}"
    if test_set.document_count:
        heading += f" in {counted(test_set.document_count, 'document')}"
    if len(test_set.references) > 1:
        heading += f", {len(test_set.references)} references each"
    lines = [
        heading,
        f"loss of the references {loss.per_piece:.4f}, perplexity {loss.perplexity:.2f}, "
        f"by {counted(loss.pieces, 'piece')}",
        _table(score_rows(evaluation.scores)),
    ]
    if evaluation.comparisons is not None:
        unit = " over documents" if test_set.document_count else ""
        lines += [
            f"compared with {baseline} by paired bootstrap{unit}",
            _table(comparison_rows(evaluation.comparisons)),
        ]
    return "\n".join(lines)


def _translation_values(evaluation: Evaluation) -> dict[str, Any]:
    """Returns plain values for JSON; infinite ones and NaN become None."""
    from nmt.evaluation import score_values
    from nmt.evaluation.metrics import comparison_values

    test_set, loss = evaluation.test_set, evaluation.loss
    values: dict[str, Any] = {
        "name": test_set.name,
        "sentences": len(test_set.sources),
        "documents": test_set.document_count,
        "scores": score_values(evaluation.scores),
        "loss": loss.per_piece if math.isfinite(loss.per_piece) else None,
        "perplexity": loss.perplexity if math.isfinite(loss.perplexity) else None,
        "target_pieces": loss.pieces,
    }
    if evaluation.comparisons is not None:
        values["comparisons"] = comparison_values(evaluation.comparisons)
    return values


def _refuse_translation_options(parser: Parser, options: argparse.Namespace) -> None:
    """Raises `ConfigError` for options that classifiers do not have."""
    given = [
        action.option_strings[0]
        for action in parser._actions
        if hasattr(options, action.dest)
        and action.dest not in CLASSIFIER_OPTIONS
        and not action.dest.startswith("runtime.")
        and getattr(options, action.dest) != action.default
    ]
    problems = [f"{name}: is for models that translate, and {options.model[0]} labels documents" for name in given]
    if len(options.model) > 1:
        problems.append("--model: models that label documents are evaluated one by one; name a single one")
    if problems:
        raise ConfigError(*problems)


def _evaluate_classifier(options: argparse.Namespace, runtime: Runtime) -> None:
    """Classifies the test sets and writes the scores."""
    from tqdm import tqdm

    from nmt.runtime import broadcast_object
    from nmt.tasks.classification.labelling import evaluate_labels, load_classifier

    model = load_classifier(options.model[0], options.checkpoint, runtime)
    # One process reads, so that files may be pipes.
    sets = broadcast_object(_labelled_sets(options, model) if runtime.is_main else [])
    files = output_files(options.output, [each.name for each in sets], "labels") if runtime.is_main else []
    hidden = not runtime.is_main or not (options.progress or sys.stderr.isatty())
    total = sum(len(each.documents) for each in sets) // runtime.world
    with tqdm(unit=" documents", total=total, leave=False, disable=hidden) as progress:
        evaluations = [
            evaluate_labels(model.system, each, samples=options.samples, advance=progress.update) for each in sets
        ]
    if runtime.is_main:
        _write_labels(options, model, evaluations, files)


def _labelled_sets(options: argparse.Namespace, model: TrainedClassifier) -> list[LabelledTestSet]:
    from nmt.data.readers.labelled import TextDocumentOptions, open_collection
    from nmt.evaluation.testsets import labelled_from_config, read_labelled

    if options.docs is not None:
        collection = open_collection(TextDocumentOptions(docs=options.docs, labels=options.labels), model.config.data)
        return [read_labelled(collection, model.document_tokenizer, model.labels, options.docs)]
    origin = f"the config of {model.path}"
    return labelled_from_config(model.config, options.test_sets or [], origin, model.document_tokenizer, model.labels)


def _write_labels(
    options: argparse.Namespace, model: TrainedClassifier, evaluations: Sequence[LabelEvaluation], files: Sequence[Path]
) -> None:
    from nmt.data.readers.labelled import one_line
    from nmt.evaluation import score_rows
    from nmt.evaluation.label_metrics import confusion_rows, label_score_values

    outputs, tables, sets = [], [], []
    for evaluation in evaluations:
        test_set, scores = evaluation.test_set, evaluation.scores
        labels = ["" if each is None else one_line(model.labels[each.label]) for each in evaluation.predictions]
        outputs.append(labels)
        lines = (
            f"{test_set.name}: {counted(len(test_set.documents), 'document')}",
            f"loss of the labels {evaluation.loss:.4f}",
            _table(score_rows(scores.scores)),
            _table(confusion_rows(scores)),
        )
        tables.append("\n".join(lines))
        values = {"name": test_set.name, "documents": len(test_set.documents), "loss": evaluation.loss}
        sets.append(values | label_score_values(scores))
    _write(options, files, outputs, tables, {"models": [str(model.path)], "sets": sets})


def _write(
    options: argparse.Namespace,
    files: Sequence[Path],
    outputs: Sequence[Sequence[str]],
    tables: Sequence[str],
    values: Mapping[str, Any],
) -> None:
    """Writes the lines of each test set to its file, and tables or JSON to standard output."""
    for file, lines in zip(files, outputs, strict=options.output is not None):
        with writing(str(file)) as write:
            write("".join(f"{line}\n" for line in lines))
    with writing(None) as write:
        if options.json:
            write_json(write, values)
        else:
            write("\n\n".join(tables) + "\n")


def _table(rows: Sequence[Sequence[str]]) -> str:
    from nmt.runtime import format_table

    return format_table(rows[1:], header=rows[0])


if __name__ == "__main__":
    main()
