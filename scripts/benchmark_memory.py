"""Peak memory of an update above that of the network itself, by kernel and precision: long sentences, a process each.

The plain loop (`reference`) keeps all logits and, for every step of the decoder, what autograd wants; the fused one
keeps what is dearer to compute again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nmt.batching import Batch
from nmt.config import Config
from nmt.experiment.families import parse_saved_config
from nmt.runtime import format_table
from nmt.runtime.memory import keep_freed_memory
from scripts.benchmark import CONFIG, FIRST_PIECE, Update, Variant

KERNELS = ("reference", "fused")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/benchmark memory", description=__doc__)
    parser.add_argument("--sentences", type=int, default=64, help="of a batch (%(default)s)")
    parser.add_argument("--length", type=int, default=60, help="pieces of each, on both sides (%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=8000, help="pieces (%(default)s)")
    parser.add_argument("--attention", default="bahdanau2015", help="preset (%(default)s)")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--json", type=Path, help="write the figures to a file as well")
    parser.add_argument("--one", nargs=2, metavar=("PRECISION", "KERNEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(peak(options)))
        return 0
    sizes = [f"--{name}={getattr(options, name)}" for name in ("sentences", "length", "vocabulary", "attention")]
    results = []
    for precision in options.precision:
        for kernel in KERNELS:
            command = [sys.executable, "-m", "scripts.benchmark_memory", *sizes, "--one", precision, kernel]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append({"precision": precision, "kernel": kernel, **json.loads(done.stdout)})
    plain = {result["precision"]: result["megabytes"] for result in results if result["kernel"] == "reference"}
    rows = [
        (
            result["precision"],
            result["kernel"],
            f"{result['megabytes']:,.0f}",
            f"{result['megabytes'] / plain[result['precision']]:.0%}",
        )
        for result in results
    ]
    print(f"{options.attention}, {options.sentences} sentences of {options.length} pieces, torch {torch.__version__}")
    print(format_table(rows, ("precision", "kernel", "MB above the network", "of reference")))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def peak(options: argparse.Namespace) -> dict[str, Any]:
    """What the process grows by in three updates, after one of a single pair has made the optimizer's state."""
    keep_freed_memory()
    config = parse_saved_config(CONFIG.format(attention=options.attention), "benchmark")
    assert isinstance(config, Config), "the benchmark translates"
    precision, kernel = options.one
    update = Update(config.model, options.vocabulary, Variant(precision, kernel), torch.device("cpu"))
    update(batch(1, 4, options.vocabulary))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        update(batch(options.sentences, options.length, options.vocabulary))
    return {"megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def batch(sentences: int, length: int, vocabulary: int) -> Batch:
    """Random pieces, all sentences of one length."""
    generator = torch.Generator().manual_seed(1)
    pieces = torch.randint(FIRST_PIECE, vocabulary, (2, sentences, length), generator=generator)
    lengths = torch.full((sentences,), length)
    return Batch(
        source_BS=pieces[0],
        source_lengths_B=lengths,
        target_BT=pieces[1],
        target_lengths_B=lengths,
        rows=np.arange(sentences),
        target_tokens=sentences * length,
    )


if __name__ == "__main__":
    sys.exit(main())
