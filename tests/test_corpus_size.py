"""Settings that the config leaves open follow the size of the training text, and stay as they are in a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nmt.config import corpus_size
from nmt.config.schema import TokenizerConfig
from nmt.data.tokenizer import learn
from nmt.tasks.components import parse_saved_config
from nmt.tasks.training import check, train
from tests.support.training_runs import final_weights, records, run_config, write_corpus

OPEN = ("tokenizer.vocabulary_size=null", "training.batch_tokens=null", "training.max_epochs=null")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("characters", "pieces"), [(0, 500), (250_000, 1_300), (3_600_000, 4_900), (100_000_000, 26_000), (10**10, 32_000)]
)
def test_vocabularies_by_hand(characters: int, pieces: int) -> None:
    """2.6 x 500 is 1,300, 2.6 x 1,897 is 4,933, and 2.6 x 10,000 is 26,000."""
    assert corpus_size.vocabulary_size(characters) == pieces


@pytest.mark.parametrize(
    ("pieces", "tokens", "epochs"),
    [(0, 512, 80), (10_000, 512, 70), (250_000, 1_450, 14), (1_000_000, 2_900, 7), (4_000_000, 4_096, 5)],
)
def test_batches_and_epochs_by_hand(pieces: int, tokens: int, epochs: int) -> None:
    """The roots are 100, 500, 1,000 and 2,000: 2.9 times as many tokens, and 7,000 divided by them."""
    assert (corpus_size.batch_tokens(pieces), corpus_size.max_epochs(pieces)) == (tokens, epochs)


@pytest.mark.parametrize("pieces", [35_000, 100_000, 400_000, 2_000_000])
def test_corpora_of_different_sizes_get_as_many_updates(pieces: int) -> None:
    updates = corpus_size.max_epochs(pieces) * pieces / corpus_size.batch_tokens(pieces)
    assert updates == pytest.approx(7000 / 2.9, rel=0.1)


def test_only_open_values_are_filled_in(folder: Path) -> None:
    values = {corpus_size.VOCABULARY_SIZE: 700, corpus_size.BATCH_TOKENS: 600, corpus_size.MAX_EPOCHS: 50}
    assert corpus_size.values_that_follow(corpus_size.fill_in(run_config(folder, *OPEN), values)) == values
    fixed = run_config(folder)
    assert corpus_size.fill_in(fixed, values) == fixed
    by_steps = corpus_size.fill_in(run_config(folder, *OPEN, "training.max_steps=7"), values)
    assert by_steps.training.max_epochs is None


def letters(count: int, first: int = 0x4E00) -> Iterator[tuple[str, str]]:
    """Sentences of two letters; each letter of an alphabet of `count` occurs in two of them."""
    alphabet = [chr(first + number) for number in range(count)]
    for one, other in zip(alphabet, alphabet[1:] + alphabet[:1], strict=True):
        yield f"{one}{other}", "a"


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "word"])
@pytest.mark.parametrize("characters", [20, 900])
def test_an_open_size_fits_every_text(kind: str, characters: int) -> None:
    """Few characters make fewer than 500 pieces, and 900 of them need more."""
    text = list(letters(characters))
    tokenizer = learn(TokenizerConfig.model_validate({"kind": kind}), lambda: text, seed=1).source
    unknown = [id_ for ids in tokenizer.encode([source for source, _ in text]) for id_ in ids if id_ == tokenizer.unk]
    assert bool(unknown) == (kind == "word")  # words that occur once


def test_words_that_occur_twice_are_known() -> None:
    tokenizer = learn(TokenizerConfig(kind="word"), lambda: [("a b a", "c c"), ("d", "e")], seed=1).source
    known = {"a": True, "b": False, "c": True, "d": False, "e": False}
    assert {word: tokenizer.unk not in tokenizer.encode([word])[0] for word in known} == known


def test_a_run_has_the_values_in_its_config_and_goes_on_with_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a later version would choose others; the weights are those of a run that never stopped."""
    config = run_config(folder, *OPEN, "training.accumulation=2")
    monkeypatch.setattr(corpus_size, "max_epochs", lambda pieces: 2)
    train(config)
    written = parse_saved_config((folder / "run" / "config.yaml").read_text(), "config.yaml")
    values = corpus_size.values_that_follow(written)
    assert values["training.batch_tokens"] == 256  # half of 512, for two batches an update
    assert values["training.max_epochs"] == 2
    assert 16 <= values["tokenizer.vocabulary_size"] < 500
    told = ", ".join(f"{path} {value}" for path, value in values.items())
    assert f"chosen for the size of the text: {told}\n" in (folder / "run" / "train.log").read_text()
    at_once = run_config(folder, *OPEN[:2], "training.accumulation=2", "training.max_epochs=4", f"run={folder}/at_once")
    train(at_once)
    monkeypatch.setattr(corpus_size, "batch_tokens", lambda pieces: 64)
    monkeypatch.setattr(corpus_size, "vocabulary_size", lambda characters: 20)
    train(run_config(folder, *OPEN[:2], "training.accumulation=2", "training.max_epochs=4"))
    first, second = final_weights(folder / "run"), final_weights(at_once.run)
    assert all(first[name].equal(second[name]) for name in second)


def test_a_check_chooses_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(run_config(folder, *OPEN))
    assert "training.batch_tokens 512, training.max_epochs 80\n" in capsys.readouterr().err


def test_a_model_to_start_from_gives_its_vocabulary(folder: Path) -> None:
    train(run_config(folder, "training.max_epochs=1", f"run={folder}/first"))
    train(run_config(folder, *OPEN[:2], f"training.start_from={folder}/first", "training.max_steps=1"))
    written = parse_saved_config((folder / "run" / "config.yaml").read_text(), "config.yaml")
    assert written.tokenizer.vocabulary_size == 16


def test_the_default_warm_up_follows_the_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tenth of 20 updates, of which the first has half of the rate."""
    train(run_config(folder, "training.schedule=cosine", "training.max_steps=20", "training.max_epochs=null"))
    assert "warm-up" not in capsys.readouterr().err
    rates = [record["learning_rate"] for record in records(folder / "run")]
    assert rates[:2] == pytest.approx([2.5e-3, 5e-3])
