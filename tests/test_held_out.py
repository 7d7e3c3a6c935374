"""Validation text that is taken from the training text, and the length filters of validation."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt.config.schema import DataConfig, FiltersConfig
from nmt.data.cache import encode_corpora, hold_out_documents, hold_out_pairs
from nmt.data.cache.exclusions import draw_units
from nmt.data.readers.base import SplitOptions
from nmt.data.readers.corpora import Corpus, JsonPairOptions, TextPairOptions, TsvPairOptions, open_corpus
from nmt.data.readers.labelled import JsonDocumentOptions, open_collection
from nmt.data.tokenizer import learn
from nmt.errors import ConfigError, DataError
from nmt.tasks.training import train
from tests.support.labelled_documents import document_config, write_all
from tests.support.training_runs import records, run_config, write_corpus

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs_of(path: Path) -> list[tuple[str, str]]:
    return [(row["source"], row["target"]) for row in rows_of(path)]


@pytest.fixture
def corpora(tmp_path: Path) -> list[Corpus]:
    """200 pairs in a table and 100 in JSON lines; every source stands twice, spelled differently."""
    sources = [f"Satz {number} \u00fc" for number in range(150)]
    rows = [(source, f"one of {source}") for source in sources]
    rows += [(source.replace("\u00fc", "u\u0308 "), f"another of {source}") for source in sources]
    random.Random(1).shuffle(rows)
    (tmp_path / "a.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in rows[:200]))
    lines = (json.dumps({"s": source, "t": target}) + "\n" for source, target in [("", "empty"), *rows[200:]])
    (tmp_path / "b.jsonl").write_text("".join(lines))
    options = [
        TsvPairOptions(path=str(tmp_path / "a.tsv")),
        JsonPairOptions(path=str(tmp_path / "b.jsonl"), source="s", target="t"),
    ]
    return [open_corpus(each, data()) for each in options]


def data() -> DataConfig:
    anything = TextPairOptions(source="unused", target="unused")
    return DataConfig(source_language="de", target_language="en", train=[anything], validation=anything)


def test_units_with_the_smallest_numbers_are_drawn_whatever_their_order() -> None:
    generator = random.Random(5)
    units = [(generator.randrange(1000), generator.randint(1, 9)) for _ in range(300)]
    units = list({number: (number, size) for number, size in units}.values())
    for count in (1, 7, 40):
        expected: list[int] = []
        for number, size in sorted(units):
            if size <= count and len(expected) < count:
                expected += [number] * size
        for _ in range(3):
            generator.shuffle(units)
            rows: list[tuple[int, list[dict[str, Any]]]] = [(number, [{"n": number}] * size) for number, size in units]
            assert [row["n"] for row in draw_units(iter(rows), count)] == expected


def test_no_source_is_on_both_sides(corpora: list[Corpus], tmp_path: Path) -> None:
    before = [pair[:2] for corpus in corpora for pair in corpus]
    drawn = pairs_of(hold_out_pairs(corpora, SplitOptions(split=40), "error", tmp_path / "cache"))
    left = [pair[:2] for corpus in corpora for pair in corpus]
    numbers = [source.split()[1] for source, _ in drawn]
    assert len(drawn) == 40 == len(set(numbers))
    assert set(drawn) <= set(before)
    assert not {source.split()[1] for source, _ in left if source} & set(numbers)
    assert len(left) == len(before) - 80, "both spellings of each source are gone, and nothing else"


def test_the_same_seed_draws_the_same_pairs(corpora: list[Corpus], tmp_path: Path) -> None:
    def drawn(cache: str, seed: int = 1) -> list[tuple[str, str]]:
        for corpus in corpora:
            corpus.held_out = None
        return pairs_of(hold_out_pairs(corpora, SplitOptions(split=40, seed=seed), "error", tmp_path / cache))

    first = drawn("a")
    assert drawn("a") == drawn("b") == first
    assert set(drawn("a", seed=2)) != set(first)


def test_at_most_half_can_be_held_out(corpora: list[Corpus], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.validation\.split: 151 cannot be taken from the 301 of data\.train"):
        hold_out_pairs(corpora, SplitOptions(split=151), "error", tmp_path / "cache")


def test_documents_stay_whole_and_repeated_sentences_stay_as_context(tmp_path: Path) -> None:
    with (tmp_path / "d.tsv").open("w") as file:
        for number in range(20):
            for line in range(3):
                print("amen" if line == 1 else f"satz {number} {line}", "x y", f"doc{number}", sep="\t", file=file)
    options = TsvPairOptions(path=str(tmp_path / "d.tsv"), documents_column=3)
    corpus = open_corpus(options, data())
    pair = learn(run_config_tokenizer(), lambda: [(p.source, p.target) for p in corpus], 1)
    rows = rows_of(hold_out_pairs([corpus], SplitOptions(split=7), "error", tmp_path / "c"))
    assert [len([row for row in rows if row["document"] == name]) for name in {r["document"] for r in rows}] == [3] * 3
    encoded = encode_corpora([corpus], pair, FiltersConfig(), tmp_path / "c", 1, keep_text=True)
    everything = np.arange(len(encoded))
    sources, _ = encoded.text(everything)
    assert len(sources) == 17 * 3
    assert [source for source, kept in zip(sources, encoded.is_pair(everything), strict=True) if not kept] == [
        "amen"
    ] * 17
    assert encoded.report.dropped == {"held out for validation": 9 + 17}


def run_config_tokenizer() -> Any:
    return run_config(Path("unused")).tokenizer.model_copy(update={"vocabulary_size": 24})


def test_a_run_validates_on_the_split_and_goes_on_after_its_cache_is_gone(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    config = run_config(tmp_path, "data.validation={split: 12}", "training.max_epochs=1")
    train(config)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "120 pairs read" in log
    assert "held out for validation" in log
    (scored,) = records(config.run, "validation")
    assert np.isfinite(scored["loss"])
    [split] = (tmp_path / "run" / "cache").glob("*/validation.jsonl")
    content = split.read_bytes()
    shutil.rmtree(tmp_path / "run" / "cache")
    train(config)
    [split] = (tmp_path / "run" / "cache").glob("*/validation.jsonl")
    assert split.read_bytes() == content


def test_long_validation_pairs_are_left_out_and_reported(tmp_path: Path) -> None:
    losses = []
    for name, extra in (("without", ""), ("with", "a b " * 4000 + "\n")):
        folder = tmp_path / name
        folder.mkdir()
        write_corpus(folder)
        for side in ("xx", "yy"):
            file = folder / f"valid.{side}"
            file.write_text(extra + file.read_text())
        train(run_config(folder, "training.max_epochs=1"))
        losses.append(records(folder / "run", "validation")[0]["loss"])
    assert losses[0] == losses[1]
    log = (tmp_path / "with" / "run" / "train.log").read_text()
    assert f"validation: {tmp_path}/with/valid.xx / {tmp_path}/with/valid.yy: left out: too long 1 (line 1)" in log


def test_labelled_documents_are_held_out_too(tmp_path: Path) -> None:
    write_all(tmp_path)
    config = document_config(tmp_path, "data.validation={split: 20}", "training.max_epochs=1")
    train(config)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "held out for validation 2" in log
    rows = [{"text": f"number {n % 30}", "label": "ab"[n % 2]} for n in range(60)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    collections = [open_collection(JsonDocumentOptions(path=str(tmp_path / "x.jsonl")), config.data)]
    path = hold_out_documents(collections, SplitOptions(split=10), "error", tmp_path / "c")
    texts = {row["text"] for row in rows_of(path)}
    assert len(texts) == 10
    left = [document.text for document in collections[0]]
    assert len(left) == 40
    assert not texts & set(left)


def test_a_split_is_for_validation_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(tmp_path, "data.train={kind: split, split: 3}", "data.test={a: {kind: split, split: 3}}")
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "split is for data.validation alone; name files here"
    ] * 2
    with pytest.raises(DataError, match="known in a training run alone"):
        open_corpus(SplitOptions(split=3), data())
