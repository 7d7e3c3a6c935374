"""Measures the peak memory of an update above that of the network, by kernel and precision, each in a process.

The plain loop (`reference`) keeps all logits and, for every step of the decoder, what autograd wants; the fused one
keeps what is dearer to compute again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch

from nmt.runtime import format_table, settle_memory
from scripts.benchmarks.network import Update, Variant, comparable, difference, even_batch, kernel_name, model_options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures every precision and kernel, each in a process of its own."""
    names = ("sentences", "length", "vocabulary", "attention", "quick")
    sizes = {name: getattr(options, name) for name in names}
    results = []
    for precision in options.precision:
        for kernel in ("reference", "auto"):
            asked = {**sizes, "precision": precision, "kernel": kernel}
            checked = _apart("checked", asked)
            results.append({"precision": precision, **checked, **_apart("peak", asked)})
    return {**sizes, "torch": torch.__version__, "results": results}


def _apart(what: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Measures in a process of its own, because memory freed after the comparison would be reused."""
    command = [sys.executable, "-m", "scripts.benchmarks.memory", what, json.dumps(asked)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Formats the report as a table."""
    plain = {each["precision"]: each["megabytes"] for each in report["results"] if each["kernel"] == "reference"}
    yield (
        f"{report['attention']}, {report['sentences']} sentences of {report['length']} pieces, torch {report['torch']}"
    )
    rows = [
        (
            result["precision"],
            result["kernel"],
            f"{result['megabytes']:,.0f}",
            f"{result['megabytes'] / plain[result['precision']]:.0%}" if plain[result["precision"]] else "",
        )
        for result in report["results"]
    ]
    yield format_table(rows, ("precision", "kernel", "MB above the network", "of reference"))


def peak(precision: Any, kernel: Any, sentences: int, length: int, vocabulary: int, **network: Any) -> dict[str, Any]:
    """Returns the growth of the process in three updates, after one small update has created the optimizer's state."""
    settle_memory()
    model, cpu = model_options(**network), torch.device("cpu")
    update = Update(model, vocabulary, Variant(precision, kernel), cpu)
    update(even_batch(1, 4, 4, vocabulary))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        update(even_batch(sentences, length, length, vocabulary))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"megabytes": grown}


def checked(
    precision: Any, kernel: Any, sentences: int, length: int, vocabulary: int, **network: Any
) -> dict[str, Any]:
    """Returns the kernels' name, after comparing gradients with the reference."""
    model, cpu = comparable(model_options(**network)), torch.device("cpu")
    batch = even_batch(sentences, length, length, vocabulary)
    expected = Update(model, vocabulary, Variant("fp32", "reference"), cpu).gradients(batch)
    update = Update(model, vocabulary, Variant(precision, kernel), cpu)
    share = difference(update, expected, batch)
    return {"kernel": kernel_name(update.kernels), "gradient_difference": share}


if __name__ == "__main__":
    print(json.dumps({"peak": peak, "checked": checked}[sys.argv[1]](**json.loads(sys.argv[2]))))
