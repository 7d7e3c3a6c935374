"""Attack the commands with broken input, and report every case that fails."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import strategies as st

from scripts.fuzzing import checkpoints, configs, corpora, streams
from scripts.fuzzing.case import Case, Workshop
from scripts.fuzzing.hunt import Hunt

KINDS = ("configs", "corpora", "checkpoints", "streams")
BASE = "runs/fuzz"


def main() -> int:
    """Entry point of `scripts/fuzz`."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=10.0, help="budget of all kinds together (default: 10)")
    parser.add_argument("--cases", type=int, help="stop each kind after so many cases (default: when time is up)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    parser.add_argument("--failures", type=Path, default=Path(BASE), help=f"folder of failing cases (default: {BASE})")
    options = parser.parse_args()
    print(f"scripts/fuzz {shlex.join(sys.argv[1:])}  (seed {options.seed})", flush=True)
    start = time.monotonic()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="nmt-fuzz-") as folder, Workshop(Path(folder)) as workshop:
        runs = checkpoints.trained(workshop)
        for number, kind in enumerate(options.only, start=1):
            begun = time.monotonic()
            left = options.minutes * 60 - (begun - start)
            hunt = Hunt(kind, workshop, options.failures)
            hunt.run(
                strategy_of(kind, runs),
                cases=options.cases,
                seconds=left / (len(options.only) - number + 1),
                seed=options.seed,
            )
            print(hunt.report(time.monotonic() - begun), flush=True)
            failed += len(hunt.findings)
    return 1 if failed else 0


def strategy_of(kind: str, runs: dict[str, dict[str, bytes]]) -> st.SearchStrategy[Case]:
    """The cases of a kind; `runs` are the files of the trained runs."""
    match kind:
        case "configs":
            return configs.strategy()
        case "corpora":
            return corpora.strategy()
        case "checkpoints":
            return checkpoints.strategy(runs)
        case _:
            return streams.strategy(runs)


if __name__ == "__main__":
    sys.exit(main())
