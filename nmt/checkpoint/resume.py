"""Which keys of a config may change when a run is resumed."""

from __future__ import annotations

from nmt.config import Experiment, difference

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


def resume_conflicts(old: Experiment, new: Experiment) -> list[str]:
    """One line for each key that differs and may not; empty where a run of `old` can go on with `new`."""
    if old.task != new.task:
        return [f"task: the run was started with {old.task!r}, now it is {new.task!r}"]
    return [
        f"{path}: the run was started with {before!r}, now it is {after!r}"
        for path, (before, after) in difference(old, new).items()
        if not any(path == key or path.startswith(key + ".") for key in CHANGEABLE)
    ]
