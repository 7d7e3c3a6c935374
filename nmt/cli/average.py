"""nmt-average: mean of the last checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

from nmt.cli.common import command, unused_folder, writing
from nmt.cli.options import Parser
from nmt.config.schema import Positive
from nmt.errors import CheckpointError

DESCRIPTION = """Averages the weights of the last checkpoints of a run into a new checkpoint, for --model of
nmt-translate and nmt-eval. A run keeps training.keep_last checkpoints."""


@command
def main() -> int:
    parser = Parser("nmt-average", DESCRIPTION)
    parser.add_argument("model", metavar="RUN", help="run folder")
    parser.add_number_option("--last", Positive, 3, "number of checkpoints", "K")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder of the new checkpoint")
    parser.add_plugin_option()
    options = parser.parse_args()
    run, last, output = Path(options.model), options.last, unused_folder(options.output)

    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.checkpoint import RunFolder, Snapshot, average, find, load_model_files, write_checkpoint
    from nmt.tasks.components import read_saved_config
    from nmt.tasks.plugins import load_plugins
    from nmt.tasks.translation.loading import copy_lexicon

    load_plugins(options.plugin)
    folders = RunFolder(run).checkpoints()
    if not folders:
        find(run)  # raises if there is no checkpoint at all
        raise CheckpointError(f"{run}: is a single checkpoint; name the run's folder")
    if len(folders) < last:
        raise CheckpointError(
            f"{run}: has {len(folders)} checkpoints, not {last}; lower --last (training.keep_last says how many a run "
            "keeps)"
        )
    folders = folders[-last:]
    names = [folder.name for folder in folders]
    # The newest checkpoint gives everything but the weights.
    newest = load_model_files(folders[-1])
    origin = newest.metadata.model_copy(update={"average_of": names, "metrics": {}, "signatures": {}})
    config = read_saved_config(newest.path)
    write_checkpoint(output, Snapshot(average(folders), config, newest.tokenizers, origin))
    copy_lexicon(newest.path, output)
    with writing(None) as write:
        write(f"{output}: the mean of {', '.join(names)}\n")
    return 0


if __name__ == "__main__":
    main()
