"""One checkpoint: a folder that translates when it is copied alone.

model.safetensors     weights
config.yaml           resolved config
tokenizer.model       or source.model and target.model: SentencePiece
metadata.json         versions, commit, data, metrics, sizes and SHA-256 of the other files
training.pt           what only resuming needs; may be removed
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nmt.checkpoint import durable
from nmt.checkpoint.metadata import (
    METADATA_FILE,
    Metadata,
    damage_of,
    describe,
    finite,
    now,
    read_metadata,
    to_json,
    versions,
)
from nmt.config import ExperimentConfig, dump_config
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, reason, require_file

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
TRAINING_FILE = "training.pt"


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is written from."""

    model: Mapping[str, Tensor]
    """The weights that translation uses (the moving average, where there is one), by parameter name."""
    config: ExperimentConfig
    tokenizers: TokenizerPair
    step: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    """Content fingerprints of the corpora, by name."""
    training: Mapping[str, Any] | None = None
    """What only resuming needs: tensors, numbers, strings and None in dicts, lists and tuples."""
    average_of: tuple[str, ...] = ()
    """Checkpoints whose weights were averaged."""
    labels: tuple[str, ...] = ()
    """What a classifier chooses from, in the order of its outputs."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that has been read and verified."""

    path: Path
    config_text: str
    """YAML; `origin` for messages about it is `path / CONFIG_FILE`."""
    tensors: dict[str, Tensor]
    """Weights on the CPU, by parameter name."""
    tokenizers: TokenizerPair
    metadata: Metadata

    def load_into(self, model: nn.Module, may_lack: str | None = None) -> list[str]:
        """Copies these weights into the model; a `CheckpointError` has one line for each that does not fit.

        Weights whose names begin with `may_lack` need not be there: the model keeps its own; their names are returned.
        """
        # A tied parameter has several names in the model; in the file it has the first, as in `named_parameters`.
        own: dict[str, Tensor] = {}
        for name, parameter in model.state_dict(keep_vars=True).items():
            if not any(parameter is other for other in own.values()):
                own[name] = parameter
        where = self.path / MODEL_FILE
        missing = [name for name in own if name not in self.tensors]
        kept = [name for name in missing if may_lack is not None and name.startswith(may_lack)]
        problems = [f"{where}: the weights {name} are missing" for name in missing if name not in kept]
        problems += [f"{where}: the model has no weights {name}" for name in self.tensors if name not in own]
        problems += [
            f"{where}: {name} has the shape {tuple(tensor.shape)}, config and vocabulary ask for "
            f"{tuple(own[name].shape)}"
            for name, tensor in self.tensors.items()
            if name in own and tensor.shape != own[name].shape
        ]
        problems += [
            f"{where}: {name} holds {tensor.dtype}, not floating-point numbers; use a checkpoint that nmt-train or "
            "nmt-average wrote"
            for name, tensor in self.tensors.items()
            if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
        ]
        if problems:
            raise CheckpointError(*problems)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                own[name].copy_(tensor)
        return kept


