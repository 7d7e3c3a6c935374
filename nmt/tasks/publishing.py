"""Model cards, and a model's files as they are published: without training state and the folders of the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from nmt.checkpoint import find, load_model_files
from nmt.checkpoint.card import CARD_FILE, CardScore, model_card, with_scores
from nmt.checkpoint.durable import replace_file
from nmt.checkpoint.folder import CONFIG_FILE, TRAINING_FILE, parameter_count
from nmt.checkpoint.huggingface import MODEL_FILES
from nmt.checkpoint.metadata import METADATA_FILE, describe
from nmt.config import Section, dump_config
from nmt.errors import CheckpointError, line_of, reason, require_file
from nmt.tasks.base import Which
from nmt.tasks.components import read_saved_config
from nmt.tasks.translation.loading import copy_lexicon

LOCAL = "MODEL is the folder of this file."


def publish(path: Path | str, which: Which, output: Path, name: str) -> list[Path]:
    """Writes the files of a model into an empty folder, to be published under this name, and returns them.

    In its config, absolute paths become the last name in them; checksums are those of the files as they are written.
    Raises `CheckpointError` where there is no model, or it is damaged.
    """
    loaded = load_model_files(find(path, which))
    names = {CONFIG_FILE, *loaded.metadata.files} - {TRAINING_FILE}
    if unknown := sorted(names - set(MODEL_FILES)):
        raise CheckpointError(f"{loaded.path}: {METADATA_FILE} names files that no model has: {', '.join(unknown)}")
    for file in names - {CONFIG_FILE}:
        shutil.copyfile(loaded.path / file, output / file)
    config = read_saved_config(loaded.path)
    (output / CONFIG_FILE).write_text(dump_config(without_folders(config)), encoding="utf-8")
    files = {file: describe(output / file) for file in sorted(names)}
    loaded.metadata.model_copy(update={"files": files}).write(output)
    copy_lexicon(loaded.path, output)
    card = card_of(loaded.path).replace(LOCAL, f"MODEL is `{name}`, or a copy of this folder.")
    (output / CARD_FILE).write_text(card, encoding="utf-8")
    return sorted(output.iterdir())


def without_folders(value: Any) -> Any:
    """Returns a config, or a value in it, whose absolute paths are replaced by the last name in them."""
    if isinstance(value, Section):
        return value.model_copy(update={key: without_folders(getattr(value, key)) for key in type(value).model_fields})
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, str):
        for kind in (Path, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name or "."
    return value


def card_of(folder: Path) -> str:
    """Returns the model card of a checkpoint folder; makes one where there is none. Raises `CheckpointError`."""
    file = folder / CARD_FILE
    try:
        if os.path.lexists(file):
            require_file(file)
            return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}:{line_of(error)}: not UTF-8; mend or remove it") from None
    loaded = load_model_files(folder)
    config = read_saved_config(folder)
    return model_card(config, loaded.metadata, parameter_count(loaded.tensors), integers=bool(loaded.scales))


def add_to_card(folder: Path, scores: Sequence[CardScore]) -> None:
    """Writes scores into the model card of a checkpoint folder; raises `CheckpointError`."""
    card = with_scores(card_of(folder), scores)
    try:
        replace_file(folder / CARD_FILE, card)
    except OSError as error:
        raise CheckpointError(f"{folder / CARD_FILE}: cannot be written: {reason(error)}") from error
