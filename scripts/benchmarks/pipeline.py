"""Measures the data pipeline alone: target tokens per second from a finished cache.

An epoch of batches of a corpus of the quickstart's grammar, in a process of its own: made ahead in a thread, as in
training, and without it. `scripts/benchmark_scale` measures the same parts at many sizes, and what comes before them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nmt.runtime import format_table
from scripts.benchmarks.network import Spread
from scripts.scaling.corpus import write_grammar
from scripts.scaling.memory import measure
from scripts.scaling.stages import BATCH_TOKENS

KINDS = {"made ahead": True, "one after another": False}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures both kinds in turn, `rounds` times."""
    with tempfile.TemporaryDirectory(prefix="nmt-pipeline-", dir=options.folder) as name:
        folder = Path(name)
        source, target = write_grammar(folder, options.pairs, os.cpu_count() or 1)
        where = {"source": str(source), "target": str(target), "pairs": options.pairs, "folder": str(folder)}
        measure("learning", **where, vocabulary=options.vocabulary)
        built = measure("building", **where, workers=os.cpu_count() or 1)
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind, prefetch in KINDS.items():
                found[kind].append(measure("reading", **where, prefetch=prefetch))
    tokens = {each["tokens"] for epochs in found.values() for each in epochs}
    if len(tokens) > 1:
        sys.exit(f"scripts/benchmark: epochs of one corpus have different numbers of target tokens: {sorted(tokens)}")
    return {
        "pairs": options.pairs,
        "batch_tokens": BATCH_TOKENS,
        "target_tokens": tokens.pop(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "encoding_seconds": built["seconds"],
        "epochs": found,
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Formats the report as a table."""
    yield (
        f"{report['pairs']:,} pairs, {report['target_tokens']:,} target tokens, batches of {report['batch_tokens']:,}; "
        f"encoded in {report['encoding_seconds']:.1f} s by {report['cores']} processes; torch {report['torch']}"
    )
    rows = []
    for kind, epochs in report["epochs"].items():
        speed = Spread.of([each["tokens_per_second"] for each in epochs])
        rows.append(
            (
                kind,
                *(f"{value:,.0f}" for value in (speed.median, speed.least, speed.most)),
                f"{statistics.median(each['batches_per_second'] for each in epochs):,.0f}",
                f"{statistics.median(each['plan_seconds'] for each in epochs):.2f}",
                f"{max(each['main_mb'] for each in epochs):,.0f}",
            )
        )
    yield format_table(
        rows, ("batches", "target tokens/s", "slowest", "fastest", "batches/s", "planning, s", "peak MB")
    )
