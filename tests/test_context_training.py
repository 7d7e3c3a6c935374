"""Training with context: it learns what only the sentence before tells, resumes to the bit, and starts from a model."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nmt.checkpoint import find, load_training_state
from nmt.config import TranslationConfig
from nmt.errors import ConfigError
from nmt.tasks.training import check, train
from nmt.tasks.translation.loading import load_model
from tests.support.models import CPU
from tests.support.training_runs import CONFIG, LETTERS, final_weights, parse_run, records
from tests.test_trainer import assert_same, stop_after

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")

DOCUMENTED = CONFIG.replace(
    "target: {folder}/train.yy}}", "target: {folder}/train.yy, documents: {folder}/train.docid}}"
).replace("target: {folder}/valid.yy}}", "target: {folder}/valid.yy, documents: {folder}/valid.docid}}")
PRONOUN = "z"
"""Stands in the second sentence for the first letter of the sentence before."""
CONTEXT = "model.context={{kind: hierarchical, past: 2, where: {where}}}"
CONTEXTS = {where: CONTEXT.format(where=where) for where in ("encoder", "decoder", "both")}
CONTEXTS["summary"] = "model.context={kind: summary, past: 2, hidden_size: 16}"


def write_documents(folder: Path, documents: int = 60, seed: int = 0) -> None:
    """Of one to three sentences: letters that are said again backwards, then `z` and letters, where the translation has
    the first letter of the sentence before in the place of `z`."""
    generator = random.Random(seed)
    for name, count in (("train", documents), ("valid", 12)):
        rows: list[tuple[str, str, int]] = []
        for number in range(count):
            first = ""
            for place in range(generator.randint(1, 3)):
                letters = [generator.choice(LETTERS) for _ in range(generator.randint(2, 4))]
                spoken = [PRONOUN, *letters] if place else letters
                meant = [first, *letters] if place else letters
                rows.append((" ".join(spoken), " ".join(reversed(meant)), number))
                first = letters[0] if not place else first
        for suffix, column in (("xx", 0), ("yy", 1), ("docid", 2)):
            (folder / f"{name}.{suffix}").write_text("".join(f"{row[column]}\n" for row in rows), encoding="utf-8")


def run_config(folder: Path, *overrides: str, text: str = DOCUMENTED) -> TranslationConfig:
    return parse_run(TranslationConfig, text, folder, overrides)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_documents(tmp_path)
    return tmp_path


# Resuming


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_stopped_run_goes_on_to_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch, context: str) -> None:
    """In the middle of an epoch, with documents that are cut by batches and sentences that are no pairs."""
    everything = (
        CONTEXTS[context],
        "data.filters.max_length=7",
        "training.accumulation=2",
        "tokenizer.sampling=0.1",
        "training.save_every=3",
        "training.max_epochs=2",
    )
    straight = run_config(folder, *everything, f"run={folder}/straight")
    train(straight)
    stopped = run_config(folder, *everything)
    steps = len(records(straight.run))
    assert steps > 8
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert train(stopped).interrupted
    assert not train(stopped).interrupted
    assert_same(final_weights(straight.run), final_weights(stopped.run))
    logs = [[(r["step"], r["loss"], r["gradient_norm"]) for r in records(run)] for run in (straight.run, stopped.run)]
    assert logs[0] == logs[1]
    validations = [
        [(r["step"], r["bleu"], r["loss"]) for r in records(run, "validation")] for run in (straight.run, stopped.run)
    ]
    assert validations[0] == validations[1]


def test_without_context_documents_change_nothing(folder: Path) -> None:
    """Not a bit of the weights, with pairs that are left out; validation says the same."""
    fixed = ("data.filters.max_length=7", "training.max_epochs=2")
    documented = run_config(folder, *fixed, f"run={folder}/documented")
    plain = run_config(folder, *fixed, f"run={folder}/plain", text=CONFIG)
    for config in (documented, plain):
        train(config)
    assert_same(final_weights(documented.run), final_weights(plain.run))
    losses = [[r["loss"] for r in records(run, "validation")] for run in (documented.run, plain.run)]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS)
def test_two_ranks_train_as_one(folder: Path, context: str) -> None:
    """Batches in which nothing looks back leave the weights of the context alone, on one rank or on both."""
    plain = (
        *("model.dropout={embedding: 0, layer: 0, output: 0}", "training.max_epochs=2", "training.batch_tokens=64"),
        CONTEXTS[context],
    )
    alone = run_config(folder, *plain, f"run={folder}/alone", "training.accumulation=4")
    train(alone)
    together = folder / "together.yaml"
    together.write_text(DOCUMENTED.format(folder=folder), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    overrides = (*plain, f"run={folder}/together", "training.accumulation=2")
    subprocess.run(
        [*torchrun, "-m", "nmt.cli.train", "--config", str(together), *(f"--set={each}" for each in overrides)],
        check=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for kind, names in (("train", ("step", "loss", "gradient_norm")), ("validation", ("step", "loss", "bleu"))):
        one, two = ([[r[name] for name in names] for r in records(folder / run, kind)] for run in ("alone", "together"))
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-5)
    weights, shared = final_weights(folder / "alone"), final_weights(folder / "together")
    for name, weight in weights.items():
        torch.testing.assert_close(shared[name], weight, rtol=1e-3, atol=1e-4)


# Learning


@pytest.mark.slow
@pytest.mark.parametrize("context", ["encoder", "decoder", "summary"])
def test_it_learns_what_only_the_sentence_before_tells(tmp_path: Path, context: str) -> None:
    """From a fresh seed, on documents that it has not seen."""
    seed = random.SystemRandom().randrange(10_000)
    write_documents(tmp_path, documents=700, seed=seed)
    common = (
        "training.max_epochs=24",
        "model.dropout.source_word=0",
        "training.ema_decay=0.95",
        "training.batch_tokens=512",
        f"seed={seed}",
    )
    config = run_config(tmp_path, *common, CONTEXTS[context])
    train(config)
    loss = records(config.run, "validation")[-1]["loss"]
    assert loss < 0.25, f"seed {seed}"


# Starting from a model


@pytest.fixture
def started(folder: Path) -> TranslationConfig:
    """A model without context."""
    config = run_config(folder, f"run={folder}/base", "training.max_epochs=1")
    train(config)
    return config


def test_it_starts_with_the_weights_and_the_tokenizer_of_another_model(
    folder: Path, started: TranslationConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the weights of the context are new. The training text may differ."""
    (folder / "more").mkdir()
    write_documents(folder / "more", seed=9)
    still = ("training.optimizer={kind: sgd, learning_rate: 1e-12}", "training.max_steps=1", "training.ema_decay=0")
    config = run_config(
        folder, CONTEXT.format(where="both"), *still, f"training.start_from={started.run}", f"run={folder}/next",
        f"data.train={{source: {folder}/more/train.xx, target: {folder}/more/train.yy, "
        f"documents: {folder}/more/train.docid}}",
    )  # fmt: skip
    train(config)
    base, other = final_weights(started.run), final_weights(config.run)
    assert {name for name in other if name not in base} == {name for name in other if name.startswith("context.")}
    for name, weight in base.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-9)
    said = capfd.readouterr().err
    assert f"starting from {find(started.run)}" in said
    assert "weights of model.context start anew" in said
    models = [load_model(run, "last", CPU) for run in (started.run, config.run)]
    assert models[0].tokenizers.source.fingerprint == models[1].tokenizers.source.fingerprint


