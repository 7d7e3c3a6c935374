"""Memory: how much is free, and what a process keeps: all that it freed, because the next batch wants as much, and few
kernels."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

# Of malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
GIBIBYTE = 1 << 30
SHAPES = 32
"""Shapes of products whose machine code is kept: more than the steps of a batch have."""
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Of oneDNN, and of what PyTorch calls it by."""

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory a container may use, in the second and the first version of control groups."""


def settle_memory() -> None:
    """What a process that computes on a CPU does before its first product."""
    keep_freed_memory()
    keep_few_kernels()


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, in blocks of up to 1 GiB, instead of handing it back.

    A step frees what the next one asks for again, and every page that comes fresh from the system has to be cleared
    first: a tenth of the time of a training step on a CPU (docs/performance.md). The process is never larger than at
    its peak. Returns whether the C library took it; those other than glibc know no such thing.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, GIBIBYTE)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))


def keep_few_kernels() -> None:
    """Tell oneDNN to keep the machine code of few products; before the first one is made.

    It writes code for every shape, and by default keeps that of the last 1,024, twice, a megabyte each. Sentences of
    all lengths have more shapes than that: a training grows by gigabytes (docs/performance.md). Capacities that the
    user has set in the environment stay as they are.
    """
    for name in CACHES:
        os.environ.setdefault(name, str(SHAPES))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device, swap included; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = []
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text(encoding="ascii")))
    with suppress(OSError, KeyError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kibibytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        limits.append(1024 * (kibibytes["MemAvailable"] + kibibytes["SwapFree"]))
    return min(limits, default=None)


def in_bytes(count: int) -> str:
    """A number of bytes for people: `35 MiB`, `1.4 GiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:,.0f} {unit}"
