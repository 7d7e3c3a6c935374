"""One checkpoint: a folder that translates when it is copied alone.

model.safetensors     weights
config.yaml           resolved config
tokenizer.model       or source.model and target.model: SentencePiece
metadata.json         versions, commit, data, metrics, sizes and SHA-256 of the other files
README.md             model card; may be edited
training.pt           state for resuming alone; may be removed
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nmt.checkpoint import durable
from nmt.checkpoint.card import CARD_FILE, model_card
from nmt.checkpoint.metadata import METADATA_FILE, Metadata, Origin, damage_of, describe, read_metadata, versions
from nmt.config import ExperimentConfig, dump_config
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, line_of, reason, require_file
from nmt.kernels.linear.quantization import quantize

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
TRAINING_FILE = "training.pt"
ROW_SCALE = ".row_scale"
"""Ends the name of the scales [O] of a weight [O, I] of 8-bit integers (`nmt-quantize`)."""


@dataclass(frozen=True)
class Snapshot:
    """Content of a checkpoint to write."""

    model: Mapping[str, Tensor]
    """The weights that translation uses (the moving average, where there is one), by parameter name."""
    config: ExperimentConfig
    tokenizers: TokenizerPair
    origin: Origin
    """The metadata of another checkpoint serve as well."""
    training: Mapping[str, Any] | None = None
    """State for resuming alone: tensors, numbers, strings and None in dicts, lists and tuples."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that has been read and verified."""

    path: Path
    tensors: dict[str, Tensor]
    """Weights on the CPU, by parameter name."""
    tokenizers: TokenizerPair
    metadata: Metadata
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    """Scale of each row of the weights that are 8-bit integers in the file, by parameter name."""

    def load_into(self, model: nn.Module, may_lack: str | None = None) -> list[str]:
        """Copies these weights into the model; a `CheckpointError` has one line for each that does not fit.

        Weights whose names begin with `may_lack` need not be there: the model keeps its own; their names are returned.
        """
        own = saved_tensors(model)
        tensors = with_scales(self.tensors, own)
        where = self.path / MODEL_FILE
        missing = [name for name in own if name not in tensors]
        new = [name for name in missing if may_lack is not None and name.startswith(may_lack)]
        problems = [f"{where}: the weights {name} are missing" for name in missing if name not in new]
        problems += [f"{where}: the model has no weights {name}" for name in tensors if name not in own]
        problems += [
            f"{where}: {name} has the shape {tuple(tensor.shape)}, config and vocabulary ask for "
            f"{tuple(own[name].shape)}"
            for name, tensor in tensors.items()
            if name in own and tensor.shape != own[name].shape
        ]
        problems += [
            f"{where}: {name} holds {tensor.dtype}, not floating-point numbers; use a checkpoint that nmt-train, "
            "nmt-average or nmt-quantize wrote"
            for name, tensor in tensors.items()
            if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
        ]
        if problems:
            raise CheckpointError(*problems)
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
        return new


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns what a checkpoint holds of a model by name: parameters, a tied one under its first name, and buffers."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.detach() for name, tensor in tensors.items()}


def parameter_count(tensors: Mapping[str, Tensor]) -> int:
    """Returns the number of parameters of saved tensors; scales are constants."""
    return sum(tensor.numel() for tensor in tensors.values() if tensor.dim())


