"""Counts the GPU launches of an update and measures the cost of one: no update is faster than its launches.

A host hands over one launch after another, and a GPU begins one kernel after another. Both take their time however
small the kernels are, so that an update takes at least

    max(products / rate of a large product, launches x latency of the host, kernels x latency of the GPU).

Counted are kernels, copies and fills in a trace of `torch.profiler`, which has all that ran on the GPU; each says by
its correlation which launch it came from. A CUDA graph is one launch of many kernels, everything else a launch each.

Latencies are those of a chain of the smallest kernel that PyTorch has, adding a number to a number: for the host one
operation after another, without autograd; for the GPU the chain as a CUDA graph, which the host starts once.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

CHAIN = 1000
"""Kernels, one after another."""
ON_THE_GPU = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""Categories of a trace's events that ran there."""


class Launches(NamedTuple):
    """Launches of an update."""

    host: float
    """Launches."""
    gpu: float
    """Kernels, copies and fills that they started."""


class Latency(NamedTuple):
    """Seconds of one launch, at least."""

    host: float
    gpu: float


def least_seconds(products: float, launches: Launches, latency: Latency) -> float:
    """Returns the shortest time of an update whose products take this many seconds."""
    return max(products, launches.host * latency.host, launches.gpu * latency.gpu)


def counted(trace: Mapping[str, Any]) -> Launches:
    """Counts the launches of a trace in Chrome's format."""
    ran = [event for event in trace["traceEvents"] if event.get("cat") in ON_THE_GPU]
    # An event without a correlation id counts as a launch of its own.
    origins = {event.get("args", {}).get("correlation", f"event {number}") for number, event in enumerate(ran)}
    return Launches(len(origins), len(ran))


def count_launches(run: Callable[[], object], device: torch.device) -> Launches:
    """Counts the launches of `run`."""
    synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return counted(json.loads(path.read_text(encoding="utf-8", errors="replace")))


def launch_latency(device: torch.device, repeats: int = 5) -> Latency:
    """Measures the latency of a launch: the best of several runs."""
    with torch.inference_mode():
        number = torch.zeros((), device=device)

        def chain() -> None:
            for _ in range(CHAIN):
                number.add_(1.0)

        chain()
        host = min(seconds(chain, device) for _ in range(repeats))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chain()
        graph.replay()
        gpu = min(seconds(graph.replay, device) for _ in range(repeats))
    return Latency(host / CHAIN, gpu / CHAIN)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds until all its work is done."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
