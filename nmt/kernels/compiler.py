"""Compiles the C kernels of all operations with the machine's own compiler, once, loads them, and declares them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from ctypes import c_double, c_float, c_int, c_int64, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt.kernels.steps import CellStep, GateInputs
from nmt.runtime import cpu_flags

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "kernels.c", FOLDER / "kernels.h", *sorted(FOLDER.glob("*/*.h")))
OPTIONS = ("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
"""No option lets the compiler reorder sums; where the order is free, the source says so."""
PATIENCE = 120.0
"""Timeout of the compiler in seconds; it usually takes two."""
FORMATS = {torch.float32: "float", torch.bfloat16: "bf16", torch.float64: "double"}
"""Suffix of the kernels by the format of products."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@cache
def load_library() -> tuple[ctypes.CDLL | None, str]:
    """Returns the kernels, or None and the reason why there are none.

    Compiles them once for each source, processor and compiler, and caches the library in the user's cache folder. They
    run in the threads of PyTorch's OpenMP, which `import torch` loads on Linux.
    """
    if sys.platform != "linux":
        return None, f"they were never tried on {platform.system()}"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None, "this machine has no C compiler (cc)"
    processor = ["-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"]
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        processor.append("-mprefer-vector-width=512")
    try:
        return _library([*compiler.split(), *OPTIONS, *processor]), ""
    except (OSError, subprocess.SubprocessError) as error:
        message = (isinstance(error, subprocess.CalledProcessError) and error.stderr) or str(error)
        return None, f"{compiler} makes none here: {' '.join(message.split())[:200]}"


class Calls:
    """C kernels of one compute dtype, by name. They take addresses and do not check shapes or dtypes."""

    def __init__(self, dtype: torch.dtype, signatures: Mapping[str, str]) -> None:
        library, why = load_library()
        assert library is not None, why
        accumulation = c_double if dtype == torch.float64 else c_float
        kinds = {"p": c_void_p, "s": c_int64, "u": c_uint64, "i": c_int, "e": accumulation}
        self._functions: dict[str, Any] = {}
        for name, signature in signatures.items():
            # Some kernels are independent of the dtype.
            function = getattr(library, f"{name}_{FORMATS[dtype]}", None) or getattr(library, name)
            function.argtypes, function.restype = [kinds[kind] for kind in signature], None
            self._functions[name] = function

    def __getattr__(self, name: str) -> Any:
        return self._functions[name]


def can_be_called(*tensors: Tensor) -> bool:
    """Returns whether no gradient is recorded and the kernels support the tensors' device and dtypes."""
    return not torch.is_grad_enabled() and all(tensor.is_cpu and tensor.dtype in FORMATS for tensor in tensors)


def declare(signatures: Mapping[str, str]) -> Callable[[torch.dtype], Calls]:
    """Returns a function from a compute dtype to the kernels with these signatures.

    One letter for each argument: p address, s size, u unsigned 64-bit integer, i boolean, e scalar in the accumulation
    dtype.
    """
    return cache(lambda dtype: Calls(dtype, signatures))


def address(tensor: Tensor | None) -> int:
    """Returns the address of the first element; 0, which is NULL, without a tensor."""
    return 0 if tensor is None else tensor.data_ptr()


def _library(command: list[str]) -> ctypes.CDLL:
    """Loads the kernels from the cache folder; compiles them if they are missing."""
    version = _run([command[0], "--version"])
    digest = hashlib.sha256("\0".join([version, *command, platform.machine(), *sorted(cpu_flags())]).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    name, folder = f"kernels-{digest.hexdigest()[:16]}", _folder()
    for path in sorted(folder.glob(f"{name}-*.so")) if folder else []:
        if _is_whole(path):
            return ctypes.CDLL(str(path))
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="nmt-") as scratch:
        compiled, linked = Path(scratch) / "kernels.o", Path(scratch) / "kernels.so"
        _run([*command, "-c", str(SOURCES[0]), "-o", str(compiled)])
        # Not linked with OpenMP: its symbols come from the library that PyTorch has loaded.
        _run([command[0], "-shared", "-o", str(linked), str(compiled), "-lm"])
        if folder:
            with suppress(OSError):  # the disk is full
                linked = _keep(linked, folder, name)
        return ctypes.CDLL(str(linked))  # which may be removed once it is loaded


