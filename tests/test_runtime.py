"""Device, precision, processes, random generators and log."""

from __future__ import annotations

import logging
import os
import random
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt import runtime
from nmt.config import schema
from nmt.errors import ConfigError, TrainingError
from nmt.kernels.packed import run_packed
from nmt.kernels.select import choose_kernels
from nmt.runtime import Hardware, device, free_memory, in_bytes, processes
from nmt.runtime.device import _cudnn_refusal, choose_cudnn_dtype, cpu_flags, recurrent_dtype
from tests.support.switches import switches

NEW_GPU = Hardware("GPU", is_gpu=True, bf16="compute capability 9.0", fast_fp16=True)
OLD_GPU = Hardware("GPU", is_gpu=True, bf16="", fast_fp16=True)
VERY_OLD_GPU = Hardware("GPU", is_gpu=True, bf16="", fast_fp16=False)
NEW_CPU = Hardware("this CPU", is_gpu=False, bf16="avx512_bf16", fast_fp16=False)
OLD_CPU = Hardware("this CPU", is_gpu=False, bf16="", fast_fp16=False)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    yield runtime.logger
    for handler in list(runtime.logger.handlers):
        runtime.logger.removeHandler(handler)
        handler.close()
    runtime.logger.propagate = True


@pytest.mark.parametrize(
    ("hardware", "dtype", "why"),
    [
        (NEW_GPU, torch.bfloat16, "compute capability 9.0"),
        (OLD_GPU, torch.float16, "no bf16"),
        (VERY_OLD_GPU, None, "fp32"),
        (NEW_CPU, torch.bfloat16, "avx512_bf16"),
        (OLD_CPU, None, "fp32"),
    ],
)
def test_auto_takes_the_shortest_format_that_is_fast_and_says_why(
    hardware: Hardware, dtype: torch.dtype | None, why: str
) -> None:
    chosen, reason = runtime.choose_precision("auto", hardware)
    assert chosen == dtype
    assert why in reason


@pytest.mark.parametrize(
    ("wanted", "hardware"), [("bf16", OLD_CPU), ("bf16", OLD_GPU), ("fp16", NEW_CPU), ("fp16", OLD_CPU)]
)
def test_a_forced_precision_that_cannot_be_had_is_an_error(wanted: str, hardware: Hardware) -> None:
    with pytest.raises(ConfigError, match=r"^runtime\.precision: .*set it to"):
        runtime.choose_precision(wanted, hardware)


@pytest.mark.parametrize(
    ("dtype", "version", "refusal", "chosen", "why"),
    [
        (torch.bfloat16, 91300, "", torch.bfloat16, "the same format"),
        (torch.bfloat16, 91200, "", torch.float32, "cuDNN 9.12 has no bf16"),
        (torch.bfloat16, None, "", torch.float32, "no cuDNN"),
        (torch.bfloat16, 91400, "cuDNN refuses bf16", torch.float32, "in float32: cuDNN refuses bf16"),
        (torch.float16, 90100, "cuDNN refuses bf16", torch.float16, "the same format"),
    ],
)
def test_recurrent_layers_run_in_bf16_only_where_cudnn_has_it(
    dtype: torch.dtype, version: int | None, refusal: str, chosen: torch.dtype, why: str
) -> None:
    found, reason = choose_cudnn_dtype(dtype, version, lambda: refusal)
    assert found == chosen
    assert why in reason


def test_whether_cudnn_computes_a_format_is_tried() -> None:
    """On a CPU none of its nodes is in the graph."""
    assert _cudnn_refusal(torch.device("cpu"), torch.bfloat16) == "this PyTorch has cuDNN compute no bf16"
    assert "cuDNN refuses bf16 (" in _cudnn_refusal(torch.device("cpu"), torch.int64)
    outputs = torch.ones(1, requires_grad=True).exp() + 1
    assert device._has_node(outputs, "ExpBackward")
    assert not device._has_node(outputs, "Cudnn")
    assert recurrent_dtype(outputs) is None


def test_a_forced_precision_is_taken() -> None:
    assert runtime.choose_precision("fp32", NEW_GPU)[0] is None
    assert runtime.choose_precision("fp16", NEW_GPU)[0] is torch.float16
    assert runtime.choose_precision("bf16", NEW_CPU)[0] is torch.bfloat16


