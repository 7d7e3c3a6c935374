"""From what a person names as `--model` to a checkpoint folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Literal

from nmt.checkpoint.folder import MODEL_FILE
from nmt.checkpoint.metadata import METADATA_FILE
from nmt.checkpoint.run import RunFolder
from nmt.errors import CheckpointError, reason
from nmt.runtime import logger


def find(path: Path | str, which: Literal["best", "last"] | None = None) -> Path:
    """The checkpoint folder of a run folder, a checkpoint folder, or a pointer file (`checkpoints/best`).

    Of a run it is the best checkpoint, or the last one where none is best yet; `which` asks for one of the two.
    Raises `CheckpointError` that names the nearest runs where there is nothing.
    """
    path = Path(path)
    try:
        return _find(path, which)
    except OSError as error:
        where = path if error.filename is None else os.fsdecode(error.filename)
        raise CheckpointError(f"{where}: cannot be read: {reason(error)}") from error


def _find(path: Path, which: str | None) -> Path:
    if (path / METADATA_FILE).exists() or (path / MODEL_FILE).exists():
        return path
    if path.is_file() and path.name in ("best", "last"):
        return _of_run(RunFolder(path.parent.parent), path.name)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint{_nearest(path)}")
    if path.name == "checkpoints":
        path = path.parent
    if not (path / "checkpoints").is_dir():
        raise CheckpointError(f"{path}: neither a run nor a checkpoint{_nearest(path)}")
    return _of_run(RunFolder(path), which)


def _of_run(run: RunFolder, which: str | None) -> Path:
    folders = run.checkpoints()
    if not folders:
        raise CheckpointError(f"{run.path}: this run has no checkpoint yet")
    wanted = [which] if which else ["best", "last"]
    for name in wanted:
        if (folder := run.pointed(name)) is not None:
            return folder
        if (run.path / "checkpoints" / name).exists():
            break
    logger.warning(
        "%s: %s names no checkpoint that is there; this is the newest one, %s", run.path, wanted[0], folders[-1].name
    )
    return folders[-1]


def _nearest(path: Path) -> str:
    """The end of a message: runs with a similar name, there or under `runs`."""
    known = {
        folder.parent.name: folder.parent
        for place in (Path("runs"), path.parent)
        if place.is_dir()
        for folder in sorted(place.glob("*/checkpoints"))
    }
    names = difflib.get_close_matches(path.name, known, n=3, cutoff=0.5) or sorted(known)[:3]
    return f"; runs that are there: {', '.join(str(known[name]) for name in names)}" if names else ""
