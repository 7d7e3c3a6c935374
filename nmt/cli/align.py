"""nmt-align: word alignments of given translations, by attention."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.cli.common import (
    check_paths,
    check_plot,
    check_weights,
    command,
    json_line,
    naming_flags,
    progress_bar,
    write_json,
    writing,
)
from nmt.cli.options import Parser, longest_line, machine_options, shared_machine
from nmt.errors import ConfigError, counted

if TYPE_CHECKING:
    from nmt.data.tokenizer import TokenizerPair
    from nmt.evaluation.alignment import Alignment, GoldAlignment
    from nmt.tasks.translation.drawing import AddWeights, DrawLine
    from nmt.visualization.attention_map import AttentionMap

DESCRIPTION = """Aligns pairs of sentences by the model's attention under teacher forcing. Writes one line per pair, in
order, in the Pharaoh format: SOURCE-TARGET for each link of words, which spaces separate in the files, counted from 0.
A pair with an empty side gives a blank line."""
EPILOG = """With --format jsonl there is an object for each pair, with its pieces, log-probability and alignments. With
--gold, standard output has precision, recall and alignment error rate instead (Och and Ney 2003), and the alignments
are written to --output only. A file of gold alignments has a line for each pair: 3-4 is a sure link of source and
target word, 3p4 a possible one."""

WINDOW = 2000
"""Pairs that are sorted by length, aligned and written together."""


@command
def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.gold is None and (options.json or options.gold_from is not None):
        parser.error(f"{'--json' if options.json else '--gold-from'} goes with --gold")
    if options.gold is not None and options.unit == "pieces":
        parser.error("--gold is about words; leave out --unit pieces")
    machine_options(options)
    check_plot(options, documents=False)
    check_weights(options)
    check_paths([options.source, options.target, options.gold], options.output)
    return _align(options)


def _parser() -> Parser:
    parser = Parser("nmt-align", DESCRIPTION, EPILOG)
    add = parser.add_argument
    parser.add_model_options()
    add("--source", required=True, metavar="FILE", help="file in the source language, compressed or not")
    add("--target", required=True, metavar="FILE", help="its translation, line by line")
    add("--output", metavar="FILE", help="write the alignments to this file, not to standard output")
    parser.add_choice_option("--unit", ("words", "pieces"), "align words or SentencePiece pieces")
    parser.add_linking_option()
    parser.add_choice_option("--format", ("text", "jsonl"), "output format of the alignments")
    parser.add_weights_option()
    parser.add_plot_option("each pair")
    add("--gold", metavar="FILE", help="gold alignments to compare with")
    add("--gold-from", type=int, choices=(0, 1), help="number of the first word in the file of --gold (default: 0)")
    add("--json", action="store_true", help="write the results of --gold as JSON instead of a table")
    parser.add_batch_option()
    parser.add_progress_option()
    parser.add_line_options()
    parser.add_machine_options()
    return parser


@naming_flags()
def _align(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.api.text_translator import TextTranslator
    from nmt.evaluation.alignment import pharaoh, score_alignments, sorted_links
    from nmt.runtime import broadcast_object, logger
    from nmt.tasks.translation.drawing import drawing_of_pairs, page_system, weights_archive
    from nmt.tasks.translation.forced_decoding import align_pair, forced_attention
    from nmt.visualization.pages import DrawnLine

    with ExitStack() as stack:
        runtime = stack.enter_context(shared_machine(options))
        # One process reads, so that files may be pipes.
        sources, targets, gold = broadcast_object(_read(options) if runtime.is_main else ([], [], []))
        translator = TextTranslator.load(options.model, options.checkpoint, runtime)
        if not translator.has_attention:
            path = translator.models[0].path
            raise ConfigError(f"--model: {path} has no attention to align by; choose a model that has")
        system = translator.system()
        writes_lines = options.output is None and options.gold is None
        write: Callable[[str], None] | None = None
        archive: AddWeights | None = None
        draw: DrawLine | None = None
        if runtime.is_main:
            if writes_lines or options.output is not None:
                write = stack.enter_context(writing(options.output))
            if isinstance(options.weights, str):
                archive = stack.enter_context(weights_archive(Path(options.weights)))
            if options.plot is not None:
                shown = page_system(translator.config, " + ".join(options.model), len(translator.models))
                draw = stack.enter_context(drawing_of_pairs(Path(options.plot), [shown]))
        batch_tokens = options.batch_tokens or translator.config.search.batch_tokens
        max_length = longest_line(options)
        alignments: list[Alignment | None] = []
        total, quiet = len(sources) // runtime.world, writes_lines and sys.stdout.isatty()
        with progress_bar(options, " pairs", total, quiet=quiet, is_main=runtime.is_main) as advance:
            for start in range(0, len(sources), WINDOW):
                rows = slice(start, start + WINDOW)
                pairs = sources[rows], targets[rows]
                maps = forced_attention(system, *pairs, batch_tokens, max_length, start + 1, advance)
                for line, (source, target, pair) in enumerate(zip(*pairs, maps, strict=True), start=start + 1):
                    links: Alignment | None = None
                    if pair is not None:
                        links = align_pair(pair, system.tokenizers, options.unit, options.linking)
                    alignments.append(links)
                    if write is not None and options.format == "text":
                        write(f"{pharaoh(links or [])}\n")
                    elif write is not None:
                        write(_json(options, line, source, target, pair, system.tokenizers))
                    if pair is not None and archive is not None:
                        archive(line, pair.source_pieces, pair.target_pieces, pair.weights_NTS)
                    if pair is not None and draw is not None:
                        words = links if options.unit == "words" else None
                        by_hand = sorted_links(gold[line - 1]) if gold else []
                        draw(DrawnLine(line, source, [pair], links=[words], gold=by_hand))
        blank = alignments.count(None)
        if blank and runtime.is_main:
            logger.warning("%d of %d pairs have an empty side: their alignments are blank", blank, len(sources))
        if options.gold is not None and runtime.is_main:
            scores = score_alignments([alignment or [] for alignment in alignments], gold)
            with writing(None) as write:
                if options.json:
                    values = {"models": [str(model.path) for model in translator.models], "source": options.source}
                    values |= {"target": options.target, "gold": options.gold, "pairs": len(sources)}
                    write_json(write, values | scores.as_json())
                else:
                    write(f"{options.gold}: {counted(len(sources), 'pair')}\n{scores.as_text()}")
    return 0


def _json(
    options: argparse.Namespace,
    line: int,
    source: str,
    target: str,
    pair: AttentionMap | None,
    tokenizers: TokenizerPair,
) -> str:
    """Returns a JSON object with the results of a pair, numbered from 1; null where a side is empty."""
    from nmt.evaluation.alignment import UNITS, pharaoh
    from nmt.tasks.translation.drawing import weights_in_json
    from nmt.tasks.translation.forced_decoding import align_pair

    content: dict[str, Any] = {"line": line, "source": source, "target": target}
    content |= dict.fromkeys(("source_pieces", "pieces", "log_probability", "alignments"))
    if pair is not None:
        units = {unit: pharaoh(align_pair(pair, tokenizers, unit, options.linking)) for unit in UNITS}
        content |= {"source_pieces": pair.source_pieces, "pieces": pair.target_pieces}
        content |= {"log_probability": pair.log_probability, "alignments": units}
        if options.weights is True:
            content |= weights_in_json(pair.weights_NTS)
    return json_line(content)


def _read(options: argparse.Namespace) -> tuple[list[str], list[str], list[GoldAlignment]]:
    from nmt.evaluation.alignment import read_gold
    from nmt.evaluation.testsets import read_aligned

    sources, targets = read_aligned(options.source, [options.target])
    gold = read_gold(options.gold, options.gold_from or 0, sources, targets) if options.gold is not None else []
    return sources, targets, gold


if __name__ == "__main__":
    main()
