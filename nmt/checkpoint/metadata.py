"""Description of a checkpoint: `metadata.json`."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

import nmt
from nmt.data.cache.store import checksum
from nmt.errors import CheckpointError, reason, require_file

FORMAT = 1
"""Version of the layout of a checkpoint folder; another one is refused."""
METADATA_FILE = "metadata.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _finite(metrics: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is None or math.isfinite(value) else None for name, value in metrics.items()}


class SavedFile(_Record):
    """Size and content of a file of the folder, to notice damage."""

    bytes: int
    sha256: str


class Versions(_Record):
    """Versions of the program that wrote the checkpoint."""

    nmt: str
    torch: str
    python: str
    sentencepiece: str
    git_commit: str | None
    """None where the package does not lie in a git checkout."""
    git_dirty: bool | None
    """Tracked files differed from that commit."""


class SavedPlugin(_Record):
    """A plugin that the checkpoint needs. Its code is not saved."""

    name: str
    """Name of the file, without its folder."""
    sha256: str
    parts: list[str]
    """The parts of it that the config has: family and name."""


class Origin(_Record):
    """Training that the weights of a checkpoint come from."""

    step: int
    epoch: int
    metrics: Annotated[dict[str, float | None], AfterValidator(_finite)] = {}
    """Of the validation at this step; None stands for a number that was not finite."""
    signatures: dict[str, str] = {}
    """sacrebleu's signatures of these metrics, by name."""
    average_of: list[str] = []
    """Checkpoints whose weights this one averages; empty for one that training wrote."""
    labels: list[str] = []
    """Labels of a classifier, in the order of its outputs."""
    plugins: list[SavedPlugin] = []
    """Plugins whose parts the config has."""
    data: dict[str, str] = {}
    """Content fingerprints of the corpora, by name."""
    training_sizes: list[int] = []
    """Pairs or documents of each corpus of `data.train`, after the filters; empty where not known."""


class Metadata(Origin):
    """The content of `metadata.json`."""

    format: int = FORMAT
    created: str
    """Date and time of writing, ISO 8601 in UTC."""
    best: bool
    """Whether it was the best of its run when it was written."""
    task: str = "translation"
    source_language: str
    """Of the documents, where labels are learned."""
    target_language: str | None
    source_vocabulary: int
    """Pieces of the source vocabulary."""
    target_vocabulary: int
    versions: Versions
    files: dict[str, SavedFile]
    """The other files of the folder by name, except the model card, which may be edited. Checkpoints of earlier
    versions do not list `config.yaml`."""

    def write(self, folder: Path) -> None:
        """Writes `metadata.json` into the folder."""
        (folder / METADATA_FILE).write_text(f"{self.model_dump_json(indent=2)}\n", encoding="utf-8")


def read_metadata(folder: Path) -> Metadata:
    """Reads and checks `metadata.json`; raises `CheckpointError`."""
    file = folder / METADATA_FILE
    try:
        require_file(file)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder}: is no checkpoint, {METADATA_FILE} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged, not JSON ({error}); copy the checkpoint again") from None
    written = content.get("format") if isinstance(content, Mapping) else None
    if written is None:
        raise CheckpointError(f"{file}: damaged, it names no format; copy the checkpoint again")
    if written != FORMAT:
        versions = content.get("versions")
        writer = versions.get("nmt", "unknown") if isinstance(versions, Mapping) else "unknown"
        raise CheckpointError(
            f"{folder}: format {written}, but nmt {nmt.__version__} reads format {FORMAT}; "
            f"use the version that wrote it (nmt {writer})"
        )
    try:
        return Metadata.model_validate(content)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise CheckpointError(f"{file}: damaged at {keys}; copy the checkpoint again") from None


def describe(file: Path) -> SavedFile:
    """Returns size and SHA-256 of a file."""
    return SavedFile(bytes=file.stat().st_size, sha256=checksum(file))


def damage_of(file: Path, saved: SavedFile, remedy: str) -> str | None:
    """Returns what is wrong with a file and what to do, or None."""
    try:
        if not file.is_file():
            return f"{file}: {'is no file' if os.path.lexists(file) else 'missing'}; {remedy}"
        current = describe(file)
    except OSError as error:
        return f"{file}: cannot be read: {reason(error)}"
    if current.bytes != saved.bytes:
        return f"{file}: damaged or exchanged, it has {current.bytes} bytes and was saved with {saved.bytes}; {remedy}"
    if current.sha256 != saved.sha256:
        return f"{file}: damaged or exchanged, its SHA-256 is not the one of {METADATA_FILE}; {remedy}"
    return None


@lru_cache(maxsize=1)
def versions() -> Versions:
    """Returns the versions of this process. Cached, because the files on the disk may change while it runs."""
    commit, dirty = _git_state(Path(nmt.__file__).resolve())
    return Versions(
        nmt=nmt.__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        sentencepiece=importlib.metadata.version("sentencepiece"),
        git_commit=commit,
        git_dirty=dirty,
    )


def _git_state(file: Path) -> tuple[str | None, bool | None]:
    """Returns commit and dirtiness of the checkout that tracks this file; another checkout around it does not count."""
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None, None
    commit = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
