"""Models on the Hugging Face hub, by their names `hf://USER/NAME` and `hf://USER/NAME@REVISION`.

The package `huggingface_hub` transfers the files. It reads its environment variables (HF_TOKEN, HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE) and keeps tokens itself: none passes through this module but to be removed from messages.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nmt
from nmt.checkpoint.card import CARD_FILE
from nmt.checkpoint.folder import CONFIG_FILE, MODEL_FILE
from nmt.checkpoint.metadata import METADATA_FILE
from nmt.data.lexicons import LEXICON_FILE
from nmt.errors import CheckpointError, ConfigError

_TOKENIZERS = ("tokenizer.model", "source.model", "target.model")
MODEL_FILES = (CARD_FILE, CONFIG_FILE, METADATA_FILE, MODEL_FILE, LEXICON_FILE, *_TOKENIZERS)
"""All files that a model may have on the hub. No others are uploaded or downloaded."""
_TRANSPORT = ("huggingface_hub", "httpx", "httpx2", "requests", "urllib3", "hf_xet")
"""Packages whose errors are those of the hub, or of the way to it."""


class HubName(NamedTuple):
    """A model on the hub."""

    repository: str
    """USER/NAME."""
    revision: str | None = None
    """Branch, tag or commit; None is the newest commit."""

    @staticmethod
    def of(text: str) -> HubName:
        """Reads a name with or without `hf://`; raises `CheckpointError`."""
        match = re.fullmatch(r"(?:hf:/+)?([\w.-]+/[\w.-]+)(?:@([\w.][\w./-]*))?", text, re.ASCII)
        if match is None or ".." in text:
            raise CheckpointError(
                f"{text}: no name of a model on the hub; write hf://USER/NAME or hf://USER/NAME@REVISION"
            )
        return HubName(match[1], match[2])

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(path: Path | str) -> bool:
    """Returns whether a path is the name of a model on the hub; `Path` makes one slash of the two."""
    return str(path).startswith("hf:/")


def download(name: HubName) -> Path:
    """Returns the folder of a model in the cache of `huggingface_hub`, downloaded where it is not there yet.

    Without a connection it is the model that was downloaded before. Checksums are compared when it is loaded. Raises
    `CheckpointError`.
    """
    with _errors_of(name):
        from huggingface_hub import snapshot_download

        settings: dict[str, Any] = {"revision": name.revision, "allow_patterns": list(MODEL_FILES)}
        folder = Path(str(snapshot_download(name.repository, endpoint=_endpoint(), **settings)))
    if not (folder / METADATA_FILE).exists():
        raise CheckpointError(f"{name}: is no model of nmt, {METADATA_FILE} is missing")
    return folder


def upload(name: HubName, folder: Path, *, private: bool) -> str:
    """Uploads all files of a folder in one commit and returns its address; a new repository is private or public.

    Raises `CheckpointError`.
    """
    with _errors_of(name):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=_endpoint(), library_name="nmt-attention", library_version=nmt.__version__)
        api.create_repo(name.repository, private=private, exist_ok=True)
        if name.revision is not None:
            api.create_branch(name.repository, branch=name.revision, exist_ok=True)
        message = "Upload model with nmt-hub"
        settings: dict[str, Any] = {"revision": name.revision, "commit_message": message}
        commit: Any = api.upload_folder(repo_id=name.repository, folder_path=folder, **settings)
        return str(commit.commit_url)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _errors_of(name: HubName) -> Iterator[None]:
    """Raises errors of the hub as a `CheckpointError` of one line, without tokens."""
    try:
        from huggingface_hub import errors
        from huggingface_hub.utils import disable_progress_bars, get_token  # type: ignore[attr-defined]
    except ImportError:
        raise ConfigError(
            f"{name}: needs the package huggingface_hub; install it with pip install 'nmt-attention[hub]'"
        ) from None
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _TRANSPORT:
            raise
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, errors.GatedRepoError):
            text = "its owner gives access to single users; ask for it on the page of the model, then set HF_TOKEN"
        elif isinstance(error, errors.RepositoryNotFoundError):
            text = "there is no such model, or it is private: set HF_TOKEN to a token that may read it"
        elif isinstance(error, errors.RevisionNotFoundError):
            text = f"it has no revision {name.revision}"
        elif isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
            text = "it is not in the cache, and the hub cannot be reached; go online, and unset HF_HUB_OFFLINE"
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) and not isinstance(error, errors.RepositoryNotFoundError):
            text = f"the hub refuses ({status}): set HF_TOKEN to a token that may do this"
        # A server may repeat what it was sent. The cause is left out, because a traceback would show it.
        token = get_token()
        raise CheckpointError(f"{name}: {text.replace(token, '[token]') if token else text}") from None
