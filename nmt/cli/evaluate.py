"""nmt-eval: scores of translations, or of the labels of documents."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.cli.common import HUB, check_paths, command, naming_flags, output_files, progress_bar, write_json, writing
from nmt.cli.options import Parser, longest_line, machine_options, search_options, shared_machine
from nmt.config.schema import Samples, SearchConfig
from nmt.errors import ConfigError, write_errors
from nmt.evaluation import BOOTSTRAP_SAMPLES, MetricScore

if TYPE_CHECKING:
    from nmt.evaluation.testsets import LabelledTestSet, TestSet
    from nmt.runtime import Runtime
    from nmt.tasks.classification.labelling import LabelEvaluation, TrainedClassifier
    from nmt.tasks.translation.evaluation import Baseline, Evaluation
    from nmt.tasks.translation.loading import System, TrainedModel
    from nmt.tasks.translation.text_translation import Request

DESCRIPTION = """Translates test sets and scores the translations: BLEU, chrF and TER with their signatures and
bootstrap confidence intervals, loss and perplexity of the references. Or labels documents: accuracy and macro F1 with
bootstrap confidence intervals, and the confusion matrix. The test sets are those of the model's config, unless
--test-set, --source, --docs or --sacrebleu chooses others. With --tune it finds the length penalty for which BLEU is
highest on the validation corpus of the model's config, or on the test set that is chosen."""

BLANK_LINES = "blank_lines"
TABLE = "table"
"""Value of --by-length without a picture."""
CLASSIFIER_OPTIONS = (
    *("model", "checkpoint", "plugin", "test_sets", "samples", "output"),
    *("json", "card", "progress", "docs", "labels"),
)
"""Options for classifiers, beside those of the machine."""


@command
def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if (options.source is None) != (options.reference is None):
        parser.error("--source and --reference go together")
    if options.langpair is not None and options.sacrebleu is None:
        parser.error("--langpair goes with --sacrebleu")
    if options.documents is not None and options.source is None:
        parser.error("--documents goes with --source; corpora of a config have an option of this name")
    picture = _picture(options)
    if picture is not None and picture.suffix not in (".png", ".svg"):
        parser.error(f"--by-length: {picture} does not end in .png or .svg")
    if picture is not None and find_spec("matplotlib") is None:
        parser.error("--by-length: a picture needs the package matplotlib; pip install matplotlib, or name no picture")
    if (options.docs is None) != (options.labels is None):
        parser.error("--docs and --labels go together")
    if options.tune and (options.baseline is not None or options.output is not None):
        parser.error("--tune goes without --baseline and --output, which are for one value of the length penalty")
    if options.tune and options.by_length is not None:
        parser.error("--tune goes without --by-length")
    if options.card and (options.tune or len(options.model) > 1):
        parser.error("--card is for the scores of one model; leave out --tune, and name one --model")
    if options.card and options.model[0].startswith(HUB):
        parser.error("--card is for a model in a folder; get it with nmt-hub pull --output")
    machine_options(options)
    named = None if options.documents == BLANK_LINES else options.documents
    read = [options.source, *(options.reference or ()), named, options.baseline, options.docs, options.labels]
    check_paths(read, options.output)
    if picture is not None and not picture.parent.is_dir():
        parser.error(f"--by-length: {picture.parent} is no folder")
    return _evaluate(parser, options)


def _parser() -> Parser:
    parser = Parser("nmt-eval", DESCRIPTION, instead={"--set": "a test set of the model's config is --test-set NAME"})
    add = parser.add_argument
    parser.add_model_options()
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
    parser.add_number_option("--samples", Samples, BOOTSTRAP_SAMPLES, text)
    add(
        "--baseline",
        metavar="PATH",
        help="file of translations, or run or checkpoint that translates, to compare with by paired bootstrap",
    )
    add("--tune", action="store_true", help="try length penalties on the validation corpus, and print the best one")
    add(
        "--by-length",
        nargs="?",
        const=TABLE,
        metavar="PICTURE",
        help="BLEU by the length of the source sentence as well; a path ending in .png or .svg draws it, with the "
        "baseline beside it",
    )
    add("--output", metavar="PATH", help="write the translations to this file, or a folder for several test sets")
    add("--json", action="store_true", help="write JSON instead of tables")
    add("--card", action="store_true", help="add the scores to README.md in the model's folder, its model card")
    parser.add_progress_option()
    parser.add_translation_options()
    return parser