def write_checkpoint(folder: Path, snapshot: Snapshot, *, best: bool = False) -> None:
    """Writes a new checkpoint folder; after a kill at any moment it is there whole, or not there.

    Raises `CheckpointError` when the disk refuses, and then leaves nothing behind.
    """
    config, tokenizers = snapshot.config, snapshot.tokenizers
    try:
        with durable.new_folder(folder) as new:
            safetensors.torch.save_file(_separate(snapshot.model), new / MODEL_FILE)
            tokenizers.save(new)
            if snapshot.training is not None:
                _assert_plain(snapshot.training, "training")
                # To an open file: when PyTorch opens it, its error does not say why the disk refused.
                with (new / TRAINING_FILE).open("wb") as file:
                    torch.save(snapshot.training, file)
            (new / CONFIG_FILE).write_text(dump_config(config, comments=False), encoding="utf-8")
            metadata = Metadata(
                created=now(),
                step=snapshot.step,
                epoch=snapshot.epoch,
                metrics=finite(snapshot.metrics),
                best=best,
                average_of=list(snapshot.average_of),
                task=config.task,
                source_language=config.languages[0],
                target_language=config.languages[1] if len(config.languages) > 1 else None,
                labels=list(snapshot.labels),
                source_vocabulary=tokenizers.source.size,
                target_vocabulary=tokenizers.target.size,
                data=dict(snapshot.data),
                versions=versions(),
                files={file.name: describe(file) for file in sorted(new.iterdir())},
            )
            (new / METADATA_FILE).write_text(to_json(metadata), encoding="utf-8")
    except (OSError, RuntimeError, SafetensorError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise CheckpointError(f"{folder}: cannot be written: {reason(refusal)}") from error


def load_model_files(folder: Path) -> Loaded:
    """Reads and verifies what translation needs; a `CheckpointError` has one line for each thing that is wrong."""
    metadata = read_metadata(folder)
    needed = {name: saved for name, saved in metadata.files.items() if name != TRAINING_FILE}
    remedies = {CONFIG_FILE: _PUT_BACK}
    problems = [
        problem
        for name, saved in needed.items()
        if (problem := damage_of(folder / name, saved, remedies.get(name, _COPY)))
    ]
    if MODEL_FILE not in needed:
        problems.append(f"{folder / METADATA_FILE}: damaged, it does not name {MODEL_FILE}; {_COPY}")
    if problems:
        raise CheckpointError(*problems)
    config_text = read_config_text(folder)
    tokenizers = TokenizerPair.load(folder)
    for side, size, expected in (
        ("source", tokenizers.source.size, metadata.source_vocabulary),
        ("target", tokenizers.target.size, metadata.target_vocabulary),
    ):
        if size != expected:
            problems.append(f"{folder}: the {side} tokenizer has {size} pieces, the model was trained with {expected}")
    if problems:
        raise CheckpointError(*problems)
    try:
        tensors = safetensors.torch.load_file(folder / MODEL_FILE)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        # The last four: number formats that this version of PyTorch does not have.
        raise CheckpointError(f"{folder / MODEL_FILE}: damaged ({error}); {_COPY}") from None
    problems = [
        f"{folder / MODEL_FILE}: {name} has {count:,} numbers that are not finite; use an earlier checkpoint"
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and (count := int((~tensor.isfinite()).sum()))
    ]
    if problems:
        raise CheckpointError(*problems)
    return Loaded(folder, config_text, tensors, tokenizers, metadata)


def read_config_text(folder: Path) -> str:
    """Returns the YAML of a checkpoint's resolved config; raises `CheckpointError`."""
    file = folder / CONFIG_FILE
    try:
        require_file(file)
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; {_COPY}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CheckpointError(f"{file}:{line}: damaged, not UTF-8; {_COPY}") from None


def load_training_state(folder: Path) -> dict[str, Any] | None:
    """Returns what was given as `Snapshot.training`, on the CPU; None if it was not written or has been removed.

    Raises `CheckpointError` when it is damaged.
    """
    file = folder / TRAINING_FILE
    saved = read_metadata(folder).files.get(TRAINING_FILE)
    if saved is None or not os.path.lexists(file):
        return None
    damage = damage_of(file, saved, f"remove {folder} to continue from the checkpoint before it")
    if damage:
        raise CheckpointError(damage)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # Bytes that are no training state can end in any error of the unpickler.
    except Exception as error:
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: cannot be read by PyTorch {torch.__version__}: {message}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: holds no training state; remove {folder} to continue from the one before it")
    if problem := _not_plain(state, "training"):
        raise CheckpointError(f"{file}: damaged, {problem}; remove {folder} to continue from the one before it")
    return state


def check_config(folder: Path) -> None:
    """Raises `CheckpointError` unless `config.yaml` is the one that was saved; earlier versions kept no checksum."""
    saved = read_metadata(folder).files.get(CONFIG_FILE)
    if saved is not None and (damage := damage_of(folder / CONFIG_FILE, saved, _PUT_BACK)):
        raise CheckpointError(damage)


_COPY = "copy the checkpoint again"
_PUT_BACK = f"{_COPY}; to change a setting, give it as a flag of the command"


def _refusal(error: BaseException | None) -> OSError | None:
    """Returns the error of the system behind an error of writing; None where there is none.

    PyTorch raises a RuntimeError in the course of an OSError. safetensors has the number in its text.
    """
    while error is not None and not isinstance(error, OSError):
        number = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, SafetensorError) else None
        if number:
            return OSError(int(number[1]), os.strerror(int(number[1])))
        error = error.__context__
    return error


def _separate(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one storage each, on the CPU: views into a common buffer (cuDNN's weights) are copied apart."""
    owner: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in model.items():
        if tensor.numel():
            twin = owner.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
            assert twin == name, f"{name} and {twin} are one tensor; tied parameters are registered once"
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in model.items()}


def _assert_plain(value: object, where: str) -> None:
    """Exactly what `torch.load(weights_only=True)` reads back; a NumPy number would only be noticed when resuming."""
    problem = _not_plain(value, where)
    assert problem is None, f"{problem}; only tensors, numbers and strings can be saved"


def _not_plain(value: object, where: str) -> str | None:
    """Returns what is wrong with a training state, if anything is."""
    items: Iterable[tuple[object, object]] = ()
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, Mapping)
        items = value.items()
        for key in value:
            if type(key) not in (str, int):
                return f"{where}: key {key!r} is a {type(key).__name__}"
    elif type(value) in (list, tuple):
        assert isinstance(value, (list, tuple))
        items = enumerate(value)
    elif isinstance(value, Tensor) and value.layout != torch.strided:
        return f"{where} is a sparse tensor"
    elif value is not None and type(value) not in (Tensor, nn.Parameter, bool, int, float, str, bytes):
        return f"{where} is a {type(value).__name__}"
    return next((problem for key, item in items if (problem := _not_plain(item, f"{where}[{key!r}]"))), None)
