"""Minimum risk training: its risk by hand and by autograd, and its effect on what a network samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmt.config.schema import TrainingConfig
from nmt.data.batching import Batch
from nmt.data.batching.pair_batches import collate
from nmt.data.cache import flatten
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError
from nmt.evaluation.metrics import sentence_scores
from nmt.kernels.select import choose_kernels
from nmt.model.translator import Translator
from nmt.tasks.training import train
from nmt.tasks.translation.loading import vocabulary
from nmt.training.objectives import OBJECTIVES
from nmt.training.objectives.minimum_risk import MinimumRiskObjective, MinimumRiskOptions, risk
from tests.support.kernel_params import needs_compiler
from tests.support.models import REFERENCES, SOURCES
from tests.support.networks import model_options
from tests.support.training_runs import final_weights, records, run_config, write_corpus
from tests.test_r_drop import CPU, DROPOUT

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")


def test_the_risk_by_hand() -> None:
    """P = 1/2, 1/8 and alpha = 1/2: Q = 2/3, 1/3. Scores 0.9 and 0.3: the risk is -0.7.

    Its gradient by log P of a candidate is alpha Q (D - risk): 1/2 * 2/3 * (-0.9 + 0.7) and 1/2 * 1/3 * (-0.3 + 0.7).
    """
    log_probabilities = torch.tensor([0.5, 0.125], dtype=torch.float64).log().requires_grad_()
    value = risk(log_probabilities, torch.tensor([0.9, 0.3], dtype=torch.float64), 0.5)
    assert value.item() == pytest.approx(-0.7)
    (gradient,) = torch.autograd.grad(value, log_probabilities)
    assert gradient.tolist() == pytest.approx([-1 / 15, 1 / 15])


def test_scores_of_sentences_by_hand() -> None:
    """`a b d` for `a b c d`: precisions 3/3, 1/2, and 1/2 of a trigram that is not there, without longer n-grams."""
    brevity = math.exp(1 - 4 / 3)
    bleu = 100 * brevity * (1 * 1 / 2 * 1 / 2) ** (1 / 3)
    assert sentence_scores(["a b d", "a b c d", ""], ["a b c d"] * 3, "bleu") == pytest.approx([bleu, 100.0, 0.0])
    assert sentence_scores(["a b c d"], ["a b c d"], "chrf") == pytest.approx([100.0])


@pytest.fixture
def batch(tokenizers: TokenizerPair) -> Batch:
    source, target = tokenizers.source.encode(SOURCES[:2]), tokenizers.target.encode(REFERENCES[:2])
    return collate(flatten(source), flatten(target), np.arange(2), tokenizers)


def objective_of(
    tokenizers: TokenizerPair, kernel: Any = "reference", lexical: bool = False, **options: Any
) -> MinimumRiskObjective:
    torch.manual_seed(0)
    model = model_options(dropout=DROPOUT, sizes=(16, 12, 24), lexical=lexical)
    translator = Translator(model, vocabulary(tokenizers), choose_kernels(kernel, CPU)).train()
    training = TrainingConfig(start_from="runs/any")
    objective = OBJECTIVES.build(MinimumRiskOptions(samples=4, **options), translator, training, tokenizers)
    assert isinstance(objective, MinimumRiskObjective)
    return objective


@pytest.mark.parametrize(("include_reference", "metric", "lexical"), [(True, "bleu", True), (False, "chrf", False)])
@pytest.mark.parametrize("kernel", ["reference", pytest.param("fused", marks=needs_compiler)])
def test_risk_and_gradients_are_those_of_autograd(
    tokenizers: TokenizerPair, batch: Batch, kernel: str, include_reference: bool, metric: Any, lexical: bool
) -> None:
    """Every candidate by a pass of its own, whose logits PyTorch differentiates. Without dropout, to compare."""
    options = {"include_reference": include_reference, "metric": metric, "sharpness": 0.02}
    objective = objective_of(tokenizers, kernel, lexical, **options)
    translator = objective.model.eval()
    torch.manual_seed(5)
    sums = objective(batch)
    sums.loss((0.7, 0.0)).backward()
    parameters = dict(translator.named_parameters())
    gradients = {name: parameter.grad.clone() for name, parameter in parameters.items() if parameter.grad is not None}
    translator.zero_grad()
    torch.manual_seed(5)
    samples = objective.samples(batch)
    total, sampled = torch.zeros((), dtype=torch.float64), 0.0
    for row, drawn in enumerate(samples):
        assert len(drawn) == 4
        reference = tuple(tokenizers.target.encode([REFERENCES[row]])[0])
        (text,) = tokenizers.target.decode([reference])
        source = batch.source_BS[row : row + 1, : int(batch.source_lengths_B[row])]
        values = dict(zip(drawn, sentence_scores(tokenizers.target.decode(drawn), [text] * 4, metric), strict=True))
        sampled += sum(values[ids] for ids in drawn) / 4
        if include_reference:
            values[reference] = 100.0
        log_probabilities = []
        for ids in values:
            target = torch.tensor([[*ids, tokenizers.target.eos]])
            logits = translator(source, batch.source_lengths_B[row : row + 1], target).double()
            log_probabilities.append(logits.log_softmax(-1)[0].gather(1, target[0].unsqueeze(1)).sum())
        shares = (0.02 * torch.stack(log_probabilities)).exp()
        shares = shares / shares.sum()
        total = total - (shares * torch.tensor(list(values.values())) / 100).sum()
    assert sums.reported().tolist() == pytest.approx([total.item(), sampled], rel=1e-5)
    by_hand = torch.autograd.grad(total * 0.7, list(parameters.values()))
    assert max(float(gradient.abs().max()) for gradient in by_hand) > 1e-3
    for name, gradient in zip(parameters, by_hand, strict=True):
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n} {text}"
        )


def test_equal_translations_count_once(
    tokenizers: TokenizerPair, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = objective_of(tokenizers)
    objective.eval()
    references = [tuple(ids) for ids in tokenizers.target.encode(REFERENCES[:2])]
    seen = []
    probabilities = objective.log_probabilities
    monkeypatch.setattr(objective, "samples", lambda _: [[ids, ids[:1], ids, ids[:1]] for ids in references])
    monkeypatch.setattr(objective, "log_probabilities", lambda one, each: seen.append(each) or probabilities(one, each))
    objective(batch)
    assert seen == [[[ids, ids[:1]] for ids in references]]


def test_training_goes_on_with_dropout_and_in_bf16(tokenizers: TokenizerPair, batch: Batch) -> None:
    """What is drawn does not depend on dropout, what is trained does; in bf16 every weight has a gradient."""
    objective = objective_of(tokenizers, sharpness=0.5)
    drawn = []
    for mode in (True, False):
        objective.train(mode)
        torch.manual_seed(3)
        drawn.append(objective.samples(batch))
        assert all(module.training == mode for module in objective.model.modules())
    assert drawn[0] == drawn[1]
    objective.train()
    with torch.autocast("cpu", torch.bfloat16):
        sums = objective(batch)
    sums.loss((1.0, 0.0)).backward()
    parameters = objective.model.named_parameters()
    assert [name for name, each in parameters if each.grad is None or not each.grad.any()] == []


# Training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a corpus and of a run that has learned half of it."""
    folder = tmp_path_factory.mktemp("trained")
    write_corpus(folder)
    train(run_config(folder, "training.max_steps=100", "training.max_epochs=null", "training.validate_every=100"))
    return folder


