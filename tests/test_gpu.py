"""Tests that need a GPU: the same results as on a CPU, in every precision, and a run that resumes there.

`scripts/check_gpu` runs these and the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint import RunFolder
from nmt.config.schema import SearchConfig
from nmt.data.batching import documents_batch
from nmt.kernels.select import choose_kernels
from nmt.search import translate_batch
from nmt.tasks.training import train
from nmt.training import graphs
from nmt.training.trainer import Trainer
from tests.support.labelled_documents import document_config, write_all
from tests.support.networks import BOS, EOS, INPUT_FEEDING, model_options, network, sentences, with_steps
from tests.support.training_runs import final_weights, records, run_config, write_corpus
from tests.test_document import SHAPES, classifier, level, some_document
from tests.test_model import build, every_network
from tests.test_objectives_processes import SETTINGS, train_together

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"),
]
GPU = torch.device("cuda")


class Special:
    pad, unk, bos, eos = 0, 1, BOS, EOS


@every_network
def test_outputs_and_gradients_are_those_of_the_cpu(options: dict[str, Any]) -> None:
    gradients, outputs = [], []
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT, _ = sentences(6, 3, 4, size=11)
    for device in (torch.device("cpu"), GPU):
        translator = build(options).to(device)
        # cuDNN has a backward pass in training mode alone; there is no dropout here.
        logits = translator.train()(source_BS.to(device), lengths_B, target_BT.to(device))
        logits.logsumexp(-1).sum().backward()
        outputs.append(logits.detach().cpu())
        gradients.append([parameter.grad.cpu() for parameter in translator.parameters() if parameter.grad is not None])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)


@pytest.fixture
def without_waiting() -> Iterator[Callable[[], None]]:
    """From when it is called, whatever makes the host wait for the GPU fails."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("score", "wiring"), [("additive", "bahdanau"), ("dot", "conditional"), ("general", "luong")])
def test_a_recurrence_by_kernels_never_waits(score: str, wiring: str, without_waiting: Callable[[], None]) -> None:
    translator = network(model_options(score=score, wiring=wiring, wiring_options=INPUT_FEEDING.get(wiring)))
    translator = translator.float().to(GPU).train()
    source_BS, lengths_B = sentences(5, 2, 7)
    target_BT = sentences(6, 3, 4, size=11)[0].to(GPU)
    encoded = translator.encode(source_BS.to(GPU), lengths_B)
    with_steps(translator, choose_kernels("fused", GPU, translator.unsupported_reasons()).steps)

    def pass_through() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            readout_BTR, _ = translator.readout(encoded, target_BT)
        torch.autograd.grad(readout_BTR.sum(), list(translator.decoder.wiring.parameters()), retain_graph=True)

    # Compiling happens once, and may wait.
    for _ in range(3):
        pass_through()
    without_waiting()
    pass_through()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_from_graphs_learns_what_one_without_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Sums of embedding gradients add up in changing order, so that the bits differ."""
    write_corpus(tmp_path)
    replayed, run, losses = [], graphs.UpdateGraphs.run, []

    def counting(updates: graphs.UpdateGraphs, *arguments: Any) -> torch.Tensor:
        results = run(updates, *arguments)
        replayed.append(updates.replayed)
        return results

    monkeypatch.setattr(graphs.UpdateGraphs, "run", counting)
    for seen in (graphs.SEEN, 10_000):
        monkeypatch.setattr(graphs, "SEEN", seen)
        machine = f"runtime={{device: cuda, precision: {precision}, kernel: graphed}}"
        config = run_config(tmp_path, f"run={tmp_path}/{seen}", machine, "training.max_epochs=4")
        train(config)
        losses.append([each["loss"] for each in records(config.run)])
    assert max(replayed) > 10
    assert replayed[-1] == 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if precision == "fp32" else 2e-2)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd, momentum: 0.9"])
def test_an_update_never_waits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_waiting: Callable[[], None],
    optimizer: str,
    precision: str,
) -> None:
    """Batches, gradients, clipping, step and average: from the third on, when all is there that is made once."""
    step, steps = Trainer.step, []

    def watched(trainer: Trainer, update: Any) -> bool:
        if len(steps) >= 2:
            without_waiting()
        try:
            steps.append(step(trainer, update))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return steps[-1]

    monkeypatch.setattr(Trainer, "step", watched)
    write_corpus(tmp_path)
    train(
        run_config(
            tmp_path,
            f"runtime={{device: cuda, precision: {precision}, kernel: fused}}",  # a capture waits
            f"training.optimizer={{kind: {optimizer}, learning_rate: 0.01}}",
            "training.max_steps=6",
            "training.validate_every=100",
            "training.log_every=100",
        )
    )
    assert len(steps) == 6


def test_the_gpu_skips_an_update_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host hears of it at the end; the weights after it are those before it."""
    forward_backward = Trainer.forward_backward

    def poisoned(trainer: Trainer, *arguments: Any) -> torch.Tensor:
        sums = forward_backward(trainer, *arguments)
        if trainer.progress.step == 1:
            trainer.parameters[0].grad.fill_(torch.nan)
        return sums

    monkeypatch.setattr(Trainer, "forward_backward", poisoned)
    write_corpus(tmp_path)
    machine = "runtime={device: cuda, precision: fp32}"
    config = run_config(
        tmp_path,
        machine,
        "training.max_steps=2",
        "training.save_every=1",
        "training.ema_decay=0",
        "training.log_every=9",
    )
    assert train(config).progress.skipped == 1
    first, second = RunFolder(config.run).checkpoints()
    before, after = (final_weights(each) for each in (first, second))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_translations_are_those_of_the_cpu(kind: str) -> None:
    source_BS, lengths_B = sentences(5, 2, 7, 3, 4)
    found = []
    for device in (torch.device("cpu"), GPU):
        translator = network(model_options()).to(device)
        options = SearchConfig(kind=kind, beam_size=4)
        found.append(translate_batch([translator], source_BS.to(device), lengths_B, options, special=Special()))
    cpu, gpu = ([[hypothesis.ids for hypothesis in each] for each in side] for side in found)
    assert gpu == cpu


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_learns_and_goes_on(tmp_path: Path, precision: str) -> None:
    write_corpus(tmp_path, pairs=400)
    machine = f"runtime={{device: cuda, precision: {precision}}}"
    config = run_config(tmp_path, machine, "training.max_epochs=6")
    train(config)
    losses = [record["loss"] for record in records(config.run, "validation")]
    assert losses[-1] < 0.8 * losses[0]
    step = records(config.run)[-1]["step"]
    train(run_config(tmp_path, machine, "training.max_epochs=7"))
    assert records(config.run)[-1]["step"] > step
    assert all(torch.isfinite(weight).all() for weight in final_weights(config.run).values())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU at most")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_gpus_train_as_one_with_twice_the_batches(tmp_path: Path, precision: str) -> None:
    """Gradients travel by NCCL, numbers of the host by gloo."""
    write_corpus(tmp_path)
    settings = (*SETTINGS, f"runtime={{device: cuda, precision: {precision}}}")
    train(run_config(tmp_path, *settings, "training.accumulation=2", f"run={tmp_path}/alone"))
    train_together(tmp_path, *settings)
    names, bound = ("step", "loss", "gradient_norm"), 1e-4 if precision == "fp32" else 3e-2
    one, two = ([[r[name] for name in names] for r in records(tmp_path / run)] for run in ("alone", "together"))
    assert len(one) == 4
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=bound, atol=0)


