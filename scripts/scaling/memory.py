"""Runs a command and measures its peak memory and that of the processes it starts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 0.02
PROC = Path("/proc")


@dataclass(frozen=True)
class Peak:
    """Anonymous memory in MB. Pages of mapped files are not counted: the system can drop them."""

    main: float
    worker: float
    """The largest of the processes that the main one starts; 0 without any."""


def measure(stage: str, **arguments: Any) -> dict[str, Any]:
    """Runs a stage in a process of its own; returns its report with the peaks of its memory."""
    said, peak = watch([sys.executable, "-m", "scripts.scaling.stages", stage, json.dumps(arguments)])
    return {**json.loads(said.splitlines()[-1]), "main_mb": peak.main, "worker_mb": peak.worker}


def watch(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, Peak]:
    """Returns the command's output and its peaks; a failure ends this program."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        main = worker = 0.0
        while process.poll() is None:
            main = max(main, anonymous_mb(process.pid))
            worker = max([worker, *map(anonymous_mb, descendants(process.pid))])
            time.sleep(SECONDS)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return said, Peak(main, worker)


def anonymous_mb(process: int) -> float:
    """Returns the anonymous memory of a process; 0 if it has ended."""
    try:
        status = (PROC / str(process) / "status").read_text()
    except OSError:
        return 0.0
    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(kilobytes[0]) / 1024 if kilobytes else 0.0


def descendants(process: int) -> Iterator[int]:
    """Yields the descendants of a process."""
    for task in PROC.glob(f"{process}/task/*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)
