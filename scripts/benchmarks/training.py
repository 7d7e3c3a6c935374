"""Measures training speed relative to the bound of the machine's matrix products, in the same run.

Variants take turns, so that a machine whose speed drifts is as fast for one as for the other. The bound is the time
that the update's products (counted, not estimated) take at the rate of a large product of the same format. On a GPU
updates follow each other without waiting, as in training, and launches are counted and bound the time as well
(`scripts.benchmarks.launches`).
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from nmt.config import schema
from nmt.data.batching import Batch
from nmt.runtime import format_table
from scripts.benchmarks.launches import Latency, Launches, count_launches, launch_latency, least_seconds
from scripts.benchmarks.network import (
    KERNELS,
    Kernel,
    ProductRate,
    Spread,
    Update,
    Variant,
    can_be_graphed,
    caption_batches,
    comparable,
    difference,
    even_batch,
    kernel_name,
    model_options,
    product_rate,
)

EVEN = (24, 22)
"""Source and target pieces of a sentence of Multi30k, with some padding."""
LAPS = {"cpu": 1, "cuda": 5}
"""Updates with each batch in a run that synchronizes only at its end."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures reference and fast kernels in all precisions."""
    batches = caption_batches(options.batch_tokens, options.vocabulary)
    if options.compiled:
        # Compiling takes minutes for each shape. Without padding, because the reference computes it.
        batches = [even_batch(options.batch_tokens // EVEN[0], *EVEN, options.vocabulary)]
    sizes = {"network": options.attention, "vocabulary": options.vocabulary, "batch_tokens": options.batch_tokens}
    return {**sizes, **measured(model_options(options.attention, quick=options.quick), batches, options)}


def measured(model: schema.ModelConfig, batches: list[Batch], options: argparse.Namespace) -> dict[str, Any]:
    """Measures updates with these batches; on a GPU also by CUDA graphs, where they apply."""
    device = torch.device(options.device)
    # In float32, training uses true float32 products.
    torch.backends.cudnn.allow_tf32 = False
    kernels: tuple[Kernel, ...] = ("reference", "auto", "graphed") if can_be_graphed(model, device) else KERNELS
    if getattr(options, "compiled", 0):
        kernels = (*kernels, "compiled")
    variants = [Variant(precision, kernel) for precision in options.precision for kernel in kernels]
    return {
        "target_tokens_per_update": statistics.mean(batch.target_tokens for batch in batches),
        "source_tokens_per_update": statistics.mean(source_tokens(batch) for batch in batches),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "results": measure(model, options.vocabulary, variants, batches, options.rounds, device),
        "peak_memory_mb": peak_memory_mb(device),
    }


def source_tokens(batch: Batch) -> int:
    """Source pieces, without padding."""
    return int(batch.source_lengths_B.sum())


def measure(
    model: schema.ModelConfig,
    vocabulary: int,
    variants: list[Variant],
    batches: list[Batch],
    rounds: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Measures all variants in turn, `rounds` times, and products between them."""
    differences = _differences(model, vocabulary, variants, batches[0], device)
    updates = {variant: Update(model, vocabulary, variant, device) for variant in variants}
    flops = {
        variant: statistics.mean(updates[variant.counted].flops(batch) for batch in batches) for variant in variants
    }
    taken: dict[Variant, list[float]] = {variant: [] for variant in variants}
    rates: dict[torch.dtype, list[ProductRate]] = {variant.dtype: [] for variant in variants}
    latencies: list[Latency] = []
    for round_number in range(rounds + 1):
        for dtype, measured in rates.items():
            measured.append(product_rate(dtype, device))
        if device.type == "cuda":
            latencies.append(launch_latency(device))
        for variant, update in updates.items():
            of_one = update.timed(*batches * LAPS[device.type])
            if round_number:  # The first round warms up.
                taken[variant].append(of_one)
    target = statistics.mean(batch.target_tokens for batch in batches)
    source = statistics.mean(source_tokens(batch) for batch in batches)
    results = []
    for variant, update in updates.items():
        rate = statistics.median(measured.best for measured in rates[variant.dtype][1:])
        plain_rate = statistics.median(measured.pytorch for measured in rates[variant.dtype][1:])
        products = flops[variant] / rate
        median = statistics.median(taken[variant])
        reference = taken[Variant(variant.precision, "reference")]
        ratio = Spread.of([plain / mine for plain, mine in zip(reference, taken[variant], strict=True)])
        results.append(
            {
                "precision": variant.precision,
                "kernel": kernel_name(update.kernels, variant.kernel),
                # Target pieces, median of the rounds.
                "tokens_per_second": target / median,
                "slowest": target / max(taken[variant]),
                "fastest": target / min(taken[variant]),
                "source_and_target_tokens_per_second": (source + target) / median,
                "times_reference": [ratio.median, ratio.least, ratio.most],
                "products_gflops": rate / 1e9,
                "bound_tokens_per_second": target / products,
                "share_of_bound": products / median,
                # The bound by PyTorch's `@` alone.
                "pytorch_gflops": plain_rate / 1e9,
                "share_of_pytorch": products / median * rate / plain_rate,
                # Difference from the gradients of fp32 with the reference kernel.
                "gradient_difference": differences[variant],
            }
        )
        if latencies:
            latency = Latency(*(min(each) for each in zip(*latencies, strict=True)))
            asked = [count_launches(partial(update, batch), device) for batch in batches]
            launches = Launches(*(statistics.mean(each) for each in zip(*asked, strict=True)))
            results[-1]["launching"] = launching(median, products, launches, latency)
        if update.graphs:
            results[-1]["graphs"] = update.graphs.summary()
    return results


def _differences(
    model: schema.ModelConfig, vocabulary: int, variants: list[Variant], batch: Batch, device: torch.device
) -> dict[Variant, float]:
    model = comparable(model)
    expected = Update(model, vocabulary, Variant("fp32", "reference"), device).gradients(batch)
    return {variant: difference(Update(model, vocabulary, variant, device), expected, batch) for variant in variants}


def launching(taken: float, products: float, launches: Launches, latency: Latency) -> dict[str, float]:
    """Returns the bound by products and launches, as a share of the measured seconds."""
    return {
        "launches": launches.host,
        "kernels": launches.gpu,
        "host_microseconds": 1e6 * latency.host,
        "gpu_microseconds": 1e6 * latency.gpu,
        "products_milliseconds": 1e3 * products,
        "launches_milliseconds": 1e3 * launches.host * latency.host,
        "kernels_milliseconds": 1e3 * launches.gpu * latency.gpu,
        "milliseconds": 1e3 * taken,
        "share_of_allowed": least_seconds(products, launches, latency) / taken,
    }


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak memory of the whole benchmark."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Formats the report as a table; on a GPU with a second one of launches."""
    yield (
        f"{report['network']}, vocabulary {report['vocabulary']:,}, {report['target_tokens_per_update']:,.0f} target "
        f"and {report['source_tokens_per_update']:,.0f} source tokens an update; {report['device']}, "
        f"{report['threads']} threads, torch {report['torch']}"
    )
    rows = [
        (
            result["precision"],
            result["kernel"],
            f"{result['tokens_per_second']:,.0f}",
            f"{result['slowest']:,.0f}",
            f"{result['fastest']:,.0f}",
            f"{result['source_and_target_tokens_per_second']:,.0f}",
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
            *("precision", "kernel", "tokens/s", "slowest", "fastest", "with source", "times reference"),
            *("GFLOP/s", "bound", "share", "of PyTorch", "share", "difference"),
        ),
    )
    yield from _launching_lines(report["results"])
    yield from (f"{result['precision']}: {result['graphs']}" for result in report["results"] if "graphs" in result)


def _launching_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            result["precision"],
            result["kernel"],
            f"{each['milliseconds']:.2f}",
            f"{each['products_milliseconds']:.2f}",
            f"{each['launches']:,.0f} x {each['host_microseconds']:.2f}",
            f"{each['launches_milliseconds']:.2f}",
            f"{each['kernels']:,.0f} x {each['gpu_microseconds']:.2f}",
            f"{each['kernels_milliseconds']:.2f}",
            f"{each['share_of_allowed']:.0%}",
        )
        for result in results
        if (each := result.get("launching"))
    ]
    if not rows:
        return
    if not all(result["launching"]["kernels"] for result in results):
        yield "the profiler saw no kernel: launches are not counted, and bound nothing below"
    header = (
        *("precision", "kernel", "ms an update", "products", "launches x us", "ms", "kernels x us", "ms"),
        "share of what all allow",
    )
    yield format_table(rows, header)
