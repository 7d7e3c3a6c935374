"""Writes corpora of any size: sentences of the quickstart's grammar, or random words."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from scripts.quickstart_corpus import english, german
from scripts.quickstart_corpus.chooser import Chooser
from scripts.quickstart_corpus.clauses import Clauses
from scripts.quickstart_corpus.phrases import Phrases
from scripts.quickstart_corpus.sentences import Sentences

BLOCK_PAIRS = 10_000
BLOCK_SENTENCES = 1_000
"""Sentences that the pairs of a block are made of. The grammar makes 15,000 per second; a pair has two or three."""
Texts = tuple[str, str]


def write_grammar(folder: Path, pairs: int, processes: int) -> tuple[Path, Path]:
    """Writes pairs of two or three sentences of the quickstart's grammar; the same for any number of processes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "grammar.de", folder / "grammar.en"
    with paths[0].open("w", encoding="utf-8") as source, paths[1].open("w", encoding="utf-8") as target:
        for sources, targets in _blocks(pairs, processes):
            source.write(sources)
            target.write(targets)
    return paths


def _blocks(pairs: int, processes: int) -> Iterator[Texts]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        waiting: deque[Future[Texts]] = deque()
        for number, first in enumerate(range(0, pairs, BLOCK_PAIRS)):
            waiting.append(pool.submit(_block, number, min(BLOCK_PAIRS, pairs - first)))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _block(seed: int, pairs: int) -> Texts:
    chooser = Chooser(seed)
    sentences = Sentences(chooser, Clauses(chooser, Phrases(chooser)))
    drawn = [sentences.free() for _ in range(BLOCK_SENTENCES)]
    said = [(german.sentence(sentence), english.sentence(sentence)) for sentence in drawn]
    rng = np.random.default_rng(seed)
    lines = zip(rng.integers(2, 4, pairs).tolist(), rng.integers(0, len(said), (pairs, 3)).tolist(), strict=True)
    chosen = [[said[number] for number in numbers[:count]] for count, numbers in lines]
    sources, targets = (
        "".join(" ".join(sentence[side] for sentence in line) + "\n" for line in chosen) for side in (0, 1)
    )
    return sources, targets


def write_words(folder: Path, pairs: int, seed: int = 1) -> tuple[Path, Path]:
    """Writes sentences as long as those of Multi30k, of 20,000 words whose frequencies follow Zipf's law."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(20_000)])
    frequencies = 1.0 / np.arange(10, len(words) + 10)
    frequencies /= frequencies.sum()
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "words.xx", folder / "words.yy"
    lengths = np.rint(rng.lognormal(np.log(9.5), 0.3, pairs)).clip(3, 40).astype(int)
    for path in paths:
        with path.open("w", encoding="utf-8") as file:
            for length in lengths:
                file.write(" ".join(rng.choice(words, length, p=frequencies)) + "\n")
    return paths