def by_risk(folder: Path, run: Path, *overrides: str) -> Any:
    return run_config(
        folder,
        f"training.start_from={folder}/run",
        "training.objective={kind: minimum_risk, samples: 6}",
        "training.batch_tokens=64",
        "training.max_epochs=null",
        "training.validate_every=100",
        "training.ema_decay=0",
        "validation.sentences=2",
        f"run={run}",
        *overrides,
    )


def test_the_translations_that_it_samples_get_better(trained: Path, tmp_path: Path) -> None:
    """Of all pairs in each update, without dropout: on few, chance hides the progress of so few updates."""
    config = by_risk(
        trained,
        tmp_path / "risk",
        "training.max_steps=18",
        "training.batch_tokens=512",
        "training.optimizer.learning_rate=5e-3",
        "model.dropout={embedding: 0, layer: 0, output: 0, source_word: 0}",
    )
    train(config)
    steps = records(config.run)
    first, last = (np.mean([step["score"] for step in part]) for part in (steps[:4], steps[-4:]))
    assert last > first + 3.0
    assert all(-1.0 <= step["loss"] <= 0.0 and "perplexity" not in step for step in steps)


def test_a_stopped_run_goes_on_to_the_same_bits(trained: Path, tmp_path: Path) -> None:
    train(by_risk(trained, tmp_path / "straight", "training.max_steps=4", "training.accumulation=2"))
    for steps in (2, 4):
        train(by_risk(trained, tmp_path / "stopped", f"training.max_steps={steps}", "training.accumulation=2"))
    straight, stopped = (final_weights(tmp_path / name) for name in ("straight", "stopped"))
    assert all(torch.equal(weight, stopped[name]) for name, weight in straight.items())


def test_it_needs_a_trained_model_and_no_alignments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(tmp_path, "training.objective=minimum_risk", "training.guided_alignment.weight=1")
    problems = "\n".join(caught.value.problems)
    assert "training.start_from: is missing" in problems
    assert "training.guided_alignment.weight: has no effect with objective minimum_risk" in problems
