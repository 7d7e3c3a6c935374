"""R-Drop: its loss and gradients against PyTorch's autograd, and its effect in training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.config import schema
from nmt.config.schema import TrainingConfig
from nmt.data.batching import Batch
from nmt.kernels.select import choose_kernels
from nmt.model.attention import SCORES
from nmt.model.context import CONTEXTS
from nmt.model.translator import Translator, forced_readout
from nmt.tasks.training import train
from nmt.training.objectives import OBJECTIVES, LossSums, Objective, TranslationObjective
from nmt.training.objectives.r_drop import RDropOptions
from tests.support.document_contexts import batch_of
from tests.support.kernel_params import needs_compiler
from tests.support.networks import REFERENCE, VOCABULARY, model_options, network
from tests.support.training_runs import final_weights, records, run_config, write_corpus
from tests.test_guided_alignment import small_batch, write_alignments

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")

DROPOUT = schema.DropoutConfig(embedding=0.2, layer=0.2, output=0.3, source_word=0.1)
CPU = torch.device("cpu")


def r_drop(translator: Translator, alpha: float = 5.0, guided: float = 0.0) -> Objective:
    training = TrainingConfig(guided_alignment=schema.GuidedAlignmentConfig(weight=guided), label_smoothing=0.1)
    return OBJECTIVES.build(RDropOptions(alpha=alpha), translator, training, None)


def training_network(kernel: Any = "reference", **options: Any) -> Translator:
    """In float32, with dropout."""
    torch.manual_seed(0)
    model = model_options(dropout=DROPOUT, sizes=(16, 12, 24), **options)
    return Translator(model, VOCABULARY, choose_kernels(kernel, CPU)).train()


def by_autograd(logits_2NV: Tensor, target_N: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Half of eq. 4 of the paper, the sum over the positions; the likelihood of both passes; eq. 3."""
    first, second = (F.log_softmax(logits_NV.double(), -1) for logits_NV in logits_2NV)
    divergence = (F.kl_div(first, second, log_target=True, reduction="none")).sum()
    divergence = (divergence + F.kl_div(second, first, log_target=True, reduction="none").sum()) / 2
    smoothed, likelihood = (
        F.cross_entropy(logits_2NV.double().flatten(0, 1), target_N.repeat(2), label_smoothing=e, reduction="sum")
        for e in (0.1, 0.0)
    )
    return (smoothed + alpha * divergence) / 2, likelihood / 2, divergence


def logits_of(translator: Translator, batch: Batch) -> Tensor:
    """The logits of the pieces of a batch without padding, [N, V]."""
    readout_BTR = forced_readout(translator, batch).readout_BTR[: batch.pairs]
    mask_BT = torch.arange(readout_BTR.shape[1]) < batch.target_lengths_B[: batch.pairs].unsqueeze(1)
    logits_NV: Tensor = translator.projection(readout_BTR)[mask_BT]
    return logits_NV


def targets_of(batch: Batch) -> Tensor:
    mask_BT = torch.arange(batch.target_BT.shape[1]) < batch.target_lengths_B.unsqueeze(1)
    return batch.target_BT[mask_BT][: batch.target_tokens]


def check(translator: Translator, objective: Objective, batch: Batch, logits_2NV: Tensor, sums: LossSums) -> None:
    """The sums and the gradients of all parameters are those of plain autograd, to 1e-5 in float32."""
    expected = by_autograd(logits_2NV, targets_of(batch), 5.0)
    scales = (0.3, 0.0, 0.0)
    for actual, value in zip((sums.trained[0], sums.logged[0], sums.logged[2]), expected, strict=True):
        assert actual is not None
        assert actual.item() == pytest.approx(value.item(), rel=1e-5)
    assert expected[2] > 0.1
    parameters = dict(translator.named_parameters())
    by_hand = torch.autograd.grad(expected[0] * 0.3, list(parameters.values()), allow_unused=True)
    translator.zero_grad()
    sums.loss(scales).backward()
    for (name, parameter), gradient in zip(parameters.items(), by_hand, strict=True):
        assert parameter.grad is not None, name
        assert gradient is not None, name
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n} {text}"
        )


@pytest.mark.parametrize("kernel", ["reference", pytest.param("fused", marks=needs_compiler)])
@pytest.mark.parametrize(
    "options",
    [{}, {"wiring": "luong", "wiring_options": {"input_feeding": True}, "score": "dot"}],
    ids=["additive", "luong"],
)
def test_loss_and_gradients_are_those_of_autograd(kernel: str, options: dict[str, Any]) -> None:
    translator = training_network(kernel, **options)
    objective, batch = r_drop(translator), small_batch(with_links=False)
    torch.manual_seed(7)
    sums = objective(batch)
    torch.manual_seed(7)
    check(translator, objective, batch, logits_of(translator, batch.twice()).view(2, batch.target_tokens, -1), sums)


def test_a_batch_with_document_context_has_two_passes() -> None:
    """Half of the batch is context of the others, which has no loss of its own."""
    model = model_options(dropout=DROPOUT)
    levels = {level: SCORES["additive"].options() for level in ("word", "sentence")}
    model = model.model_copy(update={"context": CONTEXTS["hierarchical"].options(past=2, **levels)})
    torch.manual_seed(0)
    translator = Translator(model, VOCABULARY, REFERENCE).train()
    batch = batch_of([1, 2, 4], translator.context.document_context)
    assert batch.pairs < len(batch.source_BS)
    objective = r_drop(translator)
    torch.manual_seed(7)
    sums = objective(batch)
    torch.manual_seed(7)
    check(translator, objective, batch, torch.stack([logits_of(translator, batch) for _ in range(2)]), sums)


