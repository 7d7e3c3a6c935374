"""Training speed, as a share of what the machine's own matrix products allow, measured in the same run.

Variants take turns, so that a machine whose speed drifts is as fast for one as for the other. The bound is the time
that the update's products (counted, not estimated) take at the rate of a large product of the same format.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from nmt.batching import Batch
from nmt.config import schema
from nmt.runtime import format_table
from scripts.benchmarks.network import (
    KERNELS,
    Kernel,
    ProductRate,
    Spread,
    Update,
    Variant,
    can_be_graphed,
    caption_batches,
    difference,
    model_options,
    product_rate,
    what_is_fused,
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Reference and fused kernels in all precisions, on a GPU also those that are replayed where there are such."""
    device = torch.device(options.device)
    batches = [batch.to(device) for batch in caption_batches(options.batch_tokens, options.vocabulary)]
    model = model_options(options.attention, quick=options.quick)
    kernels: tuple[Kernel, ...] = ("reference", "auto", "graphed") if can_be_graphed(model, device) else KERNELS
    variants = [Variant(precision, kernel) for precision in options.precision for kernel in kernels]
    return {
        "attention": options.attention,
        "batch_tokens": options.batch_tokens,
        "target_tokens_per_update": statistics.mean(batch.target_tokens for batch in batches),
        "vocabulary": options.vocabulary,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "results": measure(model, options.vocabulary, variants, batches, options.rounds, device),
        "peak_memory_mb": peak_memory_mb(device),
    }


def measure(
    model: schema.Model,
    vocabulary: int,
    variants: list[Variant],
    batches: list[Batch],
    rounds: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """All variants in turn, `rounds` times, and the products between them."""
    updates = {variant: Update(model, vocabulary, variant, device) for variant in variants}
    expected = Update(model, vocabulary, Variant("fp32", "reference"), device).gradients(batches[0])
    differences = {variant: difference(update, expected, batches[0]) for variant, update in updates.items()}
    flops = {variant: statistics.mean(update.flops(batch) for batch in batches) for variant, update in updates.items()}
    seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
    rates: dict[torch.dtype, list[ProductRate]] = {variant.dtype: [] for variant in variants}
    for round_number in range(rounds + 1):
        for dtype, measured in rates.items():
            measured.append(product_rate(dtype, device))
        for variant, update in updates.items():
            taken = statistics.mean(update.timed(batch) for batch in batches)
            if round_number:  # The first round warms up.
                seconds[variant].append(taken)
    tokens = statistics.mean(batch.target_tokens for batch in batches)
    results = []
    for variant, update in updates.items():
        rate = statistics.median(measured.best for measured in rates[variant.dtype][1:])
        plain_rate = statistics.median(measured.pytorch for measured in rates[variant.dtype][1:])
        bound = tokens / (flops[variant] / rate)
        speed = tokens / statistics.median(seconds[variant])
        reference = seconds[Variant(variant.precision, "reference")]
        ratio = Spread.of([plain / mine for plain, mine in zip(reference, seconds[variant], strict=True)])
        results.append(
            {
                "precision": variant.precision,
                "kernel": what_is_fused(update.kernels),
                # Target pieces, median of the rounds.
                "tokens_per_second": speed,
                "slowest": tokens / max(seconds[variant]),
                "fastest": tokens / min(seconds[variant]),
                "times_reference": [ratio.median, ratio.least, ratio.most],
                "products_gflops": rate / 1e9,
                "bound_tokens_per_second": bound,
                "share_of_bound": speed / bound,
                # The same with the large product that PyTorch's `@` makes.
                "pytorch_gflops": plain_rate / 1e9,
                "share_of_pytorch": speed / bound * rate / plain_rate,
                # From the gradients of fp32 with the reference kernel.
                "gradient_difference": differences[variant],
            }
        )
    return results


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of the whole benchmark."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lines(report: dict[str, Any]) -> Iterator[str]:
    """What was measured, as a table."""
    yield (
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
            Spread(*result["times_reference"]).text(".2f"),
            f"{result['products_gflops']:.0f}",
            f"{result['bound_tokens_per_second']:,.0f}",
            f"{result['share_of_bound']:.0%}",
            f"{result['pytorch_gflops']:.0f}",
            f"{result['share_of_pytorch']:.0%}",
            f"{result['gradient_difference']:.1e}",
        )
        for result in report["results"]
    ]
    yield format_table(
        rows,
        (
            *("precision", "kernel", "tokens/s", "slowest", "fastest", "times reference"),
            *("GFLOP/s", "bound", "share", "of PyTorch", "share", "difference"),
        ),
    )
