"""Measures the use of context: pronouns of data/quickstart whose German gender depends on the sentence before.

Trains the quickstart's translator, goes on with it once without and once with context, for as long, and counts on the
test set how many pronouns are right: in their documents, and with the sentence before taken from another document. Then
it measures and draws the attention of the pronouns. A run that is there already is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmt.config.schema import RuntimeConfig, SearchConfig
from nmt.data.cache.pair_encoding import words_of
from nmt.evaluation.metrics import corpus_scores
from nmt.runtime import format_table, set_up, set_up_logging
from nmt.tasks.translation.forced_decoding import forced_attention_of_ids
from nmt.tasks.translation.loading import System, build_system, load_model
from nmt.tasks.translation.text_translation import translate_lines
from nmt.visualization.attention_map import AttentionMap
from nmt.visualization.fonts import Fonts
from nmt.visualization.heatmap import render_heatmap

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "quickstart"
SENTENCES, CONTEXT = ROOT / "configs" / "quickstart.yaml", ROOT / "configs" / "quickstart-context.yaml"
PRONOUNS = frozenset({"er", "ihn", "sie", "es"})
CHANCE = 1 / 3
SEED = 1


@dataclass(frozen=True)
class Pronoun:
    """A pronoun of the test set that depends on the line before; rows and words are counted from 0."""

    row: int
    words: dict[str, int]
    """Position of the pronoun, by side."""
    nouns: dict[str, int]
    """Position of its antecedent in the line before, by side."""


@dataclass(frozen=True)
class TestText:
    """The test set: documents of two sentences."""

    sources: list[str]
    references: list[str]
    documents: list[int]
    pronouns: list[Pronoun]

    def shuffled(self) -> list[str]:
        """Returns the sources, with the sentence before each pronoun taken from another document."""
        rows = [pronoun.row - 1 for pronoun in self.pronouns]
        order = random.Random(SEED).sample(rows, len(rows))
        # The next one in a random order: no document keeps its own.
        others = dict(zip(order, order[1:] + order[:1], strict=True))
        return [self.sources[others.get(row, row)] for row in range(len(self.sources))]

    def right(self, hypotheses: Sequence[str]) -> float:
        """Returns the share of correct pronouns: the translation has the reference's personal pronouns, in order."""
        found = [said(hypotheses[each.row]) == said(self.references[each.row]) for each in self.pronouns]
        return sum(found) / len(found)


def said(text: str) -> list[str]:
    """Returns the personal pronouns of a German sentence that can translate `it`."""
    words = (word.strip(".,").lower() for word in text.split())
    return [word for word in words if word in PRONOUNS]


