"""Scheduled sampling: its decays, the inputs of the decoder against prefixes read anew at every step, and training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmt.config.schema import GuidedAlignmentConfig, TrainingConfig
from nmt.data.batching import Batch
from nmt.errors import ConfigError
from nmt.kernels.select import choose_kernels
from nmt.model.translator import Translator
from nmt.tasks.training import train
from nmt.training.objectives import OBJECTIVES, TranslationObjective
from nmt.training.objectives.scheduled_sampling import ScheduledSamplingObjective, ScheduledSamplingOptions
from tests.support.kernel_params import needs_compiler
from tests.support.networks import VOCABULARY, model_options, network, sentences
from tests.support.training_runs import final_weights, records, run_config, write_corpus
from tests.test_guided_alignment import small_batch, write_alignments
from tests.test_r_drop import CPU, DROPOUT

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")


def scheduled(translator: Translator, **options: Any) -> ScheduledSamplingObjective:
    training = TrainingConfig(guided_alignment=GuidedAlignmentConfig(weight=0.5), label_smoothing=0.1)
    objective = OBJECTIVES.build(ScheduledSamplingOptions(**options), translator, training, None)
    assert isinstance(objective, ScheduledSamplingObjective)
    return objective


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"decay": "linear", "k": 100}, {0: 1.0, 25: 0.75, 100: 0.0, 1000: 0.0}),
        ({"decay": "linear", "k": 100, "floor": 0.4}, {25: 0.75, 90: 0.4}),
        ({"decay": "exponential", "k": 100}, {0: 1.0, 100: 1 / math.e, 200: math.exp(-2)}),
        # k / (k + e^(i / k)): at i = k ln k half (e^4.61 = 100.48), far beyond it nothing.
        ({"k": 100}, {0: 100 / 101, 461: 0.49879, 10**8: 0.0}),
    ],
)
def test_decays_by_hand(options: dict[str, Any], expected: dict[int, float]) -> None:
    objective = scheduled(network(model_options()), **options)
    for updates, probability in expected.items():
        objective.begin_update(updates)
        assert objective.reference_probability == pytest.approx(probability, abs=1e-4)


NETWORKS = [
    {},
    {"wiring": "luong", "wiring_options": {"input_feeding": True}, "score": "dot"},
    {"coverage": "neural", "cell": "lstm"},
    {"wiring": "gnmt", "decoder_layers": 2},
]


@pytest.mark.parametrize("probability", [0.0, 0.5])
@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_the_decoder_reads_its_own_best_pieces(options: dict[str, Any], probability: float) -> None:
    """Each is the best piece after the inputs before it, which a new pass over the whole prefix gives."""
    translator, batch = network(model_options(**options)), small_batch()
    objective = scheduled(translator, pieces="best")
    objective.reference_probability = probability
    inputs_BT, count = objective.inputs(batch)
    if probability == 0.0:
        assert count == int((batch.target_lengths_B - 1).sum())
    own = 0
    for row in range(batch.pairs):
        source = batch.source_BS[row : row + 1, : int(batch.source_lengths_B[row])]
        for position in range(batch.target_BT.shape[1]):
            piece, reference = int(inputs_BT[row, position]), int(batch.target_BT[row, position])
            logits_BTV = translator(source, batch.source_lengths_B[row : row + 1], inputs_BT[row : row + 1])
            best = int(logits_BTV[0, position].argmax())
            if probability == 0.0 and position < int(batch.target_lengths_B[row]) - 1:
                assert piece == best
            assert piece in (best, reference)
            own += piece != reference
    assert 0 < own <= count


@pytest.mark.parametrize("kernel", ["reference", pytest.param("fused", marks=needs_compiler)])
def test_loss_and_gradients_are_those_of_the_likelihood_with_these_inputs(kernel: Any) -> None:
    """With dropout, which the decoder's own pieces are drawn without."""
    torch.manual_seed(0)
    model = model_options(dropout=DROPOUT, sizes=(16, 12, 24))
    translator = Translator(model, VOCABULARY, choose_kernels(kernel, CPU)).train()
    objective, batch = scheduled(translator, decay="linear", k=10), small_batch()
    objective.begin_update(5)
    torch.manual_seed(3)
    sums = objective(batch)
    assert all(module.training for module in translator.modules())
    sums.loss((0.2, 0.1, 0.0)).backward()
    gradients = [parameter.grad.clone() for parameter in translator.parameters() if parameter.grad is not None]
    translator.zero_grad()
    torch.manual_seed(3)
    inputs_BT, count = objective.inputs(batch)
    assert 0 < count < batch.target_tokens - batch.pairs
    assert float(sums.reported()[2]) == pytest.approx(100 * count)
    likelihood = TranslationObjective(translator, 0.1).sums(batch, replace(batch, target_BT=inputs_BT))
    likelihood.loss((0.2, 0.1)).backward()
    torch.testing.assert_close(sums.reported()[:2], likelihood.reported())
    expected = [parameter.grad for parameter in translator.parameters() if parameter.grad is not None]
    torch.testing.assert_close(gradients, expected)
    # The targets are still the reference's: only the inputs differ.
    assert not torch.equal(sums.reported()[0], TranslationObjective(translator.eval(), 0.1)(batch).reported()[0])