def with_scales(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns saved tensors with the scales of a network's weights, which are 1 in checkpoints of earlier versions."""
    scales = (name for name in own if name.endswith(".scale") and name not in saved)
    return {**saved, **{name: torch.ones(()) for name in scales}}


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
                # To an open file: when PyTorch opens it, its error does not say why the disk refused.
                with (new / TRAINING_FILE).open("wb") as file:
                    torch.save(snapshot.training, file)
            (new / CONFIG_FILE).write_text(dump_config(config, comments=False), encoding="utf-8")
            metadata = Metadata(
                **{name: getattr(snapshot.origin, name) for name in Origin.model_fields},
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                best=best,
                task=config.task,
                source_language=config.languages[0],
                target_language=config.languages[1] if len(config.languages) > 1 else None,
                source_vocabulary=tokenizers.source.size,
                target_vocabulary=tokenizers.target.size,
                versions=versions(),
                files={file.name: describe(file) for file in sorted(new.iterdir())},
            )
            metadata.write(new)
            tensors, scales = _dequantized(snapshot.model)
            card = model_card(config, metadata, parameter_count(tensors), integers=bool(scales))
            (new / CARD_FILE).write_text(card, encoding="utf-8")
    except (OSError, RuntimeError, SafetensorError) as error:
        if (refusal := _refusal(error)) is None:
            raise
        raise CheckpointError(f"{folder}: cannot be written: {reason(refusal)}") from error


def load_model_files(folder: Path) -> Loaded:
    """Reads and verifies what translation needs; a `CheckpointError` has one line for each thing that is wrong."""
    metadata = read_metadata(folder)
    problems = [
        problem
        for name, saved in metadata.files.items()
        if name != TRAINING_FILE
        and (problem := damage_of(folder / name, saved, _PUT_BACK if name == CONFIG_FILE else _COPY))
    ]
    if MODEL_FILE not in metadata.files:
        problems.append(f"{folder / METADATA_FILE}: damaged, it does not name {MODEL_FILE}; {_COPY}")
    if problems:
        raise CheckpointError(*problems)
    tokenizers = TokenizerPair.load(folder)
    sides = {"source": metadata.source_vocabulary, "target": metadata.target_vocabulary}
    problems = [
        f"{folder}: the {side} tokenizer has {size} pieces, the model was trained with {expected}"
        for side, expected in sides.items()
        if (size := getattr(tokenizers, side).size) != expected
    ]
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
    tensors, scales = _dequantized(tensors)
    return Loaded(folder, tensors, tokenizers, metadata, scales)


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
        raise CheckpointError(f"{file}:{line_of(error)}: damaged, not UTF-8; {_COPY}") from None


def load_training_state(folder: Path) -> dict[str, Any] | None:
    """Returns what was given as `Snapshot.training`, on the CPU; None if it was not written or has been removed.

    Raises `CheckpointError` when it is damaged.
    """
    file = folder / TRAINING_FILE
    saved = read_metadata(folder).files.get(TRAINING_FILE)
    if saved is None or not os.path.lexists(file):
        return None
    if damage := damage_of(file, saved, f"remove {folder} to continue from the checkpoint before it"):
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
    return state


def check_config(folder: Path) -> None:
    """Raises `CheckpointError` unless `config.yaml` is the one that was saved; earlier versions kept no checksum."""
    saved = read_metadata(folder).files.get(CONFIG_FILE)
    if saved is not None and (damage := damage_of(folder / CONFIG_FILE, saved, _PUT_BACK)):
        raise CheckpointError(damage)


def average(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Returns the mean of each tensor over the checkpoints (Junczys-Dowmunt 2016), summed in float64, in its own type.

    Integer tensors must be equal everywhere. Raises `CheckpointError` where checkpoints do not fit each other.
    """
    if not folders:
        raise CheckpointError("no checkpoint to average; name at least one")
    first = load_model_files(folders[0])
    refuse_integers(first, "cannot be averaged")
    sums = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in first.tensors.items()}
    for folder in folders[1:]:
        other = load_model_files(folder)
        refuse_integers(other, "cannot be averaged")
        if other.tokenizers.fingerprints != first.tokenizers.fingerprints:
            raise CheckpointError(f"{folder}: has another vocabulary than {folders[0]}; they cannot be averaged")
        problems = [
            f"{folder}: {name} is {_shape(other.tensors, name)}, in {folders[0]} it is {_shape(first.tensors, name)}"
            for name in sorted(sums.keys() | other.tensors.keys())
            if _shape(other.tensors, name) != _shape(first.tensors, name)
        ]
        if problems:
            raise CheckpointError(*problems)
        for name, tensor in other.tensors.items():
            if tensor.is_floating_point():
                sums[name] += tensor
            elif not torch.equal(tensor, sums[name]):
                raise CheckpointError(f"{folder}: {name} counts in whole numbers and is not the one of {folders[0]}")
    return {
        name: (total / len(folders)).to(first.tensors[name].dtype) if total.is_floating_point() else total
        for name, total in sums.items()
    }


def _shape(tensors: dict[str, Tensor], name: str) -> str:
    return f"{tensors[name].dtype} {tuple(tensors[name].shape)}" if name in tensors else "missing"


def with_integers(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Returns tensors to save, those of these names as 8-bit integers beside the scale of each row."""
    saved = dict(tensors)
    for name in names:
        saved[name], saved[name + ROW_SCALE] = quantize(tensors[name].float())
    return saved


def _dequantized(saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the tensors of a file, where integers are multiplied by their scales, and these scales."""
    scales = {
        name: scale_O
        for name, tensor in saved.items()
        if tensor.dtype == torch.int8
        and tensor.dim() == 2
        and (scale_O := saved.get(name + ROW_SCALE)) is not None
        and (scale_O.dtype, scale_O.shape) == (torch.float32, tensor.shape[:1])
    }
    tensors = {name: tensor for name, tensor in saved.items() if name.removesuffix(ROW_SCALE) not in scales}
    return tensors | {name: saved[name] * scale_O.unsqueeze(1) for name, scale_O in scales.items()}, scales


def refuse_integers(model: Loaded, verb: str) -> None:
    """Raises `CheckpointError` for a model of `nmt-quantize`."""
    if model.scales:
        raise CheckpointError(
            f"{model.path}: its weights are 8-bit integers, which {verb}; name the model that they were made from"
        )


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
