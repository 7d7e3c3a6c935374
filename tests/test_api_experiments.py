"""The Python API of training, evaluation and classification: results of the commands, callbacks, clear sentences."""

from __future__ import annotations

import json
import logging
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nmt
from nmt.cli import classify, evaluate
from nmt.errors import CheckpointError, ConfigError, DataError
from nmt.tasks.training import train
from nmt.training.progress import Validation
from tests.support import labelled_documents, training_runs
from tests.support.commands import Call
from tests.support.models import REFERENCES, SOURCES, save_small

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")


def yaml_of(text: str, folder: Path) -> Path:
    path = folder / "my.yaml"
    path.write_text(text.format(folder=folder), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    training_runs.write_corpus(tmp_path)
    return yaml_of(training_runs.CONFIG, tmp_path)


SHORT = ["training.max_epochs=2"]


def test_a_training_is_that_of_the_command(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Validation] = []

    def draw(validation: Validation) -> None:
        """Draws from every generator: training must go on as without it."""
        seen.append(validation)
        random.random(), np.random.rand(), torch.rand(3)  # type: ignore[unused-ignore]

    logger, handler = logging.getLogger("nmt"), logging.NullHandler()
    logger.addHandler(handler)
    run = nmt.train(config, overrides=SHORT, on_validation=draw)
    assert handler in logger.handlers
    assert capfd.readouterr() == ("", "")
    assert "update" in (tmp_path / "run" / "train.log").read_text(encoding="utf-8")

    records = training_runs.records(run.run, "validation")
    assert [(each.step, each.epoch) for each in seen] == [(record["step"], record["epoch"]) for record in records]
    assert [each.metrics["bleu"] for each in seen] == pytest.approx([record["bleu"] for record in records])
    assert seen[0].is_best
    assert set(seen[0].samples[0]) == {"source", "reference", "hypothesis"}
    assert (run.updates, run.interrupted) == (seen[-1].step, False)
    assert run.metrics["bleu"] == max(each.metrics["bleu"] for each in seen)

    train(training_runs.run_config(tmp_path, *SHORT, f"run={tmp_path}/other"))
    mine, other = training_runs.final_weights(run.run), training_runs.final_weights(tmp_path / "other")
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert len(nmt.load(run.run).translate(["a b c"])[0].hypotheses) == 1


def test_an_error_of_the_callback_ends_the_training_which_goes_on_later(config: Path) -> None:
    def stop(validation: Validation) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        nmt.train(config, overrides=SHORT, on_validation=stop)
    seen: list[int] = []
    run = nmt.train(config, overrides=SHORT, on_validation=lambda each: seen.append(each.epoch))
    assert seen == [2]
    assert run.updates > 0


def test_a_thread_may_train(config: Path) -> None:
    runs: list[nmt.TrainingRun] = []
    overrides = ["training.max_epochs=null", "training.max_steps=2"]
    thread = threading.Thread(target=lambda: runs.append(nmt.train(config, overrides=overrides)))
    thread.start()
    thread.join()
    assert runs[0].updates == 2


def test_mistakes_of_a_training(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        nmt.train(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match=r"training\.max_epoch"):
        nmt.train(config, overrides=["training.max_epoch=3"])
    with pytest.raises(ConfigError, match=r"^overrides: must be a list of texts, not one text"):
        nmt.train(config, overrides="training.max_epochs=3")
    (tmp_path / "train.xx").unlink()
    with pytest.raises(DataError, match=r"train\.xx"):
        nmt.train(config)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory, tokenizers: Any) -> Path:
    """A translator with two test sets in its config."""
    folder = tmp_path_factory.mktemp("tested")
    for code, lines in (("de", SOURCES), ("en", REFERENCES)):
        (folder / code).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    files = f"{{source: {folder}/de, target: {folder}/en}}"
    return save_small(folder / "model", tokenizers, tests=f"{{one: {files}, two: {files}}}", updates=5)


def plain(evaluations: Any) -> Any:
    """Evaluations as JSON has them."""
    return json.loads(json.dumps([each.as_json() for each in evaluations]))


def test_an_evaluation_is_that_of_the_command(call: Call, tested: Path) -> None:
    ended = call(evaluate.main, "--model", tested, "--json", "--samples", 20, "--beam-size", 2)
    expected = json.loads(ended.output)["sets"]
    translator = nmt.load(tested)
    assert plain(nmt.evaluate(translator, samples=20, beam_size=2)) == expected
    assert plain(nmt.evaluate(tested, samples=20, beam_size=2, test_sets=["two"])) == expected[1:]
    (given,) = nmt.evaluate(translator, sources=SOURCES, references=[REFERENCES], samples=20, beam_size=2)
    assert plain([given]) == [expected[0] | {"name": "given"}]
    assert given.hypotheses == [each.text for each in translator.translate(SOURCES, beam_size=2)]
    (compared,) = nmt.evaluate(
        translator, sources=SOURCES, references=REFERENCES, baseline=REFERENCES, samples=20, metrics=["bleu"]
    )
    assert compared.comparisons is not None
    assert compared.comparisons["bleu"].baseline == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_sets": ["three"]}, "test_sets: the config of "),
        ({"sources": ["a"]}, "sources: goes together with references"),
        ({"sources": ["a"], "references": ["b", "c"]}, "references: has 2 entries, and sources has 1"),
        ({"sources": ["a"], "references": [["b"], ["c", "d"]]}, "references: has 2 entries, and sources has 1"),
        ({"documents": ["a"]}, "documents: goes with sources"),
        ({"metrics": ["bleus"]}, "metrics: must be bleu, chrf or ter, not 'bleus'; did you mean 'bleu'?"),
        ({"samples": -1}, "samples: must be a whole number"),
        ({"baseline": ["a"]}, "baseline: is for one test set, and there are 2; choose by test_sets: one, two"),
        ({"beam_sise": 2}, "beam_sise: unknown argument; did you mean 'beam_size'?"),
    ],
)
def test_mistakes_of_an_evaluation(tested: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        nmt.evaluate(nmt.load(tested), **arguments)
    assert caught.value.problems[0].startswith(message)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> nmt.TextClassifier:
    folder = tmp_path_factory.mktemp("documents")
    labelled_documents.write_all(folder, 40)
    run = nmt.train(yaml_of(labelled_documents.CONFIG, folder), overrides=["training.max_epochs=1"])
    return nmt.load_classifier(run.run)


DOCUMENTS = [["it was the cat .", "here and there"], ["the hammer", "and the saw ."], [""]]
LINES = ["\t".join(sentences) for sentences in DOCUMENTS]


def test_labels_are_those_of_the_command(classifier: nmt.TextClassifier, call: Call) -> None:
    arguments = ["--model", classifier.path, "--format", "jsonl"]
    stdin = "".join(f"{line}\n" for line in LINES).encode()
    expected = [json.loads(line) for line in call(classify.main, *arguments, stdin=stdin).output.splitlines()]
    for documents in (DOCUMENTS, LINES):
        results = classifier.classify(documents)  # type: ignore[arg-type]
        assert [result.label for result in results] == [line["label"] for line in expected]
        assert results[2].label is None
        for result, line in zip(results, expected, strict=True):
            assert dict(result.probabilities) == (line["probabilities"] or {})
            assert [each.weight for each in result.sentences] == [each["weight"] for each in line["sentences"]]
    shown = results[0]._repr_html_()
    assert shown.count("<span") == sum(len(sentence.words) for sentence in results[0].sentences)
    assert str(results[0].label) in shown
    assert classifier.classify([]) == []


def test_an_evaluation_of_labels(classifier: nmt.TextClassifier, call: Call) -> None:
    ended = call(evaluate.main, "--model", classifier.path, "--json", "--samples", 20)
    assert plain(nmt.evaluate(classifier, samples=20)) == json.loads(ended.output)["sets"]
    labels = list(classifier.labels[:2])
    (given,) = nmt.evaluate(classifier, documents=DOCUMENTS[:2], labels=labels, samples=0)
    predicted = [each.label for each in classifier.classify(DOCUMENTS[:2])]
    assert given.lines == predicted
    accuracy = sum(one == other for one, other in zip(labels, predicted, strict=True)) / 2
    assert given.scores.scores["accuracy"].value in (accuracy, 100 * accuracy)


def test_mistakes_with_a_classifier(classifier: nmt.TextClassifier, tested: Path) -> None:
    with pytest.raises(CheckpointError, match="this model translates"):
        nmt.load_classifier(tested)
    with pytest.raises(CheckpointError, match="this model labels documents"):
        nmt.load(classifier.path)
    for call_with, message in (
        (lambda: classifier.classify("text"), "documents: must be a list of texts, not one text"),
        (lambda: classifier.classify([["a"], "b"]), "documents: entry 1 must be text, not list"),  # type: ignore[list-item]
        (lambda: classifier.classify(["a"], boundaries="tabs"), "boundaries: must be auto, tab or split"),  # type: ignore[arg-type]
        (lambda: nmt.evaluate(classifier, beam_size=2), "beam_size: is for models that translate"),
        (lambda: nmt.evaluate(classifier, documents=["a"]), "documents: goes together with labels"),
    ):
        with pytest.raises(ConfigError) as caught:
            call_with()
        assert caught.value.problems[0].startswith(message)
    with pytest.raises(DataError, match=r"^labels: entry 1: the label 'dog' does not occur"):
        nmt.evaluate(classifier, documents=["a"], labels=["dog"])
