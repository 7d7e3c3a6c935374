"""PyTorch's switches of a whole process, which a training sets."""

from __future__ import annotations

from typing import Any

import torch


def switches() -> dict[str, Any]:
    """The value of each switch by name."""
    return {
        "matmul precision": torch.get_float32_matmul_precision(),
        "cudnn tf32": torch.backends.cudnn.allow_tf32,
        "cudnn": torch.backends.cudnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fills memory": torch.utils.deterministic.fill_uninitialized_memory,
        "synchronization": torch.cuda.get_sync_debug_mode() if torch.cuda.is_initialized() else 0,
    }


def restore(values: dict[str, Any]) -> None:
    """Sets each switch that differs; one that is set has its price in some versions, or warns."""
    now = switches()
    if now["matmul precision"] != values["matmul precision"]:
        torch.set_float32_matmul_precision(values["matmul precision"])
    if now["cudnn tf32"] != values["cudnn tf32"]:
        torch.backends.cudnn.allow_tf32 = values["cudnn tf32"]
    if now["cudnn"] != values["cudnn"]:
        torch.backends.cudnn.enabled = values["cudnn"]
    if (now["deterministic"], now["warn only"]) != (values["deterministic"], values["warn only"]):
        torch.use_deterministic_algorithms(values["deterministic"], warn_only=values["warn only"])
    torch.utils.deterministic.fill_uninitialized_memory = values["fills memory"]
    if now["synchronization"] != values["synchronization"]:
        torch.cuda.set_sync_debug_mode(values["synchronization"])
