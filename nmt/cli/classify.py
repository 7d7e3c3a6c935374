"""nmt-classify: documents in, labels out."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from nmt.cli.common import Parser, check_files, file_path, run
from nmt.cli.options import add_checkpoint_option, add_machine_options, machine_options, naming_flags, of_type
from nmt.config.schema.bounds import Positive
from nmt.errors import ConfigError
from nmt.visualization.place import is_page, problems_of

DESCRIPTION = """Label the documents of standard input, one a line, its sentences separated by TAB: one line out for
every line in, LABEL and PROBABILITY separated by TAB, a blank line for a blank one, in order. A line without TAB is
split into sentences."""
EPILOG = """With --format jsonl there is an object for each line, with the probabilities of all labels, the weight of
each sentence, and the weight of each word and piece in its sentence."""

WINDOW = 1000


def main() -> None:
    """Entry point of `nmt-classify`."""
    run(_main)


def _main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    machine_options(options)
    _check_plot(options)
    check_files([options.input], options.output)
    return _classify(options)


def _parser() -> Parser:
    parser = Parser("nmt-classify", DESCRIPTION, EPILOG)
    parser.add_argument("--model", required=True, metavar="PATH", help="a run's folder or a checkpoint")
    add_checkpoint_option(parser)
    parser.add_argument("--input", metavar="FILE", help="read this file, compressed or not, instead of standard input")
    parser.add_argument("--output", metavar="FILE", help="write this file instead of standard output")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="default: text")
    parser.add_argument(
        "--sentences",
        choices=("auto", "tab", "split"),
        default="auto",
        help="where sentences end: at TAB, where the rules of the language say so, or at TAB in a line that has one; "
        "default: auto",
    )
    parser.add_argument(
        "--plot",
        type=file_path,
        metavar="PAGE",
        help="draw each document with the weights of its sentences and words on one page, whose name ends in .html",
    )
    parser.add_argument(
        "--window",
        type=of_type(Positive),
        default=WINDOW,
        metavar="N",
        help=f"lines that are read ahead, sorted by size and written together; default: {WINDOW}",
    )
    parser.add_argument("--interactive", action="store_true", help="label each line as it comes, as from a terminal")
    parser.add_argument("--progress", action="store_true", help="show progress even where no terminal is")
    add_machine_options(parser)
    return parser


def _classify(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from tqdm import tqdm

    from nmt.data.readers import iterate_lines, read_lines
    from nmt.runtime import set_up, set_up_logging
    from nmt.tasks.classification.classification import load_classifier
    from nmt.tasks.classification.label_stream import as_line, as_object, drawing_documents, label_stream
    from nmt.tasks.translation.streaming import writing

    set_up_logging(None, is_main=True)
    with naming_flags():
        runtime = set_up(machine_options(options))
        model = load_classifier(options.model, options.checkpoint, runtime)
    interactive = options.interactive or (options.input is None and sys.stdin.isatty())
    # A bar between the lines of the output on the same screen helps nobody.
    hidden = not options.progress and (interactive or not sys.stderr.isatty() or sys.stdout.isatty())
    lines = read_lines(options.input) if options.input else iterate_lines(sys.stdin.buffer, "standard input")
    with (
        writing(options.output) as write,
        tqdm(unit=" documents", disable=hidden) as progress,
        drawing_documents(options.plot, model, options.model) if options.plot else nullcontext() as draw,
    ):
        for text in label_stream(
            model.labeller(runtime),
            model.reader,
            lines,
            as_object(model) if options.format == "jsonl" else as_line(model.labels),
            boundaries=options.sentences,
            weights=options.format == "jsonl" or options.plot is not None,
            window=1 if interactive else options.window,
            advance=progress.update,
            then=draw,
        ):
            write(text)
    return 0


def _check_plot(options: argparse.Namespace) -> None:
    """Before a model is loaded: the page has a place to go to."""
    if options.plot is None:
        return
    problems = [f"--plot: {problem}" for problem in problems_of(options.plot)] if is_page(options.plot) else []
    if not is_page(options.plot):
        problems.append(f"--plot: documents are drawn on one page; {options.plot} must end in .html")
    if options.output and options.plot.resolve() == Path(options.output).resolve():
        problems.append(f"--plot: {options.plot} is what --output writes; name another")
    if problems:
        raise ConfigError(*problems)


if __name__ == "__main__":
    main()
