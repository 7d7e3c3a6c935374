"""The Triton kernels compile for a GPU, which needs none: what the interpreter runs need not compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="the package triton is not installed: no kernel is compiled")

COMPILE = """
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nmt.kernels.attention import triton as attention
from nmt.kernels.attention.triton import blocks
from nmt.kernels.cross_entropy import triton as cross_entropy
from nmt.kernels.gru import triton as gru
from nmt.kernels.lstm import triton as lstm
from nmt.kernels.rnn import triton as rnn

FULL = {"bias", "scores", "normalizer", "d_context", "d_weights", "d_all_weights", "d_scores", "d_energy"}
FULL |= {"expected", "mean", "before", "after", "d_after", "d_before", "cell", "after_cell", "d_after_cell", "d_cell"}


def compile_kernel(kernel, pointers, short, without="", **fixed):
    # None for the pointers of `without`.
    warps = fixed.pop("num_warps", 4)
    fixed |= dict.fromkeys(without.split())
    pointers = " ".join(name for name in pointers.split() if name not in fixed)
    signature = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(fixed, "constexpr")
    signature |= {name: "*fp32" if name in FULL else f"*{short}" for name in pointers.split()}
    signature |= {name: kind for name, kind in {"target": "*i64", "smoothing": "fp32"}.items() if name in signature}
    for capability in (80, 90):
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(ASTSource(kernel, signature, fixed), target=target, options={"num_warps": warps})
        print(kernel.__name__, short, fixed, f"capability {capability}", *resources(compiled.asm["cubin"]))


def resources(cubin):
    # Of a thread: registers, and bytes of memory that take what registers do not hold.
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.search(r"REG:\\d+", usage)[0], re.search(r"STACK:\\d+", usage)[0], re.search(r"LOCAL:\\d+", usage)[0]


source = "query keys memory energy scores normalizer"
for short in ("bf16", "fp32"):
    for additive in (True, False):
        sizes = blocks(512, 300)
        compile_kernel(attention._attention, f"{source} bias context", short, "" if additive else "energy", **sizes)
        gradients = f"{source} d_context pending d_weights d_query d_all_weights"
        without = "" if additive else "energy d_weights"
        compile_kernel(attention._attention_backward, gradients, short, without, ADD=not additive, **sizes)
    keys = "query keys energy d_scores d_keys d_energy"
    compile_kernel(attention._keys_backward, keys, short, BLOCK_S=16, BLOCK_A=128)
    for pieces in (8_000, cross_entropy.MOST_PIECES):
        block = triton.next_power_of_2(pieces)
        sizes = {"BLOCK": block, "num_warps": cross_entropy.num_warps(block)}
        loss = "logits bias target normalizer expected mean"
        compile_kernel(cross_entropy._loss, loss, short, GRADIENT=True, **sizes)
    gates = "inputs more recurrent"
    compile_kernel(gru._gru, f"{gates} before after copy", short, BLOCK=512)
    gradients = f"{gates} before d_after pending d_inputs d_recurrent d_before"
    compile_kernel(gru._gru_backward, gradients, short, BLOCK=512)
    compile_kernel(lstm._lstm, f"{gates} cell after_cell after copy", short, BLOCK=1024)
    gradients = f"{gates} cell after_cell d_after pending d_after_cell d_gates d_copy d_cell"
    compile_kernel(lstm._lstm_backward, gradients, short, BLOCK=1024)
    compile_kernel(rnn._rnn, f"{gates} after copy", short, "more copy", BLOCK=256)
    gradients = "after d_after pending d_gates d_copy"
    compile_kernel(rnn._rnn_backward, gradients, short, BLOCK=256)
"""


def compiled(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Python code in a process that does not interpret kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env=environment | {"TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_kernel_compiles_and_keeps_its_values_in_registers(tmp_path: Path) -> None:
    done = compiled(COMPILE, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 26
    # What does not stay in registers: the loss of 65,536 pieces, and a few bytes of attention in float32 before 9.0.
    for line in lines:
        stack = int(line.partition("STACK:")[2].partition(" ")[0])
        most = 16 if "fp32" in line and line.endswith("capability 80", 0, line.index(" REG")) else 0
        assert stack <= most or (line.startswith("_loss") and "65536" in line), line
        assert line.endswith("LOCAL:0"), line


def test_where_no_kernel_can_be_launched_the_reason_is_found(tmp_path: Path) -> None:
    """Here because there is no GPU; elsewhere, say, because there is no C compiler."""
    done = compiled(
        "import torch; from nmt.kernels.rnn import triton; print(triton.unsupported_reason(torch.device('cpu')))",
        tmp_path,
    )
    assert done.stdout.startswith("Triton launches no kernel here ("), done.stderr
    assert len(done.stdout.splitlines()) == 1
