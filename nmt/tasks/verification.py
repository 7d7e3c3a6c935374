"""Compares the kernels that `auto` chose with the reference, on the machine that trains, before its first update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from nmt.data.batching import AnyBatch
from nmt.kernels.select import Kernels, reference_kernels
from nmt.runtime import Runtime, all_reduce_sum, is_out_of_memory, logger, rng_state, set_rng_state
from nmt.tasks.base import TaskSetup
from nmt.training.objectives import Objective

BOUNDS: Mapping[torch.dtype | None, float] = {None: 2e-4, torch.bfloat16: 0.15, torch.float16: 0.03}
"""Largest distance of a gradient, relative to its norm, by the dtype of products (None is float32). Rounding makes a
fifth of them at most (docs/performance.md); what a wrong kernel changes is a part of a gradient."""
LOSS_SCALE = 2.0**12
"""Factor of the mean loss, so that no small gradient vanishes in fp16."""
SMALL = 0.01
"""A gradient whose elements have less than this share of the root mean square of all is measured by the latter: those
that are zero in theory are nothing but rounding."""


def verified(setup: TaskSetup, runtime: Runtime) -> TaskSetup:
    """Returns the setup, with the reference in place of kernels whose loss or gradients are wrong on this machine.

    The largest batch runs without dropout, once by the kernels and once by the reference. Where the gradients lie
    further apart than rounding explains, a warning names the kernel, and the reference trains. Random generators and
    weights stay as they are.
    """
    before = rng_state()
    try:
        wrong = list(differences(setup, runtime))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        wrong = []
        logger.info("kernels are not verified: the largest batch needs more memory by the reference than there is")
    finally:
        set_rng_state(before)
    for line in wrong:
        logger.warning("runtime.kernel: auto trains with reference, as %s", line)
    # All processes train with the same kernels.
    if not int(all_reduce_sum(torch.tensor(len(wrong)))):
        return setup
    setup = replace(setup, objective=rebuilt(setup, reference_kernels()), kernels=reference_kernels())
    if not setup.runs_from_graphs:
        return setup
    stream: Any = setup.stream
    return replace(setup, stream=replace(stream, in_few_shapes=False), runs_from_graphs=False)


def differences(setup: TaskSetup, runtime: Runtime) -> Iterator[str]:
    """Yields a line for each kernel whose loss or gradients are not those of the reference."""
    bound, reference = BOUNDS[runtime.autocast_dtype], reference_kernels()
    on_host = setup.stream.largest_batch()
    batch = on_host.to(runtime.device)
    trained = on_host.masked(on_host.memory_M.to(runtime.device)) if setup.runs_from_graphs else batch
    expected = gradients(rebuilt(setup, reference), batch, runtime)
    together, name = largest_distance(gradients(setup.objective, trained, runtime), expected)
    if together <= bound:
        logger.debug("kernels are verified: loss and gradients of the largest batch are those of the reference")
        return
    found = False
    for field in fields(Kernels):
        chosen = getattr(setup.kernels, field.name)
        if field.name in ("reason", "warning", "skips_positions") or chosen == getattr(reference, field.name):
            continue
        alone = rebuilt(setup, replace(reference, **{field.name: chosen}))
        distance, of_field = largest_distance(gradients(alone, batch, runtime), expected)
        if distance > bound:
            found = True
            yield f"{field.name} differs from it by {distance:.2g} of {of_field}, where {bound:g} would be rounding"
    if not found:
        yield f"all kernels together differ from it by {together:.2g} of {name}, where {bound:g} would be rounding"


def rebuilt(setup: TaskSetup, kernels: Kernels) -> Objective:
    """Returns the objective with a new network of other kernels and the same weights."""
    objective = setup.build(kernels)
    objective.model.load_state_dict(setup.objective.model.state_dict())
    for parameter, before in zip(objective.model.parameters(), setup.objective.model.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
    return objective


def gradients(objective: Objective, batch: AnyBatch, runtime: Runtime) -> dict[str, Tensor]:
    """Returns the loss and the gradient of each parameter by name, without dropout; none stays with the network."""
    objective, model = objective.without_sampling(), objective.model
    was_training = model.training
    model.eval()
    scales = [LOSS_SCALE / max(count, 1) for count in objective.counts(batch)]
    with runtime.autocast():
        sums = objective(batch)
    loss = sums.loss(scales)
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad
            parameter.grad = None
    model.train(was_training)
    return found


def largest_distance(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """Returns the largest distance of a tensor from the one of its name, relative to its norm, and the name."""
    names = [name for name in expected if name != "loss"]
    squares = torch.stack([expected[name].float().square().sum() for name in names])
    numbers = torch.tensor([float(expected[name].numel()) for name in names], device=squares.device)
    least = SMALL * (squares.sum() / numbers.sum() * numbers).sqrt()
    norms = torch.cat([squares.sqrt().maximum(least), expected["loss"].float().abs().view(1)])
    names.append("loss")
    zero = expected["loss"].new_zeros(())
    apart = torch.stack([(actual.get(name, zero) - expected[name]).float().norm() for name in names])
    relative = (apart / norms).nan_to_num(torch.inf, torch.inf).tolist()
    distance = max(relative)
    return distance, f"the gradient of {names[relative.index(distance)]}".replace("the gradient of loss", "the loss")
