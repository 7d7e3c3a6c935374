"""nmt-quantize: a model whose weights are 8-bit integers on disk."""

from __future__ import annotations

from nmt.cli.common import command, unused_folder, writing
from nmt.cli.options import Parser

DESCRIPTION = """Writes a model with weights of 8 bits into a new folder, about a quarter as large. It translates as
the model itself does with --precision int8. Commands that use a model take the folder; training cannot begin there."""


@command
def main() -> int:
    parser = Parser("nmt-quantize", DESCRIPTION)
    parser.add_model_options(ensemble=False)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder of the new model")
    options = parser.parse_args()
    output = unused_folder(options.output)

    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.runtime import in_bytes
    from nmt.tasks.plugins import load_plugins
    from nmt.tasks.translation.loading import quantize_model

    load_plugins(options.plugin)
    before, after = quantize_model(options.model, options.checkpoint, output)
    with writing(None) as write:
        write(f"{output}: {in_bytes(after)} of weights instead of {in_bytes(before)}\n")
    return 0


if __name__ == "__main__":
    main()
