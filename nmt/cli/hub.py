"""nmt-hub: models on the Hugging Face hub."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.cli.common import command, unused_folder, writing
from nmt.cli.options import Parser
from nmt.errors import write_errors

if TYPE_CHECKING:
    from nmt.checkpoint.huggingface import HubName

DESCRIPTION = """Uploads a trained model to the Hugging Face hub (push), or downloads one (pull) and compares its
checksums. Every command takes such a model by its name hf://USER/NAME."""
EPILOG = """A token is taken from HF_TOKEN, or from `hf auth login`. HF_ENDPOINT names another hub, HF_HOME the folder
of the cache, and HF_HUB_OFFLINE=1 uses the cache alone."""


@command
def main() -> int:
    parser = Parser("nmt-hub", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("action", choices=("push", "pull"), help="upload or download")
    add("name", metavar="NAME", help="model on the hub: USER/NAME, or USER/NAME@REVISION (a branch to push to)")
    add("--model", metavar="PATH", help="run folder or checkpoint to push")
    add("--checkpoint", choices=("best", "last"), help="checkpoint of a run (default: best, or last if there is none)")
    parser.add_plugin_option()
    add("--public", action="store_true", help="make a new model on the hub public (default: private)")
    add("--dry-run", action="store_true", help="show what would be pushed")
    add("--output", metavar="FOLDER", help="copy the model that is pulled into a new folder")
    options = parser.parse_args()
    pushes = options.action == "push"
    if pushes and options.model is None:
        parser.error("push: name the model with --model")
    misplaced = ["--output"] if pushes else ["--model", "--checkpoint", "--plugin", "--public", "--dry-run"]
    for flag in misplaced:
        if getattr(options, flag[2:].replace("-", "_")):
            parser.error(f"{flag} does not go with {options.action}")
    output = unused_folder(options.output) if options.output else None

    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.checkpoint.huggingface import HubName
    from nmt.runtime import set_up_logging

    set_up_logging(None, is_main=True)
    name = HubName.of(options.name)
    if pushes:
        _push(options, name)
    else:
        _pull(name, output)
    return 0


def _push(options: argparse.Namespace, name: HubName) -> None:
    from nmt.checkpoint.huggingface import upload
    from nmt.runtime import in_bytes
    from nmt.tasks.plugins import load_plugins
    from nmt.tasks.publishing import publish

    load_plugins(options.plugin)

    with tempfile.TemporaryDirectory(prefix="nmt-hub-") as scratch, writing(None) as write:
        files = publish(options.model, options.checkpoint, Path(scratch), str(name))
        for file in files:
            write(f"{file.name}  {in_bytes(file.stat().st_size)}\n")
        if options.dry_run:
            write(f"{name}: nothing is uploaded, because of --dry-run\n")
            return
        write(f"{name}: {upload(name, Path(scratch), private=not options.public)}\n")


def _pull(name: HubName, output: Path | None) -> None:
    from nmt.checkpoint import load_model_files
    from nmt.checkpoint.durable import new_folder
    from nmt.checkpoint.huggingface import MODEL_FILES, download

    folder = download(name)
    load_model_files(folder)
    if output is not None:
        with write_errors(output), new_folder(output) as new:
            for file in MODEL_FILES:
                if (folder / file).exists():
                    shutil.copyfile(folder / file, new / file)
    with writing(None) as write:
        write(f"{output or folder}\n")


if __name__ == "__main__":
    main()
