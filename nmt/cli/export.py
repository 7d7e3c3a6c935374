"""nmt-export: a translator as ONNX graphs."""

from __future__ import annotations

from nmt.cli.common import command, unused_folder, writing
from nmt.cli.options import Parser

DESCRIPTION = """Writes a translator as two ONNX graphs, encoder.onnx and step.onnx, into a new folder, with its
tokenizers and options.json. scripts/translate_onnx.py translates with them, without PyTorch."""


@command
def main() -> int:
    parser = Parser("nmt-export", DESCRIPTION)
    parser.add_model_options(ensemble=False)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder of the graphs")
    options = parser.parse_args()
    output = unused_folder(options.output)

    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.tasks.plugins import load_plugins
    from nmt.tasks.translation.onnx_export import export_translator

    load_plugins(options.plugin)
    export_translator(options.model, options.checkpoint, output)
    with writing(None) as write:
        write(f"{output}\n")
    return 0


if __name__ == "__main__":
    main()
