"""Fixtures for all tests, and what must be set before anything is imported."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has what it starts in the background ignore interrupts, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if not torch.cuda.is_available():
    # Triton reads it when it is imported: without a GPU its kernels are interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from nmt.data.tokenizer import TokenizerPair, learn
from nmt.kernels.linear import onednn
from nmt.runtime import rng_state, set_rng_state
from nmt.tasks.translation.loading import System, TrainedModel, build_system, load_model
from tests.support.commands import Call, Ended
from tests.support.models import CPU, REFERENCES, SOURCES, save_small, small_config
from tests.support.switches import restore, switches


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Run a command in this process, as its entry point would: `call(main, *arguments, stdin=b"...")`."""

    def run(main: Callable[[], None], *arguments: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = capfdbinary.readouterr()
        return Ended(int(caught.value.code or 0), output.decode(), errors.decode())

    return run


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Commands set up the log of the whole process; the next test finds it as it was."""
    logger = logging.getLogger("nmt")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate, level = before
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _switches_as_they_were() -> Iterator[None]:
    """PyTorch's switches are those of the whole process; the next test finds them as they were.

    cuDNN's float32 is a true one, else no bound could follow from its rounding.
    """
    before = switches()
    torch.backends.cudnn.allow_tf32 = False
    variable = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    restore(before)
    if variable is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.fixture(scope="session")
def tokenizers() -> TokenizerPair:
    """One small vocabulary for both languages."""
    return learn(small_config().tokenizer, lambda: list(zip(SOURCES, REFERENCES, strict=True)), seed=1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> Path:
    """The folder of the small translator."""
    return save_small(tmp_path_factory.mktemp("models") / "small", tokenizers)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> TrainedModel:
    """The small translator as it is loaded."""
    return load_model(checkpoint, None, CPU)


@pytest.fixture(scope="session")
def system(model: TrainedModel) -> System:
    """The small translator as something that translates."""
    return build_system([model], CPU)


@pytest.fixture
def threads_and_generators_as_they_were() -> Iterator[None]:
    """For tests that train: a training sets both."""
    threads, state = torch.get_num_threads(), rng_state()
    yield
    torch.set_num_threads(threads)
    set_rng_state(state)


@pytest.fixture
def every_product_suits_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN multiplies small matrices, too, and on any processor; in bf16 by as many rows as with AMX."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr(onednn, "_vectors", lambda: "AVX512")
    monkeypatch.setattr(onednn, "FEWEST_WEIGHTS", 1)
    monkeypatch.setattr(onednn, "FEWEST_ROWS", 1)
    monkeypatch.setattr(onednn, "has_amx", lambda: True)
