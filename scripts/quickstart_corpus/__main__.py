"""Writes the quickstart corpus: English and German documents of two sentences, by seed, from a grammar of our own.

The same seed gives the same bytes in every Python from 3.10 on; it needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .corpus import Writer
from .files import write

FOLDER = Path(__file__).resolve().parents[2] / "data" / "quickstart"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.quickstart_corpus", description="Write the quickstart corpus from its grammar."
    )
    parser.add_argument("--seed", type=int, default=1, help="draws the sentences; 1 gives the corpus checked in")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder that gets the files (%(default)s)")
    arguments = parser.parse_args()
    corpus = Writer(arguments.seed).corpus()
    write(corpus, arguments.output)
    for name, documents in corpus.splits.items():
        pronouns = sum(document.plan is not None for document in documents)
        print(f"{name}: {2 * len(documents)} sentence pairs in {len(documents)} documents, {pronouns} with a pronoun")


if __name__ == "__main__":
    main()
