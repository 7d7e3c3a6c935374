"""Checkpoints: folders that translate when copied alone, and the run folder that keeps them."""

from __future__ import annotations

from nmt.checkpoint.average import average
from nmt.checkpoint.folder import (
    TRAINING_FILE,
    Loaded,
    Snapshot,
    load_model_files,
    load_training_state,
    write_checkpoint,
)
from nmt.checkpoint.locate import find
from nmt.checkpoint.metadata import FORMAT, Metadata, read_metadata
from nmt.checkpoint.resume import CHANGEABLE, resume_conflicts, state_problems
from nmt.checkpoint.run import RunFolder

__all__ = [
    "CHANGEABLE",
    "FORMAT",
    "TRAINING_FILE",
    "Loaded",
    "Metadata",
    "RunFolder",
    "Snapshot",
    "average",
    "find",
    "load_model_files",
    "load_training_state",
    "read_metadata",
    "resume_conflicts",
    "state_problems",
    "write_checkpoint",
]
