"""Process group of a training: joining and leaving it, and its collective operations."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nmt.errors import ConfigError, TrainingError

_TIMEOUT = timedelta(hours=6)
"""Ranks wait while rank 0 learns a tokenizer. The death of a rank needs no short timeout: torchrun ends the others."""
_RELEASES_LOCK = "2.9"
"""First version of PyTorch that releases Python's lock while a group is destroyed and gloo's threads are waited for. In
earlier ones a thread that drops its last tensors needs this lock too: without a pause before, both wait for ever."""
_PAUSE = 0.2
"""Seconds."""

_LOST = re.compile(
    r"gloo/.*(Connection (closed|reset)|Broken pipe|[Rr]ead error|[Ww]rite error|[Tt]imed out)", re.DOTALL
)
"""Text of gloo's errors when the process at the other end has ended; they have no class of their own."""

Value = TypeVar("Value")


def ranks() -> tuple[int, int, int]:
    """Returns rank, world size and local rank from the environment that `torchrun` sets."""
    if os.environ.get("WORLD_SIZE") is None:
        return 0, 1, 0
    numbers = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        text = os.environ.get(name, "")
        if not text.isdecimal():
            raise ConfigError(f"environment variable {name}={text!r} is no number; start several processes by torchrun")
        numbers.append(int(text))
    rank, world, local_rank = numbers
    if not rank < world:
        raise ConfigError(f"environment: RANK={rank} is not below WORLD_SIZE={world}; start processes by torchrun")
    if world > 1 and not dist.is_available():
        raise ConfigError(f"environment: WORLD_SIZE={world}, but this build of PyTorch has no torch.distributed")
    return rank, world, local_rank


def join_group(rank: int, world: int, device: torch.device) -> None:
    """Joins the process group; a second call does nothing. Raises `ConfigError` where the others cannot be reached."""
    if not _grouped():
        # Both backends: small host-side values (counts, texts) go through gloo without a copy to the GPU. With its GPU,
        # NCCL connects at once, so that no exchange of a training waits for that, and a barrier does not guess the GPU.
        backend, gpu = ("cpu:gloo,cuda:nccl", device) if device.type == "cuda" else ("gloo", None)
        try:
            dist.init_process_group(backend, rank=rank, world_size=world, timeout=_TIMEOUT, device_id=gpu)
        except dist.DistNetworkError as error:
            address = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"environment: the {world} processes cannot meet at {address} (MASTER_ADDR and MASTER_PORT): {reason}"
            ) from error


@contextmanager
def watching_the_others() -> Iterator[None]:
    """Raises a `TrainingError` in place of the error of the process group when another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not (_grouped() and (isinstance(error, dist.DistError) or _LOST.search(str(error)))):
            raise
        raise TrainingError(
            f"another of the {dist.get_world_size()} processes has ended; its own messages say why. The same command "
            "goes on from the last checkpoint"
        ) from error


def tear_down() -> None:
    """Leaves the process group, where there is one."""
    if _grouped():
        if torch.__version__ < _RELEASES_LOCK:  # compared as versions are
            time.sleep(_PAUSE)
        dist.destroy_process_group()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sums the tensor over all ranks in place and returns it."""
    if _grouped():
        dist.all_reduce(tensor)
    return tensor


def broadcast_object(value: Value) -> Value:
    """Returns rank 0's value on every rank. For small values: it is serialised."""
    if not _grouped():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Value) -> list[Value]:
    """Returns the values of all ranks in rank order, on every rank. For small values: they are serialised."""
    if not _grouped():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until every rank has come here."""
    if _grouped():
        dist.barrier()


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
