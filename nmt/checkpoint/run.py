"""A run's folder: its checkpoints, the best and the last one, and whether a new process may go on in it.

.nmt-run                      marks the folder as one of a run
config.yaml, train.log, metrics.jsonl, tensorboard/, cache/, lexicon.safetensors
checkpoints/step-00001000/    see `folder.py`; step-00001000-1 is a second one of the same step
checkpoints/best, last        text files that hold the name of a checkpoint folder
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from nmt.checkpoint import durable
from nmt.checkpoint.folder import (
    MODEL_FILE,
    TRAINING_FILE,
    Snapshot,
    check_config,
    write_checkpoint,
)
from nmt.checkpoint.huggingface import HubName, download, is_hub_name
from nmt.checkpoint.metadata import METADATA_FILE, read_metadata, versions
from nmt.concurrency import lock
from nmt.config import ExperimentConfig, corpus_size, difference, dump_config
from nmt.errors import CheckpointError, ConfigError, reason, require_file
from nmt.runtime import logger

TRAINING_STATES = 2
"""Most recent checkpoints that keep their training state, the largest part: should the last one be lost on a
failing disk, there is one before it."""

_STEP = re.compile(r"step-(\d+)(?:-(\d+))?")
_MARKER = ".nmt-run"
_MARKER_TEXT = (
    "This folder belongs to a training run of nmt. Files in it are written, replaced and moved by nmt-train.\n"
)
_LOCK = ".lock"


CHANGEABLE = (
    "run",
    "plugins",
    "data.test",
    "data.cache",
    "data.workers",
    "training.max_steps",
    "training.max_epochs",
    "training.log_every",
    "training.validate_every",
    "training.save_every",
    "training.keep_last",
    "training.non_finite_limit",
    "training.early_stopping.patience",
    "validation",
    "search",
    "runtime",
    "card",
)
"""Keys that can change under a run without making its weights, optimizer state or position in the data meaningless.

