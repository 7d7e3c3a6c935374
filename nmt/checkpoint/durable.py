"""Files and folders that are there whole or not at all, whenever the process or the machine stops.

New content is written beside its place under a name that starts with `.tmp-`, forced to the disk, and renamed: on
one file system a rename is atomic (POSIX), and forcing the parent folder makes it last.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes the content to the file, text in UTF-8. A reader sees the old or the new file, never a part.

    After an error the old file is unchanged and nothing is left beside it.
    """
    with new_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends, and an error in it leaves no trace."""
    temporary = path.with_name(TEMPORARY + path.name)
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
    """A folder to fill; it appears under `path`, where nothing may be yet, when the block ends without an error.

    Its files get the permissions that the umask gives to a new file, whatever permissions they were written with.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666
        for file in temporary.iterdir():
            if stat.S_IMODE(file.stat().st_mode) != mode:
                file.chmod(mode)
            _force(file)
        _force(temporary)
        assert not path.exists(), path
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _force(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder; it loses its name first, so that a half removed one is never taken for whole."""
    doomed = path.with_name(TEMPORARY + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Removes what an interrupted process left in this folder."""
    for leftover in folder.glob(TEMPORARY + "*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
