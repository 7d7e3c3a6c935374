"""Compares training in two processes with one, one thread each, by `nmt-train` and `torchrun`."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from nmt.config import TranslationConfig
from nmt.data.batching import Batch
from nmt.kernels.select import choose_kernels
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import all_reduce_sum, set_up, tear_down
from nmt.tasks.components import read_config
from nmt.training.objectives import TranslationObjective
from nmt.training.trainer import data_parallel
from scripts.scaling.corpus import write_words
from scripts.scaling.memory import watch

CONFIG = "configs/multi30k-de-en.yaml"
PAIRS = 29_000
LOG_EVERY = 4
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def measure_ranks(folder: Path, rounds: int, updates: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Measures target tokens per second of one and two processes in turn, and when gradients are exchanged."""
    source, target = write_words(folder, PAIRS)
    text = f"source: {source}, target: {target}"
    # A fresh model translates to the length limit: one sentence of validation is enough.
    validation = f"{{{text}, limit: 1}}"
    settings = [
        *(f"data.train={{{text}}}", f"data.validation={validation}", f"data.cache={folder / 'cache'}", "data.test={}"),
        *("training.max_epochs=null", f"training.max_steps={updates}", f"training.log_every={LOG_EVERY}"),
        *("validation.samples=0", "runtime.device=cpu", "runtime.threads=1", *overrides),
    ]
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for ranks, measured in speeds.items():
            run = folder / f"run-{number}-{ranks}"
            arguments = [part for setting in (*settings, f"run={run}") for part in ("--set", setting)]
            start = [] if ranks == 1 else [*TORCHRUN, str(ranks)]
            command = [sys.executable, *start, "-m", "nmt.cli.train", "--config", CONFIG, *arguments]
            watch(command, {**os.environ, "OMP_NUM_THREADS": "1"})
            measured.append(speed(run))
    stage = ["-m", "scripts.scaling.stages", "agreeing", json.dumps({"times": 1000})]
    said, _ = watch([sys.executable, *TORCHRUN, "2", *stage], {**os.environ, "OMP_NUM_THREADS": "1"})
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    return {
        "config": " ".join([CONFIG, *overrides]),
        "updates": updates,
        "one": speeds[1],
        "two": speeds[2],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "agreeing": json.loads(said.splitlines()[-1]),
    }


def speed(run: Path) -> float:
    """Returns the target tokens per second of a run, without the first lines of its log."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [line["tokens_per_second"] for line in lines if line["type"] == "train"][1:]
    # All lines have about the same number of tokens.
    return float(statistics.harmonic_mean(speeds))


def agreeing(times: int) -> dict[str, Any]:
    """Measures the exchange of an update's counts between ranks, as `Trainer.step` does it."""
    runtime = set_up(read_config(CONFIG).runtime)
    counts = torch.ones(2, dtype=torch.int64)
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        all_reduce_sum(counts)
        taken.append(time.perf_counter() - start)
    tear_down()
    return {"ranks": runtime.world, "seconds": statistics.median(taken)}


def buckets() -> dict[str, Any]:
    """Measures when the exchange of each bucket of gradients starts, with a single process."""
    torch.set_num_threads(1)
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    config = read_config(CONFIG)
    assert isinstance(config, TranslationConfig), "the config translates"
    runtime = set_up(config.runtime)
    size, tokens = config.tokenizer.vocabulary_size, config.training.batch_tokens
    assert size is not None, "the config has it"
    assert tokens is not None, "the config has it"
    translator = Translator(config.model, Vocabulary(size, size, bos=2), choose_kernels("auto", runtime.device))
    parallel = data_parallel(TranslationObjective(translator, config.training.label_smoothing), runtime.device)
    ready: list[tuple[float, int]] = []

    # Without annotations: PyTorch compares them with classes, and here they are strings.
    def note(_, bucket):  # type: ignore[no-untyped-def]
        ready.append((time.perf_counter(), bucket.buffer().nbytes))
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    parallel.register_comm_hook(None, note)
    batch = _batch(tokens, size)
    for _ in range(3):  # The first backward pass determines the order of the buckets.
        ready.clear()
        with runtime.autocast():
            loss = parallel(batch).trained[0] / batch.target_tokens
        start = time.perf_counter()
        loss.backward()
        seconds = time.perf_counter() - start
        translator.zero_grad()
    dist.destroy_process_group()
    return {
        "parameters": sum(parameter.numel() for parameter in translator.parameters()),
        "buckets": [{"bytes": size, "ready": (moment - start) / seconds} for moment, size in ready],
    }


def _batch(tokens: int, vocabulary: int, length: int = 14) -> Batch:
    """Returns a full batch of sentences of one length."""
    pairs = tokens // length
    source_BS, target_BT = (torch.randint(4, vocabulary, (pairs, length)) for _ in range(2))
    lengths_B = torch.full((pairs,), length)
    return Batch(source_BS, lengths_B, target_BT, lengths_B, np.arange(pairs), pairs * length)
