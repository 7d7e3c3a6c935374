"""Gradients are exchanged between ranks during the backward pass, once an update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nmt.data.batching.pair_batches import Batch, collate
from nmt.data.cache import flatten
from nmt.data.tokenizer import TokenizerPair
from nmt.kernels.select import choose_kernels
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import Runtime
from nmt.tasks.components import read_config
from nmt.training.metrics_logger import MetricsLogger
from nmt.training.objectives import TranslationObjective
from nmt.training.trainer import Trainer, data_parallel
from tests.support.models import CPU, REFERENCES, SOURCES
from tests.support.networks import model_options

MULTI30K = Path(__file__).parent.parent / "configs" / "multi30k-de-en.yaml"


@pytest.fixture(autouse=True)
def _group_of_one() -> Iterator[None]:
    """A process group of this process alone, so that there is an exchange."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def batch(tokenizers: TokenizerPair) -> Batch:
    source, target = flatten(tokenizers.source.encode(SOURCES)), flatten(tokenizers.target.encode(REFERENCES))
    rows = torch.arange(len(SOURCES)).numpy()
    return collate(source, target, rows, tokenizers)


@pytest.fixture
def translator(tokenizers: TokenizerPair) -> Translator:
    """With two layers in the encoder, 8 million parameters."""
    torch.manual_seed(1)
    options = model_options(encoder_layers=2, sizes=(256, 256, 512))
    return Translator(options, Vocabulary(6000, 6000, tokenizers.target.bos), choose_kernels("auto", CPU.device))


def objective_of(translator: Translator) -> TranslationObjective:
    return TranslationObjective(translator, 0.1)


def watch_buckets(parallel: DistributedDataParallel) -> list[int]:
    """Returns the bytes of the buckets sent so far, a list that grows."""
    sent: list[int] = []

    # PyTorch compares annotations with its classes, which postponed ones never are.
    def note(_, bucket):  # type: ignore[no-untyped-def]
        sent.append(bucket.buffer().nbytes)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    parallel.register_comm_hook(None, note)
    return sent


def test_half_of_the_gradients_travel_while_the_encoder_is_still_to_come(translator: Translator, batch: Batch) -> None:
    parallel = data_parallel(objective_of(translator), CPU.device)
    sent = watch_buckets(parallel)
    travelling: list[int] = []
    translator.encoder.stack.weight_ih_l1.register_post_accumulate_grad_hook(lambda _: travelling.append(sum(sent)))
    for _ in range(2):  # The first backward pass finds out in which order gradients come.
        sent.clear()
        parallel(batch).trained[0].backward()
        translator.zero_grad()
    everything = sum(parameter.nbytes for parameter in translator.parameters())
    assert sum(sent) == everything
    assert travelling[-1] > 0.5 * everything


def test_gradients_of_an_update_travel_once(tmp_path: Path, translator: Translator, batch: Batch) -> None:
    stream: Any = SimpleNamespace(updates_per_epoch=lambda epoch: 1)
    with MetricsLogger(tmp_path, enabled=False, log_every=1) as metrics_logger:
        trainer = Trainer(
            read_config(MULTI30K).training,
            Runtime(torch.device("cpu"), None, "tests", rank=0, world=2),
            objective_of(translator),
            stream,
            metrics_logger,
            validate=lambda _: pytest.fail("no validation is due"),
            save=lambda *_: pytest.fail("nothing is to be saved"),
        )
        assert isinstance(trainer.parallel, DistributedDataParallel)
        sent = watch_buckets(trainer.parallel)
        for _ in range(3):
            trainer.forward_backward(batch, (1.0, 0.0), exchange=False)
            assert not sent
            trainer.forward_backward(batch, (1.0, 0.0), exchange=True)
            assert sum(sent) == sum(parameter.nbytes for parameter in translator.parameters())
            sent.clear()
            trainer.optimizer.zero_grad(set_to_none=True)
