"""Compares classifiers of documents: the encoder, the same with averages for attention, and a bag of words.

All learn the same documents and are measured on the same test set. What is measured lies in each run's folder, so that
the comparison goes on where it was stopped. The page is written beside the runs; --publish writes docs/documents.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nmt.config import ClassificationConfig
from nmt.data.readers.labelled import Collection, open_collection
from nmt.data.sentences import Splitter
from nmt.evaluation import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED
from nmt.evaluation.label_metrics import label_score_values, label_scores
from nmt.tasks.components import read_config
from scripts.compare_attention import (
    Run,
    add_page_options,
    commit,
    machine,
    output,
    page_of,
    program,
    run_training,
    say,
    write_measured,
)

PUBLISHED = Path("docs/documents.md")
ATTENTION, AVERAGES, BAG = "attention", "averages", "bag of words"
NETWORKS: Mapping[str, tuple[str, ...]] = {
    ATTENTION: (),
    AVERAGES: ("model.word.score=mean", "model.sentence.score=mean"),
}
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse regularisation strengths of the logistic regression; validation chooses one."""
HEADINGS = ("documents", "model", "accuracy", "macro F1", "attention leads by", "parameters", "training", "words/s")


@dataclass(frozen=True)
class Experiment:
    """A corpus: its config, and the runs of its models."""

    config: Path
    runs: dict[str, Run]