def test_with_the_reference_alone_it_is_the_likelihood() -> None:
    translator, batch = network(model_options()), small_batch()
    objective = scheduled(translator, decay="linear")
    sums, plain = objective(batch), TranslationObjective(translator, 0.1)(batch)
    assert torch.equal(sums.trained[0], plain.trained[0])
    assert sums.reported().tolist() == [*plain.reported().tolist(), 0.0]


def test_sampled_pieces_follow_the_distribution() -> None:
    """Of 4,000 equal sentences of two pieces: each frequency within four standard deviations."""
    translator = network(model_options())
    source_BS, lengths_B = sentences(5)
    target_BT, target_lengths_B = sentences(2, size=11, seed=1)
    count = 4000
    batch = Batch(
        source_BS.expand(count, -1),
        lengths_B.expand(count),
        target_BT.expand(count, -1),
        target_lengths_B.expand(count),
        np.arange(count),
        2 * count,
    )
    objective = scheduled(translator)
    objective.reference_probability = 0.0
    torch.manual_seed(5)
    inputs_BT, own = objective.inputs(batch)
    assert own == count
    assert torch.equal(inputs_BT[:, 1], batch.target_BT[:, 1])
    expected_V = translator(source_BS, lengths_B, target_BT)[0, 0].softmax(0)
    frequency_V = torch.bincount(inputs_BT[:, 0], minlength=len(expected_V)) / count
    assert ((frequency_V - expected_V).abs() < 4 * (expected_V * (1 - expected_V) / count).sqrt()).all()


def test_logits_that_are_not_finite_do_not_stop_it() -> None:
    translator = network(model_options())
    with torch.no_grad():
        translator.projection.bias.fill_(math.nan)
    objective = scheduled(translator)
    objective.reference_probability = 0.0
    assert not torch.isfinite(objective(small_batch()).reported()[0])


def test_in_bf16_every_weight_has_a_gradient() -> None:
    """Casts of the weights that a pass without gradients leaves in autocast's cache would have none."""
    torch.manual_seed(0)
    translator = Translator(model_options(sizes=(16, 12, 24)), VOCABULARY, choose_kernels("reference", CPU)).train()
    objective = scheduled(translator)
    objective.reference_probability = 0.5
    with torch.autocast("cpu", torch.bfloat16):
        sums = objective(small_batch())
    assert float(sums.reported()[2]) > 0.0
    sums.loss((1.0, 1.0, 0.0)).backward()
    assert [name for name, each in translator.named_parameters() if each.grad is None or not each.grad.any()] == []


# Training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path)
    return tmp_path


def test_a_stopped_run_goes_on_to_the_same_bits(folder: Path) -> None:
    """With guided alignment and accumulation; the share of own pieces grows from update to update."""
    write_alignments(folder, lambda word, words: words - 1 - word)
    options = (
        f"data.train={{source: {folder}/train.xx, target: {folder}/train.yy, alignments: {folder}/train.align}}",
        "training.objective={kind: scheduled_sampling, decay: linear, k: 6}",
        "training.guided_alignment.weight=0.5",
        "training.accumulation=2",
    )
    straight = run_config(folder, *options, "training.max_steps=6", f"run={folder}/straight")
    train(straight)
    train(run_config(folder, *options, "training.max_steps=3"))
    train(run_config(folder, *options, "training.max_steps=6"))
    weights = final_weights(straight.run)
    assert all(torch.equal(weight, weights[name]) for name, weight in final_weights(folder / "run").items())
    shares = [record["sampled"] for record in records(straight.run)]
    assert shares[0] == 0.0
    assert 30.0 < shares[-1] < 80.0
    assert all(record["alignment"] > 0 for record in records(straight.run))


@pytest.mark.parametrize("kind", ["scheduled_sampling", "minimum_risk"])
def test_a_translator_with_context_is_refused(folder: Path, kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(folder, f"training.objective={kind}", "model.context=hierarchical")
    assert any(f"training.objective: {kind}" in problem for problem in caught.value.problems)
