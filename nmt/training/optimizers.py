"""Optimizers and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn, optim

from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import Probability
from nmt.runtime import widest_dtype

Rate = Annotated[float, Field(gt=0.0, le=1_000.0)]
NotNegative = Annotated[float, Field(ge=0.0, le=1_000.0)]

OPTIMIZERS: Registry[optim.Optimizer] = Registry("optimizer")

RATES = ("lr", "initial_lr")
"""Settings of a parameter group that change during a run. All others come from the config."""


class OptimizerOptions(PartOptions):
    """Options of all optimizers."""

    learning_rate: Rate = 1e-3
    """Learning rate at the top of the schedule."""
    weight_decay: NotNegative = 0.0
    """Each matrix times this is added to its gradient; biases and normalisations never decay."""


class AdamOptions(OptimizerOptions):
    """Adam."""

    kind: Literal["adam"] = "adam"
    """Adam (Kingma 2015)."""
    betas: tuple[Probability, Probability] = (0.9, 0.98)
    """Decay of the averages of the gradient and of its square."""
    epsilon: Rate = 1e-8
    """Added to the root of the squared gradient."""


class AdamWOptions(AdamOptions):
    kind: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    """Adam with decoupled weight decay (Loshchilov 2019)."""
    # As measured: docs/log.md.
    weight_decay: NotNegative = 0.3
    """Each update shrinks every matrix by this times the learning rate; biases and normalisations never shrink."""


class SgdOptions(OptimizerOptions):
    kind: Literal["sgd"] = "sgd"
    learning_rate: Rate = 1.0
    momentum: Probability = 0.0
    """Momentum."""


def step_where(optimizer: optim.Optimizer, is_finite: Tensor) -> None:
    """Runs a step that changes nothing, moments and counts included, if the gradients are not finite.

    Fused optimizers read `found_inf` on the device, as `torch.amp.GradScaler` sets it. Others wait for the device.
    """
    if not all(group.get("fused") for group in optimizer.param_groups):
        if is_finite:
            optimizer.step()
        return
    setattr(optimizer, "found_inf", (~is_finite).to(torch.float32))  # noqa: B010 - it has no declaration
    optimizer.step()
    delattr(optimizer, "found_inf")  # no part of its state


@contextmanager
def rate_on_device(optimizer: optim.Optimizer, rate: Tensor) -> Iterator[None]:
    """While entered, a step reads the learning rate from a tensor, and may be captured as part of a CUDA graph."""
    is_captured = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    before = [dict(group) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "capturable" in group:  # PyTorch insists on it in a capture, and warns of it elsewhere
            group["capturable"] = is_captured
    try:
        yield
    finally:
        for group, settings in zip(optimizer.param_groups, before, strict=True):
            group.update(settings)


def with_own_settings(saved: Mapping[str, Any], optimizer: optim.Optimizer) -> dict[str, Any]:
    """Returns a saved `optimizer.state_dict()` whose groups have this optimizer's settings, except the learning rates.

    Other settings may not differ: the config of a run stays as it is. Another version of PyTorch may have named them
    differently, or not at all.
    """
    own = optimizer.state_dict()["param_groups"]
    pairs = zip(own, saved["param_groups"], strict=True)
    return {**saved, "param_groups": [group | {key: theirs[key] for key in RATES} for group, theirs in pairs]}


def values_per_weight(options: PartOptions) -> int:
    """Returns the numbers that the optimizer stores for each weight."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = OPTIMIZERS.build(options, nn.ParameterList([weight]))
    weight.grad = torch.zeros(1)
    optimizer.step()
    return sum(value.shape == (1,) for value in optimizer.state[weight].values())


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns two groups of the parameters that are trained: matrices, which decay, and the rest, which does not."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]


@OPTIMIZERS.register("adamw", AdamWOptions)
def build_adamw(options: AdamOptions, module: nn.Module, rule: Any = optim.AdamW) -> optim.Optimizer:
    """Adam with decoupled weight decay."""
    groups = _groups(module, options.weight_decay)
    optimizer: optim.Optimizer = rule(
        groups, lr=options.learning_rate, betas=options.betas, eps=options.epsilon, fused=True
    )
    return optimizer


OPTIMIZERS.register("adam", AdamOptions)(partial(build_adamw, rule=optim.Adam))


@OPTIMIZERS.register("sgd", SgdOptions)
def build_sgd(options: SgdOptions, module: nn.Module) -> optim.Optimizer:
    """Stochastic gradient descent."""
    groups = _groups(module, options.weight_decay)
    optimizer = optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum, fused=True)
    if options.momentum:
        # PyTorch creates it in the first step without a value, which it would keep if that step is skipped.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class MovingAverage:
    """Exponential moving average of weights (Polyak 1992), in their own format or float32.

    The decay grows with the updates n, min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters)
        # On the device, where it is known whether an update counts.
        device = self.parameters[0].device
        self._updates = torch.zeros((), dtype=widest_dtype(device), device=device)
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, is_finite: Tensor) -> None:
        """Adds the current weights to the average, unless the update was skipped. Does not synchronize."""
        self._updates += is_finite
        decay = ((1 + self._updates) / (10 + self._updates)).clamp(max=self.decay)
        share = ((1.0 - decay) * is_finite).to(self.averages[0].dtype)
        if share.is_cpu:
            # In one pass over the memory, not in the three of the calls below.
            for average, parameter in zip(self.averages, self.parameters, strict=True):
                average.lerp_(parameter, share)
            return
        differences = torch._foreach_sub(self.parameters, self.averages)
        torch._foreach_mul_(differences, share)
        torch._foreach_add_(self.averages, differences)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges weights and averages; a second call exchanges them back."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)

    def state(self) -> dict[str, Any]:
        """Returns the state to resume from, as copies that a later `swap` does not change. Synchronizes."""
        return {"updates": int(self._updates), "averages": [average.clone() for average in self.averages]}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        self._updates.fill_(state["updates"])
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