def _run(command: list[str]) -> str:
    """Runs a command and returns its standard output."""
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE, check=True
    ).stdout


def _folder() -> Path | None:
    """Returns a folder that belongs to this user and that nobody else can write to; None if there is none.

    It is the user's cache folder or, without a home, a folder of this user among the temporary files.
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
    """Returns whether the file is complete and only this user can write it.

    Its name ends with the checksum of its content: loading a truncated library kills the process.
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
    """Copies a library into the folder atomically and returns its path."""
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


pack_gates = struct.Struct("2q3P3q").pack
"""Makes `GateInputs` of rnn.h: rows and hidden, the addresses of input, more and recurrent, and their strides."""


def native_gates(gates: GateInputs, state_BH: Tensor) -> bytes:
    """Returns gate inputs for a state of this shape."""
    input_BG, recurrent_BG, more_BG = gates
    rows, hidden = state_BH.shape
    more, more_stride = (0, 0) if more_BG is None else (more_BG.data_ptr(), more_BG.stride(0))
    terms = input_BG.data_ptr(), more, recurrent_BG.data_ptr()
    return pack_gates(rows, hidden, *terms, input_BG.stride(0), more_stride, recurrent_BG.stride(0))


def step_kernel(name: str, parameters: str) -> Callable[..., None]:
    """Returns a function of a cell's step in C, which is called with gate inputs and tensors.

    `parameters` names the tensors, the first of which has the shape of the state, [B, H]. A name with a plus is that of
    a tensor [B, G] whose stride the kernel gets, too. None is passed as NULL.
    """
    has_stride = [parameter.endswith("+") for parameter in parameters.split()]
    calls = declare({name: "p" + "".join("ps" if each else "p" for each in has_stride)})

    def run(gates: GateInputs, *tensors: Tensor | None) -> None:
        assert tensors[0] is not None
        arguments: list[bytes | int | None] = [native_gates(gates, tensors[0])]
        for tensor, with_stride in zip(tensors, has_stride, strict=True):
            arguments.append(None if tensor is None else tensor.data_ptr())
            if with_stride:
                arguments.append(0 if tensor is None else tensor.stride(0))
        getattr(calls(gates.input_BG.dtype), name)(*arguments)

    return run


def search_step(forward: Callable[..., None], equation: CellStep) -> CellStep:
    """Returns a step without gradients by a cell's `forward`; falls back to the equation where C does not support it.

    `forward` takes the last part of the state before, then the parts after, the output last.
    """

    def step(from_input: Tensor, from_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gates = search_gates(from_input, from_state, state[-1])
        if gates is None:
            return equation(from_input, from_state, state)
        shape, before_BH = state[-1].shape, state[-1].contiguous().flatten(0, -2)
        after = [torch.empty_like(before_BH) for _ in state]
        forward(gates, before_BH, *after, None)
        return tuple([part_BH.view(shape) for part_BH in after[::-1]])

    # Translators are pickled for worker processes, a function by its name: <cell>_step of the cell's `native`.
    step.__module__ = equation.__module__.replace("reference", "native")
    step.__qualname__ = equation.__qualname__
    return step


def search_gates(from_input: Tensor, from_state: Tensor, state: Tensor) -> GateInputs | None:
    """Returns the gate inputs of a step from the halves [..., G]; None where C does not support them.

    C computes no gradients, and needs both halves in one dtype and of one shape.
    """
    is_supported = (
        can_be_called(from_input, state)
        and from_input.dtype == from_state.dtype
        and from_input.shape == from_state.shape
        and from_input.shape[:-1] == state.shape[:-1]
        and state.dtype == torch.promote_types(from_input.dtype, torch.float32)
    )
    if not is_supported:
        return None
    return GateInputs(from_input.contiguous().flatten(0, -2), from_state.contiguous().flatten(0, -2))