def main() -> int:
    options = _parser().parse_args()
    page = page_of(options, PUBLISHED)
    experiments = [_experiment(config, options) for config in options.configs]
    if any(BAG in experiment.runs for experiment in experiments) and find_spec("sklearn") is None:
        sys.exit("a bag of words takes scikit-learn; pip install scikit-learn, or leave it out: --only")
    for experiment in experiments:
        for name, run in experiment.runs.items():
            if "training" not in run.measured:
                if name == BAG:
                    train_bag(run, experiment.config, options)
                else:
                    train(run, experiment.config)
            if "scores" not in run.measured:
                score(run)
    lines = [*conditions(experiments, options), "", *table(experiments), ""]
    write_measured(page, "Documents", lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/compare_documents", description=__doc__)
    configs = [Path("configs/bbc-news.yaml"), Path("configs/imdb.yaml")]
    parser.add_argument("--configs", type=Path, nargs="+", default=configs, help="experiments (both that are there)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes them, for all alike")
    parser.add_argument("--seed", type=int, default=1, help="of every run (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/documents"), help="where the runs go (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=(*NETWORKS, BAG), help="these models")
    add_page_options(parser, PUBLISHED)
    return parser


def _experiment(config: Path, options: argparse.Namespace) -> Experiment:
    folder = options.runs / config.stem
    common = (*options.set, f"seed={options.seed}", f"data.cache={folder}/cache")
    runs = {
        name: Run(name, folder / name.replace(" ", "_"), (*common, *NETWORKS.get(name, ())))
        for name in (*NETWORKS, BAG)
        if not options.only or name in options.only
    }
    return Experiment(config, runs)


def train(run: Run, config: Path) -> None:
    """Trains a network, or resumes training."""
    say(f"training {config.stem}: {run.name}")
    log, best, _ = run_training(run, str(config))
    text = (run.folder / "train.log").read_text(encoding="utf-8")
    run.keep(
        "training",
        {
            "parameters": int(_last(r"parameters +([\d,]+)", text)),
            "seconds": log[-1]["seconds"],
            "epochs": log[-1]["epoch"],
            "best_epoch": best["epoch"],
            "words_per_second": _words_per_second(run, log, int(_last(r"documents: ([\d,]+) pieces", text))),
            "commit": commit(),
        },
    )


def _last(pattern: str, text: str) -> str:
    return str(re.findall(pattern, text)[-1]).replace(",", "")


def _words_per_second(run: Run, log: Sequence[Mapping[str, Any]], pieces: int) -> float:
    """Returns the training speed in words separated by spaces; the log counts pieces."""
    config = _read(run.folder / "config.yaml", ())
    words = sum(
        len(document.text.split())
        for options in config.data.train
        for document in open_collection(options, config.data)
    )
    speeds = [float(line["tokens_per_second"]) for line in log if line["type"] == "train"]
    return words / pieces * statistics.median(speeds)


def score(run: Run) -> None:
    """Evaluates the best checkpoint on the first test set; keeps the labels for the comparison."""
    say(f"scoring {run.folder}")
    labels = run.folder / "labels.txt"
    name = next(iter(_read(run.folder / "config.yaml", ()).data.test))
    command = [*program("evaluate"), "--model", str(run.folder), "--test-set", name, "--output", str(labels), "--json"]
    found = json.loads(output([*command, "--samples", str(BOOTSTRAP_SAMPLES)]))["sets"][0]
    run.keep("scores", found | {"given": labels.read_text(encoding="utf-8").split("\n")[:-1]})


def train_bag(run: Run, path: Path, options: argparse.Namespace) -> None:
    """Trains a logistic regression on TF-IDF of words and word pairs; validation chooses the regularisation."""
    # Imported late: only this model needs it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    say(f"training {path.stem}: {run.name}")
    config = _read(path, options.set)
    training = [open_collection(each, config.data) for each in config.data.train]
    labels = tuple(sorted({document.label for collection in training for document in collection}))
    name, test_options = next(iter(config.data.test.items()))
    start = time.perf_counter()
    texts, gold = _texts(training, labels)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    features = vectorizer.fit_transform(texts)
    valid_texts, valid_gold = _texts([open_collection(config.data.validation, config.data)], labels)
    valid = vectorizer.transform(valid_texts)
    models = {each: LogisticRegression(C=each, max_iter=1000).fit(features, gold) for each in STRENGTHS}
    strength = max(models, key=lambda each: float(np.mean(models[each].predict(valid) == np.asarray(valid_gold))))
    seconds = time.perf_counter() - start
    test_texts, test_gold = _texts([open_collection(test_options, config.data)], labels)
    given = models[strength].predict(vectorizer.transform(test_texts)).tolist()
    found = label_score_values(label_scores(test_gold, given, labels, samples=BOOTSTRAP_SAMPLES))
    run.folder.mkdir(parents=True, exist_ok=True)
    run.keep("scores", {"name": name, "documents": len(given), **found, "given": [labels[each] for each in given]})
    run.keep(
        "training",
        {"parameters": int(models[strength].coef_.size), "seconds": seconds, "strength": strength, "commit": commit()},
    )


def _texts(collections: Sequence[Collection], labels: Sequence[str]) -> tuple[list[str], list[int]]:
    documents = [document for collection in collections for document in collection]
    splitter = Splitter("en")
    texts = [" ".join(each.sentences(splitter)) if each.is_split else each.text for each in documents]
    return texts, [labels.index(each.label) for each in documents]


def _read(path: Path, overrides: Sequence[str]) -> ClassificationConfig:
    config = read_config(path, overrides)
    assert isinstance(config, ClassificationConfig), f"{path} is no classification"
    return config


def conditions(experiments: Sequence[Experiment], options: argparse.Namespace) -> Iterator[str]:
    """Returns the conditions that all models share."""
    runs = [run for experiment in experiments for run in experiment.runs.values()]
    commits = sorted({run.measured["training"]["commit"] for run in runs})
    configs = ", ".join(f"`{experiment.config}`" for experiment in experiments)
    changed = f" with {', '.join(f'`{each}`' for each in options.set)}" if options.set else ""
    yield (
        f"{configs}{changed}, seed {options.seed}; commit {', '.join(commits)}; {machine()}. Test sets with the best "
        "checkpoint by validation, 95% intervals by bootstrap over documents, of what attention leads by with pairs. "
        "Training is wall-clock time with validations, words are what spaces separate."
    )


def table(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Yields a row for each model."""
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|{'---|' * len(HEADINGS)}"
    for experiment in experiments:
        for name, run in experiment.runs.items():
            scores, training = run.measured["scores"], run.measured["training"]
            epochs = f" ({training['epochs']} epochs)" if "epochs" in training else ""
            speed = f"{training['words_per_second']:,.0f}" if "words_per_second" in training else ""
            cells = [
                f"{scores['name']}, {scores['documents']:,}",
                name,
                *(_with_interval(scores["scores"][metric]) for metric in ("accuracy", "macro_f1")),
                "" if name == ATTENTION or ATTENTION not in experiment.runs else _behind(experiment, run),
                f"{training['parameters'] / 1e6:.1f} M",
                _duration(training["seconds"]) + epochs,
                speed,
            ]
            yield f"| {' | '.join(cells)} |"


def _with_interval(value: Mapping[str, Any]) -> str:
    low, high = value["confidence"]
    return f"{value['value']:.2f} [{low:.2f}, {high:.2f}]"


def _behind(experiment: Experiment, run: Run) -> str:
    """Returns by how many points of accuracy a model is worse than attention, on the same documents."""
    config = _read(experiment.config, ())
    options = next(iter(config.data.test.values()))
    gold = [document.label for document in open_collection(options, config.data)]
    ours, theirs = (
        np.equal(each.measured["scores"]["given"], gold).astype(float) for each in (experiment.runs[ATTENTION], run)
    )
    difference, low, high = paired_difference(ours, theirs)
    return f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]"


def paired_difference(ours: Any, theirs: Any, samples: int = BOOTSTRAP_SAMPLES) -> tuple[float, float, float]:
    """Returns the difference of the means in points, with its 95% interval by paired bootstrap."""
    differences = 100.0 * (np.asarray(ours, float) - np.asarray(theirs, float))
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = [generator.choice(differences, len(differences)).mean() for _ in range(samples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


if __name__ == "__main__":
    sys.exit(main())
