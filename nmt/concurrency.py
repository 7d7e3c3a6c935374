"""Locks between processes, on every system that Python runs on. Importing this does not import PyTorch."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from filelock import FileLock

_log = logging.getLogger(__name__)

CANNOT_LOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of a file system that has no locks."""


def lock(path: Path, *, wait: bool) -> FileLock:
    """Locks a file, which is created where it is missing, until the lock is released or the process ends.

    Processes that this one starts do not inherit the lock. On a file system without locks, nothing is locked, and a
    warning says so. Raises `filelock.Timeout` where another holder has the lock and `wait` is false, and `OSError`
    where the file cannot be opened.
    """
    # Without the fallback: a soft lock stays behind when a process is killed, and would keep every later one out.
    held = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        _log.warning("%s cannot be locked (%s): only one process may use %s", path, error.strerror, path.parent)
    return held
