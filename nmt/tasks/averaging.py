"""A checkpoint from the last ones of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from nmt.checkpoint import RunFolder, Snapshot, average, find, load_model_files, write_checkpoint
from nmt.checkpoint.folder import CONFIG_FILE
from nmt.errors import CheckpointError
from nmt.tasks.components import parse_saved_config
from nmt.tasks.translation.lexicon import LEXICON_FILE


def average_run(run: Path, last: int, output: Path) -> tuple[str, ...]:
    """Write the mean of the last checkpoints of a run to the new folder `output`; the names of those that were taken.

    Config, tokenizers and place in the training are those of the newest, and the run's lexicon, where it has one, comes
    along. Raises `CheckpointError`.
    """
    folders = RunFolder(run).checkpoints()
    if not folders:
        find(run)  # says what there is instead
        raise CheckpointError(f"{run}: is a single checkpoint; name the run's folder")
    if len(folders) < last:
        raise CheckpointError(
            f"{run}: has {len(folders)} checkpoints, not {last}; lower --last (training.keep_last says how many a run "
            "keeps)"
        )
    taken = folders[-last:]
    newest = load_model_files(taken[-1])
    names = tuple(folder.name for folder in taken)
    snapshot = Snapshot(
        model=average(taken),
        config=parse_saved_config(newest.config_text, str(newest.path / CONFIG_FILE)),
        tokenizers=newest.tokenizers,
        step=newest.metadata.step,
        epoch=newest.metadata.epoch,
        data=newest.metadata.data,
        average_of=names,
        labels=tuple(newest.metadata.labels),
    )
    write_checkpoint(output, snapshot)
    lexicon = run / LEXICON_FILE
    if lexicon.is_file():
        # The text and its pieces are the same.
        shutil.copyfile(lexicon, output / LEXICON_FILE)
    return names
