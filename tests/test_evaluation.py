"""Evaluation: loss by hand, shares of several processes, and what training is told."""

from __future__ import annotations

import copy
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nmt.config import schema
from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError, DataError
from nmt.evaluation.metrics import corpus_scores
from nmt.evaluation.testsets import TestSet, from_config, from_files
from nmt.kernels.steps import StepKernels
from nmt.model.translator import Translator
from nmt.tasks.translation.evaluation import (
    baseline_file,
    baseline_model,
    evaluate,
    is_model,
    validation_search,
    validator,
)
from nmt.tasks.translation.forced_decoding import Loss, forced_loss
from nmt.tasks.translation.loading import System, TrainedModel, build_system, load_model
from nmt.tasks.translation.text_translation import Request, translate_lines
from tests.support.alignment import align_texts
from tests.support.kernel_params import needs_compiler
from tests.support.models import CPU, REFERENCES, SOURCES, save_small, small_config, small_translator
from tests.support.networks import with_steps

ROOT = Path(__file__).parent.parent
SEARCH = SearchConfig(beam_size=2)
# Sentences that the small translator has not learned, so that scores are no round numbers; a blank line on either side.
HARD_SOURCES = ["ein hund läuft im garten .", "", "der kleine vogel sieht zwei katzen .", "ein ball .", "die straße ."]
HARD_REFERENCES = ["a dog runs in the garden .", "a line .", "the small bird sees two cats .", "", "the street ."]
SMALL = TestSet("small", SOURCES, [REFERENCES])
HARD = TestSet("hard", HARD_SOURCES, [HARD_REFERENCES])


def log_probability_by_steps(translators: list[Translator], pairs: TokenizerPair, source: str, target: str) -> float:
    """One piece after the other, from all translators' mean probability."""
    source_ids = [*pairs.source.encode([source])[0], pairs.source.eos]
    target_ids = [*pairs.target.encode([target])[0], pairs.target.eos]
    with torch.no_grad():
        states = [
            model.start(model.encode(torch.tensor([source_ids]), torch.tensor([len(source_ids)])))
            for model in translators
        ]
        previous, total = pairs.target.bos, 0.0
        for piece in target_ids:
            probabilities = []
            for index, model in enumerate(translators):
                states[index], logits = model.step(states[index], torch.tensor([[previous]]))
                probabilities.append(logits.double().softmax(-1)[0, 0, piece])
            total += math.log(sum(probabilities) / len(probabilities))
            previous = piece
    return total


# Loss


@pytest.mark.parametrize("steps", [None, pytest.param(StepKernels("native"), marks=needs_compiler)])
@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_the_loss_is_the_mean_of_the_steps(
    model: TrainedModel, system: System, steps: StepKernels | None, batch_tokens: int
) -> None:
    expected = [
        log_probability_by_steps([model.translator], model.tokenizers, source, target)
        for source, target in zip(HARD_SOURCES, HARD_REFERENCES, strict=True)
    ]
    system = replace(system, translators=(with_steps(copy.deepcopy(model.translator), steps),))
    loss = forced_loss(system, HARD_SOURCES, HARD_REFERENCES, batch_tokens)
    assert loss.pieces == sum(len(ids) + 1 for ids in model.tokenizers.target.encode(HARD_REFERENCES))
    assert loss.total == pytest.approx(-sum(expected), rel=1e-5)
    assert loss.per_piece == pytest.approx(-sum(expected) / loss.pieces, rel=1e-5)
    assert loss.perplexity == pytest.approx(math.exp(loss.per_piece))


def test_the_loss_of_an_ensemble_is_that_of_the_mean_probability(model: TrainedModel) -> None:
    friend = small_translator(small_config(), model.tokenizers, seed=3, updates=4)
    expected = [
        log_probability_by_steps([model.translator, friend], model.tokenizers, source, target)
        for source, target in zip(HARD_SOURCES, HARD_REFERENCES, strict=True)
    ]
    system = System((model.translator, friend), model.tokenizers, CPU)
    loss = forced_loss(system, HARD_SOURCES, HARD_REFERENCES, 100)
    assert loss.total == pytest.approx(-sum(expected), rel=1e-5)


def test_perplexity_of_the_hopeless() -> None:
    assert Loss(1e6, 10).perplexity == math.inf
    assert math.isnan(Loss(math.nan, 10).perplexity)
    assert Loss(3.0, 2) + Loss(1.0, 2) == Loss(4.0, 4)


