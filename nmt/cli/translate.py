"""nmt-translate: lines in, translations out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.cli.common import check_paths, check_plot, check_weights, command, json_line, naming_flags, open_stream
from nmt.cli.options import Parser, longest_line, machine_options, search_options, set_up_machine
from nmt.config.schema import Beam
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.api.text_translator import TextTranslator
    from nmt.config.schema import SearchConfig
    from nmt.evaluation.alignment import Linking, Unit
    from nmt.tasks.translation.loading import System
    from nmt.tasks.translation.paragraph_translation import TranslatedParagraph
    from nmt.tasks.translation.text_translation import Request, Translation

DESCRIPTION = """Translates standard input to standard output. Writes one output line per input line, in order. Blank
lines stay blank. With --documents, documents end at blank lines, and a model with context reads the lines before a line
in its document."""
EPILOG = """Text output is the translation, followed by the requested fields: TEXT ||| SCORE ||| ALIGNMENT. With
--n-best above 1 there are several lines for each input line, best first, as Moses writes them: NUMBER ||| TEXT |||
SCORE, lines numbered from 0. Alignments are pairs SOURCE-TARGET, counted from 0. With --format jsonl there is an object
for each line, with hypotheses, scores, pieces and alignments. The score of a paragraph is the mean of the scores of its
sentences."""

WINDOW = 2000
SEPARATOR = " ||| "


@command
def main() -> int:
    options = _parser().parse_args()
    machine_options(options)
    check_plot(options, documents=False)
    check_weights(options)
    if options.split_sentences:
        _check_paragraphs(options)
    check_paths([options.input, options.prefixes], options.output)
    return _translate(options)


def _parser() -> Parser:
    parser = Parser("nmt-translate", DESCRIPTION, EPILOG)
    add = parser.add_argument
    parser.add_model_options()
    parser.add_stream_options("translate", WINDOW)
    parser.add_number_option("--n-best", Beam, 1, "translations of each line", "K")
    add("--scores", action="store_true", help="write the score of each translation")
    add(
        "--alignments",
        nargs="?",
        const="words",
        choices=("pieces", "words"),
        help="write the links between source and target words, or SentencePiece pieces, by attention (default: words)",
    )
    parser.add_linking_option()
    add(
        "--split-sentences",
        action="store_true",
        help="lines are paragraphs: translate each sentence, and keep the white space between the sentences; takes the "
        "package sentencex",
    )
    add("--prefixes", metavar="FILE", help="beginnings of the translations, one a line; a blank line has none")
    add(
        "--documents",
        action="store_true",
        help="documents end at blank lines; models with context translate a line after those before it in its "
        "document, and --window counts the lines of whole documents",
    )
    parser.add_weights_option()
    parser.add_plot_option("each translation")
    add(
        "--plot-beside",
        action="append",
        default=[],
        metavar="MODEL",
        help="show this model's own translations on the page of --plot as well; may be repeated",
    )
    parser.add_translation_options()
    return parser


@naming_flags()
def _translate(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.api.text_translator import TextTranslator
    from nmt.data.readers.files import read_lines
    from nmt.runtime import logger
    from nmt.tasks.translation.drawing import PlottedSystem, drawing, page_system, weights_archive
    from nmt.tasks.translation.text_translation import Request, translate_stream

    runtime = set_up_machine(options)
    translator = TextTranslator.load(options.model, options.checkpoint, runtime, workers=True)
    if options.alignments is not None:
        _check_attention("--alignments", "align by", translator)
    if options.weights is not None:
        _check_attention("--weights", "write", translator)
    if options.plot is not None:
        _check_attention("--plot", "look at", translator)
    if translator.uses_context and not (options.documents or options.split_sentences):
        logger.warning("the model looks back to the lines before; without --documents every line stands alone")
    search = search_options(options, translator.config.search)
    system = translator.system(search)
    name = " + ".join(options.model)
    systems = [PlottedSystem(system, search, page_system(translator.config, name, len(translator.models)))]
    for path in options.plot_beside:
        other = TextTranslator.load([path], options.checkpoint, runtime, workers=True)
        _check_attention("--plot-beside", "look at", other)
        own_search = search_options(options, other.config.search)
        systems.append(PlottedSystem(other.system(own_search), own_search, page_system(other.config, path)))
    request = Request(
        n_best=options.n_best,
        attention=options.format == "jsonl" or options.alignments is not None or options.weights is not None,
        heads=options.weights is not None,
        max_length=longest_line(options),
        seed=options.seed,
    )
    render = partial(render_json, linking=options.linking, weights=options.weights is True)
    if options.format == "text":
        fields = {"n_best": options.n_best, "scores": options.scores, "unit": options.alignments}
        render = partial(render_text, linking=options.linking, **fields)
    if options.split_sentences:
        _translate_paragraphs(options, translator.config.languages, system, search, request)
        return 0
    prefixes = (options.prefixes, read_lines(options.prefixes)) if options.prefixes else None
    with (
        open_stream(options, " lines") as (lines, window, write, advance),
        drawing(Path(options.plot), systems, request, advance) if options.plot else nullcontext() as plot,
        weights_archive(Path(options.weights)) if isinstance(options.weights, str) else nullcontext() as archive,
    ):
        # Drawing takes longer than translating, and shows the progress itself.
        settings = {"prefixes": prefixes, "documents": options.documents, "advance": None if plot else advance}
        for translated in translate_stream(system, lines, search, request, window=window, **settings):
            numbered = enumerate(zip(translated.lines, translated.translations, strict=True), translated.first_line)
            for number, (line, translations) in numbered:
                write(render(number, line, translations))
                if archive and translations:
                    best = translations[0]
                    assert best.head_attention is not None, "--weights needs attention"
                    archive(number, best.source_pieces, best.pieces, best.head_attention)
            if plot:
                plot.add(translated)
    return 0


def _check_paragraphs(options: argparse.Namespace) -> None:
    """Raises `ConfigError` for options that are for lines of one sentence, and `DataError` without the package."""
    from nmt.data.sentences import Splitter

    given = {
        "--n-best": options.n_best > 1,
        "--alignments": options.alignments is not None,
        "--prefixes": options.prefixes is not None,
        "--plot": options.plot is not None,
        "--weights": isinstance(options.weights, str),
    }
    if names := [name for name, is_given in given.items() if is_given]:
        what = "is for sentences, not for the paragraphs of --split-sentences; leave it out, or give a sentence a line"
        raise ConfigError(*(f"{name}: {what}" for name in names))
    Splitter("en").check("--split-sentences", "give a sentence a line")


def _translate_paragraphs(
    options: argparse.Namespace, languages: tuple[str, ...], system: System, search: SearchConfig, request: Request
) -> None:
    from nmt.tasks.translation.paragraph_translation import paragraph_stream

    source, target = languages
    done = 0
    with open_stream(options, " sentences") as (lines, window, write, advance):
        settings = {"window": window, "documents": options.documents, "advance": advance}
        for translated in paragraph_stream(system, lines, (source, target), search, request, **settings):
            for number, each in enumerate(translated, start=done + 1):
                if options.format == "jsonl":
                    write(render_paragraph(number, each, linking=options.linking, weights=options.weights is True))
                else:
                    score = f"{SEPARATOR}{each.score:.4f}" if options.scores and each.paragraph.sentences else ""
                    write(f"{each.text}{score}\n")
            done += len(translated)


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


def render_json(
    number: int,
    line: str,
    translations: Sequence[Translation],
    *,
    linking: Linking = "grow-diag",
    weights: bool = False,
) -> str:
    """Returns a JSON object with all results of line `number`, counted from 1.

    `log_probabilities` has one number more than `pieces`, for the end. `alignments` is null without attention. With
    `weights` there are those of attention, too, see `weights_in_json`.
    """
    return json_line({"line": number, **_sentence(line, translations, linking, weights)})


def render_paragraph(
    number: int, translated: TranslatedParagraph, *, linking: Linking = "grow-diag", weights: bool = False
) -> str:
    """Returns a JSON object for paragraph `number`, counted from 1; each of its sentences is as in `render_json`."""
    sentences = zip(translated.paragraph.sentences, translated.translations, strict=True)
    content: dict[str, Any] = {
        "line": number,
        "source": translated.source,
        "translation": translated.text,
        "score": translated.score,
        "log_probability": translated.log_probability,
        "sentences": [_sentence(source, each, linking, weights) for source, each in sentences],
    }
    return json_line(content)


def _sentence(line: str, translations: Sequence[Translation], linking: Linking, weights: bool) -> dict[str, Any]:
    return {
        "source": line,
        "source_pieces": list(translations[0].source_pieces) if translations else [],
        "translation": translations[0].text if translations else "",
        "hypotheses": [_values(each, linking, weights) for each in translations],
    }


def _values(translation: Translation, linking: Linking, weights: bool) -> dict[str, Any]:
    from nmt.evaluation.alignment import UNITS, pharaoh
    from nmt.tasks.translation.drawing import weights_in_json

    values: dict[str, Any] = {
        "text": translation.text,
        "score": translation.score,
        "log_probability": translation.log_probability,
        "pieces": list(translation.pieces),
        "log_probabilities": list(translation.piece_log_probabilities),
        "alignments": None,
    }
    if translation.attention is not None:
        values["alignments"] = {unit: pharaoh(translation.alignment(unit, linking)) for unit in UNITS}
    if weights and translation.head_attention is not None:
        values |= weights_in_json(translation.head_attention)
    return values


def _check_attention(flag: str, purpose: str, translator: TextTranslator) -> None:
    if not translator.has_attention:
        raise ConfigError(f"{flag}: {translator.models[0].path} has no attention to {purpose}; leave it out")


if __name__ == "__main__":
    main()
