"""What several tests use: a small translator in a checkpoint, made once."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has what it starts in the background ignore interrupts, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if not torch.cuda.is_available():
    # Triton reads it when it is imported: without a GPU its kernels are interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from nmt.checkpoint import Snapshot, write_checkpoint
from nmt.config import TranslationConfig
from nmt.data.batching.pair_batches import collate
from nmt.data.cache import flatten
from nmt.data.tokenizer import TokenizerPair, learn
from nmt.kernels.select import reference_kernels
from nmt.model.translator import Translator
from nmt.runtime import Runtime, rng_state, set_rng_state
from nmt.tasks.components import parse_saved_config
from nmt.tasks.translation.loading import System, TrainedModel, build_system, load_model, vocabulary
from nmt.training.objectives import TranslationObjective

SOURCES = [
    "der hund schläft im garten .",
    "ein kind spielt mit dem ball .",
    "die katze sieht einen kleinen vogel im baum .",
    "zwei frauen lesen .",
    "ein mann läuft schnell über die straße , weil es regnet .",
    "der vogel singt .",
]
REFERENCES = [
    "the dog sleeps in the garden .",
    "a child plays with the ball .",
    "the cat sees a small bird in the tree .",
    "two women read .",
    "a man runs quickly across the street because it rains .",
    "the bird sings .",
]
CONFIG = """\
run: runs/small
data:
  source_language: de
  target_language: en
  train: {{source: train.de, target: train.en}}
  validation: {{source: valid.de, target: valid.en}}
  test: {tests}
tokenizer: {{vocabulary_size: 96}}
model:
  embedding_size: 16
  encoder: {{hidden_size: 16}}
  decoder: {{hidden_size: 32}}
  attention: {attention}
  dropout: {{embedding: 0.0, layer: 0.0, output: 0.0}}
search: {{beam_size: 3, coverage_penalty: {coverage_penalty}}}
"""
UPDATES = 30
CPU = Runtime(torch.device("cpu"), None, "tests")


def small_config(
    attention: str = "bahdanau2015", coverage_penalty: float = 0.0, tests: str = "{}"
) -> TranslationConfig:
    """The config of the small translator; `tests` are its test sets, in YAML."""
    text = CONFIG.format(attention=attention, coverage_penalty=coverage_penalty, tests=tests)
    return parse_saved_config(text, "small.yaml")


def small_translator(
    config: TranslationConfig, tokenizers: TokenizerPair, seed: int, updates: int = UPDATES
) -> Translator:
    """A translator that has learned some of the sentences by heart."""
    torch.manual_seed(seed)
    translator = Translator(config.model, vocabulary(tokenizers), reference_kernels(), config.data.reverse_source)
    optimizer = torch.optim.Adam(translator.parameters(), lr=0.02)
    batch = collate(
        flatten(tokenizers.source.encode(SOURCES)),
        flatten(tokenizers.target.encode(REFERENCES)),
        np.arange(len(SOURCES)),
        tokenizers,
    )
    objective = TranslationObjective(translator, 0.0)
    for _ in range(updates):
        optimizer.zero_grad()
        (objective(batch).smoothed / batch.target_tokens).backward()
        optimizer.step()
    return translator.eval()


def save_small(
    folder: Path,
    tokenizers: TokenizerPair,
    *,
    seed: int = 1,
    attention: str = "bahdanau2015",
    updates: int = UPDATES,
    tests: str = "{}",
    reverse_source: bool = False,
) -> Path:
    """A checkpoint of a small translator."""
    config = small_config(attention, tests=tests)
    data = config.data.model_copy(update={"reverse_source": reverse_source})
    config = config.model_copy(update={"data": data})
    translator = small_translator(config, tokenizers, seed, updates)
    weights = {name: parameter.detach() for name, parameter in translator.named_parameters()}
    write_checkpoint(folder, Snapshot(weights, config, tokenizers, step=seed, epoch=0))
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str


Call = Callable[..., Ended]


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


def give_up_reading_everything() -> None:
    """For a child process (`preexec_fn`): root, too, is refused by the permissions of its own files.

    Takes the capabilities CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from what the child may have after `exec`.
    """
    if os.geteuid() == 0:
        prctl, drop = ctypes.CDLL(None, use_errno=True).prctl, 24
        for capability in (1, 2):
            if prctl(drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Commands set up the log of the whole process; the next test finds it as it was."""
    logger = logging.getLogger("nmt")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate, level = before
    logger.setLevel(level)


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
