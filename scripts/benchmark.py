"""Training speed, as a share of what the machine's own matrix products allow, measured in the same run.

Batches have the sentence lengths of Multi30k (bpe 8,000: 13.6 source and 13.8 target pieces on average) and random
pieces, so no corpus is needed. A variant is one update: forward, backward, clipping, AdamW. Variants take turns, so
that a machine whose speed drifts is as fast for one as for the other. The bound is the time that the update's
products (counted, not estimated) take at the rate of a large product of the same format.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nmt.batching import Batch
from nmt.batching.plan import plan_window
from nmt.config import Config, schema
from nmt.experiment.families import parse_saved_config
from nmt.kernels.choice import choose_kernels
from nmt.model.translator import Translator, Vocabulary
from nmt.training.optimizers import OPTIMIZERS, AdamWOptions
from nmt.training.translating import TranslationObjective

CONFIG = """
run: benchmark
data:
  source_language: de
  target_language: en
  train: {{source: unread, target: unread}}
  validation: {{source: unread, target: unread}}
model:
  embedding_size: 256
  encoder: {{cell: gru, hidden_size: 256, layers: 2}}
  decoder: {{cell: gru, hidden_size: 512, layers: 1}}
  attention: {attention}
  dropout: {{embedding: 0.1, layer: 0.1, output: 0.1}}
