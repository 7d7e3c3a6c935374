"""nmt-translate: lines in, translations out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nmt.cli.common import Parser, check_files, run
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
from nmt.config.schema.bounds import Positive
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.experiment.loading import TrainedModel

DESCRIPTION = """Translate standard input to standard output: one line out for every line in, a blank line for a blank
one, in order."""
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
    check_files([options.input, options.prefixes], options.output)
    return _translate(options)


def _parser() -> Parser:
    parser = Parser("nmt-translate", DESCRIPTION, EPILOG)
    add_model_options(parser)
    parser.add_argument("--input", metavar="FILE", help="read this file, compressed or not, instead of standard input")
    parser.add_argument("--output", metavar="FILE", help="write this file instead of standard output")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="default: text")
    parser.add_argument("--n-best", type=of_type(Positive), default=1, metavar="K", help="translations of each line")
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

    from nmt.experiment.layout import JsonLayout, Layout, TextLayout
    from nmt.experiment.loading import join, load_ensemble
    from nmt.experiment.streaming import translate_stream, writing
    from nmt.experiment.translation import Wanted
    from nmt.runtime import set_up, set_up_logging
    from nmt.text.corpus import iterate_lines, read_lines

    set_up_logging(None, is_main=True)
    with naming_flags():
        runtime = set_up(machine_options(options))
    models = load_ensemble(options.model, options.checkpoint, runtime)
    _check_attention(options, models)
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
    with naming_flags(), writing(options.output) as write, tqdm(unit=" lines", disable=hidden) as progress:
        window = 1 if interactive else options.window
        system = join(models, runtime)
        for text in translate_stream(
            system, lines, search, layout, wanted, window=window, prefixes=prefixes, advance=progress.update
        ):
            write(text)
    return 0


def _check_attention(options: argparse.Namespace, models: Sequence[TrainedModel]) -> None:
    if options.alignments is not None and not any(model.has_attention for model in models):
        raise ConfigError(f"--alignments: {models[0].path} has no attention to align by; leave it out")


if __name__ == "__main__":
    main()
