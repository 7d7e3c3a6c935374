"""nmt-classify: documents in, labels out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.cli.common import Parser, check_paths, file_path, naming_flags, open_stream, run
from nmt.cli.options import (
    add_choice_option,
    add_machine_options,
    add_model_options,
    add_stream_options,
    machine_options,
)
from nmt.errors import ConfigError
from nmt.visualization.pages import is_page, plot_path_problems

if TYPE_CHECKING:
    from nmt.data.cache import TokenizedSentence
    from nmt.tasks.classification.labelling import ClassifiedDocument, TrainedClassifier

DESCRIPTION = """Labels the documents of standard input, one a line, its sentences separated by TAB. Writes one output
line per input line, in order: LABEL and PROBABILITY, separated by TAB. Blank lines stay blank. A line without TAB is
split into sentences."""
EPILOG = """With --format jsonl there is an object for each line, with the probabilities of all labels, the weight of
each sentence, and the weight of each word and piece in its sentence."""

WINDOW = 1000


def main() -> None:
    run(_main)


def _main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    machine_options(options)
    _check_plot(options)
    check_paths([options.input], options.output)
    return _classify(options)


def _parser() -> Parser:
    parser = Parser("nmt-classify", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add_model_options(parser, ensemble=False)
    add_stream_options(parser, "label", WINDOW)
    text = "how a line is split into sentences: at TAB, by the rules of its language, or at TAB if it has one"
    add_choice_option(parser, "--sentences", ("auto", "tab", "split"), text)
    add(
        "--plot",
        type=file_path,
        metavar="PAGE",
        help="draw the weights of the sentences and words of each document on one page, whose name ends in .html",
    )
    add_machine_options(parser)
    return parser


def _classify(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.runtime import set_up, set_up_logging
    from nmt.tasks.classification.labelling import classify_stream, load_classifier

    set_up_logging(None, is_main=True)
    with naming_flags():
        runtime = set_up(machine_options(options))
        model = load_classifier(options.model, options.checkpoint, runtime)
    as_output = _as_json if options.format == "jsonl" else _as_text
    with (
        open_stream(options, " documents") as (lines, window, write, advance),
        _drawing(options.plot, model, options.model) if options.plot else nullcontext() as draw,
    ):
        for documents in classify_stream(
            model,
            lines,
            boundaries=options.sentences,
            weights=options.format == "jsonl" or options.plot is not None,
            window=window,
            advance=advance,
        ):
            write("".join(as_output(document, model) for document in documents))
            if draw is not None:
                for document in documents:
                    draw(document)
    return 0


def _as_text(document: ClassifiedDocument, model: TrainedClassifier) -> str:
    """Returns `LABEL<TAB>PROBABILITY`, or a blank line for a document without a word."""
    from nmt.data.readers.labelled import one_line

    prediction = document.prediction
    if prediction is None:
        return "\n"
    return f"{one_line(model.labels[prediction.label])}\t{prediction.probabilities_K[prediction.label]:.4f}\n"


def _as_json(document: ClassifiedDocument, model: TrainedClassifier) -> str:
    """Returns a JSON object with the probabilities and weights of a document; a blank one has null for its label."""
    prediction = document.prediction
    content: dict[str, Any] = {"line": document.line, "label": None, "probability": None, "probabilities": None}
    if prediction is not None:
        content |= {
            "label": model.labels[prediction.label],
            "probability": float(prediction.probabilities_K[prediction.label]),
            "probabilities": dict(zip(model.labels, prediction.probabilities_K.tolist(), strict=True)),
        }
    content["sentences"] = [
        {
            "text": sentence.text,
            "weight": weight,
            "words": sentence.words,
            "word_weights": _word_weights(sentence, weights),
            "pieces": model.tokenizer.pieces(sentence.ids),
            "piece_weights": weights,
        }
        for sentence, weight, weights in _weighted_sentences(document)
    ]
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _drawing(path: Path, model: TrainedClassifier, name: str) -> Iterator[Callable[[ClassifiedDocument], None]]:
    """Yields a function that draws documents on a page; a block without an error completes it. Raises `DataError`."""
    from nmt.tasks.translation.drawing import writing_page
    from nmt.visualization.pages import DocumentPage, DocumentWeights, SentenceWeights

    with writing_page(path) as write:
        page = DocumentPage(write, name, model.config.data.language)

        def draw(document: ClassifiedDocument) -> None:
            if document.prediction is not None:
                content = DocumentWeights(
                    text=document.text,
                    label=model.labels[document.prediction.label],
                    probabilities=tuple(zip(model.labels, document.prediction.probabilities_K.tolist(), strict=True)),
                    sentences=tuple(
                        SentenceWeights(weight, sentence.words, tuple(_word_weights(sentence, weights)))
                        for sentence, weight, weights in _weighted_sentences(document)
                    ),
                )
                page.add(document.line, content)

        yield draw
        page.end()


def _weighted_sentences(document: ClassifiedDocument) -> Iterator[tuple[TokenizedSentence, float, tuple[float, ...]]]:
    """Yields each sentence with its weight and those of its pieces."""
    if document.prediction is not None:
        prediction = document.prediction
        yield from zip(document.sentences, prediction.sentence_weights, prediction.word_weights, strict=True)


def _word_weights(sentence: TokenizedSentence, piece_weights: Sequence[float]) -> list[float]:
    """Returns the weight of each word: the sum over its pieces."""
    weights = [0.0] * len(sentence.words)
    for word, weight in zip(sentence.word_of_piece, piece_weights, strict=True):
        weights[word] += weight
    return weights


def _check_plot(options: argparse.Namespace) -> None:
    """Raises `ConfigError` if --plot cannot be written, before a model is loaded."""
    if options.plot is None:
        return
    problems = [f"--plot: {problem}" for problem in plot_path_problems(options.plot)] if is_page(options.plot) else []
    if not is_page(options.plot):
        problems.append(f"--plot: documents are drawn on one page; {options.plot} must end in .html")
    if options.output and options.plot.resolve() == Path(options.output).resolve():
        problems.append(f"--plot: {options.plot} is what --output writes; name another")
    if problems:
        raise ConfigError(*problems)


if __name__ == "__main__":
    main()