def test_only_fp16_needs_a_loss_scale() -> None:
    cpu = torch.device("cpu")
    assert runtime.Runtime(cpu, torch.float16, "").needs_scaler
    assert not runtime.Runtime(cpu, torch.bfloat16, "").needs_scaler
    assert not runtime.Runtime(cpu, None, "").needs_scaler


def test_autocast_changes_products_only_where_asked() -> None:
    cpu, a = torch.device("cpu"), torch.ones(2, 2)
    with runtime.Runtime(cpu, torch.bfloat16, "").autocast():
        assert (a @ a).dtype is torch.bfloat16
    with runtime.Runtime(cpu, None, "").autocast():
        assert (a @ a).dtype is torch.float32


def test_cpu_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16\nbugs\t\t: amx_bf16\n")
    assert cpu_flags(cpuinfo) == {"fpu", "avx512_bf16"}
    assert cpu_flags(tmp_path / "no such file") == frozenset()


def test_set_up_on_a_cpu() -> None:
    before = torch.get_num_threads()
    found = runtime.set_up(schema.RuntimeConfig(device="cpu", precision="fp32", threads=1))
    try:
        assert found.device == torch.device("cpu")
        assert found.is_main
        assert (found.rank, found.world) == (0, 1)
        assert torch.get_num_threads() == 1
        assert found.reason == "device cpu, as asked; precision fp32, as asked"
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^runtime\.device: PyTorch finds no GPU here"):
        runtime.set_up(schema.RuntimeConfig(device="cuda"))
    assert runtime.set_up(schema.RuntimeConfig(device="auto")).device.type == "cpu"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_mps_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^runtime\.device: PyTorch finds no mps here"):
        runtime.set_up(schema.RuntimeConfig(device="mps"))


def test_mps_computes_in_float32_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = runtime.set_up(schema.RuntimeConfig(device="mps"))
    assert (found.device.type, found.autocast_dtype, found.weights) == ("mps", None, None)
    assert found.reason == "device mps, as asked; precision fp32: mps has no other here"
    kernels = choose_kernels("auto", found.device)
    assert (kernels.steps, kernels.layers) == (None, run_packed)
    assert "no other kernels for mps" in kernels.reason
    with pytest.raises(ConfigError, match=r"^runtime\.kernel: fused cannot be had: there are no kernels for mps"):
        choose_kernels("fused", found.device)
    # It has no float64.
    assert runtime.widest_dtype(found.device) == torch.float32
    assert runtime.widest_dtype(torch.device("cpu")) == torch.float64


def test_an_operation_that_does_not_repeat_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    device.be_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    first = torch.zeros(2)
    with pytest.raises(TrainingError) as caught, runtime.explaining_determinism():
        first.put_(torch.tensor([0, 0]), torch.ones(2))
    assert str(caught.value) == (
        "runtime.deterministic: put_ does not have a deterministic implementation; set it to false"
    )
    with pytest.raises(RuntimeError, match="shape"), runtime.explaining_determinism():
        first.view(3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_state_of_a_gpu_comes_back() -> None:
    runtime.seed_everything(1, rank=0)
    state = runtime.rng_state()
    first = torch.rand(5, device="cuda")
    runtime.set_rng_state(state)
    assert torch.equal(torch.rand(5, device="cuda"), first)


def test_a_broken_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="environment variable RANK='' is no number"):
        runtime.set_up(schema.RuntimeConfig(device="cpu"))
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="RANK=2 is not below WORLD_SIZE=2"):
        runtime.set_up(schema.RuntimeConfig(device="cpu"))


def test_one_process_is_its_own_group() -> None:
    assert runtime.all_reduce_sum(torch.tensor([2.0])).item() == 2.0
    assert runtime.broadcast_object("x") == "x"
    assert runtime.gather_objects("x") == ["x"]
    runtime.barrier()
    runtime.tear_down()


