"""Compiles the C kernels of all operations with the machine's own compiler, once, loads them, and declares them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from ctypes import c_double, c_float, c_int, c_int64, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from nmt.runtime import cpu_flags

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "kernels.c", FOLDER / "kernels.h", *sorted(FOLDER.glob("*/*.h")))
OPTIONS = ("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
"""Nothing among them lets the compiler change what a sum is; where its order is free, the source says so."""
PATIENCE = 120.0
"""Seconds that a compiler may take; it takes two."""
FORMATS = {torch.float32: "float", torch.bfloat16: "bf16", torch.float64: "double"}
"""Suffix of the kernels by the format of products."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Library(ctypes.CDLL):
    """The kernels by name."""


@cache
def load() -> tuple[Library | None, str]:
    """Returns the kernels, or None and the reason why there are none.

    They are compiled once for each source, processor and compiler, and kept in the user's cache folder. They run in the
    threads of PyTorch's own OpenMP, which must have been loaded, as `import torch` does on Linux.
    """
    if sys.platform != "linux":
        return None, f"they were never tried on {platform.system()}"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None, "this machine has no C compiler (cc)"
    try:
        return _library([*compiler.split(), *OPTIONS, *_processor()]), ""
    except (OSError, subprocess.SubprocessError) as error:
        said = (isinstance(error, subprocess.CalledProcessError) and error.stderr) or str(error)
        return None, f"{compiler} makes none here: {' '.join(said.split())[:200]}"


class Calls:
    """C kernels of one compute dtype, by name. They take addresses, and look at nothing else of a tensor."""

    def __init__(self, dtype: torch.dtype, signatures: Mapping[str, str], single_signatures: Mapping[str, str]) -> None:
        library, why = load()
        assert library is not None, why
        exact = c_double if dtype == torch.float64 else c_float
        kinds = {"p": c_void_p, "s": c_int64, "u": c_uint64, "i": c_int, "e": exact}
        named = {f"{name}_{FORMATS[dtype]}": (name, signature) for name, signature in signatures.items()}
        named |= {name: (name, signature) for name, signature in single_signatures.items()}
        self._functions: dict[str, Any] = {}
        for symbol, (name, signature) in named.items():
            function = getattr(library, symbol)
            function.argtypes, function.restype = [kinds[kind] for kind in signature], None
            self._functions[name] = function

    def __getattr__(self, name: str) -> Any:
        return self._functions[name]


def can_be_called(*tensors: Tensor) -> bool:
    """Whether no gradient is recorded, and the kernels take numbers of these formats."""
    return not torch.is_grad_enabled() and all(
        tensor.device.type == "cpu" and tensor.dtype in FORMATS for tensor in tensors
    )


def declare(
    signatures: Mapping[str, str], single_signatures: Mapping[str, str] = MappingProxyType({})
) -> Callable[[torch.dtype], Calls]:
    """Returns a function to the kernels with these signatures for a compute dtype.

    A letter for each argument: p an address, s a size, u 64 bits without sign, i truth, e a number in the accumulation
    dtype. Those of `single_signatures` exist once, whatever the dtype.
    """

    @cache
    def declared(dtype: torch.dtype) -> Calls:
        return Calls(dtype, signatures, single_signatures)

    return declared


def address(tensor: Tensor | None) -> int | None:
    """Of its first element."""
    return None if tensor is None else tensor.data_ptr()


def _processor() -> list[str]:
    """Options for this very processor."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["-mcpu=native"]
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return ["-march=native", "-mprefer-vector-width=512"] if wide else ["-march=native"]


def _library(command: list[str]) -> Library:
    """Loads the kernels from the folder of this user, and compiles them if they are not there."""
    version = _run([command[0], "--version"])
    digest = hashlib.sha256("\0".join([version, *command, platform.machine(), *sorted(cpu_flags())]).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    name, folder = f"kernels-{digest.hexdigest()[:16]}", _folder()
    for path in sorted(folder.glob(f"{name}-*.so")) if folder else []:
        if _is_whole(path):
            return Library(str(path))
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="nmt-") as scratch:
        made, linked = Path(scratch) / "kernels.o", Path(scratch) / "kernels.so"
        _run([*command, "-c", str(SOURCES[0]), "-o", str(made)])
        # Without OpenMP's own library: the one that PyTorch has loaded is to be found.
        _run([command[0], "-shared", "-o", str(linked), str(made), "-lm"])
        if folder:
            with suppress(OSError):  # the disk is full
                linked = _keep(linked, folder, name)
        return Library(str(linked))  # which may be removed once it is loaded


def _run(command: list[str]) -> str:
    """Runs a command and returns its standard output."""
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE, check=True
    ).stdout


def _folder() -> Path | None:
    """Returns a folder that belongs to this user and that nobody else can write to; None if there is none.

    Its place is the user's cache folder. Users without one share nothing: each has a folder among the temporary files.
    """
    folders = [Path(tempfile.gettempdir()) / f"nmt-kernels-{os.geteuid()}"]
    # No home: neither HOME nor an entry in the password file.
    with suppress(RuntimeError):
        folders.insert(0, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nmt")
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK):
                if status.st_mode & OTHERS_WRITE:
                    folder.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS_WRITE)
                return folder
    return None


def _is_whole(path: Path) -> bool:
    """Whether a library is as it was compiled, and nobody but this user can have written it.

    Its name ends with the checksum of its content: loading a library that was cut off kills the process.
    """
    try:
        status, content = path.lstat(), path.read_bytes()
    except OSError:
        return False
    own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & OTHERS_WRITE
    return own and path.stem.rpartition("-")[2] == _checksum(content)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _keep(linked: Path, folder: Path, name: str) -> Path:
    """Copies a library into the folder and returns its path; after a kill or a power cut it is there whole or not."""
    content = linked.read_bytes()
    path = folder / f"{name}-{_checksum(content)}.so"
    descriptor, temporary = tempfile.mkstemp(dir=folder)  # of mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path
