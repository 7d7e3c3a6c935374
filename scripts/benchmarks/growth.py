"""Measures how the time of an update grows with lengths, batch, vocabulary and layers, one at a time.

The sizes of a dimension take turns. An exponent of 1 is a time in proportion to the size; beside it stands that of the
products, counted as they are called, which a program that is bound by them would have.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nmt.data.batching import Batch
from nmt.runtime import format_table
from scripts.benchmarks.network import (
    Spread,
    Update,
    Variant,
    comparable,
    difference,
    even_batch,
    kernel_name,
    model_options,
)


@dataclass(frozen=True)
class Shape:
    """Size of an update. `layers` counts those of the encoder, and those of the decoder."""

    source: int = 15
    target: int = 15
    batch: int = 64
    vocabulary: int = 8000
    layers: int = 1


SIZES: dict[str, tuple[int, ...]] = {
    "source": (15, 30, 60, 120),
    "target": (15, 30, 60, 120),
    "batch": (16, 32, 64, 128),
    "vocabulary": (4000, 8000, 16000, 32000),
    "layers": (1, 2, 4),
}
QUICK = Shape(source=3, target=3, batch=2, vocabulary=50)
QUICK_SIZES: dict[str, tuple[int, ...]] = {
    "source": (3, 6),
    "target": (3, 6),
    "batch": (2, 4),
    "vocabulary": (50, 100),
    "layers": (1, 2),
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures each dimension by itself."""
    base, sizes = (QUICK, QUICK_SIZES) if options.quick else (Shape(), SIZES)
    return {
        "attention": options.attention,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "base": vars(base),
        "growth": [
            measure(base, dimension, sizes[dimension], Variant(precision, "auto"), options)
            for precision in options.precision
            for dimension in options.dimension or sizes
        ],
    }


def measure(
    base: Shape, dimension: str, sizes: Sequence[int], variant: Variant, options: argparse.Namespace
) -> dict[str, Any]:
    """Measures all sizes of a dimension in turn."""
    device = torch.device(options.device)
    updates: list[Update] = []
    batches: list[Batch] = []
    for size in sizes:
        shape = replace(base, **{dimension: size})
        model = model_options(
            options.attention, quick=options.quick, encoder_layers=shape.layers, decoder_layers=shape.layers
        )
        batch = even_batch(shape.batch, shape.source, shape.target, shape.vocabulary).to(device)
        update = Update(model, shape.vocabulary, variant, device)
        compared = comparable(model)
        expected = Update(compared, shape.vocabulary, Variant("fp32", "reference"), device).gradients(batch)
        difference(Update(compared, shape.vocabulary, variant, device), expected, batch)
        updates.append(update)
        batches.append(batch)
    flops = [update.flops(batch) for update, batch in zip(updates, batches, strict=True)]
    seconds: list[list[float]] = [[] for _ in sizes]
    for round_number in range(options.rounds + 1):
        for update, batch, measured in zip(updates, batches, seconds, strict=True):
            taken = update.timed(batch)
            if round_number:  # The first round warms up.
                measured.append(taken)
    rows = [
        {
            "size": size,
            "kernel": kernel_name(updates[number].kernels),
            "seconds": statistics.median(seconds[number]),
            "tokens_per_second": batches[number].target_tokens / statistics.median(seconds[number]),
            # Ratio to the time at the previous size, scaled to a doubling of the size.
            "per_doubling": _per_doubling(sizes, seconds, number),
            "products_per_doubling": _per_doubling(sizes, [[each] for each in flops], number),
        }
        for number, size in enumerate(sizes)
    ]
    return {
        "dimension": dimension,
        "precision": variant.precision,
        "rows": rows,
        "exponent": exponent(sizes, [statistics.median(each) for each in seconds]),
        "products_exponent": exponent(sizes, flops),
    }


def _per_doubling(sizes: Sequence[int], values: Sequence[Sequence[float]], number: int) -> list[float] | None:
    if not number:
        return None
    doublings = math.log2(sizes[number] / sizes[number - 1])
    ratios = zip(values[number], values[number - 1], strict=True)
    spread = Spread.of([(now / before) ** (1.0 / doublings) for now, before in ratios])
    return [spread.median, spread.least, spread.most]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Returns k of value = c size^k by least squares of the logarithms."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values]).slope


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Formats the report as a table."""
    base = ", ".join(f"{name} {size:,}" for name, size in report["base"].items())
    yield f"{report['attention']}; otherwise {base}; {report['threads']} threads, torch {report['torch']}"
    rows = []
    for grown in report["growth"]:
        for row in grown["rows"]:
            first = row["per_doubling"] is None
            rows.append(
                (
                    grown["precision"],
                    grown["dimension"],
                    f"{row['size']:,}",
                    row["kernel"],
                    f"{1000 * row['seconds']:,.0f}",
                    f"{row['tokens_per_second']:,.0f}",
                    "" if first else Spread(*row["per_doubling"]).text(".2f"),
                    "" if first else f"{row['products_per_doubling'][0]:.2f}",
                    f"{grown['exponent']:.2f}" if first else "",
                    f"{grown['products_exponent']:.2f}" if first else "",
                )
            )
    yield format_table(
        rows,
        (
            *("precision", "with", "size", "kernel", "ms an update", "tokens/s", "a doubling", "of products"),
            *("exponent", "of products"),
        ),
    )
