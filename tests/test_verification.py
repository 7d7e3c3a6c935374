"""Kernels that are wrong on the machine that trains are found before the first update, and the reference trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.kernels.cross_entropy.reference import Losses
from nmt.kernels.select import Kernels, choose_kernels
from nmt.tasks import base, training, verification
from nmt.tasks.training import train
from nmt.tasks.verification import largest_distance
from tests.support.kernel_params import needs_compiler
from tests.support.labelled_documents import document_config, write_all
from tests.support.training_runs import final_weights, run_config, write_corpus

pytestmark = [pytest.mark.usefixtures("threads_and_generators_as_they_were"), needs_compiler]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path)
    return tmp_path


def with_steeper_loss(kernels: Kernels) -> Kernels:
    """The loss is right, its gradient half as large again."""

    def wrong(readout_NR: Tensor, *others: Any) -> Losses:
        smoothed, likelihood = kernels.cross_entropy(readout_NR, *others)
        return Losses(smoothed + 0.5 * (smoothed - smoothed.detach()), likelihood)

    return replace(kernels, cross_entropy=wrong)


def with_deaf_attention(kernels: Kernels) -> Kernels:
    """No gradient reaches the queries of the attention."""
    steps, backward = kernels.steps, kernels.steps.attention_backward

    def wrong(*tensors: Any, **options: Any) -> None:
        backward(*tensors, **options)
        d_query_QBA = tensors[7]
        d_query_QBA.zero_()

    steps.attention_backward = wrong
    return kernels


def run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, *overrides: str, verify: bool = True, **wrong: Any):
    """The weights of a short run on a CPU that verifies its kernels as on a GPU."""
    change: Callable[[Kernels], Kernels] = wrong.get("change", lambda kernels: kernels)
    monkeypatch.setattr(training, "needs_verification", lambda kernel, device: verify and kernel == "auto")
    monkeypatch.setattr(base, "choose_kernels", lambda *arguments: change(choose_kernels(*arguments)))
    train(run_config(folder, f"run={folder}/{name}", "training.max_steps=3", *overrides))
    return final_weights(folder / name)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize(
    ("change", "name"), [(with_steeper_loss, "cross_entropy"), (with_deaf_attention, "steps")], ids=["loss", "steps"]
)
def test_a_wrong_kernel_is_named_and_the_reference_trains(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: Any, name: str
) -> None:
    weights = run(folder, "wrong", monkeypatch, change=change)
    (warning,) = [
        line for line in (folder / "wrong" / "train.log").read_text().splitlines() if "runtime.kernel" in line
    ]
    assert f"auto trains with reference, as {name} differs from it by " in warning
    assert not differing(weights, run(folder, "reference", monkeypatch, "runtime.kernel=reference"))


@pytest.mark.parametrize("objective", ["likelihood", "r_drop", "scheduled_sampling"])
def test_right_kernels_train_as_if_they_were_not_verified(
    folder: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    overrides = (f"training.objective={objective}", "training.frozen=[encoder.embedding]")
    weights = run(folder, "verified", monkeypatch, *overrides)
    assert "runtime.kernel" not in (folder / "verified" / "train.log").read_text()
    assert "kernels are verified" in (folder / "verified" / "train.log").read_text()
    assert not differing(weights, run(folder, "not", monkeypatch, *overrides, verify=False))


def test_documents_are_verified_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, 20)
    monkeypatch.setattr(training, "needs_verification", lambda kernel, device: True)
    config = document_config(tmp_path, "training.max_steps=1")
    train(config)
    assert "kernels are verified" in (Path(config.run) / "train.log").read_text()


def test_memory_that_the_reference_lacks_ends_no_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(verification, "gradients", out_of_memory)
    run(folder, "run", monkeypatch)
    assert "kernels are not verified: the largest batch needs more memory" in (folder / "run/train.log").read_text()


def test_the_distance_is_relative_to_a_gradient_or_to_all() -> None:
    """One tensor of norm 5 that is 0.5 off; one that is zero in theory, with noise far below the others."""
    expected = {"loss": torch.tensor(2.0), "a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1e-9, 0.0])}
    actual = {"loss": torch.tensor(2.02), "a": torch.tensor([3.0, 4.5]), "b": torch.tensor([-1e-9, 0.0])}
    distance, name = largest_distance(actual, expected)
    assert (distance, name) == (pytest.approx(0.1), "the gradient of a")
    distance, name = largest_distance(actual | {"a": expected["a"]}, expected)
    assert (distance, name) == (pytest.approx(0.01), "the loss")
    # A missing gradient, and one that is no number.
    assert largest_distance({"loss": actual["loss"], "b": actual["b"]}, expected)[0] == pytest.approx(1.0)
    assert largest_distance(actual | {"b": torch.tensor([torch.nan, 0.0])}, expected)[0] == float("inf")
