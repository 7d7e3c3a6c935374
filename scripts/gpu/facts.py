"""Facts of a GPU: versions, formats inside cuDNN's layers, products and launches."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmt.kernels.packed import Packing, run_packed
from nmt.kernels.select import UnsupportedReasons, choose_kernels
from nmt.runtime.device import cudnn_dtype
from scripts.benchmarks.launches import launch_latency
from scripts.benchmarks.network import product_rate

LAYERS: dict[str, Callable[..., nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM}


def main(arguments: list[str]) -> int:
    """Writes the facts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    facts = report(torch.device(options.device))
    print(*facts["lines"], *(f"warning: {line}" for line in facts["warnings"]), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


def report(device: torch.device) -> dict[str, Any]:
    """Returns everything, with lines for the summary and warnings of what is not as promised."""
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
    try:
        versions["triton"] = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        versions["triton"] = None
    shown = [", ".join(f"{name} {version}" for name, version in versions.items())]
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
        major, minor = torch.cuda.get_device_capability(device)
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        shown.insert(0, f"{torch.cuda.get_device_name(device)}, capability {major}.{minor}, {memory:.0f} GiB")
    shown.append(choose_kernels("auto", device, UnsupportedReasons()).reason)
    warnings, layers = [], []
    for dtype in (torch.bfloat16, torch.float16) if device.type == "cuda" else ():
        expected, reason = cudnn_dtype(device, dtype)
        shown.append(f"under autocast of {name_of(dtype)}: {reason}")
        for cell, build in LAYERS.items():
            output, saved = layer_dtypes(build(64, 64, 2, bidirectional=True).to(device), dtype)
            layers.append({"cell": cell, "autocast": name_of(dtype), "output": output, "saved": saved})
            if {output, *saved} != {name_of(expected)}:
                warnings.append(f"{cell} layers under {name_of(dtype)} give {output} and save {', '.join(saved)}")
    rates = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.float32,):
        rates[name_of(dtype)] = product_rate(dtype, device).pytorch
    shown.append("large product: " + ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in rates.items()))
    latency = None
    if device.type == "cuda":
        latency = launch_latency(device)._asdict()
        shown.append(f"a launch: {1e6 * latency['host']:.1f} us of the host, {1e6 * latency['gpu']:.1f} us of the GPU")
    return {
        "versions": versions,
        "layers": layers,
        "product_flops": rates,
        "launch_seconds": latency,
        "lines": shown,
        "warnings": warnings,
    }


def layer_dtypes(stack: nn.RNNBase, dtype: torch.dtype) -> tuple[str, list[str]]:
    """Returns the formats of a stack's outputs, and of the numbers that its backward pass saves, under autocast."""
    device = stack.all_weights[0][0].device
    saved: set[str] = set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            saved.add(name_of(tensor.dtype))
        return tensor

    packing = Packing.of(torch.tensor([7, 4, 1]), device)
    inputs_PX = torch.randn(12, stack.input_size, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast(device.type, dtype):
        outputs_PC, _ = run_packed(stack, inputs_PX, packing)
    outputs_PC.float().sum().backward()  # type: ignore[no-untyped-call]
    return name_of(outputs_PC.dtype), sorted(saved)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
