"""Compiles the C kernels with the machine's own compiler, once, and loads them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from nmt.runtime import cpu_flags

FOLDER = Path(__file__).parent
SOURCES = ("kernels.c", "kernels.h", "cells.h", "dropout.h", "integers.h")
OPTIONS = ("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
"""Nothing among them lets the compiler change what a sum is; where its order is free, the source says so."""
PATIENCE = 120.0
"""Seconds that a compiler may take; it takes two."""


class Library(ctypes.CDLL):
    """The kernels by name."""


@cache
def load() -> tuple[Library | None, str]:
    """The kernels, or None and why there are none.

    They are compiled where they have not been for this source, processor and compiler, into the user's cache folder.
    They run in the threads of PyTorch's own OpenMP: which must have been loaded, as `import torch` does on Linux.
    """
    if sys.platform != "linux":
        return None, f"they were never tried on {platform.system()}"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None, "this machine has no C compiler (cc)"
    try:
        path = _compiled([*compiler.split(), *OPTIONS, *_processor()])
        library = Library(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = (isinstance(error, subprocess.CalledProcessError) and error.stderr) or str(error)
        return None, f"{compiler} makes none here: {' '.join(said.split())[:200]}"
    return library, ""


def _processor() -> list[str]:
    """Options for this very processor."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["-mcpu=native"]
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return ["-march=native", "-mprefer-vector-width=512"] if wide else ["-march=native"]


def _compiled(command: list[str]) -> Path:
    """The library, made unless it is there. Processes that make it at the same time leave one."""
    version = _run([command[0], "--version"])
    digest = hashlib.sha256("\0".join([version, *command, platform.machine(), *sorted(cpu_flags())]).encode())
    for name in SOURCES:
        digest.update((FOLDER / name).read_bytes())
    path = _cache() / f"kernels-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as room:
            made, linked = Path(room) / "kernels.o", Path(room) / "kernels.so"
            _run([*command, "-c", str(FOLDER / SOURCES[0]), "-o", str(made)])
            # Without OpenMP's own library: the one that PyTorch has loaded is to be found.
            _run([command[0], "-shared", "-o", str(linked), str(made), "-lm"])
            os.replace(linked, path)
    return path


def _run(command: list[str]) -> str:
    """What it prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def _cache() -> Path:
    """A folder that only this user writes to."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nmt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="nmt-kernels-"))
