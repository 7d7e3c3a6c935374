"""Gradients by kernel and format against those of float64 on the same device: rounding, or a fault?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nmt.config import schema
from nmt.data.batching import Batch
from nmt.kernels.select import choose_kernels, reference_kernels
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import Runtime
from nmt.tasks.verification import gradients, largest_distance
from nmt.training.objectives import TranslationObjective
from scripts.benchmarks.network import caption_batches, comparable, model_options, unsupported_reasons
from scripts.gpu import ATTENTIONS

FORMATS: dict[str, tuple[torch.dtype | None, float]] = {
    "fp32": (None, 5e-5),
    "bf16": (torch.bfloat16, 0.0),
    "fp16": (torch.float16, 0.0),
}
"""Compute dtype, and a distance that is never reported."""
TOLERATED = 2.0
"""The reference rounds too: kernels are reported whose distance is so many times as large."""


def main(arguments: list[str]) -> int:
    """Writes the distances as JSON; returns 1 where one is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    torch.backends.cudnn.allow_tf32 = False
    formats = [name for name in FORMATS if name != "fp16" or device.type == "cuda"]
    tokens, vocabulary = (128, 100) if options.quick else (2048, 8000)
    batch = caption_batches(tokens, vocabulary, 1)[0].to(device)
    results: list[dict[str, Any]] = []
    for attention in ATTENTIONS:
        model = comparable(model_options(attention, quick=options.quick))
        results += measured(attention, model, batch, vocabulary, device, formats)
    warnings = [warning for each in results if (warning := _warning(each))]
    shown = [
        f"{each['attention']} {each['format']}: {each['auto']:.1e} by auto, {each['reference']:.1e} by reference"
        for each in results
    ]
    print(*shown, *(f"warning: {line}" for line in warnings), sep="\n")
    if options.json:
        report = {"distances": results, "lines": shown, "warnings": warnings}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if warnings else 0


def measured(
    attention: str, model: schema.ModelConfig, batch: Batch, vocabulary: int, device: torch.device, formats: list[str]
) -> Iterator[dict[str, Any]]:
    """Yields the largest distances of a gradient from that of float64, relative to its norm."""
    kernels = {
        "reference": reference_kernels(),
        "auto": choose_kernels("auto", device, unsupported_reasons(model)),
    }

    def objective(kernel: str) -> TranslationObjective:
        torch.manual_seed(1)
        translator = Translator(model, Vocabulary(vocabulary, vocabulary, 2), kernels[kernel])
        return TranslationObjective(translator.to(device), label_smoothing=0.1)

    exact = gradients(objective("reference").double(), batch, Runtime(device, None, ""))
    for name in formats:
        runtime = Runtime(device, FORMATS[name][0], "")
        found: dict[str, Any] = {"attention": attention, "format": name}
        for kernel in kernels:
            found[kernel], found[f"largest of {kernel}"] = largest_distance(
                gradients(objective(kernel), batch, runtime), exact
            )
        yield found


def _warning(result: dict[str, Any]) -> str:
    """Returns what is wrong with the gradients; else an empty string."""
    if result["auto"] <= max(TOLERATED * result["reference"], FORMATS[result["format"]][1]):
        return ""
    return (
        f"{result['attention']} in {result['format']}: {result['largest of auto']} by auto is {result['auto']:.1e} "
        f"away from float64, {result['reference']:.1e} by reference"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
