"""Memory that was freed stays with the process: the next batch wants as much."""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
GIBIBYTE = 1 << 30


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
