"""Compiled kernels compute what the equations say, in every format, whatever stands beside a row and however many
threads there are; and where they cannot be compiled, everything runs without them."""

from __future__ import annotations

import math
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmt.errors import ConfigError
from nmt.kernels import compiler as build
from nmt.kernels.attention import native as attention
from nmt.kernels.compiler import search_gates
from nmt.kernels.cross_entropy import chunked
from nmt.kernels.cross_entropy.chunked import LossChunk
from nmt.kernels.cross_entropy.native import native_chunk_losses
from nmt.kernels.gru.native import gru_forward, gru_step
from nmt.kernels.linear.onednn import PrepackedProduct
from nmt.kernels.lstm.native import lstm_forward, lstm_step
from nmt.kernels.rnn.native import rnn_backward, rnn_forward
from nmt.kernels.select import choose_kernels, reference_kernels
from nmt.kernels.steps import Annotations, GateInputs
from tests.support.kernel_params import needs_compiler

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
FORMATS = pytest.mark.parametrize("short", DTYPES, ids=lambda dtype: str(dtype).partition(".")[2])
# No multiple of a vector, and more than one of them.
UNITS, FEATURES, HIDDEN = 67, 83, 37


def drawn(*shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=GENERATOR, dtype=torch.float64) * scale).to(dtype)


GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def numbers_of_its_own() -> None:
    """Whatever tests ran before, and in which process."""
    GENERATOR.manual_seed(2)


def exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def source_of(short: torch.dtype, additive: bool, sentences: int = 5, positions: int = 9) -> Annotations:
    """The last positions of each sentence are excluded, and all of the last sentence."""
    bias_BS = torch.zeros(sentences, positions, dtype=exact(short))
    for row in range(sentences):
        bias_BS[row, positions - row :] = -torch.inf
    bias_BS[-1] = -torch.inf
    keys, memory = (drawn(sentences, positions, size, dtype=short) for size in (UNITS, FEATURES))
    return Annotations(keys, memory, bias_BS, drawn(UNITS, dtype=short) if additive else None)


