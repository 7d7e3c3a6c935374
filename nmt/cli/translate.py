"""nmt-translate: lines in, translations out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.cli.common import Parser, check_files, file_path, run, writing
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
    from nmt.evaluation.alignment import Linking, Unit
    from nmt.runtime import Runtime
    from nmt.tasks.translation.drawing import PlottedSystem
    from nmt.tasks.translation.loading import TrainedModel
    from nmt.tasks.translation.translate import Translation

DESCRIPTION = """Translate standard input to standard output: one line out for every line in, a blank line for a blank
one, in order. With --documents blank lines end documents, and a model with context reads a line in its own."""
EPILOG = """Plain text is the translation alone, or with " ||| " between the fields that were asked for: TEXT ||| SCORE
||| ALIGNMENT. With --n-best above 1 there are up to so many lines for each line of the input, best first, as Moses
writes them: NUMBER ||| TEXT ||| SCORE, the number of the line counted from 0. Alignments are pairs SOURCE-TARGET,
counted from 0. With --format jsonl there is an object for each line, with hypotheses, scores, pieces and
alignments."""

WINDOW = 2000
SEPARATOR = " ||| "


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
    from nmt.tasks.translation.loading import build_system, load_ensemble
    from nmt.tasks.translation.translate import Request, translate_stream

    set_up_logging(None, is_main=True)
    with naming_flags():
        runtime = set_up(machine_options(options))
    models = load_ensemble(options.model, options.checkpoint, runtime)
    if options.alignments is not None:
        _check_attention("--alignments", "align by", models)
    if options.plot is not None:
        _check_attention("--plot", "look at", models)
    if any(model.uses_context for model in models) and not options.documents:
        logger.warning("the model looks back to the lines before; without --documents every line stands alone")
    search = search_options(options, models[0].config.search)
    render = partial(render_json, linking=options.linking)
    if options.format == "text":
        render = partial(
            render_text,
            n_best=options.n_best,
            scores=options.scores,
            unit=options.alignments,
            linking=options.linking,
        )
    request = Request(
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
        system = build_system(models, runtime, search)
        plotted = [plotted_system(models, runtime, search, " + ".join(options.model)), *_beside(options, runtime)]
    with (
        naming_flags(),
        writing(options.output) as write,
        tqdm(unit=" lines", disable=hidden) as progress,
        drawing(options.plot, plotted, request, progress.update) if options.plot else nullcontext() as plot,
    ):
        # Drawing takes longer than translating: where there is any, it is what progress shows.
        for translated in translate_stream(
            system,
            lines,
            search,
            request,
            window=window,
            prefixes=prefixes,
            documents=options.documents,
            advance=None if plot else progress.update,
        ):
            numbered = enumerate(zip(translated.lines, translated.translations, strict=True), translated.first_line)
            write("".join(render(number, line, translations) for number, (line, translations) in numbered))
            if plot:
                plot.add(translated)
    return 0


def _beside(options: argparse.Namespace, runtime: Runtime) -> Iterator[PlottedSystem]:
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


def render_text(
    number: int,
    line: str,
    translations: Sequence[Translation],
    *,
    n_best: int = 1,
    scores: bool = False,
    unit: Unit | None = None,
    linking: Linking = "grow-diag",
) -> str:
    """Returns a line for each translation of line `number`: `[NUMBER ||| ] TEXT [ ||| SCORE] [ ||| ALIGNMENT]`.

    With `n_best` above 1 as Moses writes it: with the number of the line, from 0, and the score. A blank line gives a
    blank line.
    """
    from nmt.evaluation.alignment import pharaoh

    if not translations:
        return f"{number - 1}{SEPARATOR}\n" if n_best > 1 else "\n"
    rows = []
    for translation in translations:
        fields = [str(number - 1)] if n_best > 1 else []
        fields.append(translation.text)
        if scores or n_best > 1:
            fields.append(f"{translation.score:.4f}")
        if unit is not None:
            fields.append(pharaoh(translation.alignment(unit, linking)))
        rows.append(SEPARATOR.join(fields) + "\n")
    return "".join(rows)


def render_json(number: int, line: str, translations: Sequence[Translation], *, linking: Linking = "grow-diag") -> str:
    """Returns a JSON object with all results of line `number`, counted from 1.

    `log_probabilities` has one number more than `pieces`, for the end. `alignments` is null without attention.
    """
    from nmt.evaluation.alignment import UNITS, pharaoh

    hypotheses = [
        {
            "text": each.text,
            "score": each.score,
            "log_probability": each.log_probability,
            "pieces": list(each.pieces),
            "log_probabilities": list(each.piece_log_probabilities),
            "alignments": None
            if each.attention is None
            else {unit: pharaoh(each.alignment(unit, linking)) for unit in UNITS},
        }
        for each in translations
    ]
    content = {
        "line": number,
        "source": line,
        "source_pieces": list(translations[0].source_pieces) if translations else [],
        "translation": translations[0].text if translations else "",
        "hypotheses": hypotheses,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


def _check_attention(flag: str, purpose: str, models: Sequence[TrainedModel]) -> None:
    if not any(model.has_attention for model in models):
        raise ConfigError(f"{flag}: {models[0].path} has no attention to {purpose}; leave it out")


if __name__ == "__main__":
    main()
