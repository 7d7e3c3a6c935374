"""Learning-rate schedules, optimizers, the moving average and early stopping, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nmt.config import schema
from nmt.training.optimizers import OPTIMIZERS, AdamWOptions, MovingAverage, SgdOptions
from nmt.training.progress import EarlyStopping
from nmt.training.schedules import SCHEDULES, Schedule


def schedule(kind: str, horizon: int = 110, **options: float) -> Schedule:
    return SCHEDULES.build(SCHEDULES[kind].options(**options), horizon)


@pytest.mark.parametrize("kind", list(SCHEDULES))
def test_warm_up_rises_in_a_straight_line(kind: str) -> None:
    rising = schedule(kind, warmup_steps=10)
    assert [rising.factor(step) for step in (1, 5, 9)] == pytest.approx([0.1, 0.5, 0.9])
    assert rising.factor(10) == 1.0


@pytest.mark.parametrize("kind", list(SCHEDULES))
def test_without_warm_up_the_first_update_is_at_the_top(kind: str) -> None:
    assert schedule(kind, horizon=10_000, warmup_steps=0).factor(1) == pytest.approx(1.0, abs=1e-3)


def test_courses_by_hand() -> None:
    """Horizon 110, warm-up 10: update 60 is half-way, 110 the end."""
    assert schedule("constant", warmup_steps=10).factor(10_000) == 1.0
    assert schedule("inverse_square_root", warmup_steps=100).factor(400) == pytest.approx(0.5)
    cosine = schedule("cosine", warmup_steps=10, floor=0.1)
    assert [cosine.factor(step) for step in (35, 60, 110, 500)] == pytest.approx(
        [0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1, 0.1]
    )
    linear = schedule("linear", warmup_steps=10, floor=0.2)
    assert [linear.factor(step) for step in (60, 85, 110, 500)] == pytest.approx([0.6, 0.4, 0.2, 0.2])


def test_the_warm_up_of_a_cosine_is_a_tenth_of_the_updates_but_no_more_than_400() -> None:
    assert [schedule("cosine", horizon).warmup for horizon in (5, 110, 3_000, 100_000)] == [0, 11, 300, 400]
    assert schedule("cosine", 3_000, warmup_steps=0).factor(1) == pytest.approx(1.0)


def test_plateau_halves_after_patience_and_goes_on_from_its_state() -> None:
    plateau = schedule("plateau", patience=2, decrease=0.5, floor=0.2)
    factors = []
    for value in (1.0, 0.9, 2.0, 1.9, 2.0, 2.0, 2.0, 2.0, 2.0):
        plateau.observe(value)
        factors.append(plateau.factor(1))
    # Two validations in a row that are not above the best: at the 5th, the 7th, and the 9th, where the floor is.
    assert factors == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2]
    other = schedule("plateau", patience=2, decrease=0.5, floor=0.2)
    other.restore(plateau.state())
    assert other.state() == plateau.state()
    assert other.factor(1) == 0.2


def test_only_matrices_decay() -> None:
    module = nn.Linear(2, 2)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    OPTIMIZERS.build(AdamWOptions(learning_rate=0.1, weight_decay=0.5), module).step()
    # Decoupled: w <- w - rate * decay * w (Loshchilov 2019, algorithm 2).
    torch.testing.assert_close(module.weight.detach(), before["weight"] * 0.95)
    assert torch.equal(module.bias, before["bias"])


def test_gradient_descent_by_hand() -> None:
    """w = 1, gradient 0.5, rate 0.1, momentum 0.9: 1 - 0.05, then velocity 0.9 * 0.5 + 0.5 = 0.95: 0.95 - 0.095."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    rule = OPTIMIZERS.build(SgdOptions(learning_rate=0.1, momentum=0.9), module)
    values = []
    for _ in range(2):
        module.weight.grad = torch.full_like(module.weight, 0.5)
        rule.step()
        values.append(module.weight.item())
    assert values == pytest.approx([0.95, 0.855])


def test_moving_average_by_hand() -> None:
    """Decay min(0.9, (1 + n) / (10 + n)): 2/11 at the first update, 3/12 at the second."""
    weight = torch.tensor([0.0])
    average = MovingAverage([weight], 0.9)
    yes, no = torch.tensor(True), torch.tensor(False)
    weight.fill_(1.0)
    average.update(yes)
    assert average.averages[0].item() == pytest.approx(9 / 11)
    average.update(no)
    assert average.averages[0].item() == pytest.approx(9 / 11)
    assert average.state()["updates"] == 1
    weight.fill_(2.0)
    average.update(yes)
    assert average.averages[0].item() == pytest.approx(0.25 * 9 / 11 + 0.75 * 2)
    average.restore({"updates": 10_000, "averages": [torch.zeros(1)]})
    average.update(yes)
    assert average.averages[0].item() == pytest.approx(0.2)
    assert average.state()["updates"] == 10_001


def test_swapping_twice_changes_nothing() -> None:
    weight = torch.tensor([1.0, 2.0])
    average = MovingAverage([weight], 0.9)
    weight.add_(5.0)
    average.swap()
    assert weight.tolist() == [1.0, 2.0]
    average.swap()
    assert weight.tolist() == [6.0, 7.0]
    assert average.averages[0].tolist() == [1.0, 2.0]


def test_stopping_waits_for_patience_and_knows_which_way_is_better() -> None:
    stopping = EarlyStopping(schema.EarlyStoppingConfig(metric="loss", patience=2, min_delta=0.1))
    seen = [
        (stopping.observe(step, {"loss": loss}), stopping.is_over) for step, loss in enumerate([3, 2, 1.95, 2.5], 1)
    ]
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert stopping.best_step == 2
    rising = EarlyStopping(schema.EarlyStoppingConfig(metric="bleu", patience=0))
    seen = [rising.observe(step, {"bleu": bleu, "loss": 1.0}) for step, bleu in enumerate([1.0, 2.0, 1.5], 1)]
    assert seen == [True, True, False]
    assert not rising.is_over


def test_a_metric_that_is_no_number_is_never_an_improvement() -> None:
    stopping = EarlyStopping(schema.EarlyStoppingConfig(metric="loss"))
    assert stopping.observe(1, {"loss": math.nan})
    assert stopping.observe(2, {"loss": 3.0})
    assert not stopping.observe(3, {"loss": math.nan})


def test_between_validations_of_one_value_the_loss_decides_and_patience_still_runs_out() -> None:
    stopping = EarlyStopping(schema.EarlyStoppingConfig(metric="bleu", patience=2))
    best = [stopping.observe(step, {"bleu": 0.0, "loss": loss}) for step, loss in enumerate([3.0, 2.0, 2.5], 1)]
    assert best == [True, True, False]
    assert stopping.best_step == 2
    assert stopping.is_over
