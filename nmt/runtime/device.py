"""Device and precision, chosen once and with the reason; memory of a process."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import torch

from nmt.config import schema
from nmt.errors import ConfigError, NmtError, TrainingError
from nmt.runtime import processes
from nmt.runtime.log import logger

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, as in malloc.h."""
KERNEL_CACHE_SIZE = 32
"""Shapes of products whose machine code is kept: more than the steps of a batch have."""
AMX_CACHE_SIZE = 256
"""The same with AMX, where making the code takes longer than most products: the shapes of many batches."""
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Environment variables with the sizes of oneDNN's cache, and of PyTorch's above it."""
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory that a container may use, in the second and the first version of Linux's control groups."""

LEAST_CUDNN = 91300
"""First version of cuDNN whose recurrent layers compute in bf16, as `torch.backends.cudnn.version()` gives it."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Hardware:
    """Number formats that a device multiplies natively."""

    name: str
    """As in a message: `this CPU`, `NVIDIA A100`."""
    is_gpu: bool
    bf16: str
    """The feature that makes bf16 native, such as `avx512_bf16`; empty where there is none."""
    fast_fp16: bool
    """Whether products in fp16 are faster than in float32."""


@dataclass(frozen=True)
class Runtime:
    """Device and precision of this process, and its rank among the others."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """Number format of the matrix products; None is float32 throughout."""
    reason: str
    """One sentence for the log: device and precision, and why."""
    rank: int = 0
    world: int = 1
    weights: Literal["fp32", "bf16", "int8"] | None = None
    """Format into which constant weights are prepacked, for translating on a CPU; None leaves them as they are."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints, metrics and log."""
        return self.rank == 0

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients need a loss scale: fp16 has 5 exponent bits (Micikevicius 2018, section 3.2)."""
        return self.autocast_dtype is torch.float16

    def autocast(self) -> torch.autocast:
        """Context of the forward pass in the chosen precision; does nothing in float32."""
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)


def set_up(options: schema.RuntimeConfig) -> Runtime:
    """Chooses device and precision, sets PyTorch's global switches, joins the process group of `torchrun`.

    With precision fp32, every product on a GPU is a true float32 one. Otherwise the few that autocast leaves in
    float32 may use TF32 (10 mantissa bits, still more than bf16 has), which is several times faster.

    Raises `ConfigError` where a forced device or precision is not available.
    """
    rank, world, local_rank = processes.ranks()
    device, why_device = _choose_device(options.device, local_rank)
    dtype, why_precision = choose_precision(options.precision, _hardware_of(device))
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == "cpu":
        settle_memory()
    if device.type == "cuda":
        if options.deterministic:
            be_deterministic()
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("highest" if dtype is None else "high")
        torch.backends.cudnn.allow_tf32 = dtype is not None
        # Its remedy is for weights that stay where they are; ours are cast, or a layer at a time.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk", UserWarning)
        if dtype is not None:
            why_precision += f"; {cudnn_dtype(device, dtype)[1]}"
    if world > 1:
        processes.join_group(rank, world, device)
    weights: Literal["fp32", "bf16", "int8"] | None = None
    if device.type == "cpu":
        weights = "int8" if options.precision == "int8" else "fp32" if dtype is None else "bf16"
    return Runtime(device, dtype, f"{why_device}; {why_precision}", rank, world, weights)


def be_deterministic() -> None:
    """Makes PyTorch take only algorithms that repeat on a GPU, and refuse operations that have none.

    cuBLAS and cuDNN's recurrent layers repeat with workspaces of a fixed size alone.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True)
    # Every tensor is written before it is read: NaN in it beforehand would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explaining_determinism() -> Iterator[None]:
    """Raises a `TrainingError` where `runtime.deterministic` excludes an operation."""
    try:
        yield
    except RuntimeError as error:
        if not torch.are_deterministic_algorithms_enabled() or "determini" not in str(error):
            raise
        raise TrainingError(
            f"runtime.deterministic: {str(error).partition(', but you set')[0].partition('. ')[0]}; set it to false"
        ) from error


