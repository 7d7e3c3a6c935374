"""The comparison of documents: its page says what was measured, and its baseline is fair."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from nmt.tasks.components import read_config
from scripts import compare_documents
from scripts.compare_attention import BEGIN, END, Run, page_of, write_measured
from scripts.compare_documents import (
    ATTENTION,
    AVERAGES,
    BAG,
    NETWORKS,
    Experiment,
    conditions,
    paired_difference,
    table,
    train_bag,
)
from tests.support.labelled_documents import CONFIG, write_all

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("name", ["bbc-news", "imdb"])
def test_averages_stand_in_place_of_both_attentions_and_nothing_else(name: str) -> None:
    config, averages = (read_config(CONFIGS / f"{name}.yaml", NETWORKS[each]) for each in (ATTENTION, AVERAGES))
    assert (config.model.word.score.kind, config.model.sentence.score.kind) == ("additive", "additive")
    assert (averages.model.word.score.kind, averages.model.sentence.score.kind) == ("mean", "mean")
    levels = [config.model.word, averages.model.word, config.model.sentence, averages.model.sentence]
    assert len({(level.hidden_size, level.cell.kind, level.layers) for level in levels}) == 1


def test_the_lead_is_that_of_pairs() -> None:
    """Right on the same 50 and on 10 more: 10 points, with 1.96 * 30 / 10 = 5.9 on either side."""
    ours, theirs = [1] * 60 + [0] * 40, [1] * 50 + [0] * 50
    difference, low, high = paired_difference(ours, theirs, samples=2000)
    assert difference == pytest.approx(10.0)
    assert low == pytest.approx(4.1, abs=1.1)
    assert high == pytest.approx(15.9, abs=1.1)
    assert paired_difference(ours, ours) == (0.0, 0.0, 0.0)


def measured(gold: list[str], right: int) -> dict[str, Any]:
    metric = {"value": 100.0 * right / len(gold), "confidence": [90.0, 99.0]}
    given = gold[:right] + ["nothing"] * (len(gold) - right)
    return {
        "training": {
            "parameters": 912_105,
            "seconds": 125.4,
            "epochs": 3,
            "words_per_second": 20_123.4,
            "commit": "abc1234",
        },
        "scores": {
            "name": "small",
            "documents": len(gold),
            "scores": {"accuracy": metric, "macro_f1": metric},
            "given": given,
        },
    }


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    write_all(tmp_path)
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    gold = [line.split("\t")[0] for line in (tmp_path / "test.tsv").read_text().splitlines()]
    runs = {}
    for name, right in ((ATTENTION, 30), (AVERAGES, 27)):
        runs[name] = Run(name, tmp_path / name, ())
        runs[name].folder.mkdir()
        for part, values in measured(gold, right).items():
            runs[name].keep(part, values)
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    experiments = [Experiment(config, runs)]
    options = argparse.Namespace(set=["a.b=1"], seed=3)
    write_measured(page, "Documents", [*conditions(experiments, options), "", *table(experiments)])
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nAfter\n")
    assert "old" not in text
    assert "with `a.b=1`, seed 3; commit abc1234" in text
    rows = [line for line in text.splitlines() if line.startswith("| small, 30")]
    assert rows[0].split(" | ")[1:5] == [ATTENTION, "100.00 [90.00, 99.00]", "100.00 [90.00, 99.00]", ""]
    assert rows[1].split(" | ")[4].startswith("+10.00 [")
    assert rows[1].endswith("| 0.9 M | 2:05 (3 epochs) | 20,123 |")


def test_the_bag_of_words_learns(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    write_all(tmp_path)
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    run = Run(BAG, tmp_path / "bag", ())
    train_bag(run, config, argparse.Namespace(set=[]))
    assert run.measured["scores"]["scores"]["accuracy"]["value"] > 95.0
    assert len(run.measured["scores"]["given"]) == 30


def test_the_page_is_written_beside_the_runs_unless_it_is_published() -> None:
    parse = compare_documents._parser().parse_args
    beside = page_of(parse(["--runs", "runs/x", "--only", BAG]), compare_documents.PUBLISHED)
    assert beside == Path("runs/x/documents.md")
    assert page_of(parse(["--publish"]), compare_documents.PUBLISHED) == Path("docs/documents.md")