TWO_RANKS = """
import random, torch
from nmt import runtime
from nmt.config import schema
me = runtime.set_up(schema.RuntimeConfig(device="cpu", precision="fp32", threads=1))
assert me.world == 2 and me.is_main == (me.rank == 0)
assert runtime.all_reduce_sum(torch.tensor([1.0 + me.rank])).item() == 3.0
assert runtime.broadcast_object({"rank": me.rank}) == {"rank": 0}
gathered = runtime.gather_objects({"t": torch.full((1 + me.rank,), me.rank)})
assert [g["t"].tolist() for g in gathered] == [[0], [1, 1]]
runtime.seed_everything(7, me.rank)
draws = runtime.gather_objects((torch.rand(1).item(), random.random()))
assert draws[0][0] != draws[1][0] and draws[0][1] != draws[1][1]
runtime.barrier()
runtime.tear_down()
assert not torch.distributed.is_initialized()
"""


def test_two_gloo_ranks_tell_each_other() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def draw() -> list[float]:
    """Numbers of every generator, normal ones too: these generators keep the second of a pair for the next call."""
    return [
        *torch.rand(3).tolist(),
        *torch.randn(3).tolist(),
        random.random(),
        random.gauss(0.0, 1.0),
        np.random.rand(),
        np.random.standard_normal(),
    ]


def test_random_state_comes_back_exactly_through_a_file(tmp_path: Path) -> None:
    runtime.seed_everything(3, rank=0)
    draw()
    torch.save(runtime.rng_state(), tmp_path / "state.pt")
    expected = [draw(), draw()]
    runtime.seed_everything(4, rank=0)
    assert draw() != expected[0]
    runtime.set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw(), draw()] == expected


def test_the_same_seed_gives_the_same_numbers_and_another_rank_others() -> None:
    seen = []
    for seed, rank in ((3, 0), (3, 0), (3, 1), (4, 0)):
        runtime.seed_everything(seed, rank)
        seen.append(draw())
    assert seen[0] == seen[1]
    assert all(a != b for a, b in zip(seen[0], seen[2], strict=True))
    assert all(a != b for a, b in zip(seen[0], seen[3], strict=True))


def test_the_log_goes_to_standard_error_and_dated_to_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log: logging.Logger
) -> None:
    file = tmp_path / "run" / "train.log"
    runtime.set_up_logging(None, is_main=True)
    runtime.set_up_logging(file, is_main=True)
    log.info("step %d", 1)
    log.info("shown by the bar", extra=runtime.FILE_ONLY)
    log.warning("careful")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "step 1\nwarning: careful\n"
    dated = file.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in dated] == ["step 1", "shown by the bar", "warning: careful"]