def test_without_dropout_it_is_the_likelihood() -> None:
    """Both passes agree: the loss is that of one pass, with guided alignment, and nothing diverges."""
    translator = network(model_options())
    batch = small_batch()
    guidance = schema.GuidedAlignmentConfig(weight=0.5)
    plain = TranslationObjective(translator, 0.1, guidance)(batch)
    twice = r_drop(translator, guided=0.5)(batch)
    for one, other in zip((*plain.trained, *plain.logged), (*twice.trained[:2], *twice.logged[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0.0)
    assert float(twice.reported()[2]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kernel", ["reference", pytest.param("fused", marks=needs_compiler)])
def test_bf16_is_near_float32(kernel: str) -> None:
    """The same dropout: products alone are in bf16, sums and gradients are not."""
    translator, batch = training_network(kernel), small_batch(with_links=False)
    results = []
    for enabled in (False, True):
        translator.zero_grad()
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            sums = r_drop(translator)(batch)
        sums.loss((0.2, 0.0, 0.0)).backward()
        gradients = [parameter.grad.flatten() for parameter in translator.parameters() if parameter.grad is not None]
        results.append((sums.reported(), torch.cat(gradients)))
    (exact, gradient), (short, short_gradient) = results
    assert short.dtype == torch.float32
    torch.testing.assert_close(short, exact, rtol=0.05, atol=0.0)
    assert float((short_gradient - gradient).norm()) < 0.1 * float(gradient.norm())


def test_batches_of_an_update_add_up() -> None:
    """Without dropout, the sums of a batch and their gradients are those of its pairs, one after another."""
    translator, whole = network(model_options()), small_batch(with_links=False)
    gradients, totals = [], []
    for rows in ([[0, 1]], [[0], [1]]):
        translator.zero_grad()
        total = torch.zeros(3, dtype=torch.float64)
        for row in rows:
            source, target = whole.source_lengths_B[row], whole.target_lengths_B[row]
            sides = whole.source_BS[row, : int(source.max())], source, whole.target_BT[row, : int(target.max())], target
            sums = r_drop(translator)(Batch(*sides, np.array(row), int(target.sum())))
            sums.loss((0.1, 0.0, 0.0)).backward()
            total += sums.reported()
        totals.append(total)
        gradients.append([parameter.grad.clone() for parameter in translator.parameters()])
    torch.testing.assert_close(*totals)
    torch.testing.assert_close(*gradients)


def test_the_divergence_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = 0.75 ln 1.5 - 0.25 ln 2, KL(q || p) = 0.5 ln (2/3) + 0.5 ln 2."""
    logits = torch.tensor([[[math.log(3.0), 0.0]], [[0.0, 0.0]]])
    for kernel in ("reference", "auto"):
        losses = choose_kernels(kernel, CPU).regularized_cross_entropy(
            logits, torch.eye(2), torch.zeros(2), torch.tensor([0]), 0.0, 4.0
        )
        by_hand = (0.75 * math.log(1.5) - 0.25 * math.log(2) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
        assert losses.divergence.item() == pytest.approx(by_hand, rel=1e-5)
        assert losses.negative_log_likelihood.item() == pytest.approx(math.log(4 / 3) + math.log(2), rel=1e-5)
        assert losses.regularized.item() == pytest.approx(math.log(4 / 3) + math.log(2) + 4 * by_hand, rel=1e-5)


def test_a_batch_twice_has_every_pair_twice() -> None:
    batch = small_batch()
    twice = batch.twice()
    assert twice.target_tokens == 2 * batch.target_tokens
    assert twice.linked_pieces == 2 * batch.linked_pieces
    for half in (slice(0, 2), slice(2, 4)):
        assert torch.equal(twice.source_BS[half], batch.source_BS)
        assert torch.equal(twice.target_BT[half], batch.target_BT)
    assert np.array_equal(twice.rows, [0, 1, 0, 1])
    assert twice.links is not None
    assert batch.links is not None
    count = len(batch.links.row_L)
    assert torch.equal(twice.links.row_L[count:], batch.links.row_L + 2)
    assert torch.equal(twice.links.target_L[count:], batch.links.target_L)


# Training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path)
    return tmp_path


def test_a_weight_of_the_divergence_makes_passes_agree(folder: Path) -> None:
    divergences = {}
    for alpha in (0.0, 20.0):
        config = run_config(
            folder,
            f"training.objective={{kind: r_drop, alpha: {alpha}}}",
            "training.max_steps=40",
            "training.max_epochs=null",
            "training.validate_every=40",
            "model.dropout={embedding: 0.2, layer: 0.2, output: 0.3}",
            f"run={folder}/{alpha}",
        )
        train(config)
        divergences[alpha] = np.mean([record["divergence"] for record in records(config.run)[-10:]])
    assert 0.0 < divergences[20.0] < 0.5 * divergences[0.0]


def test_a_stopped_run_with_everything_goes_on_to_the_same_bits(folder: Path) -> None:
    write_alignments(folder, lambda word, words: words - 1 - word)
    options = (
        f"data.train={{source: {folder}/train.xx, target: {folder}/train.yy, alignments: {folder}/train.align}}",
        "training.objective=r_drop",
        "training.guided_alignment.weight=0.5",
        "training.accumulation=2",
    )
    straight = run_config(folder, *options, "training.max_steps=5", f"run={folder}/straight")
    train(straight)
    train(run_config(folder, *options, "training.max_steps=3"))
    train(run_config(folder, *options, "training.max_steps=5"))
    weights = final_weights(straight.run)
    assert all(torch.equal(weight, weights[name]) for name, weight in final_weights(folder / "run").items())
    assert all(record["divergence"] > 0 and record["alignment"] > 0 for record in records(straight.run))