def test_the_score_of_the_search_is_that_of_the_references(system: System) -> None:
    for line, (best, *_) in zip(SOURCES, translate_lines(system, SOURCES, SEARCH), strict=True):
        # The pieces of the text are those of the search wherever it found the usual segmentation.
        if list(best.pieces) == system.tokenizers.target.pieces(system.tokenizers.target.encode([best.text])[0]):
            assert forced_loss(system, [line], [best.text], 100).total == pytest.approx(-best.log_probability, rel=1e-4)


# Scores


def test_evaluation_scores_what_is_translated(system: System) -> None:
    found = evaluate(system, SMALL, SEARCH)
    assert found.hypotheses == REFERENCES
    assert list(found.scores) == ["bleu", "chrf", "ter"]
    assert found.scores["bleu"].value == pytest.approx(100.0)
    assert found.scores["ter"].value == 0.0
    assert found.scores["bleu"].confidence is None
    with_intervals = evaluate(system, SMALL, SEARCH, metrics=["bleu"], samples=10)
    assert with_intervals.scores["bleu"].confidence is not None


def test_only_the_first_sentences_are_translated_but_all_are_predicted(system: System) -> None:
    done: list[int] = []
    found = evaluate(system, SMALL, SEARCH, sentences=2, advance=done.append)
    assert found.hypotheses == REFERENCES[:2]
    assert sum(done) == 2
    assert found.loss == forced_loss(system, SOURCES, REFERENCES, SEARCH.batch_tokens)


def test_every_reference_counts(system: System) -> None:
    once, twice = (evaluate(system, TestSet("small", SOURCES, [REFERENCES] * times), SEARCH) for times in (1, 2))
    assert twice.loss.pieces == 2 * once.loss.pieces
    assert twice.loss.per_piece == pytest.approx(once.loss.per_piece)
    assert "nrefs:2" in twice.scores["bleu"].signature


# Validation


def test_training_is_told_what_an_evaluation_finds(model: TrainedModel, system: System) -> None:
    options = schema.ValidationConfig(sentences=3, beam_size=2, samples=2)
    sampling = SearchConfig(kind="sampling", temperature=3.0, top_k=5, length_penalty=0.5)
    config = model.config.model_copy(update={"validation": options, "search": sampling})
    validate = validator(config, CPU, model.tokenizers, HARD)
    before = torch.get_rng_state()
    measured = validate(model.translator)
    assert torch.equal(torch.get_rng_state(), before)
    assert validate(model.translator) == measured

    search = SearchConfig(beam_size=2, length_penalty=0.5)
    assert validation_search(config) == search
    hypotheses = evaluate(system, TestSet("hard", HARD_SOURCES[:3], [HARD_REFERENCES[:3]]), search).hypotheses
    scores = corpus_scores(hypotheses, HARD_REFERENCES[:3])
    loss = forced_loss(system, HARD_SOURCES, HARD_REFERENCES, 4096)
    assert measured.metrics == {
        "loss": loss.per_piece,
        "perplexity": loss.perplexity,
        "bleu": scores["bleu"].value,
        "chrf": scores["chrf"].value,
    }
    assert [tuple(sample.values()) for sample in measured.samples] == list(
        zip(HARD_SOURCES, HARD_REFERENCES, hypotheses, strict=False)
    )[:2]


# Several processes

RANK = """
import json, sys
from nmt.config import schema
from nmt.config.schema import SearchConfig
from tests.support.alignment import align_texts
from nmt.evaluation.testsets import TestSet
from nmt.tasks.translation.evaluation import evaluate
from nmt.tasks.translation.loading import build_system, load_model
from nmt.runtime import set_up, tear_down

checkpoint, folder, sources, references = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
runtime = set_up(schema.RuntimeConfig(device="cpu", precision="fp32", threads=1))
model = load_model(checkpoint, None, runtime)
search = SearchConfig(beam_size=2, batch_tokens=20)
found = evaluate(build_system([model], runtime), TestSet("hard", sources, [references]), search, samples=20)
scores = {name: [score.value, score.confidence] for name, score in found.scores.items()}
result = {"world": runtime.world, "hypotheses": found.hypotheses, "scores": scores, "loss": found.loss.total}
result["alignments"] = align_texts(build_system([model], runtime), sources, references, 20)
with open(f"{folder}/{runtime.rank}.json", "w") as file:
    json.dump(result, file)
tear_down()
"""