INTERRUPTED_FIRST_LINE = """
import os, signal, sys
from nmt import runtime

def ending(moment):
    # A child gets SIGINT at this line of Python code of its first log line, which brings imports and locks with it.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        seen = 0
        def trace(frame, event, argument):
            nonlocal seen
            seen += event == "line"
            if event == "line" and seen == moment:
                os.kill(os.getpid(), signal.SIGINT)
            return trace
        try:
            sys.settrace(trace)
            runtime.logger.info("first line")
            code = 0
        except KeyboardInterrupt:
            code = 130
        sys.settrace(None)
        os._exit(code if seen >= moment else 99)
    os.close(writer)
    with open(reader, "rb") as errors:
        said = errors.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said

signal.signal(signal.SIGINT, signal.default_int_handler)
runtime.set_up_logging(None, is_main=True)
moment = 1
while (ended := ending(moment))[0] != 99:
    assert ended[0] == 130 and b"Logging error" not in ended[1], (moment, ended)
    moment += 1
print(moment)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_an_interrupt_at_any_moment_of_the_first_log_line_ends_the_program() -> None:
    command = [sys.executable, "-c", INTERRUPTED_FIRST_LINE]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 50  # lines of code at which it was interrupted


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_file_that_cannot_be_written_is_an_error_that_names_it(
    capsys: pytest.CaptureFixture[str], log: logging.Logger
) -> None:
    runtime.set_up_logging(Path("/dev/full"), is_main=True)
    with pytest.raises(OSError, match="No space left on device") as caught:
        log.info("step %d", 1)
    assert caught.value.filename == "/dev/full"
    assert capsys.readouterr().err == "step 1\n"
    runtime.set_up_logging(None, is_main=True)  # closes the file, which would write once more


def test_other_ranks_only_warn(tmp_path: Path, capsys: pytest.CaptureFixture[str], log: logging.Logger) -> None:
    file = tmp_path / "train.log"
    runtime.set_up_logging(file, is_main=False)
    log.info("not shown")
    log.warning("shown")
    assert capsys.readouterr().err == "warning: shown\n"
    assert not file.exists()


def test_a_table_is_aligned() -> None:
    assert runtime.format_table([["embedding", "2,048"], ["all", "17,000"]], ["part", "parameters"]) == (
        "part       parameters\n---------  ----------\nembedding       2,048\nall            17,000"
    )
    assert runtime.format_table([["a", "x"], ["bc", "1"]]) == "a   x\nbc  1"
    assert runtime.format_table([]) == ""
    assert runtime.format_table([], ["a", "b"]) == "a  b\n-  -"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="oneDNN multiplies no bf16 here")
def test_the_code_of_few_products_is_kept() -> None:
    """Products of many numbers of rows: what the process has grown by when all that is free is given back."""
    most = 1200 if device.has_amx() else 400
    code = (
        "import ctypes, sys, torch\n"
        "from nmt.runtime.device import keep_few_kernels\n"
        "if sys.argv[1] == 'few':\n"
        "    keep_few_kernels()\n"
        "def kilobytes():\n"
        "    ctypes.CDLL(None).malloc_trim(0)\n"
        "    lines = open('/proc/self/status').readlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon'))\n"
        "most = int(sys.argv[2])\n"
        "rows, weight = torch.ones(most + 1, 512).bfloat16(), torch.ones(512, 512).bfloat16()\n"
        "rows @ weight\n"
        "before = kilobytes()\n"
        "for count in range(1, most + 1):\n"
        "    rows[:count] @ weight\n"
        "print(kilobytes() - before)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in device.KERNEL_CACHES}
    grown = {}
    for kept in ("few", "many"):
        command = [sys.executable, "-c", code, kept, str(most)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        grown[kept] = int(done.stdout)
    assert grown["few"] < grown["many"] / 3, grown


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_stays_with_the_process() -> None:
    """A block that is freed and asked for again is not cleared again by the system: no page is faulted in."""
    code = (
        "import resource, torch\n"
        "from nmt.runtime.device import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(1 << 24)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(*(faults() for _ in range(20)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, last = map(int, done.stdout.split())
    assert first > 100 * max(last, 1), done.stdout


def test_bytes_are_written_for_people() -> None:
    sizes = (0, 1023, 1024, 9 * 1024, 35 << 20, 3 << 29, 12 << 30, 5 << 40, 3 << 50)
    assert [in_bytes(size) for size in sizes] == [
        *("0 B", "1,023 B", "1.0 KiB", "9.0 KiB", "35 MiB", "1.5 GiB", "12 GiB", "5.0 TiB", "3,072 TiB")
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not say")
def test_free_memory_is_at_most_what_the_machine_has() -> None:
    free = free_memory(torch.device("cpu"))
    swap = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "SwapTotal" in line).split()[1])
    assert free is not None
    assert 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + swap * 1024


BEFORE = switches() | {"cudnn tf32": False}


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_test_finds_the_switches_as_they_were(time: str) -> None:
    assert switches() == BEFORE
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    device.be_deterministic()


@pytest.mark.parametrize(
    "message",
    [
        "RNN module weights are not part of single contiguous chunk of memory. This means they need to be compacted",
        "Attempting to run cuBLAS, but there was no current CUDA context! Attempting to set the primary context...",
        "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations",
    ],
)
def test_what_pytorch_says_once_fails_no_test(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("device", "backend", "gpu"),
    [
        (torch.device("cuda", 1), "cpu:gloo,cuda:nccl", torch.device("cuda", 1)),
        (torch.device("cpu"), "gloo", None),
    ],
)
def test_a_group_of_gpus_is_joined_with_the_gpu_of_the_process(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, backend: str, gpu: torch.device | None
) -> None:
    joined = []
    monkeypatch.setattr(processes.dist, "init_process_group", lambda *names, **rest: joined.append((*names, rest)))
    processes.join_group(1, 2, device)
    ((name, rest),) = joined
    assert (name, rest["rank"], rest["world_size"], rest["device_id"]) == (backend, 1, 2, gpu)