def choose_precision(precision: str, hardware: Hardware) -> tuple[torch.dtype | None, str]:
    """Returns the autocast type (None is float32) and the reason; raises `ConfigError` for an unsupported one."""
    if precision == "fp32":
        return None, "precision fp32, as asked"
    if precision == "bf16":
        if not hardware.bf16:
            raise ConfigError(
                f"runtime.precision: {hardware.name} has no bf16 (a CPU needs avx512_bf16 or amx_bf16, a GPU compute "
                "capability 8.0); set it to auto or fp32"
            )
        return torch.bfloat16, "precision bf16, as asked"
    if precision == "int8":
        if hardware.is_gpu:
            raise ConfigError("runtime.precision: int8 is for CPUs; set it to auto, fp16 or fp32")
        return None, "precision int8, as asked: constant weights are integers"
    if precision == "fp16":
        if not hardware.is_gpu:
            raise ConfigError("runtime.precision: fp16 needs a GPU; set it to auto, bf16 or fp32")
        return torch.float16, "precision fp16 with loss scaling, as asked"
    assert precision == "auto", precision
    if hardware.bf16:
        return torch.bfloat16, f"precision bf16: {hardware.name} multiplies it natively ({hardware.bf16})"
    if hardware.is_gpu and hardware.fast_fp16:
        return torch.float16, f"precision fp16 with loss scaling: {hardware.name} has no bf16"
    if hardware.name == "mps":
        return None, "precision fp32: mps has no other here"
    return None, f"precision fp32: {hardware.name} multiplies no shorter format faster"


def widest_dtype(device: torch.device) -> torch.dtype:
    """Returns float64, or float32 on mps, which has no wider format."""
    return torch.float32 if device.type == "mps" else torch.float64


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Returns the number format in which matrix products of this tensor are computed, autocast considered."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def recurrent_dtype(tensor: torch.Tensor) -> torch.dtype | None:
    """Returns the dtype of PyTorch's recurrent layers on a GPU under autocast; None where the call decides it."""
    if tensor.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return None
    return cudnn_dtype(tensor.device, torch.get_autocast_dtype("cuda"))[0]


@cache
def cudnn_dtype(device: torch.device, dtype: torch.dtype) -> tuple[torch.dtype, str]:
    """Returns the dtype of cuDNN's recurrent layers where products have `dtype`, and the reason."""
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return choose_cudnn_dtype(dtype, version, lambda: _cudnn_refusal(device, dtype))


def choose_cudnn_dtype(dtype: torch.dtype, version: int | None, refusal: Callable[[], str]) -> tuple[torch.dtype, str]:
    """Returns the dtype of cuDNN's recurrent layers where products have `dtype`, and the reason.

    `version` is that of cuDNN, None without it. `refusal` tries a layer in this dtype and returns why cuDNN does not
    run it, or an empty string; it is called for bf16 only, and only where the version should support it.
    """
    if dtype != torch.bfloat16:
        return dtype, "recurrent layers run in the same format"
    if version is None:
        why = "PyTorch has no cuDNN here"
    elif version < LEAST_CUDNN:
        why = f"cuDNN {version // 10000}.{version // 100 % 100} has no bf16 for them"
    else:
        why = refusal()
    if why:
        return torch.float32, f"recurrent layers run in float32: {why}"
    return dtype, "recurrent layers run in the same format"


