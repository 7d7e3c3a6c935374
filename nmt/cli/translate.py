"""nmt-translate: lines in, translations out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.cli.common import Parser, check_files, file_path, run
from nmt.cli.options import (
    add_line_options,
    add_linking_option,
    add_machine_options,
    add_model_options,
    add_search_options,
    add_seed_option,
    longest_line,
    machine_options,
    naming_flags,
    of_type,
    search_options,
)
from nmt.config.schema import Beam, Positive
from nmt.errors import ConfigError
from nmt.visualization.pages import is_page, plot_path_problems

if TYPE_CHECKING:
    from nmt.runtime import Runtime
    from nmt.tasks.translation.drawing import Plotted
    from nmt.tasks.translation.loading import TrainedModel

DESCRIPTION = """Translate standard input to standard output: one line out for every line in, a blank line for a blank
one, in order. With --documents blank lines end documents, and a model with context reads a line in its own."""
EPILOG = """Plain text is the translation alone, or with " ||| " between the fields that were asked for: TEXT ||| SCORE
||| ALIGNMENT. With --n-best above 1 there are up to so many lines for each line of the input, best first, as Moses
writes them: NUMBER ||| TEXT ||| SCORE, the number of the line counted from 0. Alignments are pairs SOURCE-TARGET,
counted from 0. With --format jsonl there is an object for each line, with hypotheses, scores, pieces and
alignments."""

WINDOW = 2000


def main() -> None:
    """Entry point of `nmt-translate`."""
    run(_main)


def _main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    machine_options(options)
    _check_plot(options)
    check_files([options.input, options.prefixes], options.output)
    return _translate(options)


def _parser() -> Parser:
    parser = Parser("nmt-translate", DESCRIPTION, EPILOG)
    add_model_options(parser)
    parser.add_argument("--input", metavar="FILE", help="read this file, compressed or not, instead of standard input")
    parser.add_argument("--output", metavar="FILE", help="write this file instead of standard output")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="default: text")
    parser.add_argument("--n-best", type=of_type(Beam), default=1, metavar="K", help="translations of each line")
    parser.add_argument("--scores", action="store_true", help="write the score of each translation")
    parser.add_argument(
        "--alignments",
        nargs="?",
        const="words",
        choices=("pieces", "words"),
        help="write which source and target words (or SentencePiece pieces) attention links; default: words",
    )
    add_linking_option(parser)
    parser.add_argument(
        "--prefixes", metavar="FILE", help="text that each translation begins with, line by line; blank leaves it free"
    )
    parser.add_argument(
        "--documents",
        action="store_true",
        help="blank lines end documents: of several, the first lines are translated together, then the second ones, "
        "and so on, by models that look back to the lines before; --window then counts lines of whole documents",
    )
    parser.add_argument(
        "--plot",
        type=file_path,
        metavar="PATH",
        help="draw where each translation looked: a folder gets a PNG and an SVG of each line, a name that ends in "
        ".html one page for all of them",
    )
    parser.add_argument(
        "--plot-beside",
        action="append",
        default=[],
        metavar="MODEL",
        help="show this model's own translations beside, on the page of --plot; may be repeated",
    )
    add_line_options(parser)
    add_seed_option(parser)
    parser.add_argument(
        "--window",
        type=of_type(Positive),
        default=WINDOW,
        metavar="N",
        help=f"lines that are read ahead, sorted by length and written together; default: {WINDOW}",
    )
    parser.add_argument(
        "--interactive", action="store_true", help="translate each line as it comes, as from a terminal"
    )
    parser.add_argument("--progress", action="store_true", help="show progress even where no terminal is")
    add_search_options(parser)
    add_machine_options(parser)
    return parser


def _translate(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from tqdm import tqdm

    from nmt.data.readers.files import iterate_lines, read_lines
    from nmt.runtime import logger, set_up, set_up_logging
    from nmt.tasks.translation.drawing import drawing, plotted_system
    from nmt.tasks.translation.layout import JsonLayout, Layout, TextLayout
    from nmt.tasks.translation.loading import join, load_ensemble
    from nmt.tasks.translation.streaming import translate_stream, writing
    from nmt.tasks.translation.translation import Wanted

    set_up_logging(None, is_main=True)
    with naming_flags():
        runtime = set_up(machine_options(options))
    models = load_ensemble(options.model, options.checkpoint, runtime)
    if options.alignments is not None:
        _check_attention("--alignments", "align by", models)
    if options.plot is not None:
        _check_attention("--plot", "look at", models)
    if any(model.looks_back for model in models) and not options.documents:
        logger.warning("the model looks back to the lines before; without --documents every line stands alone")
    search = search_options(options, models[0].config.search)
    layout: Layout = JsonLayout(options.linking)
    if options.format == "text":
        layout = TextLayout(options.n_best, options.scores, options.alignments, options.linking)
    wanted = Wanted(
        n_best=options.n_best,
        attention=options.format == "jsonl" or options.alignments is not None,
        max_length=longest_line(options),
        seed=options.seed,
    )
    interactive = options.interactive or (options.input is None and sys.stdin.isatty())
    # A bar between the lines of the output on the same screen helps nobody.
    hidden = not options.progress and (interactive or not sys.stderr.isatty() or sys.stdout.isatty())
    lines = read_lines(options.input) if options.input else iterate_lines(sys.stdin.buffer, "standard input")
    prefixes = (options.prefixes, read_lines(options.prefixes)) if options.prefixes else None
    window = 1 if interactive else options.window
    with naming_flags():
        system = join(models, runtime, search)
        plotted = [plotted_system(models, runtime, search, " + ".join(options.model)), *_beside(options, runtime)]
    with (
        naming_flags(),
        writing(options.output) as write,
        tqdm(unit=" lines", disable=hidden) as progress,
        drawing(options.plot, plotted, wanted, progress.update) if options.plot else nullcontext() as plot,
    ):
        # Drawing takes longer than translating: where there is any, it is what progress shows.
        advance, then = (None, plot.add) if plot else (progress.update, None)
        for text in translate_stream(
            system,
            lines,
            search,
            layout,
            wanted,
            window=window,
            prefixes=prefixes,
            documents=options.documents,
            advance=advance,
            then=then,
        ):
            write(text)
    return 0


def _beside(options: argparse.Namespace, runtime: Runtime) -> Iterator[Plotted]:
    """The systems that are shown beside the one that translates."""
    from nmt.tasks.translation.drawing import plotted_system
    from nmt.tasks.translation.loading import load_ensemble

    for path in options.plot_beside:
        models = load_ensemble([path], options.checkpoint, runtime)
        _check_attention("--plot-beside", "look at", models)
        yield plotted_system(models, runtime, search_options(options, models[0].config.search), path)


def _check_plot(options: argparse.Namespace) -> None:
    """Before a model is loaded: plots have a place to go to."""
    problems = [f"--plot: {problem}" for problem in plot_path_problems(options.plot)] if options.plot else []
    if options.plot_beside and not (options.plot and is_page(options.plot)):
        problems.append("--plot-beside: models are shown side by side on a page; give --plot a name ending in .html")
    if options.plot and options.output and options.plot.resolve() == Path(options.output).resolve():
        problems.append(f"--plot: {options.plot} is what --output writes; name another")
    if problems:
        raise ConfigError(*problems)


def _check_attention(flag: str, purpose: str, models: Sequence[TrainedModel]) -> None:
    if not any(model.has_attention for model in models):
        raise ConfigError(f"{flag}: {models[0].path} has no attention to {purpose}; leave it out")


if __name__ == "__main__":
    main()
