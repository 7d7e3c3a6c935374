"""The page about adding a recurrent cell is followed in a copy of the project, which then trains with the cell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kernel_params import needs_compiler
from tests.support.training_runs import write_corpus

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding_a_cell.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif((ROOT / "nmt/kernels/mgu").exists(), reason="the page was followed in this project")

TRUTHS = """
import pytest
import torch

from nmt.kernels.steps import reference_step
from tests.support.networks import INPUT_FEEDING, model_options, network
from tests.test_model import (
    test_a_sentence_does_not_feel_its_batch,
    test_every_parameter_gets_a_gradient,
    test_gradients_are_those_of_finite_differences,
    test_scan_is_step_repeated,
    test_what_stands_in_the_padding_changes_nothing,
)

for wiring in ("bahdanau", "conditional", "luong", "gnmt"):
    layers = {"encoder_layers": 2, "decoder_layers": 2 if wiring == "gnmt" else 1}
    options = {"cell": "mgu", "wiring": wiring, "wiring_options": INPUT_FEEDING.get(wiring), **layers}
    test_scan_is_step_repeated(options)
    test_a_sentence_does_not_feel_its_batch(options)
    test_every_parameter_gets_a_gradient(options)
    test_what_stands_in_the_padding_changes_nothing(options)
test_gradients_are_those_of_finite_differences({"cell": "mgu"})
reasons = network(model_options(cell="mgu")).unsupported_reasons()
assert reasons.recurrence == "model.decoder.cell has no native or Triton kernel"

# One unit: a = (0, 0.1), b = (ln 3, 0.4), h = 0.5: f = 3/4, n = tanh(0.1 + 0.75 * 0.4) = tanh 0.4 = 0.379949,
# h' = 0.25 * 0.5 + 0.75 * 0.379949 = 0.409962.
from_state = torch.tensor([3.0, 1.0]).log() + torch.tensor([0.0, 0.4])
(after,) = reference_step("mgu")(torch.tensor([0.0, 0.1]), from_state, (torch.tensor([0.5]),))
assert after.item() == pytest.approx(0.409962, abs=1e-6)
"""

TRAINING = """
import sys
from pathlib import Path

from nmt.tasks.training import train
from tests.support.training_runs import records, run_config

folder = Path(sys.argv[1])
config = run_config(folder, "model.encoder.cell=mgu", "model.decoder.cell=mgu", "training.max_epochs=2")
train(config)
losses = [each["loss"] for each in records(config.run, "validation")]
assert losses[-1] < losses[0], losses
"""

RECORDED = """
from nmt.kernels.steps import StepKernels
from tests.support.networks import INPUT_FEEDING
from tests.test_recurrence import test_a_recorded_recurrence_is_that_of_autograd

for wiring in ("bahdanau", "luong"):
    options = {"cell": "mgu", "wiring": wiring, "wiring_options": INPUT_FEEDING.get(wiring)}
    test_a_recorded_recurrence_is_that_of_autograd(options, StepKernels("native"))
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def run(folder: Path, *arguments: str) -> None:
    """Runs Python in a copy of the project, whose modules come first."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which somebody has done what the page says, but for the fast form."""
    copy = tmp_path_factory.mktemp("copy")
    for part in ("nmt", "scripts", "tests", "configs", "docs/adding_a_cell.md", "pyproject.toml"):
        source, place = ROOT / part, copy / part
        place.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place)
    equation, line, _ = blocks("python")
    folder, cells = copy / "nmt/kernels/mgu", copy / "nmt/model/cells.py"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Minimal gated unit."""\n', encoding="utf-8")
    (folder / "reference.py").write_text(equation, encoding="utf-8")
    text = cells.read_text(encoding="utf-8")
    cells.write_text(f"{text}\n\n{line}", encoding="utf-8")
    run(copy, "scripts/make_reference.py")
    return copy


def test_the_cell_is_in_every_wiring_what_a_cell_is(followed: Path) -> None:
    run(followed, "-m", "ruff", "check", "--no-cache", "nmt")
    run(followed, "-m", "ruff", "format", "--no-cache", "--check", "nmt")
    run(followed, "-c", TRUTHS)


def test_the_cell_trains_in_encoder_and_decoder(followed: Path, tmp_path: Path) -> None:
    assert blocks("yaml") == ["model:\n  encoder: {cell: mgu}\n  decoder: {cell: mgu}\n"]
    write_corpus(tmp_path)
    run(followed, "-c", TRAINING, str(tmp_path))


@needs_compiler
def test_its_fast_form_is_its_equation(followed: Path) -> None:
    """After the tests above, which find none."""
    folder, kernels = followed / "nmt/kernels/mgu", followed / "nmt/kernels/kernels.h"
    (header,) = blocks("c")
    (folder / "mgu.h").write_text(header, encoding="utf-8")
    (folder / "native.py").write_text(blocks("python")[2], encoding="utf-8")
    before, include = '#include "lstm/lstm.h"\n', '#include "mgu/mgu.h"\n'
    text = kernels.read_text(encoding="utf-8")
    assert text.count(before) == 1
    assert include.strip() in PAGE
    kernels.write_text(text.replace(before, before + include), encoding="utf-8")
    parity = followed / "tests/test_kernel_parity.py"
    text = parity.read_text(encoding="utf-8")
    assert text.count("GATES = {") == 1
    parity.write_text(text.replace("GATES = {", 'GATES = {"mgu": 2, '), encoding="utf-8")
    run(followed, "-m", "ruff", "check", "--no-cache", "nmt")
    run(followed, "-m", "ruff", "format", "--no-cache", "--check", "nmt")
    chosen = "test_a_step_of_a_cell and mgu and native"
    run(followed, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(parity), "-k", chosen)
    run(followed, "-c", RECORDED)