def _cudnn_refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Runs a small layer forward and backward; returns why cuDNN does not compute it in this dtype, or an empty string.

    PyTorch computes some formats by its own kernels, step by step. Then none of cuDNN's nodes is in the graph.
    """
    shapes = [(24, 8), (24, 8), (24,), (24,)]
    try:
        weights = [torch.zeros(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes]
        first = torch.zeros(1, 2, 8, device=device, dtype=dtype)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            outputs, _ = torch.gru(first.expand(3, 2, 8), first, weights, True, 1, 0.0, True, False, False)
            gradients = torch.autograd.grad(outputs.sum(), weights)
    except RuntimeError as error:
        return f"cuDNN refuses bf16 ({str(error).splitlines()[0]})"
    if any(tensor.dtype != dtype for tensor in (outputs, *gradients)) or not _has_node(outputs, "Cudnn"):
        return "this PyTorch has cuDNN compute no bf16"
    return ""


def _has_node(tensor: torch.Tensor, name: str) -> bool:
    """Whether a node with this name is in the graph of a tensor."""
    pending = [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None:
            if name in node.name():
                return True
            pending += [before for before, _ in node.next_functions]
    return False


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor in pinned memory where there is a GPU, so that its copy there overlaps with computation."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine: PyTorch's CPU allocator has no error class of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def in_halves(
    work: Callable[[Sequence[int]], Result], rows: Sequence[int], out_of_memory: Callable[[int], str]
) -> Iterator[tuple[Sequence[int], Result]]:
    """Yields the rows and `work(rows)`, or where memory runs out those of ever smaller parts of the rows.

    Raises `NmtError` with the message `out_of_memory(row)` where a row does not fit alone.
    """
    pending = [rows]
    while pending:
        part = pending.pop()
        result = _attempt(work, part)
        if result is not None:
            yield part, result
            continue
        if len(part) == 1:
            raise NmtError(out_of_memory(part[0]))
        logger.warning(
            "out of memory with %d sentences at once: going on with half of them; a smaller batch_tokens or beam_size "
            "avoids this",
            len(part),
        )
        middle = len(part) // 2
        pending += [part[middle:], part[:middle]]


def _attempt(work: Callable[[Sequence[int]], Result], rows: Sequence[int]) -> Result | None:
    """None where memory runs out. A function of its own: the error, gone when it returns, holds on to the tensors."""
    try:
        return work(rows)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _choose_device(choice: str, local_rank: int) -> tuple[torch.device, str]:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "cpu":
        return torch.device("cpu"), "device cpu, as asked"
    if choice == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError(
                "runtime.device: PyTorch finds no mps here (an Apple computer's GPU); set it to auto or cpu"
            )
        return torch.device("mps"), "device mps, as asked"
    if choice == "cuda" and not gpus:
        raise ConfigError("runtime.device: PyTorch finds no GPU here; set it to auto or cpu")
    if not gpus:
        return torch.device("cpu"), "device cpu: PyTorch finds no GPU"
    if local_rank >= gpus:
        raise ConfigError(
            f"runtime.device: process {local_rank} of this machine finds no GPU of its own, there are {gpus}; "
            f"use torchrun --nproc-per-node {gpus} or set it to cpu"
        )
    device = torch.device("cuda", local_rank)
    return device, f"device {device}: {torch.cuda.get_device_name(device)}"


def _hardware_of(device: torch.device) -> Hardware:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        # Emulated bf16 (before 8.0) is slower than float32; before 7.0 there are no tensor cores for fp16 either.
        bf16 = f"compute capability {major}.{minor}" if major >= 8 else ""
        return Hardware(torch.cuda.get_device_name(device), True, bf16, major >= 7)
    if device.type == "mps":
        return Hardware("mps", False, "", False)
    # PyTorch's own query also counts CPUs on which oneDNN emulates bf16, which is slower than float32.
    flags = cpu_flags()
    native = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return Hardware("this CPU", False, ", ".join(native), False)


@cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Returns the instruction sets of an x86 processor on Linux; empty elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def has_amx() -> bool:
    """Returns whether the processor multiplies matrices of bf16 in registers of their own."""
    return "amx_bf16" in cpu_flags()


def settle_memory() -> None:
    """Limits the memory of a process that computes on a CPU; to be called before its first product."""
    keep_freed_memory()
    keep_few_kernels()


def keep_freed_memory() -> bool:
    """Makes the C library keep freed blocks of up to 1 GiB, instead of returning them to the system.

    The next step allocates them again, and the system clears every page first: a tenth of the time of a training step
    on a CPU (docs/performance.md). The process never grows above its peak. Returns whether the C library supports
    it; only glibc does.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))


def keep_few_kernels() -> None:
    """Makes oneDNN cache the machine code of few products; to be called before the first product.

    It generates code for every shape, and by default caches that of the last 1,024, twice, a megabyte each. Sentences
    of all lengths have more shapes than that: training would grow by gigabytes (docs/performance.md). Sizes that the
    user has set in the environment stay.
    """
    size = AMX_CACHE_SIZE if has_amx() else KERNEL_CACHE_SIZE
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(size))


def gpu_memory(device: torch.device) -> int:
    """Returns the bytes of a GPU's whole memory; 0 on other devices."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def free_memory(device: torch.device) -> int | None:
    """Returns the bytes that can still be allocated on the device, swap included; None where unknown."""
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
    """Formats a number of bytes: `35 MiB`, `1.4 GiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:,.0f} {unit}"