def test_two_processes_find_what_one_finds(checkpoint: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(2):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in places.items()}, "OMP_NUM_THREADS": "1"}
        texts = json.dumps(HARD_SOURCES), json.dumps(HARD_REFERENCES)
        arguments = [sys.executable, "-c", RANK, str(checkpoint), str(tmp_path), *texts]
        processes.append(subprocess.Popen(arguments, cwd=ROOT, env=environment))
    assert [process.wait(timeout=120) for process in processes] == [0, 0]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    search = SearchConfig(beam_size=2, batch_tokens=20)
    system = build_system([load_model(checkpoint, None, replace(CPU, weights="fp32"))], CPU)
    alone = evaluate(system, HARD, search, samples=20)
    alignments = align_texts(system, HARD_SOURCES, HARD_REFERENCES, 20)
    torch.set_num_threads(threads)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        assert found["world"] == 2
        assert found["hypotheses"] == alone.hypotheses
        assert found["loss"] == alone.loss.total
        assert found["alignments"] == json.loads(json.dumps(alignments))
        assert found["scores"] == {
            name: [score.value, list(score.confidence or ())] for name, score in alone.scores.items()
        }


# Baselines


def test_a_baseline_is_compared(model: TrainedModel, system: System, tmp_path: Path) -> None:
    hypotheses = tmp_path / "baseline.en"
    hypotheses.write_text("\n".join(["a", *REFERENCES[1:]]) + "\n", encoding="utf-8")
    compared = evaluate(
        system,
        SMALL,
        SEARCH,
        metrics=["bleu"],
        samples=50,
        request=Request(),
        baseline=baseline_file(hypotheses),
    ).comparisons
    assert compared is not None
    assert compared["bleu"].system == pytest.approx(100.0)
    assert compared["bleu"].baseline < 100.0

    same = baseline_model(model.path, None, CPU, lambda search: search, Request())
    assert same(SMALL) == REFERENCES
    assert is_model(model.path)
    assert not is_model(hypotheses)


def test_a_baseline_of_another_length_is_a_mistake(tmp_path: Path) -> None:
    short = tmp_path / "short.en"
    short.write_text("a\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"short.en has 1 lines and small has 6; line n"):
        baseline_file(short)(SMALL)


# Test sets


def test_files_of_unequal_length_are_named_with_their_counts(tmp_path: Path) -> None:
    for name, text in (("s", "a\nb\n"), ("r1", "a\n"), ("r2", "a\nb\n"), ("empty", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    source = str(tmp_path / "s")
    found = from_files(source, [str(tmp_path / "r2")] * 2)
    assert (found.sources, found.references) == (["a", "b"], [["a", "b"]] * 2)
    with pytest.raises(DataError, match=r"s has 2 lines and .*r1 has 1;"):
        from_files(source, [str(tmp_path / "r1"), str(tmp_path / "r2")])
    with pytest.raises(DataError, match="empty: is empty"):
        from_files(str(tmp_path / "empty"), [str(tmp_path / "empty")])
    with pytest.raises(DataError) as caught:
        from_files(str(tmp_path / "no"), [str(tmp_path / "none")])
    assert len(caught.value.problems) == 2


def test_configured_sets_are_found_by_name(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    for name, lines in (("t.de", SOURCES), ("t.en", REFERENCES)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    there = f"{{source: {tmp_path / 't.de'}, target: {tmp_path / 't.en'}}}"
    tests = f"{{good: {there}, gone: {{source: no.de, target: {tmp_path / 't.en'}}}}}"
    config = load_model(save_small(tmp_path / "m", tokenizers, updates=0, tests=tests), None, CPU).config
    (found,) = from_config(config, ["good"], "the config")
    assert (found.name, found.sources, found.references) == ("good", SOURCES, [REFERENCES])
    with pytest.raises(ConfigError, match=r"--test-set: the config has no test set 'goof'; did you mean 'good'"):
        from_config(config, ["goof"], "the config")
    with pytest.raises(DataError, match=r"^data.test.gone: no.de: No such file"):
        from_config(config, [], "the config")
    with pytest.raises(ConfigError, match="the config names no test set; give --source and --reference"):
        from_config(small_config(), [], "the config")


def test_a_system_is_in_evaluation_mode(model: TrainedModel) -> None:
    assert not build_system([model], CPU).translators[0].training