def test_a_run_that_goes_on_needs_no_start(folder: Path, started: TranslationConfig) -> None:
    overrides = (CONTEXT.format(where="encoder"), f"training.start_from={started.run}", f"run={folder}/next")
    train(run_config(folder, *overrides, "training.max_epochs=1"))
    for file in sorted((folder / "base").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    train(run_config(folder, *overrides, "training.max_epochs=2"))
    state = load_training_state(find(folder / "next", "last"))
    assert state is not None
    assert state["progress"]["epoch"] == 1


def test_a_model_with_context_is_a_start_as_well(folder: Path, started: TranslationConfig) -> None:
    """For both sides after one of them, as in the paper."""
    one = (CONTEXT.format(where="encoder"), f"training.start_from={started.run}", f"run={folder}/one")
    train(run_config(folder, *one, "training.max_steps=2"))
    two = (CONTEXT.format(where="both"), f"training.start_from={folder}/one", f"run={folder}/two")
    train(run_config(folder, *two, "training.max_steps=1", "training.optimizer={kind: sgd, learning_rate: 1e-12}"))
    first, second = final_weights(folder / "one"), final_weights(folder / "two")
    assert {name.split(".")[1] for name in second if name not in first} == {"decoder"}


def test_checking_reads_the_start(folder: Path, started: TranslationConfig) -> None:
    check(run_config(folder, CONTEXT.format(where="both"), f"training.start_from={started.run}", "run=nowhere"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("model.encoder.hidden_size=8", "model.decoder.hidden_size=20"),
            [
                "model.encoder.hidden_size: is 8, but {base}, from which training starts, has 16; take that",
                "model.decoder.hidden_size: is 20, but {base}, from which training starts, has 24; take that",
            ],
        ),
        (
            ("tokenizer.vocabulary_size=17",),
            [
                "tokenizer.vocabulary_size: is 17, but {base}, from which training starts, has a tokenizer with 16; "
                "take that"
            ],
        ),
        (
            ("data.source_language=yy", "data.target_language=xx", "data.reverse_source=true"),
            [
                "data.source_language: is 'yy', but {base}, from which training starts, has 'xx'",
                "data.target_language: is 'xx', but {base}, from which training starts, has 'yy'",
                "data.reverse_source: is True, but {base}, from which training starts, has False",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_said_key_by_key(
    folder: Path, started: TranslationConfig, overrides: tuple[str, ...], expected: list[str]
) -> None:
    config = run_config(folder, *overrides, f"training.start_from={started.run}", f"run={folder}/next")
    with pytest.raises(ConfigError) as caught:
        train(config)
    assert [problem.removeprefix("--set ") for problem in caught.value.problems] == [
        each.format(base=find(started.run)) for each in expected
    ]


def test_a_start_that_is_not_there_or_has_too_much_is_said(folder: Path, started: TranslationConfig) -> None:
    with pytest.raises(ConfigError, match=r"training\.start_from: .*nowhere: no such checkpoint"):
        train(run_config(folder, f"training.start_from={folder}/nowhere", f"run={folder}/nothing"))
    assert not (folder / "nothing").exists()
    one = (CONTEXT.format(where="encoder"), f"training.start_from={started.run}", f"run={folder}/one")
    train(run_config(folder, *one, "training.max_steps=1"))
    with pytest.raises(Exception, match=r"the model has no weights context\.encoder"):
        train(run_config(folder, f"training.start_from={folder}/one", f"run={folder}/two"))


# Requirements of context


def test_context_needs_documents(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(folder, CONTEXT.format(where="encoder"), text=CONFIG)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        f"data.{part}: has no documents, which model.context needs; say where they end with `documents`, or leave "
        "model.context out"
        for part in ("train", "validation")
    ]


def test_context_says_itself_what_it_cannot_go_with(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(folder, "model.context={kind: hierarchical, heads: 3, word: none}")
    assert [problem.removeprefix("--set ") for problem in caught.value.problems] == [
        "model.context.word: is none, which has no attention weights; choose another score",
        "model.context.heads: is 3, but must divide the size of the encoder's annotations (32)",
    ]
    with pytest.raises(ConfigError, match=r"did you mean 'hierarchical'"):
        run_config(folder, "model.context=hierarchic")


def test_documents_without_context_are_said_to_be_unused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(run_config(folder, "run=nowhere"))
    said = capfd.readouterr().err
    assert "the documents of data.train are not used: model.context is none" in said
    assert "sentences each, longest 3" in said