def test_a_gpu_run_translates_on_a_cpu(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    config = run_config(tmp_path, "runtime={device: cuda, precision: fp32}", "training.max_epochs=1")
    train(config)
    train(run_config(tmp_path, "training.max_epochs=2"))
    assert len(records(config.run, "validation")) == 2


@pytest.mark.parametrize("score", ["additive", "dot", "mean"])
def test_documents_are_encoded_as_on_the_cpu(score: str) -> None:
    gradients, outputs = [], []
    for device in (torch.device("cpu"), GPU):
        model = classifier(level(score), level(score)).to(device).train()
        batch = documents_batch([some_document(shape, seed) for seed, shape in enumerate(SHAPES)]).to(device)
        logits_BK, encoded = model(batch.ids_W, batch.words_N, batch.sentences_B)
        logits_BK.logsumexp(-1).sum().backward()
        outputs.append([logits_BK.detach().cpu(), encoded.word_weights_W.cpu(), encoded.sentence_weights_N.cpu()])
        gradients.append([parameter.grad.cpu() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_documents_are_learned(tmp_path: Path, precision: str) -> None:
    write_all(tmp_path, 200)
    config = document_config(tmp_path, f"runtime={{device: cuda, precision: {precision}}}", "training.max_epochs=8")
    train(config)
    losses = [record["loss"] for record in records(config.run, "validation")]
    assert losses[-1] < 0.8 * losses[0]


def test_a_deterministic_run_repeats_to_the_bit_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """With dropout between the layers, whose state is in the checkpoint."""
    write_corpus(tmp_path)
    runs = []
    for name, steps in (("straight", (6,)), ("again", (6,)), ("stopped", (3, 6))):
        for limit in steps:
            config = run_config(
                tmp_path,
                f"run={tmp_path}/{name}",
                "runtime={device: cuda, precision: bf16, deterministic: true}",
                "model.encoder.layers=2",
                f"training.max_steps={limit}",
            )
            train(config)
        runs.append(final_weights(config.run))
    for other in runs[1:]:
        assert [name for name in other if not torch.equal(other[name], runs[0][name])] == []
