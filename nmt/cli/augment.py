"""nmt-augment: training pairs by translation, from monolingual text or from the source side of a corpus."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from nmt.cli.common import STANDARD_INPUT, check_paths, command, naming_flags, progress_bar
from nmt.cli.options import Parser, filter_options, machine_options, of_type, search_options, set_up_machine
from nmt.errors import ConfigError, DataError, counted

if TYPE_CHECKING:
    from nmt.api.text_translator import TextTranslator

DESCRIPTION = """Makes training pairs by translation. backtranslate: reads text in the target language, one sentence a
line, and translates it by a model of the other direction; pairs are the translation and the line (Sennrich 2016b).
distill: reads text in the source language, and translates it by a model of the same direction; pairs are the line and
the translation (Kim and Rush 2016). Writes tab-separated lines that `kind: tsv` reads, and counts the lines that are
left out."""
EPILOG = """Translations are kept in OUTPUT.part until all are there. The same command continues a run that was stopped,
with the same result. Other values of --tag, --keep, --min-score and of the filters besides --max-length may be given
then; any other change is refused."""

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Score = Annotated[float, Field(le=0.0)]


@command
def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.method != "distill":
        for name in ("config", "nearest"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} is for distill; leave it out")
    if options.config is not None and options.input is not None:
        parser.error("--input is instead of --config")
    if options.tag is not None and options.tag.split() != [options.tag]:
        parser.error("--tag: must be one word without spaces")
    machine_options(options)
    check_paths([options.input, options.config], options.output)
    output = Path(options.output)
    if output.exists():
        raise DataError(f"{output}: exists already; name another --output, or delete it")
    if not output.parent.is_dir():
        raise DataError(f"{output}: cannot be written: {output.parent} is no folder; create it first")
    return _augment(options)


def _parser() -> Parser:
    parser = Parser("nmt-augment", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("method", choices=("backtranslate", "distill"), help="what is translated, as above")
    parser.add_model_options()
    text = "read this file, compressed or not, instead of standard input; with distill, columns separated by TAB: the "
    add("--input", metavar="FILE", help=text + "source, and a reference if there is one")
    text = "distill: read the pairs of data.train of this YAML, as training would: without the validation split"
    add("--config", metavar="FILE", help=text)
    add("--output", metavar="FILE", required=True, help="the pairs, source and target separated by a TAB")
    add("--tag", metavar="WORD", help="word at the beginning of every source, such as <BT> (Caswell 2019)")
    text = "distill: of the translations of the beam, take the nearest to the reference by this sentence score"
    add("--nearest", choices=("bleu", "chrf"), help=text)
    add_score = parser.add_mutually_exclusive_group().add_argument
    text = "leave out pairs whose translation has a lower log-probability per piece, such as -1.5"
    add_score("--min-score", type=of_type(Score), metavar="X", help=text)
    text = "write this share of the pairs that the filters leave, those with the best scores, such as 0.8"
    add_score("--keep", type=of_type(Share), metavar="SHARE", help=text)
    parser.add_progress_option()
    parser.add_filter_options()
    parser.add_search_options()
    parser.add_machine_options()
    return parser


@naming_flags()
def _augment(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.api.text_translator import TextTranslator
    from nmt.data.cleaning import PairRules
    from nmt.runtime import logger
    from nmt.tasks.translation.synthetic import WORK_SUFFIX, Choice, Job, translate_into, write_pairs

    translator = TextTranslator.load(options.model, options.checkpoint, set_up_machine(options), workers=True)
    if translator.uses_context:
        logger.warning("the model looks back to the lines before; here every line stands alone")
    config = translator.config
    search, filters = search_options(options, config.search), filter_options(options, config.data.filters)
    if options.nearest is not None and (search.kind != "beam" or search.beam_size == 1):
        raise ConfigError("--nearest: chooses from a beam; set --kind beam and a --beam-size of 2 or more")
    languages = config.data.source_language, config.data.target_language
    rules = PairRules(filters, languages[::-1] if options.method == "backtranslate" else languages)
    rules.check()
    job = Job(options.method, search, options.seed, options.nearest, filters.max_length)
    output, work = Path(options.output), Path(options.output + WORK_SUFFIX)
    with _lines(options, translator) as lines, progress_bar(options, " lines") as advance:
        translate_into(work, job, translator.models, translator.system(search), lines, advance)
    choice = Choice(filters, rules, options.min_score, options.keep, options.tag)
    counts, worst = write_pairs(work, output, options.method, choice)
    logger.info("%s", counts.line("line"))
    logger.info("%s with scores of %.4f and more", counted(counts.kept, "pair"), worst)
    logger.info("to train on them, add to data.train: {kind: tsv, path: %s}", json.dumps(str(output)))
    if options.tag:
        logger.info("to keep the tag one piece: tokenizer: {user_defined_symbols: [%s]}", json.dumps(options.tag))
    return 0


@contextmanager
def _lines(options: argparse.Namespace, translator: TextTranslator) -> Iterator[Iterator[str]]:
    """The lines to translate; with --config, source and target of each pair, separated by TAB."""
    import sys

    from nmt.config import TranslationConfig
    from nmt.data.readers.files import iterate_lines, read_lines
    from nmt.tasks.components import read_config
    from nmt.tasks.translation.setup import training_text

    if options.config is None:
        yield read_lines(options.input) if options.input else iterate_lines(sys.stdin.buffer, STANDARD_INPUT)
        return
    config = read_config(options.config, [])
    if not isinstance(config, TranslationConfig) or config.languages != translator.config.languages:
        there = " to ".join(translator.config.languages)
        raise ConfigError(f"{options.config}: has no pairs from {there}, which {options.model[0]} translates")
    with training_text(config) as corpora:
        pairs = (pair for corpus in corpora for pair in corpus if pair.left_out is None)
        yield (f"{_column(pair.source)}\t{_column(pair.target)}" for pair in pairs)


def _column(text: str) -> str:
    # A TAB is a space to the tokenizer.
    return text.replace("\t", " ")


if __name__ == "__main__":
    main()
