"""The mean of several checkpoints' weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nmt.checkpoint.folder import load_model_files
from nmt.errors import CheckpointError


def average(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Mean of each tensor over the checkpoints (Junczys-Dowmunt 2016), added up in float64, in the type it had.

    Integer tensors must be equal everywhere. Raises `CheckpointError` where checkpoints do not fit each other.
    """
    if not folders:
        raise CheckpointError("no checkpoint to average; name at least one")
    first = load_model_files(folders[0])
    sums = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in first.tensors.items()}
    fingerprints = (first.tokenizers.source.fingerprint, first.tokenizers.target.fingerprint)
    for folder in folders[1:]:
        other = load_model_files(folder)
        if (other.tokenizers.source.fingerprint, other.tokenizers.target.fingerprint) != fingerprints:
            raise CheckpointError(f"{folder}: has another vocabulary than {folders[0]}; they cannot be averaged")
        problems = [
            f"{folder}: {name} is {_shape(other.tensors, name)}, in {folders[0]} it is {_shape(first.tensors, name)}"
            for name in sorted(sums.keys() | other.tensors.keys())
            if _shape(other.tensors, name) != _shape(first.tensors, name)
        ]
        if problems:
            raise CheckpointError(*problems)
        for name, tensor in other.tensors.items():
            if tensor.is_floating_point():
                sums[name] += tensor
            elif not torch.equal(tensor, sums[name]):
                raise CheckpointError(f"{folder}: {name} counts in whole numbers and is not the one of {folders[0]}")
    return {
        name: (total / len(folders)).to(first.tensors[name].dtype) if total.is_floating_point() else total
        for name, total in sums.items()
    }


def _shape(tensors: dict[str, Tensor], name: str) -> str:
    return f"{tensors[name].dtype} {tuple(tensors[name].shape)}" if name in tensors else "missing"
