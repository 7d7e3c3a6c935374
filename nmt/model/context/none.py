"""Every sentence by itself."""

from __future__ import annotations

from typing import Literal

from nmt.config import schema
from nmt.config.registry import PartOptions
from nmt.kernels.select import Kernels
from nmt.model.context.base import CONTEXTS, Context, ContextOptions


class NoContextOptions(ContextOptions):
    """Every sentence is translated by itself."""

    kind: Literal["none"] = "none"
    """Every sentence is translated by itself."""


@CONTEXTS.register("none", NoContextOptions)
class NoContext(Context):
    """Every sentence by itself."""

    def __init__(self, options: PartOptions, model: schema.ModelConfig, hidden_size: int, kernels: Kernels) -> None:
        super().__init__()
