"""nmt-score: sentence pairs in, scores out; or the pairs with the best scores."""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nmt.cli.common import STANDARD_INPUT, check_paths, command, json_line, naming_flags, open_stream
from nmt.cli.options import Parser, longest_line, machine_options, of_type, set_up_machine
from nmt.errors import ConfigError, DataError, counted

if TYPE_CHECKING:
    from nmt.api.text_translator import TextTranslator
    from nmt.runtime import Runtime
    from nmt.tasks.translation.forced_decoding import ScoreResult
    from nmt.tasks.translation.loading import System
    from nmt.tasks.translation.scoring import ScoredPair

DESCRIPTION = """Scores sentence pairs by a trained model: the log-probability of the target, given the source, per
piece. Reads lines of tab-separated columns, source and target first, from standard input, or the files of --source and
--target. Writes one line per pair, in order. The lower the score, the likelier is the pair misaligned, or the
translation wrong; a pair with an empty side has the score -inf."""
EPILOG = """With --reverse the score is the dual conditional cross-entropy of both models (Junczys-Dowmunt 2018), with
the opposite sign. With --keep, the output has the best pairs instead, as tab-separated lines that `kind: tsv` reads.
With --format jsonl there is an object for each pair, with score, log_probability, pieces and characters of the target,
and reverse, which has the same of the source."""

WINDOW = 2000
Share = Annotated[float, Field(gt=0.0, le=1.0)]


@command
def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together")
    if options.source is not None and options.input is not None:
        parser.error("--input is instead of --source and --target")
    if options.keep is not None and options.source is None and options.input is None:
        parser.error("--keep reads the pairs twice; name files: --input, or --source and --target")
    if options.keep is not None and options.format == "jsonl":
        parser.error("--keep writes pairs; leave out --format jsonl")
    machine_options(options)
    check_paths([options.source, options.target, options.input], options.output)
    return _score(options)


def _parser() -> Parser:
    parser = Parser("nmt-score", DESCRIPTION, EPILOG)
    add = parser.add_argument
    parser.add_model_options()
    add("--reverse", metavar="PATH", help="run folder or checkpoint from the target to the source language")
    add("--source", metavar="FILE", help="file in the source language, compressed or not")
    add("--target", metavar="FILE", help="its translation, line by line")
    parser.add_stream_options("score", WINDOW)
    text = "write the pairs with the best scores, this share of all, in order, such as 0.9; needs files"
    add("--keep", type=of_type(Share), metavar="SHARE", help=text)
    text = "divide log-probabilities by the number of these, the end of the sentence counted"
    parser.add_choice_option("--per", ("piece", "character", "sentence"), text)
    parser.add_batch_option()
    parser.add_line_options()
    parser.add_machine_options()
    return parser


@naming_flags()
def _score(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.api.text_translator import TextTranslator
    from nmt.data.readers.files import check_file
    from nmt.runtime import logger
    from nmt.tasks.translation.scoring import best_rows, score_stream

    if options.keep is not None:
        for path in filter(None, (options.input, options.source, options.target)):
            check_file(Path(path))
    runtime = set_up_machine(options)
    translator = TextTranslator.load(options.model, options.checkpoint, runtime)
    reverse = None if options.reverse is None else _reverse_system(options, translator, runtime)
    settings = {"per": options.per, "max_length": longest_line(options)}
    system, batch_tokens = translator.system(), options.batch_tokens or translator.config.search.batch_tokens
    scores, pairs, unscored = array("d"), 0, 0
    with open_stream(options, " pairs", _lines(options)) as (lines, window, write, advance):
        for scored in score_stream(system, reverse, lines, batch_tokens, window=window, advance=advance, **settings):
            if options.keep is not None:
                scores.extend(pair.score for pair in scored)
            else:
                render = _json if options.format == "jsonl" else _text
                write("".join(render(number, pair) for number, pair in enumerate(scored, start=pairs + 1)))
            pairs += len(scored)
            unscored += sum(not pair.forward.is_scored for pair in scored)
        if options.keep is not None:
            kept = best_rows(scores, options.keep)
            for line, keep in zip(_lines(options), kept.tolist(), strict=True):
                if keep:
                    write(line + "\n")
            count = int(kept.sum())
            if count:
                worst = min(score for score, keep in zip(scores, kept, strict=True) if keep)
                logger.info("%d of %s kept, with scores of %.4f and more", count, counted(pairs, "pair"), worst)
    if unscored:
        logger.warning("%d of %s have an empty side: they have no score", unscored, counted(pairs, "pair"))
    return 0


def _reverse_system(options: argparse.Namespace, translator: TextTranslator, runtime: Runtime) -> System:
    """Returns the system of --reverse; raises ConfigError unless it translates in the other direction."""
    from nmt.api.text_translator import TextTranslator

    reverse = TextTranslator.load([options.reverse], options.checkpoint, runtime)
    there, back = translator.config.languages, reverse.config.languages
    if there != back[::-1]:
        path = reverse.models[0].path
        raise ConfigError(
            f"--reverse: {path} translates from {back[0]} to {back[1]}, not from {there[1]} to {there[0]}"
        )
    return reverse.system()


def _lines(options: argparse.Namespace) -> Iterator[str]:
    """Yields lines of tab-separated columns. Raises DataError for a line with one column, or files that do not fit."""
    import sys

    from nmt.data.readers.files import iterate_lines, read_lines

    if options.source is not None:
        sides = read_lines(options.source), read_lines(options.target)
        for number, pair in enumerate(zip_longest(*sides), start=1):
            if None in pair:
                longer, shorter = options.target, options.source
                if pair[1] is None:
                    longer, shorter = shorter, longer
                raise DataError(
                    f"{shorter} ends before line {number} of {longer}; line n of one must translate line n of the other"
                )
            # A TAB is a space to the tokenizer.
            yield "\t".join(text.replace("\t", " ") for text in pair)
        return
    name = options.input or STANDARD_INPUT
    for number, line in enumerate(
        read_lines(options.input) if options.input else iterate_lines(sys.stdin.buffer, name), start=1
    ):
        if "\t" not in line:
            raise DataError(f"{name}:{number}: one column; source and target are separated by a TAB")
        yield line


def _text(number: int, pair: ScoredPair) -> str:
    return f"{pair.score:.4f}\n"


def _json(number: int, pair: ScoredPair) -> str:
    """An object for the pair; numbers are null where a side is empty."""

    def side(score: ScoreResult) -> dict[str, Any]:
        numbers = {"log_probability": score.log_probability, "pieces": len(score.pieces) + 1}
        return {**(numbers if score.is_scored else dict.fromkeys(numbers)), "characters": len(score.target)}

    reverse = side(pair.backward) if pair.backward is not None and pair.backward.is_scored else None
    score = pair.score if pair.forward.is_scored else None
    return json_line({"line": number, "score": score, **side(pair.forward), "reverse": reverse})


if __name__ == "__main__":
    main()
