"""nmt-train: trains a translator or a classifier of documents."""

from __future__ import annotations

from nmt.cli.common import INTERRUPTED, command, writing
from nmt.cli.options import Parser

DESCRIPTION = """Trains the translator, or the classifier of documents, that a YAML describes. The same command again
resumes a run that was stopped. To train with several processes: torchrun --nproc-per-node N -m nmt.cli.train
--config FILE"""


@command
def main() -> int:
    parser = Parser("nmt-train", DESCRIPTION)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="YAML of the experiment")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a key of the YAML, such as training.batch_tokens=8192; may be repeated",
    )
    parser.add_plugin_option()
    add("--fresh", action="store_true", help="start again; an earlier run in the folder is kept aside")
    add("--verbose", action="store_true", help="print details of the implementation, which train.log has in any case")
    add_action = parser.add_mutually_exclusive_group().add_argument
    add_action("--check", action="store_true", help="read the data, build the model, run the largest batch, then stop")
    add_action("--print-config", action="store_true", help="print the resolved YAML with comments, then stop")
    options = parser.parse_args()

    # Imported late: a mistake in the arguments should not wait for PyTorch.
    from nmt.config import dump_config
    from nmt.tasks.components import read_config

    config = read_config(options.config, options.overrides, options.plugin)
    if options.print_config:
        with writing(None) as write:
            write(dump_config(config, comments=True))
        return 0

    from nmt.tasks.training import check, train

    if options.check:
        check(config, verbose=options.verbose)
        return 0
    outcome = train(config, fresh=options.fresh, verbose=options.verbose)
    return INTERRUPTED if outcome.interrupted else 0


if __name__ == "__main__":
    main()