def attention_results(source: Annotations, query_QBA: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Computes attention over the source, and its gradients, in the format of the source."""
    queries, sentences, _ = query_QBA.shape
    short, wide = source.memory.dtype, source.bias.dtype
    cast = attention.attention_prepare(source)
    context_QBC = torch.empty(queries, sentences, FEATURES, dtype=short)
    scores_QBS = torch.empty(queries, sentences, source.bias.shape[1], dtype=wide)
    normalizer_QB = torch.empty(queries, sentences, dtype=wide)
    attention.attention_forward(query_QBA, cast, context_QBC, scores_QBS, normalizer_QB)
    found = {"context": context_QBC, "scores": scores_QBS, "normalizer": normalizer_QB}
    for kind, dtype in (("short", short), ("exact", wide)):
        d_context_QBC = given["d_context"].to(wide, copy=True)
        d_query_QBA, d_all_weights_QBS = given["d_query"].to(dtype, copy=True), torch.empty_like(scores_QBS)
        attention.attention_backward(
            *(query_QBA, cast, scores_QBS, normalizer_QB, d_context_QBC, given["sent"].to(short)),
            *(given["d_weights"].to(wide), d_query_QBA, d_all_weights_QBS),
            add=kind == "exact",
        )
        found |= {
            f"d_query {kind}": d_query_QBA,
            f"d_context {kind}": d_context_QBC,
            f"d_weights {kind}": d_all_weights_QBS,
        }
    if source.energy is not None:
        d_scores_QBS = given["d_scores"].to(wide).masked_fill(source.bias == -torch.inf, 0.0)
        found["d_keys"], found["d_energy"] = attention.attention_keys_backward(
            query_QBA, cast.keys, cast.energy, d_scores_QBS
        )
    return found


def gradients_of(queries: int, source: Annotations) -> dict[str, Tensor]:
    sentences, positions = source.bias.shape
    shapes = {"d_context": FEATURES, "sent": FEATURES, "d_weights": positions, "d_scores": positions, "d_query": UNITS}
    return {name: drawn(queries, sentences, size) for name, size in shapes.items()}


@needs_compiler
@FORMATS
def test_a_mixture_may_be_kept_in_the_format_of_products_alone(short: torch.dtype) -> None:
    entering = GateInputs(drawn(6, HIDDEN, dtype=short), drawn(6, HIDDEN, dtype=short))
    d_mixed, mixed, both = drawn(6, HIDDEN, dtype=exact(short)), *(torch.empty(6, HIDDEN, dtype=short) for _ in "ab")
    rnn_forward(entering, mixed, None)
    rnn_forward(entering, torch.empty(6, HIDDEN, dtype=exact(short)), both)
    assert torch.equal(mixed, both)
    gradients = [torch.empty_like(mixed) for _ in range(2)]
    rnn_backward(mixed, d_mixed, None, gradients[0], None)
    rnn_backward(mixed.to(exact(short)), d_mixed, None, gradients[1], None)
    assert torch.equal(*gradients)


@needs_compiler
@FORMATS
def test_a_step_of_the_search_is_that_of_training(short: torch.dtype) -> None:
    from_input, from_state = drawn(2, 3, 4 * HIDDEN, dtype=short), drawn(2, 3, 4 * HIDDEN, dtype=short)
    gru_input, gru_state = from_input[..., : 3 * HIDDEN], from_state[..., : 3 * HIDDEN]
    state = drawn(2, 3, HIDDEN, dtype=exact(short))
    assert search_gates(from_input, from_state, state) is None
    with torch.no_grad():
        assert search_gates(from_input, from_state, state) is not None
        assert search_gates(from_input[:1], from_state, state) is None
        (found,) = gru_step(gru_input, gru_state, (state,))
        output, cell = lstm_step(from_input, from_state, (state, state))
    after, after_cell = torch.empty(2, 6, HIDDEN, dtype=exact(short)).unbind(0)
    gru_forward(GateInputs(gru_input.flatten(0, 1), gru_state.flatten(0, 1)), state.flatten(0, 1), after, None)
    assert torch.equal(found, after.view(2, 3, HIDDEN))
    entering = GateInputs(from_input.flatten(0, 1), from_state.flatten(0, 1))
    lstm_forward(entering, state.flatten(0, 1), after_cell, after, None)
    assert torch.equal(output, after.view(2, 3, HIDDEN))
    assert torch.equal(cell, after_cell.view(2, 3, HIDDEN))


@needs_compiler
def test_gates_saturate() -> None:
    """Arguments of any size make numbers: z = 1 keeps the state, z = 0 takes the candidate 1 or -1."""
    large = torch.tensor([100.0, -100.0, 1e4, -1e4, 3e38, -3e38])
    nothing, state = torch.zeros(1, 18), torch.full((1, 6), 0.25)
    after = torch.empty(1, 6)
    kept = torch.cat([torch.zeros(6), large, torch.zeros(6)]).unsqueeze(0)
    gru_forward(GateInputs(kept, nothing), state, after, None)
    assert after[0].tolist() == [0.25, 0.0, 0.25, 0.0, 0.25, 0.0]
    taken = torch.cat([torch.zeros(6), torch.full((6,), -1e4), large]).unsqueeze(0)
    gru_forward(GateInputs(taken, nothing), state, after, None)
    assert after[0].tolist() == [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]


class Made(PrepackedProduct):
    """A weight whose logits are there already."""

    def __init__(self, logits_NV: torch.Tensor) -> None:
        self.logits_NV = logits_NV

    def product(self, rows: torch.Tensor, bias_N: torch.Tensor | None = None) -> torch.Tensor:
        return self.logits_NV.clone()


def as_product(logits_NV: torch.Tensor) -> tuple[PrepackedProduct, torch.Tensor, torch.Tensor]:
    """A weight, readouts and a bias whose logits these are."""
    return Made(logits_NV), logits_NV.new_empty(0), torch.zeros(logits_NV.shape[1], dtype=exact(logits_NV.dtype))


@needs_compiler
def test_the_exponential_is_good_to_a_few_units_in_the_last_place() -> None:
    """Through a softmax of two logits 0 and x: e^x / (1 + e^x) is the gradient of the loss by x."""
    x = torch.linspace(-80.0, 15.0, 20_001)
    logits = torch.stack([torch.zeros_like(x), x], 1)
    target = torch.zeros(len(x), dtype=torch.int64)
    found = native_chunk_losses(LossChunk(*as_product(logits), target, d_bias_V=torch.zeros(2))).d_logits_NV
    assert found is not None
    torch.testing.assert_close(found[:, 1].double(), torch.softmax(logits.double(), 1)[:, 1], rtol=3e-7, atol=0)


@needs_compiler
@FORMATS
def test_what_is_no_number_is_not_lost(short: torch.dtype) -> None:
    """An update that is not finite must be seen to be one."""
    for wrong in (torch.nan, torch.inf):
        logits = drawn(3, 50, dtype=short)
        logits[1, 7] = wrong
        d_bias = torch.zeros(50, dtype=exact(short))
        losses = native_chunk_losses(LossChunk(*as_product(logits), torch.tensor([1, 2, 3]), 0.1, None, d_bias))
        assert losses.normalizer_N.isfinite().tolist() == [True, False, True]
        assert losses.d_logits_NV is not None
        assert losses.d_logits_NV.isfinite().all(1).tolist() == [True, False, True]
        assert not d_bias.isfinite().all()
    for additive in (True, False):
        source = source_of(short, additive)
        query_QBA = drawn(1, len(source.bias), UNITS, dtype=short)
        query_QBA[0, 1, 3] = torch.nan
        found = attention_results(source, query_QBA, gradients_of(1, source))
        for name in ("context", "d_query short", "d_query exact"):
            assert found[name].isnan().any(-1).tolist() == [[False, True, False, False, False]], name


@needs_compiler
def test_no_number_of_any_bits_becomes_one_in_bf16() -> None:
    state = torch.full((1, 4), -1, dtype=torch.int32).view(torch.float32)
    assert state.isnan().all()
    copy, gates = torch.zeros(1, 4, dtype=torch.bfloat16), torch.zeros(1, 12, dtype=torch.bfloat16)
    gru_forward(GateInputs(gates, gates), state, torch.empty(1, 4), copy)
    assert copy.isnan().all()


@needs_compiler
@FORMATS
def test_scores_may_be_large(short: torch.dtype) -> None:
    """A softmax of scores beyond what has an exponential; keys are powers of two, which every format has."""
    keys = torch.tensor([[[256.0], [512.0], [512.0], [-512.0]]], dtype=short)
    source = Annotations(
        keys, torch.eye(4, FEATURES, dtype=short).unsqueeze(0), torch.zeros(1, 4, dtype=exact(short)), None
    )
    context = torch.empty(1, 1, FEATURES, dtype=short)
    scores, normalizer = torch.empty(1, 1, 4, dtype=exact(short)), torch.empty(1, 1, dtype=exact(short))
    attention.attention_forward(torch.full((1, 1, 1), 4.0, dtype=short), source, context, scores, normalizer)
    assert scores[0, 0].tolist() == [1024.0, 2048.0, 2048.0, -2048.0]
    assert context[0, 0, :5].tolist() == [0.0, 0.5, 0.5, 0.0, 0.0]
    assert normalizer.item() == pytest.approx(2048.0 + math.log(2.0))


@needs_compiler
@FORMATS
def test_neither_neighbours_nor_threads_change_a_number(short: torch.dtype) -> None:
    # Large enough for several threads.
    source = source_of(short, True, sentences=40, positions=20)
    source.bias[-1, :7] = 0.0
    query_QBA = drawn(1, 40, UNITS, dtype=short)
    given = gradients_of(1, source)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(attention_results(source, query_QBA, given))
    finally:
        torch.set_num_threads(threads)
    one = Annotations(*(None if each is None else each[17:18] for each in source[:3]), source.energy)
    alone = attention_results(one, query_QBA[:, 17:18], {name: each[:, 17:18] for name, each in given.items()})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
        assert torch.equal(value, found[2][name]), name
        if name not in ("d_keys", "d_energy"):
            assert torch.equal(value[:, 17:18], alone[name]), name
    assert torch.equal(found[0]["d_keys"][17:18], alone["d_keys"])


# Where they come from


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    build.load_library.cache_clear()
    yield tmp_path
    build.load_library.cache_clear()


@needs_compiler
def test_they_are_compiled_once(fresh: Path) -> None:
    assert build.load_library()[0] is not None
    (made,) = (fresh / "nmt").iterdir()
    before = made.stat()
    build.load_library.cache_clear()
    assert build.load_library()[0] is not None
    (after,) = (fresh / "nmt").iterdir()
    assert after.stat().st_mtime_ns == before.st_mtime_ns
    assert after.stat().st_ino == before.st_ino


def operations() -> None:
    """Nothing compiled is chosen, and the log says why."""
    library, why = build.load_library()
    assert library is None
    kernels = choose_kernels("auto", CPU)
    reference = reference_kernels()
    assert (kernels.steps, kernels.layers) == (None, reference.layers)
    assert kernels.cross_entropy.keywords == {"of_chunk": chunked.chunk_losses}
    assert (kernels.dropout, kernels.cell_step, kernels.log_softmax, kernels.additive_scores) == (
        reference.dropout,
        reference.cell_step,
        reference.log_softmax,
        reference.additive_scores,
    )
    assert why in kernels.reason
    assert why in kernels.warning
    with pytest.raises(ConfigError, match=r"runtime\.kernel: fused cannot be had: ") as error:
        choose_kernels("fused", CPU)
    assert why in str(error.value)


def test_without_a_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    assert build.load_library() == (None, "this machine has no C compiler (cc)")
    operations()


def test_with_a_compiler_that_fails(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = fresh / "cc"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "cc: it is Sunday" >&2\nexit 1\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(compiler))
    assert build.load_library() == (None, f"{compiler} makes none here: cc: it is Sunday")
    operations()
    assert list((fresh / "nmt").iterdir()) == []
    build.load_library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no-such-compiler makes none here" in build.load_library()[1]


@pytest.fixture
def compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A compiler that copies the real library, with an empty folder for temporary files; how often it has compiled."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    library = build.load_library()[0]  # from the user's own cache
    assert library is not None
    build.load_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "cache"))
    (fresh / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(fresh / "temporary"))
    script, log = fresh / "compiler", fresh / "log"
    script.write_text(
        f"""#!/bin/sh
printf 'cc by Gr\\366\\337e\\n'
[ "$1" = --version ] && exit 0
while [ "$1" != -o ]; do [ "$1" = -shared ] && echo >> {log}; shift; done
cp {library._name} "$2"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    return lambda: log.read_text().count("\n") if log.exists() else 0


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@needs_compiler
def test_a_damaged_library_is_compiled_anew(fresh: Path, compiler: Callable[[], int]) -> None:
    """Loading one that was cut off would kill the process, at once or when a function beyond the cut is called."""
    assert build.load_library()[0] is not None
    (path,) = kept(fresh / "cache")
    whole = path.read_bytes()
    load = "import torch; from nmt.kernels.compiler import load_library; assert load_library()[0] is not None"
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        # Replaced, not written to: this process has the file in its memory.
        path.unlink()
        path.write_bytes(damaged)
        path.chmod(0o600)
        build.load_library.cache_clear()
        if len(damaged) == len(whole) // 2:
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
            subprocess.run([sys.executable, "-c", load], env=environment, check=True)
        else:
            assert build.load_library()[0] is not None
        (path,) = kept(fresh / "cache")
        assert path.read_bytes() == whole
    assert compiler() == 4


@needs_compiler
def test_a_library_is_on_the_disk_before_it_has_its_name(
    fresh: Path, compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def forced(descriptor: int) -> None:
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        calls.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "replace", renamed)
    assert build.load_library()[0] is not None
    (path,) = kept(fresh / "cache")
    assert calls[:2] == [("fsync", path.stat().st_ino), ("replace", path.stat().st_ino)]


@needs_compiler
def test_nobody_else_can_write_what_is_loaded(
    fresh: Path, compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "cache" / "nmt").mkdir(parents=True)
    (fresh / "cache" / "nmt").chmod(0o777)
    assert build.load_library()[0] is not None
    assert (fresh / "cache" / "nmt").stat().st_mode & 0o777 == 0o755
    (path,) = kept(fresh / "cache")
    assert path.stat().st_mode & 0o022 == 0
    path.chmod(0o666)
    build.load_library.cache_clear()
    assert build.load_library()[0] is not None
    assert compiler() == 2
    (again,) = kept(fresh / "cache")
    assert again.stat().st_mode & 0o022 == 0
    # For another user the folder is somebody else's, and so is the one for temporary files.
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    (fresh / "temporary" / f"nmt-kernels-{os.getuid() + 1}").mkdir()
    build.load_library.cache_clear()
    assert build.load_library()[0] is not None
    assert compiler() == 3
    assert kept(fresh / "cache") == [again]
    assert kept(fresh / "temporary") == []


@needs_compiler
@pytest.mark.parametrize("home", ["a file", "none"])
def test_without_a_cache_folder_they_are_compiled_once(
    home: str, fresh: Path, compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that cannot be written to, or none at all: neither HOME nor an entry in the password file."""
    (fresh / "file").touch()
    if home == "a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    for _ in range(2):
        build.load_library.cache_clear()
        assert build.load_library()[0] is not None
    assert compiler() == 1
    assert (fresh / "file").read_bytes() == b""
    (folder,) = (fresh / "temporary").iterdir()
    assert folder.name == f"nmt-kernels-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(kept(folder)) == 1


def test_a_compiler_that_prints_no_utf_8(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = fresh / "cc"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] || exec >&2\nprintf 'Gr\\366\\337e'\n[ $1 = --version ]\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert build.load_library() == (
        None,
        f"{compiler} makes none here: Gr\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}e",
    )


@needs_compiler
def test_they_run_in_the_threads_of_pytorch() -> None:
    """Another OpenMP beside PyTorch's would have threads of its own: twice as many as there are processors."""
    script = (
        "import torch, os\n"
        "from nmt.kernels.compiler import load_library\n"
        "assert load_library()[0] is not None, load_library()\n"
        "print(sorted({os.path.realpath(line.split()[-1]) for line in open('/proc/self/maps') if 'gomp' in line}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.count("gomp") == 1, said.stdout


def test_numbers_by_hand() -> None:
    """Logits ln 1, ln 2, ln 5 and target 2: p = 1/8, 2/8, 5/8; with e = 0.3 the gradient is p - 0.7 onehot - 0.1.

    Of the logits ln 2 is the bias of the second, and ln 0.5 that of the third.
    """
    weight, readout, bias = (
        torch.tensor([[1.0], [1.0], [10.0]]).log(),
        torch.ones(1, 1),
        torch.tensor([1, 2, 0.5]).log(),
    )
    d_bias = torch.ones(3)
    for of_chunk in (chunked.chunk_losses, *([native_chunk_losses] if build.load_library()[0] else [])):
        losses = of_chunk(
            LossChunk(PrepackedProduct(weight), readout, bias, torch.tensor([2]), 0.3, None, d_bias.zero_())
        )
        assert losses.normalizer_N.tolist() == pytest.approx([math.log(8.0)])
        assert losses.expected_N.tolist() == pytest.approx([math.log(5.0)])
        assert losses.d_logits_NV is not None
        assert losses.d_logits_NV[0].tolist() == pytest.approx([0.025, 0.15, -0.175])
        assert d_bias.tolist() == pytest.approx([0.025, 0.15, -0.175])
