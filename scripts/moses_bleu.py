"""BLEU in lower case on text that is tokenized as Moses does, as many papers report it, beside sacrebleu's own."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Sequence
from importlib.util import find_spec

from sacrebleu.metrics.bleu import BLEU

from nmt.cli.common import command, write_json, writing
from nmt.cli.options import Parser, machine_options, search_options, shared_machine
from nmt.errors import ConfigError, counted
from nmt.evaluation import MetricScore, score_rows, score_values
from nmt.evaluation.metrics import corpus_scores
from nmt.evaluation.testsets import from_config
from nmt.tasks.base import table_of
from nmt.tasks.translation.loading import build_system, load_ensemble
from nmt.tasks.translation.text_translation import translate_lines

DESCRIPTION = """Translates the test sets of a run and scores them three times: by the BLEU of nmt-eval (cased,
tokenizer 13a), and by that of multi-bleu.perl on text that went through Moses's lowercase, normalize-punctuation and
tokenizer, without and with words split at hyphens (tokenizer.perl -a). The last one is the form in which nmtpytorch,
the toolkit of LIUM-CVC, prepares Multi30k."""
SPLITS_HYPHENS = {"lc.norm.tok": False, "lc.norm.tok -a": True}


def moses_lines(lines: Sequence[str], language: str, *, split_hyphens: bool) -> list[str]:
    """Returns the lines in lower case, with normalized punctuation and a space between tokens, in this order of steps.

    The package sacremoses has the rules of the Perl scripts. Markup is not escaped, which changes no BLEU.
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)
    return [
        tokenizer.tokenize(
            normalizer.normalize(line.lower()), aggressive_dash_splits=split_hyphens, return_str=True, escape=False
        )
        for line in lines
    ]


def moses_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> dict[str, MetricScore]:
    """Scores detokenized translations without and with words split at hyphens; `references` are whole sets."""
    scores = {}
    for name, split in SPLITS_HYPHENS.items():
        # multi-bleu.perl does not smooth. Without `force`, sacrebleu warns of text that is tokenized.
        metric = BLEU(lowercase=True, tokenize="none", smooth_method="none", force=True)
        sides = [moses_lines(side, language, split_hyphens=split) for side in (hypotheses, *references)]
        result = metric.corpus_score(sides[0], sides[1:])
        scores[name] = MetricScore(f"BLEU {name}", float(result.score), str(metric.get_signature()))
    return scores


def all_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str) -> dict[str, MetricScore]:
    """Scores detokenized translations cased by sacrebleu's tokenizer 13a, and as `moses_scores` does."""
    cased = corpus_scores(hypotheses, references, ("bleu",))["bleu"]
    by_moses = moses_scores(hypotheses, references, language)
    return {"13a": MetricScore("BLEU 13a", cased.value, cased.signature), **by_moses}


@command
def main() -> int:
    options = _parser().parse_args()
    machine_options(options)
    if find_spec("sacremoses") is None:
        raise ConfigError("scripts/moses_bleu takes the package sacremoses; pip install sacremoses")
    with shared_machine(options) as runtime:
        models = load_ensemble(options.model, options.checkpoint, runtime)
        config = models[0].config
        language, search = config.data.target_language, search_options(options, config.search)
        system = build_system(models, runtime, search)
        sets = from_config(config, options.test_sets or [], f"the config of {models[0].path}")
        found = {}
        for test_set in sets:
            translations = translate_lines(system, test_set.sources, search, documents=test_set.documents)
            hypotheses = [best[0].text if best else "" for best in translations]
            found[test_set.name] = len(hypotheses), all_scores(hypotheses, test_set.references, language)
        if runtime.is_main:
            package = f"sacremoses {importlib.metadata.version('sacremoses')}, language {language}"
            _write(options, found, package)
    return 0


def _write(options: argparse.Namespace, found: dict[str, tuple[int, dict[str, MetricScore]]], package: str) -> None:
    with writing(None) as write:
        if options.json:
            sets = [
                {"name": name, "sentences": count, "scores": score_values(scores)}
                for name, (count, scores) in found.items()
            ]
            write_json(write, {"models": options.model, "tokenizer": package, "sets": sets})
            return
        for name, (count, scores) in found.items():
            write(f"{name}: {counted(count, 'sentence')}; {package}\n{table_of(score_rows(scores))}\n")


def _parser() -> Parser:
    parser = Parser("scripts/moses_bleu", DESCRIPTION)
    parser.add_model_options()
    parser.add_argument(
        "--test-set",
        action="append",
        metavar="NAME",
        dest="test_sets",
        help="test set of the model's config; may be repeated (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON instead of tables")
    parser.add_search_options()
    parser.add_machine_options()
    return parser


if __name__ == "__main__":
    main()