Everything else is refused. A change of `runtime.precision` or `runtime.kernel` keeps the meaning, not the last bit.
"""


def resume_conflicts(old: ExperimentConfig, new: ExperimentConfig) -> list[str]:
    """Returns one line for each key that must not differ but does; empty where a run of `old` can go on with `new`.

    What `new` leaves open for the training text to decide is as it was.
    """
    if old.task != new.task:
        return [f"task: the run was started with {old.task!r}, now it is {new.task!r}"]
    new = corpus_size.fill_in(new, corpus_size.values_that_follow(old))
    return [
        f"{path}: the run was started with {before!r}, now it is {after!r}"
        for path, (before, after) in difference(old, new).items()
        if not any(path == key or path.startswith(key + ".") for key in CHANGEABLE)
    ]


class RunFolder:
    """The folder that the config calls `run`.

    A folder without the marker is taken only if it is empty, so that no file of the user's is overwritten or moved.
    """

    def __init__(self, path: Path | str) -> None:
        if "\0" in str(path):
            raise ConfigError(f"run: {str(path)!r} has a NUL character in it, which no name of a folder has; remove it")
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.log_file = self.path / "train.log"
        self.cache = self.path / "cache"
        """Encoded corpora, where `data.cache` names no other folder."""
        self._lock: FileLock | None = None

    def open(
        self, config: ExperimentConfig, *, fresh: bool, read_config: Callable[[Path], ExperimentConfig]
    ) -> tuple[Path | None, dict[str, int]]:
        """Takes the folder for a training process.

        Returns the checkpoint to resume from, or None for a new run, and the checkpoint's settings that follow the
        training text, by dotted path.

        For the main process, before it writes anything into the folder. `read_config(folder)` reads the config of a
        checkpoint. Nothing is lost: with `fresh`, an earlier run is renamed as a whole to `RUN.previous-N` and stays
        usable there (only its cache, which holds no result and is keyed by content, moves on to the new run).

        Raises `ConfigError` where the folder belongs to something else, another process trains in it, or the
        config differs in more than resuming allows; `CheckpointError` where the last checkpoint cannot be resumed.
        """
        try:
            self._refuse_what_is_no_run()
            self._take()
            if fresh:
                self._set_aside()
            durable.sweep(self.path)
            (self.path / "checkpoints").mkdir(exist_ok=True)
            durable.sweep(self.path / "checkpoints")
            for file in (self.log_file, self.path / "metrics.jsonl"):
                if file.exists():
                    require_file(file)
            resumed = self._resume(config, read_config)
            self.write_config(config)
        except BaseException as error:
            self.close()  # else this very process could not try again
            if isinstance(error, OSError):
                raise ConfigError(f"run: {self.path} cannot be used: {_named(error)}") from error
            raise
        versions()  # cached now: by the first checkpoint the checkout may be at another commit
        return resumed

    def write_config(self, config: ExperimentConfig) -> None:
        """Writes the config of the run, which may have changed since its start or now has the values left open."""
        durable.replace_file(self.config_file, dump_config(config, comments=False))

    def save(self, snapshot: Snapshot, *, is_best: bool) -> Path:
        """Writes a checkpoint, points `last` (and `best`) to it, and removes those that are no longer kept.

        The rename of the new folder is the moment from which it counts: should the process die before the pointers
        are written, `open` does it.
        """
        # A new name even for a step that was saved before: replacing a folder is never atomic.
        first = self.path / "checkpoints" / f"step-{snapshot.origin.step:08d}"
        names = chain([first], (first.with_name(f"{first.name}-{again}") for again in count(1)))
        folder = next(name for name in names if not name.exists())
        write_checkpoint(folder, snapshot, best=is_best)
        try:
            self._point(folder, is_best)
            self._thin_out(snapshot.config.training.keep_last)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written: {_named(error)}") from error
        return folder

    def checkpoints(self) -> list[Path]:
        """Returns the folders of all checkpoints, oldest first."""
        try:
            entries = [entry for entry in (self.path / "checkpoints").iterdir() if _STEP.fullmatch(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((entry for entry in entries if (entry / METADATA_FILE).is_file()), key=_order)

    def pointed(self, which: str) -> Path | None:
        """Returns the checkpoint that `best` or `last` names; None where the pointer or the checkpoint is missing."""
        name = self._pointer(which)
        folder = self.path / "checkpoints" / name
        return folder if _STEP.fullmatch(name) and folder in self.checkpoints() else None

    def close(self) -> None:
        """Lets another process train here; the end of the process does the same."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _refuse_what_is_no_run(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise ConfigError(f"run: {self.path} is a file; name a folder")
        names = {entry.name for entry in self.path.iterdir()}
        # A start that was stopped before it wrote the marker leaves the lock.
        if _MARKER in names or not names - {_LOCK, durable.TEMPORARY + _MARKER}:
            return
        raise ConfigError(
            f"run: {self.path} is no folder of a run, it holds {', '.join(sorted(names)[:3])}; name a new folder, such "
            f"as {self.path / 'run'}"
        )

    def _take(self) -> None:
        """Keeps a second training process out and marks the folder as a run's."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.close()
        try:
            self._lock = lock(self.path / _LOCK, wait=False)
        except Timeout:
            raise ConfigError(f"run: another process is training in {self.path}; name another folder") from None
        if not (self.path / _MARKER).exists():
            durable.replace_file(self.path / _MARKER, _MARKER_TEXT)

    def _set_aside(self) -> None:
        if not self.checkpoints() and not self.config_file.exists():
            return
        folder = self.path.resolve()
        names = (folder.with_name(f"{folder.name}.previous-{number}") for number in count(1))
        previous = next(name for name in names if not name.exists())
        os.rename(folder, previous)
        folder.mkdir()
        self._take()
        if (previous / "cache").exists():
            os.rename(previous / "cache", folder / "cache")
        saved = RunFolder(previous).checkpoints()
        state = f"{len(saved)} checkpoints, the last one {saved[-1].name}" if saved else "no checkpoint"
        logger.info("%s starts again; the earlier run (%s) is now %s", self.path, state, previous)

    def _resume(
        self, config: ExperimentConfig, read_config: Callable[[Path], ExperimentConfig]
    ) -> tuple[Path | None, dict[str, int]]:
        folders = self.checkpoints()
        if not folders:
            if self.config_file.exists():
                logger.info("%s holds no checkpoint yet: training starts from the beginning", self.path)
            return None, {}
        newest = folders[-1]
        self._repair(newest)
        check_config(newest)
        saved = read_config(newest)
        if conflicts := resume_conflicts(saved, config):
            raise ConfigError(
                *conflicts,
                f"run: {self.path} cannot go on with another config; take the values back, name another folder, or "
                "start again with --fresh, which keeps what is there aside",
            )
        if TRAINING_FILE not in read_metadata(newest).files or not (newest / TRAINING_FILE).exists():
            raise CheckpointError(
                f"{newest}: training cannot go on from here, {TRAINING_FILE} has been removed; name another run, or "
                "start again with --fresh, which keeps what is there aside"
            )
        return newest, corpus_size.values_that_follow(saved)

    def _repair(self, newest: Path) -> None:
        """Brings the pointers in step with the folders, after a kill between the two or a folder removed by hand."""
        if self.pointed("last") == newest:
            return
        pointer = self.path / "checkpoints" / "last"
        name = self._pointer("last")
        if _STEP.fullmatch(name) and _order(Path(name)) > _order(newest):
            logger.warning("%s names %s, which is gone: the newest one there is is %s", pointer, name, newest.name)
            self._point(newest, is_best=False)
        else:
            self._point(newest, read_metadata(newest).best)

    def _pointer(self, which: str) -> str:
        """Returns the content of a pointer file, or nothing where there is none."""
        try:
            require_file(self.path / "checkpoints" / which)
            # Bytes that are no UTF-8 are no name of a checkpoint, and are treated as any other wrong name.
            return (self.path / "checkpoints" / which).read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _point(self, folder: Path, is_best: bool) -> None:
        # `last` comes last: where it is right, `best` is.
        for which in ("best", "last") if is_best else ("last",):
            durable.replace_file(self.path / "checkpoints" / which, folder.name + "\n")

    def _thin_out(self, keep_last: int) -> None:
        folders = self.checkpoints()
        newest_of_step = {_order(folder)[0]: folder for folder in folders}
        keep = {self.pointed("best"), self.pointed("last"), *list(newest_of_step.values())[-keep_last:]}
        for folder in folders:
            if folder not in keep:
                durable.remove_folder(folder)
        resumable = [folder for folder in self.checkpoints() if (folder / TRAINING_FILE).exists()]
        for folder in resumable[:-TRAINING_STATES]:
            (folder / TRAINING_FILE).unlink()


def find(path: Path | str, which: Literal["best", "last"] | None = None) -> Path:
    """Returns the checkpoint folder of a run folder, a checkpoint folder, or a pointer file (`checkpoints/best`).

    A name `hf://USER/NAME` gives the folder of a model of the Hugging Face hub in its cache, downloaded if need be.
    Of a run it is the best checkpoint, or the last one where none is best yet; `which` asks for one of the two.
    Raises `CheckpointError` that names the nearest runs where there is nothing.
    """
    if is_hub_name(path):
        return download(HubName.of(str(path)))
    path = Path(path)
    try:
        if (path / METADATA_FILE).exists() or (path / MODEL_FILE).exists():
            return path
        if path.is_file() and path.name in ("best", "last"):
            return _checkpoint_of(RunFolder(path.parent.parent), path.name)
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such checkpoint{_nearest(path)}")
        if path.name == "checkpoints":
            path = path.parent
        if not (path / "checkpoints").is_dir():
            raise CheckpointError(f"{path}: neither a run nor a checkpoint{_nearest(path)}")
        return _checkpoint_of(RunFolder(path), which)
    except OSError as error:
        where = path if error.filename is None else os.fsdecode(error.filename)
        raise CheckpointError(f"{where}: cannot be read: {reason(error)}") from error


def _checkpoint_of(run: RunFolder, which: str | None) -> Path:
    folders = run.checkpoints()
    if not folders:
        raise CheckpointError(f"{run.path}: this run has no checkpoint yet")
    pointers = [which] if which else ["best", "last"]
    for name in pointers:
        if (folder := run.pointed(name)) is not None:
            return folder
        if (run.path / "checkpoints" / name).exists():
            break
    logger.warning(
        "%s: %s names no checkpoint that is there; this is the newest one, %s", run.path, pointers[0], folders[-1].name
    )
    return folders[-1]


def _nearest(path: Path) -> str:
    """Returns the end of a message: runs with a similar name, there or under `runs`."""
    runs = {
        folder.parent.name: folder.parent
        for parent in (Path("runs"), path.parent)
        if parent.is_dir()
        for folder in sorted(parent.glob("*/checkpoints"))
    }
    names = difflib.get_close_matches(path.name, runs, n=3, cutoff=0.5) or sorted(runs)[:3]
    return f"; runs that are there: {', '.join(str(runs[name]) for name in names)}" if names else ""


def _named(error: OSError) -> str:
    """Returns the reason of an error with the file that it is about, where it is about one."""
    return f"{os.fsdecode(error.filename)}: {reason(error)}" if error.filename else reason(error)


def _order(folder: Path) -> tuple[int, int]:
    match = _STEP.fullmatch(folder.name)
    assert match is not None, folder
    return int(match[1]), int(match[2] or 0)
