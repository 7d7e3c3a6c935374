"""Model folders and training states, written atomically.

A model folder translates when it is copied alone. A run folder keeps the checkpoints of a training.
"""

from __future__ import annotations

from nmt.checkpoint.folder import (
    TRAINING_FILE,
    Loaded,
    Snapshot,
    average,
    load_model_files,
    load_training_state,
    saved_tensors,
    with_scales,
    write_checkpoint,
)
from nmt.checkpoint.metadata import FORMAT, Metadata, Origin, read_metadata
from nmt.checkpoint.run import CHANGEABLE, RunFolder, find, resume_conflicts