@naming_flags()
def _evaluate(parser: Parser, options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.checkpoint import find, read_metadata

    with shared_machine(options) as runtime:
        if read_metadata(find(options.model[0], options.checkpoint)).task == "classification":
            _refuse_translation_options(parser, options)
            _evaluate_classifier(options, runtime)
        elif options.docs is not None:
            raise ConfigError(f"--docs: is for models that label documents, and {options.model[0]} translates")
        else:
            _evaluate_translator(options, runtime)
    return 0


def _evaluate_translator(options: argparse.Namespace, runtime: Runtime) -> None:
    from nmt.api.text_translator import TextTranslator
    from nmt.runtime import broadcast_object, logger
    from nmt.tasks.translation.evaluation import evaluate
    from nmt.tasks.translation.text_translation import Request

    translator = TextTranslator.load(options.model, options.checkpoint, runtime, workers=True)
    search, models = search_options(options, translator.config.search), translator.models
    # One process reads, so that one downloads.
    sets = broadcast_object(_test_sets(options, models[0]) if runtime.is_main else [])
    if options.tune and len(sets) > 1:
        names = ", ".join(test_set.name for test_set in sets)
        raise ConfigError(f"--tune: is for one test set, and --test-set names {len(sets)} ({names}); name one")
    request = Request(max_length=longest_line(options), seed=options.seed)
    for test_set in sets:
        if translator.uses_context and test_set.documents is None:
            logger.warning("%s has no documents: every sentence stands alone", test_set.name)
    if options.tune:
        _tune(options, runtime, translator.system(search), sets[0], search, request)
        return
    picture = _picture(options)
    if picture is not None and len(sets) > 1:
        names = ", ".join(test_set.name for test_set in sets)
        raise ConfigError(f"--by-length: {picture} is for one test set; choose by --test-set: {names}")
    files = _files(options, runtime, sets, models[0].config.data.target_language)
    baseline = _baseline(options, runtime, request, sets)
    total = sum(len(test_set.sources) for test_set in sets) // runtime.world
    with progress_bar(options, " sentences", total, is_main=runtime.is_main) as advance:
        system = translator.system(search)
        scored = partial(
            evaluate,
            metrics=options.metrics,
            samples=options.samples,
            baseline=baseline,
            by_length=options.by_length is not None,
        )
        evaluations = [scored(system, test_set, search, request=request, advance=advance) for test_set in sets]
    if runtime.is_main:
        if options.card:
            how = f"beam {search.beam_size}" if search.kind == "beam" else search.kind
            how += ", int8" * (runtime.weights == "int8")
            _add_to_card(models[0].path, {f"{each.test_set.name}, {how}": each.scores for each in evaluations})
        values = {"models": [str(model.path) for model in models], "baseline": options.baseline}
        texts = [evaluation.as_text(options.baseline) for evaluation in evaluations]
        _write(options, files, evaluations, texts, values | {"search": search.model_dump()})
        if picture is not None:
            _draw_by_length(picture, evaluations[0], " + ".join(options.model), options.baseline)


def _picture(options: argparse.Namespace) -> Path | None:
    """The picture of --by-length, if one is asked for."""
    return None if options.by_length in (None, TABLE) else Path(options.by_length)


def _draw_by_length(path: Path, evaluation: Evaluation, name: str, baseline: str | None) -> None:
    """Draws BLEU by length, the baseline's curve beside the model's."""
    from nmt.checkpoint.durable import replace_file
    from nmt.visualization.curves import render_length_curves

    scores = evaluation.by_length or ()
    systems = {name: [score.system for score in scores]}
    if baseline is not None:
        systems[baseline] = [score.baseline for score in scores if score.baseline]
    curves = {system: [score.value for score in each] for system, each in systems.items()}
    intervals = {
        system: [score.confidence for score in each if score.confidence]
        for system, each in systems.items()
        if all(score.confidence for score in each)
    }
    picture = render_length_curves(
        [score.words for score in scores], curves, "png" if path.suffix == ".png" else "svg", intervals
    )
    with write_errors(path):
        replace_file(path, picture)


def _tune(
    options: argparse.Namespace,
    runtime: Runtime,
    system: System,
    test_set: TestSet,
    search: SearchConfig,
    request: Request,
) -> None:
    """Writes BLEU for each length penalty, and the best of them."""
    from nmt.tasks.base import table_of
    from nmt.tasks.translation.evaluation import best_trial, length_penalties, tune_length_penalty

    if search.kind != "beam":
        raise ConfigError(f"--tune: the length penalty is for beam search, and the kind of search is {search.kind}")
    total = len(length_penalties(search)) * len(test_set.sources) // runtime.world
    with progress_bar(options, " sentences", total, is_main=runtime.is_main) as advance:
        trials = tune_length_penalty(system, test_set, search, request=request, advance=advance)
    if not runtime.is_main:
        return
    best = best_trial(trials, search.length_penalty)
    with writing(None) as write:
        if options.json:
            tried = {"set": test_set.name, "trials": [vars(trial) for trial in trials]}
            write_json(write, {"length_penalty": best.length_penalty, **tried, "search": search.model_dump()})
            return
        rows = [
            (f"{trial.length_penalty:g}", f"{trial.bleu:.2f}", f"{trial.length_ratio:.3f}", "best" * (trial is best))
            for trial in trials
        ]
        write(f"{test_set.name}: {len(test_set.sources):,} sentences, beam {search.beam_size}\n")
        write(table_of([("length penalty", "BLEU", "length ratio", ""), *rows]))
        write(f"\nUse it: --length-penalty {best.length_penalty:g}, or search.length_penalty in the YAML\n")


def _evaluate_classifier(options: argparse.Namespace, runtime: Runtime) -> None:
    from nmt.runtime import broadcast_object
    from nmt.tasks.classification.labelling import evaluate_labels, load_classifier

    model = load_classifier(options.model[0], options.checkpoint, runtime)
    # One process reads, so that files may be pipes.
    sets = broadcast_object(_labelled_sets(options, model) if runtime.is_main else [])
    files = _files(options, runtime, sets, "labels")
    total = sum(len(test_set.documents) for test_set in sets) // runtime.world
    with progress_bar(options, " documents", total, is_main=runtime.is_main) as advance:
        scored = partial(evaluate_labels, model.system, samples=options.samples, advance=advance)
        evaluations = [scored(test_set) for test_set in sets]
    if runtime.is_main:
        if options.card:
            _add_to_card(model.path, {each.test_set.name: each.scores.scores for each in evaluations})
        texts = [evaluation.as_text() for evaluation in evaluations]
        _write(options, files, evaluations, texts, {"models": [str(model.path)]})


def _test_sets(options: argparse.Namespace, model: TrainedModel) -> list[TestSet]:
    from nmt.evaluation.testsets import TestSet, from_config, from_files, load_sacrebleu_set

    data = model.config.data
    if options.source is not None:
        return [from_files(options.source, options.reference, options.documents)]
    if options.sacrebleu is not None:
        languages = options.langpair or f"{data.source_language}-{data.target_language}"
        return [TestSet(f"{options.sacrebleu} {languages}", *load_sacrebleu_set(options.sacrebleu, languages))]
    if options.tune and not options.test_sets:
        from nmt.tasks.translation.setup import validation_set

        return [validation_set(model.config)]
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


def _labelled_sets(options: argparse.Namespace, model: TrainedClassifier) -> list[LabelledTestSet]:
    from nmt.data.readers.labelled import TextDocumentOptions, open_collection
    from nmt.evaluation.testsets import labelled_from_config, read_labelled

    if options.docs is not None:
        collection = open_collection(TextDocumentOptions(docs=options.docs, labels=options.labels), model.config.data)
        return [read_labelled(collection, model.document_tokenizer, model.labels, options.docs)]
    origin = f"the config of {model.path}"
    return labelled_from_config(model.config, options.test_sets or [], origin, model.document_tokenizer, model.labels)


def _files(
    options: argparse.Namespace, runtime: Runtime, sets: Sequence[TestSet] | Sequence[LabelledTestSet], suffix: str
) -> list[Path]:
    names = [test_set.name for test_set in sets]
    return output_files(options.output, names, suffix) if runtime.is_main else []


def _add_to_card(folder: Path, scores: Mapping[str, Mapping[str, MetricScore]]) -> None:
    """Adds the scores to the model card, by test set; of a file without its folder."""
    from nmt.checkpoint.card import CardScore
    from nmt.tasks.publishing import add_to_card

    rows = [
        CardScore(Path(text).name, score.name, score.value, score.signature or "")
        for text, metrics in scores.items()
        for score in metrics.values()
    ]
    add_to_card(folder, rows)


def _write(
    options: argparse.Namespace,
    files: Sequence[Path],
    evaluations: Sequence[Evaluation | LabelEvaluation],
    texts: Sequence[str],
    values: Mapping[str, Any],
) -> None:
    """Writes the lines of each test set to its file, and tables or JSON to standard output."""
    for file, evaluation in zip(files, evaluations, strict=options.output is not None):
        with writing(str(file)) as write:
            write("".join(f"{line}\n" for line in evaluation.lines))
    with writing(None) as write:
        if options.json:
            write_json(write, {**values, "sets": [evaluation.as_json() for evaluation in evaluations]})
        else:
            write("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
