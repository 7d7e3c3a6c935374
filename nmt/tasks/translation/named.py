"""Test sets by the names that a config gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from nmt.config.names import advice
from nmt.config.registry import PartOptions
from nmt.errors import ConfigError, DataError, NmtError

SetT = TypeVar("SetT")


def named_sets(
    configured: Mapping[str, PartOptions],
    names: Sequence[str],
    read: Callable[[str, PartOptions], SetT],
    *,
    origin: str,
    flags: str,
) -> list[SetT]:
    """The sets of these names in the section `data.test`, all of them where no name is given.

    `origin` stands for the config in messages, and `flags` name files in place of it. Raises `ConfigError`, or
    `DataError` with what is wrong with any of them.
    """
    if not configured:
        raise ConfigError(f"{origin} names no test set; give {flags}")
    unknown = [name for name in names if name not in configured]
    if unknown:
        raise ConfigError(
            *(f"--test-set: {origin} has no test set {name!r}; {advice(name, configured)}" for name in unknown)
        )
    sets, problems = [], []
    for name in names or configured:
        try:
            sets.append(read(name, configured[name]))
        except NmtError as error:
            problems += [f"data.test.{name}: {problem}" for problem in error.problems]
    if problems:
        raise DataError(*problems)
    return sets
