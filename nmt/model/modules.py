"""A list of modules that keeps their type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def module_list(modules: Iterable[Module]) -> Sequence[Module]:
    """An `nn.ModuleList`, which registers its members, typed as what it holds: PyTorch types them as `Module`."""
    return cast("Sequence[Module]", nn.ModuleList(modules))