"""
# A product of the decoder's kind: 4,096 rows, 512 features to 3 x 512 gates.
PRODUCT = (4096, 512, 1536)
FIRST_PIECE = 4
# Largest difference of the gradients, as a share of their norm; bf16 has 8 bits of mantissa.
AGREEMENT = {"fp32": 1e-4, "bf16": 5e-2}


@dataclass(frozen=True)
class Variant:
    """What is measured."""

    precision: Literal["fp32", "bf16"]
    kernel: Literal["auto", "reference", "fused"]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    precision: str
    kernel: str
    tokens_per_second: float
    """Target pieces, median of the rounds."""
    slowest: float
    fastest: float
    products_gflops: float
    """Rate of a large product, median of the rounds."""
    bound_tokens_per_second: float
    share_of_bound: float
    gradient_difference: float
    """Norm of the difference of all gradients from those of fp32 with the reference kernel, as a share of theirs."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measured updates of each variant (%(default)s)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="padded tokens of a batch (%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=8000, help="pieces (%(default)s)")
    parser.add_argument("--attention", default="bahdanau2015", help="preset (%(default)s)")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16"], help="default: both")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to PyTorch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    parser.add_argument("--json", type=Path, help="write the figures to a file as well")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    config = parse_saved_config(CONFIG.format(attention=options.attention), "benchmark")
    assert isinstance(config, Config), "the benchmark translates"
    batches = [batch.to(device) for batch in synthetic_batches(options.batch_tokens, options.vocabulary)]
    kernels: tuple[Literal["reference", "fused"], ...] = ("reference", "fused")
    variants = [Variant(precision, kernel) for precision in options.precision or ("fp32", "bf16") for kernel in kernels]
    results = measure(config.model, options.vocabulary, variants, batches, options.rounds, device)
    report = {
        "attention": options.attention,
        "batch_tokens": options.batch_tokens,
        "target_tokens_per_update": statistics.mean(batch.target_tokens for batch in batches),
        "vocabulary": options.vocabulary,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "peak_memory_mb": peak_memory_mb(device),
        "results": [asdict(result) for result in results],
    }
    print_table(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def synthetic_batches(batch_tokens: int, vocabulary: int, count: int = 4) -> list[Batch]:
    """Batches of pairs whose lengths are distributed as in Multi30k, made by the batching that training uses."""
    rng = np.random.default_rng(1)
    pairs = 29_000
    target = np.rint(rng.lognormal(np.log(13.2), 0.30, pairs)).clip(3, 60).astype(np.int64) + 1
    source = np.rint(target * rng.normal(0.98, 0.15, pairs)).clip(3, 60).astype(np.int64) + 1
    plan = plan_window(np.arange(pairs), source, target, batch_tokens, 1, rng)
    generator = torch.Generator().manual_seed(1)

    def pad(lengths: Any) -> torch.Tensor:
        size = (len(lengths), int(lengths.max()))
        return torch.randint(FIRST_PIECE, vocabulary, size, generator=generator)

    chosen = [plan.batch(number) for number in range(count)]
    return [
        Batch(
            source_BS=pad(source[rows]),
            source_lengths_B=torch.from_numpy(source[rows]),
            target_BT=pad(target[rows]),
            target_lengths_B=torch.from_numpy(target[rows]),
            rows=rows,
            target_tokens=int(target[rows].sum()),
        )
        for rows in chosen
    ]


def measure(
    model: schema.Model,
    vocabulary: int,
    variants: list[Variant],
    batches: list[Batch],
    rounds: int,
    device: torch.device,
) -> list[Result]:
    """All variants in turn, `rounds` times, and the products between them."""
    updates = {variant: Update(model, vocabulary, variant, device) for variant in variants}
    expected = Update(model, vocabulary, Variant("fp32", "reference"), device).gradients(batches[0])
    differences = {
        variant: float((update.gradients(batches[0]) - expected).norm() / expected.norm())
        for variant, update in updates.items()
    }
    for variant, difference in differences.items():
        if not difference <= AGREEMENT[variant.precision]:
            # A speed is worth nothing where the result is another one.
            sys.exit(f"{variant.precision} {variant.kernel}: the gradients differ by {difference:.1e} of their norm")
    flops = {variant: statistics.mean(update.flops(batch) for batch in batches) for variant, update in updates.items()}
    seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
    rates: dict[torch.dtype, list[float]] = {variant.dtype: [] for variant in variants}
    for round_number in range(rounds + 1):
        for dtype, measured in rates.items():
            measured.append(product_rate(dtype, device))
        for variant, update in updates.items():
            taken = statistics.mean(update.timed(batch) for batch in batches)
            if round_number:  # The first round warms up.
                seconds[variant].append(taken)
    tokens = statistics.mean(batch.target_tokens for batch in batches)
    results = []
    for variant in variants:
        rate = statistics.median(rates[variant.dtype][1:])
        bound = tokens / (flops[variant] / rate)
        speed = tokens / statistics.median(seconds[variant])
        results.append(
            Result(
                precision=variant.precision,
                kernel=variant.kernel,
                tokens_per_second=speed,
                slowest=tokens / max(seconds[variant]),
                fastest=tokens / min(seconds[variant]),
                products_gflops=rate / 1e9,
                bound_tokens_per_second=bound,
                share_of_bound=speed / bound,
                gradient_difference=differences[variant],
            )
        )
    return results


class Update:
    """One update of a fresh model; every instance has the same weights and draws the same dropout."""

    def __init__(self, model: schema.Model, vocabulary: int, variant: Variant, device: torch.device) -> None:
        torch.manual_seed(1)
        self.translator = Translator(model, Vocabulary(vocabulary, vocabulary, bos=2)).to(device).train()
        kernels = choose_kernels(variant.kernel, device, self.translator.obstacle())
        self.objective = TranslationObjective(self.translator, kernels, label_smoothing=0.1)
        self.optimizer = OPTIMIZERS.build(AdamWOptions(), self.translator)
        self.device = device
        self.variant = variant

    def __call__(self, batch: Batch) -> None:
        self.backward(batch)
        torch.nn.utils.clip_grad_norm_(self.translator.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, batch: Batch) -> None:
        """The gradients of a batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.precision == "bf16"):
            losses = self.objective(batch)
        (losses.smoothed / batch.target_tokens).backward()

    def gradients(self, batch: Batch) -> torch.Tensor:
        """All gradients of a batch in one row, with the same dropout in every variant."""
        torch.manual_seed(2)
        self.backward(batch)
        flat = [parameter.grad.flatten() for parameter in self.translator.parameters() if parameter.grad is not None]
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat(flat)

    def flops(self, batch: Batch) -> float:
        """Floating-point operations of the products of one update, counted as they are called."""
        with FlopCounterMode(display=False) as counter:
            self(batch)
        return float(counter.get_total_flops())

    def timed(self, batch: Batch) -> float:
        """Seconds of one update."""
        synchronize(self.device)
        start = time.perf_counter()
        self(batch)
        synchronize(self.device)
        return time.perf_counter() - start


def product_rate(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """Floating-point operations per second of a large product, the best of some."""
    rows, inner, columns = PRODUCT
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, columns, device=device).to(dtype)
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2.0 * rows * inner * columns / min(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of the whole benchmark."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_table(report: dict[str, Any]) -> None:
    from nmt.runtime import format_table

    print(
        f"{report['attention']}, vocabulary {report['vocabulary']:,}, {report['target_tokens_per_update']:,.0f} target "
        f"tokens an update; {report['device']}, {report['threads']} threads, torch {report['torch']}"
    )
    rows = [
        (
            result["precision"],
            result["kernel"],
            f"{result['tokens_per_second']:,.0f}",
            f"{result['slowest']:,.0f}",
            f"{result['fastest']:,.0f}",
            f"{result['products_gflops']:.0f}",
            f"{result['bound_tokens_per_second']:,.0f}",
            f"{result['share_of_bound']:.0%}",
            f"{result['gradient_difference']:.1e}",
        )
        for result in report["results"]
    ]
    header = ("precision", "kernel", "tokens/s", "slowest", "fastest", "GFLOP/s", "bound", "share", "difference")
    print(format_table(rows, header))


if __name__ == "__main__":
    sys.exit(main())