def read_test() -> TestText:
    """Reads the test set of data/quickstart."""
    lines = {suffix: (DATA / f"test.{suffix}").read_text("utf-8").splitlines() for suffix in ("en", "de", "docid")}
    with (DATA / "test.pronouns.tsv").open(encoding="utf-8", newline="") as file:
        pronouns = [
            Pronoun(
                int(row["line"]) - 1,
                {"source": int(row["pronoun_en_position"]) - 1, "target": int(row["pronoun_de_position"]) - 1},
                {"source": int(row["antecedent_en_position"]) - 1, "target": int(row["antecedent_de_position"]) - 1},
            )
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    documents = [int(line.split("\t")[0]) for line in lines["docid"]]
    return TestText(lines["en"], lines["de"], documents, pronouns)


def train(run: Path, config: Path, *overrides: str) -> Path:
    """Trains a run, unless it exists."""
    settings = (f"run={run}", *overrides)
    print(f"== {run}", flush=True)
    command = [sys.executable, "-m", "nmt.cli.train", "--config", str(config)]
    done = subprocess.run([*command, *(part for each in settings for part in ("--set", each))], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"training {run} ended with {done.returncode}")
    return run


@dataclass(frozen=True)
class Measured:
    """Results of a system on the test set."""

    name: str
    right: float
    shuffled: float
    bleu: float
    attention: dict[str, tuple[float, float]]
    """For each side with context: mean weight on the antecedent and the word before it, usually its article, and
    how often no other word has a larger one."""


def measure(name: str, system: System, search: SearchConfig, test: TestText) -> Measured:
    """Translates the test set with the true and with other sentences before; measures the attention."""
    hypotheses, shuffled = (
        [best[0].text for best in translate_lines(system, sources, search, documents=test.documents)]
        for sources in (test.sources, test.shuffled())
    )
    attention = {side: on_the_noun(system, test, side) for side in sides(system)}
    bleu = corpus_scores(hypotheses, test.references, ("bleu",))["bleu"].value
    return Measured(name, test.right(hypotheses), test.right(shuffled), bleu, attention)


def sides(system: System) -> list[str]:
    """The sides that have context."""
    document_context = system.translators[0].context.document_context
    if document_context is None:
        return []
    return [side for side, on in (("source", document_context.sources), ("target", document_context.targets)) if on]


def pieces(system: System, test: TestText) -> tuple[list[list[int]], list[list[int]]]:
    """Document of each source and of each reference."""
    tokenizers = system.tokenizers
    return tokenizers.source.encode(test.sources), tokenizers.target.encode(test.references)


@dataclass(frozen=True)
class ContextAttention:
    """Weights with which the positions of a sentence attended to the sentence before it.

    Shapes: Q positions of the sentence, S of the sentence before, each with the end symbol last.
    """

    row: int
    context_row: int
    words_QS: npt.NDArray[np.float32]
    """Mean of the heads. Row q of the target side has the weights with which piece q was predicted."""


def context_attention(system: System, test: TestText, side: str) -> dict[int, ContextAttention]:
    """The context weights of a side, by row."""
    maps = forced_attention_of_ids(system, *pieces(system, test), 4096, documents=test.documents)
    return {
        row: ContextAttention(row, context.lines[-1] - 1, context.words_QS[-1])
        for row, attention in enumerate(maps)
        for context in attention.context or ()
        if context.side == side
    }


def attention_of(
    system: System, test: TestText, side: str
) -> Iterator[tuple[Pronoun, ContextAttention, npt.NDArray[np.float64]]]:
    """Yields for each pronoun the attention of its sentence, and the weights of the pronoun over the words before."""
    tokenizer = system.tokenizers.source if side == "source" else system.tokenizers.target
    texts = test.sources if side == "source" else test.references
    by_row = context_attention(system, test, side)
    for pronoun in test.pronouns:
        attention = by_row[pronoun.row]
        own, before = (np.asarray(words_of(texts[row], tokenizer)) for row in (attention.row, attention.context_row))
        weights_S = attention.words_QS[:-1][own == pronoun.words[side]].mean(0)
        # Without the end symbol, which is no word.
        words = np.zeros(before.max() + 1)
        np.add.at(words, before, weights_S[:-1])
        yield pronoun, attention, words


def on_the_noun(system: System, test: TestText, side: str) -> tuple[float, float]:
    """Returns the mean weight on the antecedent and the word before it, and how often one of both has the largest.

    The word before counts because annotations contain their neighbours, and the German article has the gender."""
    weights, first = [], []
    for pronoun, _, words in attention_of(system, test, side):
        phrase = slice(max(pronoun.nouns[side] - 1, 0), pronoun.nouns[side] + 1)
        weights.append(words[phrase].sum())
        first.append(words[phrase].max() == words.max())
    return float(np.mean(weights)), float(np.mean(first))


def draw(system: System, test: TestText, folder: Path, count: int) -> None:
    """Draws the attention of the first sentences with a pronoun: rows are the sentence, columns the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, fonts = dict(zip(("source", "target"), pieces(system, test), strict=True)), Fonts()
    for side in sides(system):
        tokenizer = system.tokenizers.source if side == "source" else system.tokenizers.target
        texts = test.sources if side == "source" else test.references
        for _, (pronoun, attention, _) in zip(range(count), attention_of(system, test, side), strict=False):
            before, own = (tuple(tokenizer.pieces(ids[side][row])) for row in (attention.context_row, attention.row))
            shown = AttentionMap(
                texts[attention.context_row],
                texts[attention.row],
                before,
                own,
                attention.words_QS[None],
                None,
                None,
                0.0,
            )
            path = folder / f"{pronoun.row + 1:04d}.{side}.svg"
            path.write_bytes(render_heatmap(shown, fonts.families, "svg"))


def main() -> int:
    options = parser().parse_args()
    given = [f"runtime.threads={options.threads}", *options.set]
    base = train(options.runs / "sentences", SENTENCES, *given)
    begun = (*given, f"training.start_from={base}")
    runs = {"without context": train(options.runs / "without", CONTEXT, *begun, "model.context=none")}
    for where in options.where:
        run = options.runs / f"with-{where}"
        runs[f"with context: {where}"] = train(run, CONTEXT, *begun, f"model.context.where={where}")

    runtime = set_up(RuntimeConfig(device="cpu", precision="fp32", threads=options.threads))
    set_up_logging(None, is_main=True)
    test, found = read_test(), []
    for name, run in runs.items():
        model = load_model(run, None, runtime)
        system = build_system([model], runtime)
        found.append(measure(name, system, model.config.search, test))
        draw(system, test, options.runs / "plots", options.plots)
    report(found, len(test.pronouns))
    print(f"plots: {options.runs / 'plots'}")
    return 0


def report(found: Sequence[Measured], pronouns: int) -> None:
    """Yields a row for each system."""
    rows = [
        (
            each.name,
            f"{each.right:.1%}",
            f"{each.shuffled:.1%}",
            f"{each.bleu:.2f}",
            "; ".join(f"{side} {weight:.2f}, first {first:.0%}" for side, (weight, first) in each.attention.items()),
        )
        for each in found
    ]
    print(f"{pronouns} pronouns; by chance {CHANCE:.1%} are right")
    print(format_table(rows, header=("", "right", "context of others", "BLEU", "weight on noun and article")))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="scripts/context", description=(__doc__ or "").split("\n\n")[0])
    found.add_argument("--runs", type=Path, default=Path("runs/context"), help="where the runs go (%(default)s)")
    found.add_argument(
        "--where",
        nargs="+",
        choices=("encoder", "decoder", "both"),
        default=["encoder", "decoder", "both"],
        help="(%(default)s)",
    )
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the configs, for all")
    found.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    found.add_argument("--plots", type=int, default=3, help="sentences that are drawn (%(default)s)")
    return found


if __name__ == "__main__":
    sys.exit(main())
