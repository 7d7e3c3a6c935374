"""Gradients are exchanged between processes while the backward pass computes the next ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BUCKETS = 8
LARGEST_MB = 25.0
"""PyTorch's own size, from which on links are fully used."""


def exchanging(objective: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The same module, whose backward pass leaves the mean of all processes' gradients.

    Gradients travel in buckets, each as soon as all of its own are there. A bucket of 25 MB takes nearly all gradients
    of a model of some million parameters, and with them those that the backward pass computes last, of the source
    embedding: nothing would travel before it ends. So a bucket is no more than an eighth of the gradients.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in objective.parameters())
    return DistributedDataParallel(
        objective,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        bucket_cap_mb=min(size / 2**20 / BUCKETS, LARGEST_MB),
    )
