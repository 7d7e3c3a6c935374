"""Files and folders that are there whole or not at all, whenever the process or the machine stops.

New content is written beside its place under a name that starts with `.tmp-`, forced to the disk, and renamed: on
one file system a rename is atomic (POSIX), and forcing the parent folder makes it last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = ".tmp-"


def replace_file(path: Path, content: str | bytes) -> None:
    """Give the file this content, text in UTF-8; a reader sees the old or the new one, never a part."""
    temporary = path.with_name(_TEMPORARY + path.name)
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    _force(temporary)
    os.replace(temporary, path)
    _force(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends, and an error in it leaves no trace."""
    temporary = path.with_name(_TEMPORARY + path.name)
    try:
        with temporary.open("wb") as file:
            yield file
        _force(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _force(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it appears under `path`, where nothing may be yet, when the block ends without an error."""
    temporary = path.with_name(_TEMPORARY + path.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            _force(file)
        _force(temporary)
        assert not path.exists(), path
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _force(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; it loses its name first, so that a half removed one is never taken for whole."""
    doomed = path.with_name(_TEMPORARY + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Remove what an interrupted process left in this folder."""
    for leftover in folder.glob(_TEMPORARY + "*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
