"""nmt-lexicon: likely translations of each source piece, for shortlists and unknown words."""

from __future__ import annotations

from nmt.cli.common import command, writing
from nmt.cli.options import Parser
from nmt.config.schema import Positive

DESCRIPTION = """Estimates the translation probabilities of pieces from the training text of a run (IBM model 1), and
writes the most likely translations of each source piece into the run's folder, for --shortlist and --replace-unknown of
nmt-translate and nmt-eval. A pair counts by the weight of its corpus. The encoded training text must still be in the
run's cache, or in data.cache of its config."""
NUMBERS = (
    ("--candidates", 100, "translations of each piece; the most that --shortlist can use"),
    ("--iterations", 5, "iterations of expectation-maximisation"),
    ("--pairs", 1_000_000, "pairs that are read; of a larger training text every n-th one"),
)


@command
def main() -> int:
    parser = Parser("nmt-lexicon", DESCRIPTION)
    parser.add_model_options(ensemble=False)
    for flag, default, text in NUMBERS:
        parser.add_number_option(flag, Positive, default, text)
    options = parser.parse_args()

    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.runtime import set_up_logging
    from nmt.tasks.plugins import load_plugins
    from nmt.tasks.translation.loading import build_lexicon

    set_up_logging(None, is_main=True)
    load_plugins(options.plugin)
    file = build_lexicon(options.model, options.checkpoint, options.candidates, options.iterations, options.pairs)
    with writing(None) as write:
        write(f"{file}\n")
    return 0


if __name__ == "__main__":
    main()
