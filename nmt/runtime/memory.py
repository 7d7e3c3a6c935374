"""What a process keeps in memory: all that was freed, because the next batch wants as much, and few kernels."""

from __future__ import annotations

import ctypes
import os
import sys

# Of malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
GIBIBYTE = 1 << 30
SHAPES = 32
"""Shapes of products whose machine code is kept: more than the steps of a batch have."""
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Of oneDNN, and of what PyTorch calls it by."""


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
