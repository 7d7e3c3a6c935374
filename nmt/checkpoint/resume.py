"""What must be as it was when a run is resumed: keys of the config, and the structure of the training state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nmt.config import ExperimentConfig, difference

CHANGEABLE = (
    "run",
    "data.test",
    "data.cache",
    "data.workers",
    "training.max_steps",
    "training.max_epochs",
    "training.log_every",
    "training.validate_every",
    "training.save_every",
    "training.keep_last",
    "training.non_finite_limit",
    "training.early_stopping.patience",
    "validation",
    "search",
    "runtime",
)
"""What can change under a run without making its weights, optimizer state or position in the data meaningless.

Everything else is refused. A change of `runtime.precision` or `runtime.kernel` keeps the meaning, not the last bit.
"""


def resume_conflicts(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """One line for each key that differs and may not; empty where a run of `old` can go on with `new`."""
    if old.task != new.task:
        return [f"task: the run was started with {old.task!r}, now it is {new.task!r}"]
    return [
        f"{path}: the run was started with {before!r}, now it is {after!r}"
        for path, (before, after) in difference(old, new).items()
        if not any(path == key or path.startswith(key + ".") for key in CHANGEABLE)
    ]


def state_problems(saved: object, expected: object, name: str = "") -> list[str]:
    """Returns one line for each value of a saved training state that differs in kind from the expected one.

    Mappings have the same keys, sequences the same length, and tensors the same shape and number format. Whole numbers
    are not negative. Where None is expected, a number or a tensor may stand as well.
    """
    if isinstance(expected, Mapping):
        if not isinstance(saved, Mapping):
            return [f"{name} is of type {type(saved).__name__}, not a mapping"]
        inner = name and f"{name}."
        problems = [f"{inner}{key} is missing" for key in expected if key not in saved]
        problems += [f"{inner}{key} belongs to no part of this training" for key in saved if key not in expected]
        for key in expected:
            if key in saved:
                problems += state_problems(saved[key], expected[key], f"{inner}{key}")
        return problems
    if isinstance(expected, (list, tuple)):
        if not isinstance(saved, (list, tuple)):
            return [f"{name} is of type {type(saved).__name__}, not a sequence"]
        if len(saved) != len(expected):
            return [f"{name} has {len(saved)} values, not {len(expected)}"]
        pairs = zip(saved, expected, strict=True)
        return [line for i, (one, other) in enumerate(pairs) for line in state_problems(one, other, f"{name}.{i}")]
    if isinstance(expected, Tensor):
        if not isinstance(saved, Tensor):
            return [f"{name} is of type {type(saved).__name__}, not a tensor"]
        found, wanted = (f"{tuple(each.shape)} of {each.dtype}" for each in (saved, expected))
        return [] if found == wanted else [f"{name} has the shape {found}, not {wanted}"]
    if expected is None:
        return [] if saved is None or isinstance(saved, (int, float, Tensor)) else [f"{name} is no number"]
    kinds = (int, float) if type(expected) is float else (type(expected),)
    if type(saved) not in kinds:
        return [f"{name} is of type {type(saved).__name__}, not {type(expected).__name__}"]
    return [f"{name} is negative"] if type(expected) is int and isinstance(saved, int) and saved < 0 else []
