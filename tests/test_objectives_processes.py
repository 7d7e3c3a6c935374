"""Two processes train with every objective; where nothing is drawn, as one process with twice the batches."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nmt.tasks.training import train
from tests.support.training_runs import CONFIG, final_weights, records, run_config, write_corpus

SETTINGS = (
    "model.dropout={embedding: 0, layer: 0, output: 0}",
    "training.max_steps=4",
    "training.max_epochs=null",
    "training.batch_tokens=64",
)


def train_together(folder: Path, *overrides: str) -> None:
    """Trains the run `together` in two processes."""
    (folder / "together.yaml").write_text(CONFIG.format(folder=folder), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["--config", str(folder / "together.yaml"), *(f"--set={each}" for each in overrides)]
    command = [*torchrun, "-m", "nmt.cli.train", *arguments, f"--set=run={folder}/together"]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_two_processes_agree_on_r_drop(tmp_path: Path) -> None:
    """Without dropout the divergence is 0, and its gradient too, so that the updates are those of the likelihood."""
    write_corpus(tmp_path)
    plain = (*SETTINGS, "training.objective=r_drop")
    train(run_config(tmp_path, *plain, "training.accumulation=2", f"run={tmp_path}/alone"))
    train_together(tmp_path, *plain)
    names = ("step", "loss", "divergence", "gradient_norm")
    one, two = ([[r[name] for name in names] for r in records(tmp_path / run)] for run in ("alone", "together"))
    assert len(one) == 4
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-5)
    weights, shared = final_weights(tmp_path / "alone"), final_weights(tmp_path / "together")
    for name, weight in weights.items():
        torch.testing.assert_close(shared[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["{kind: scheduled_sampling, k: 1}", "{kind: minimum_risk, samples: 4}"])
def test_two_processes_train_with_what_they_draw(tmp_path: Path, objective: str) -> None:
    write_corpus(tmp_path)
    train(run_config(tmp_path, *SETTINGS, f"run={tmp_path}/base"))
    train_together(tmp_path, *SETTINGS, f"training.objective={objective}", f"training.start_from={tmp_path}/base")
    steps = records(tmp_path / "together")
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert all(math.isfinite(record["loss"]) and record["gradient_norm"] > 0.0 for record in steps)
    before, after = final_weights(tmp_path / "base"), final_weights(tmp_path / "together")
    assert any(not after[name].equal(weight) for name, weight in before.items())
