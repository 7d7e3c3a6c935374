"""nmt-classify: documents in, labels out."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.cli.common import check_paths, check_plot, command, json_line, naming_flags, open_stream
from nmt.cli.options import Parser, machine_options, set_up_machine
from nmt.errors import DataError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmt.visualization.pages import ClassifiedDocument

DESCRIPTION = """Labels the documents of standard input, one a line, its sentences separated by TAB. Writes one output
line per input line, in order: LABEL and PROBABILITY, separated by TAB. Blank lines stay blank. A line without TAB is
split into sentences."""
EPILOG = """With --format jsonl there is an object for each line, with the probabilities of all labels, the weight of
each sentence, and the weight of each word and piece in its sentence."""

WINDOW = 1000


@command
def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.labels is not None and options.plot is None:
        parser.error("--labels goes with --plot")
    machine_options(options)
    check_plot(options, documents=True)
    check_paths([options.input, options.labels], options.output)
    return _classify(options)


def _parser() -> Parser:
    parser = Parser("nmt-classify", DESCRIPTION, EPILOG)
    add = parser.add_argument
    parser.add_model_options(ensemble=False)
    parser.add_stream_options("label", WINDOW)
    text = "how a line is split into sentences: at TAB, by the rules of its language, or at TAB if it has one"
    parser.add_choice_option("--sentences", ("auto", "tab", "split"), text)
    add(
        "--plot",
        metavar="PAGE",
        help="draw the weights of the sentences and words of each document on one page, whose name ends in .html",
    )
    add(
        "--labels",
        metavar="FILE",
        help="true labels, one a line: the page of --plot marks the mistakes and sorts the documents by them",
    )
    parser.add_machine_options()
    return parser


@naming_flags()
def _classify(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.data.readers.files import read_lines
    from nmt.tasks.classification.labelling import classify_stream, load_classifier
    from nmt.visualization.pages import DocumentPage, new_page

    model = load_classifier(options.model, options.checkpoint, set_up_machine(options))
    labels = None if options.labels is None else list(read_lines(options.labels))
    language = model.config.data.language
    as_output = _as_json if options.format == "jsonl" else _as_text
    with (
        open_stream(options, " documents") as (lines, window, write, advance),
        new_page(Path(options.plot), lambda write: DocumentPage(write, options.model, language))
        if options.plot
        else nullcontext() as page,
    ):
        for documents in classify_stream(
            model,
            lines,
            boundaries=options.sentences,
            weights=options.format == "jsonl" or options.plot is not None,
            window=window,
            advance=advance,
        ):
            write("".join(as_output(document) for document in documents))
            if page is not None:
                for each in documents:
                    truth = _true_label(options.labels, labels, each.line)
                    if each.label is not None:
                        page.add(each, truth)
    return 0


def _true_label(path: str, labels: Sequence[str] | None, line: int) -> str | None:
    """Returns the true label of a line, numbered from 1; None for a blank one. Raises `DataError` without one."""
    if labels is None:
        return None
    if line > len(labels):
        lines = counted(len(labels), "line")
        raise DataError(f"{path}: has {lines}, and there are more documents; give a label for each")
    return labels[line - 1].strip() or None


def _as_text(document: ClassifiedDocument) -> str:
    """Returns `LABEL<TAB>PROBABILITY`, or a blank line for a document without a word."""
    from nmt.data.readers.labelled import one_line

    label = document.label
    return "\n" if label is None else f"{one_line(label)}\t{document.probabilities[label]:.4f}\n"


def _as_json(document: ClassifiedDocument) -> str:
    """Returns a JSON object with the probabilities and weights of a document; a blank one has null for its label."""
    content = {
        "line": document.line,
        "label": document.label,
        "probability": document.probabilities[document.label] if document.label is not None else None,
        "probabilities": document.probabilities or None,
        "sentences": [
            {
                "text": sentence.text,
                "weight": sentence.weight,
                "words": sentence.words,
                "word_weights": sentence.weights,
                "pieces": sentence.pieces,
                "piece_weights": sentence.piece_weights,
            }
            for sentence in document.sentences
        ],
    }
    return json_line(content)


if __name__ == "__main__":
    main()
