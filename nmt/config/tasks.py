"""Which kind of experiment a YAML describes: its key `task` chooses the sections that all other keys belong to."""

from __future__ import annotations

from nmt.config.document import Node, Problem
from nmt.config.names import advice
from nmt.config.schema import TASKS, ExperimentConfig
from nmt.config.wording import shown


def experiment_of(root: Node) -> type[ExperimentConfig]:
    """The class of the experiment whose YAML has this tree; the first where it names none, or none that there is."""
    named = root.child("task")
    first = next(iter(TASKS.values()))
    return TASKS.get(named.value, first) if named is not None and isinstance(named.value, str) else first


def wrong_task(root: Node) -> Problem | None:
    """The mistake in the name of the task, if there is one."""
    named = root.child("task")
    if named is None or (isinstance(named.value, str) and named.value in TASKS):
        return None
    if isinstance(named.value, str):
        return Problem(named.place, ("task",), f"unknown task {named.value!r}; {advice(named.value, TASKS)}")
    return Problem(named.place, ("task",), f"must be a name ({', '.join(TASKS)}), not {shown(named.value)}")
