"""Results of commands that tests run in this process, and limits for those in child processes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str


Call = Callable[..., Ended]


def give_up_reading_everything() -> None:
    """For a child process (`preexec_fn`): root, too, is refused by the permissions of its own files.

    Takes the capabilities CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from what the child may have after `exec`.
    """
    if os.geteuid() == 0:
        prctl, drop = ctypes.CDLL(None, use_errno=True).prctl, 24
        for capability in (1, 2):
            if prctl(drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")
