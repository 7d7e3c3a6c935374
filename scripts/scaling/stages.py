"""Runs one measured stage: `python -m scripts.scaling.stages STAGE JSON` prints JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nmt.config.schema import DataConfig, FiltersConfig, TokenizerConfig
from nmt.data.batching import Batch, BatchStream, Position
from nmt.data.cache import EncodedCorpus, encode_corpora
from nmt.data.readers.corpora import Corpus, TextPairOptions, open_corpus
from nmt.data.tokenizer import TokenizerPair, learn
from scripts.scaling.ranks import agreeing, buckets

BATCH_TOKENS = 4096
SEED = 1


def resting() -> dict[str, Any]:
    """Does nothing: the memory of the imports."""
    time.sleep(0.2)
    return {}


def learning(source: str, target: str, pairs: int, vocabulary: int, folder: str) -> dict[str, Any]:
    """Learns a tokenizer from the text and saves it in the folder."""
    corpus = _corpus(source, target, pairs)
    options = TokenizerConfig(vocabulary_size=vocabulary)
    start, began = time.perf_counter(), time.process_time()
    tokenizers = learn(options, lambda: ((pair.source, pair.target) for pair in corpus), SEED)
    seconds, cpu = time.perf_counter() - start, time.process_time() - began
    tokenizers.save(Path(folder))
    return {"seconds": seconds, "cpu": cpu}


def building(source: str, target: str, pairs: int, folder: str, workers: int) -> dict[str, Any]:
    """Builds the cache; measures the processor time of this process and of the workers."""
    corpus, cache = _corpus(source, target, pairs), Path(folder) / "cache"
    began = time.process_time()
    corpus.fingerprint()
    fingerprinted, start = time.process_time(), time.perf_counter()
    encoded = _encoded(corpus, folder, workers)
    seconds, ended = time.perf_counter() - start, time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "fingerprint_cpu": fingerprinted - began,
        "main_cpu": ended - fingerprinted,
        "workers_cpu": children.ru_utime + children.ru_stime,
        "pieces": encoded.report.source.pieces + encoded.report.target.pieces,
        "bytes": (cache / encoded.fingerprint / "pairs.arrow").stat().st_size,
        "duplicates": encoded.report.duplicates,
    }


def opening(source: str, target: str, pairs: int, folder: str) -> dict[str, Any]:
    """Measures the time from a finished cache to the first update."""
    start = time.perf_counter()
    encoded = _encoded(_corpus(source, target, pairs), folder, 1)
    opened = time.perf_counter()
    stream = _stream(encoded, folder)
    stream.largest_batch()
    next(stream.updates(Position()))
    return {"open_seconds": opened - start, "first_update_seconds": time.perf_counter() - opened}


def reading(
    source: str, target: str, pairs: int, folder: str, prefetch: bool, cold: bool = False, rank: int = 0, world: int = 1
) -> dict[str, Any]:
    """Makes an epoch of batches; `cold` first drops the cache's pages from memory."""
    encoded = _encoded(_corpus(source, target, pairs), folder, 1)
    if cold:
        path = Path(folder) / "cache" / encoded.fingerprint / "pairs.arrow"
        del encoded  # Mapped pages are not dropped.
        _forget(path)
        encoded = _encoded(_corpus(source, target, pairs), folder, 1)
    stream = _stream(encoded, folder, rank, world)
    start = time.perf_counter()
    stream.updates_per_epoch(0)
    planned = time.perf_counter()
    updates: Iterator[list[Batch]] = stream.updates(Position()) if prefetch else stream._updates(Position())
    batches = tokens = 0
    for update in updates:
        batches += len(update)
        tokens += sum(batch.target_tokens for batch in update)
    seconds = time.perf_counter() - planned
    return {
        "plan_seconds": planned - start,
        "window_rows": len(stream.planned(0, 0).rows),
        "windows": len(stream.windows),
        "seconds": seconds,
        "batches": batches,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "batches_per_second": batches / seconds,
    }


def _corpus(source: str, target: str, pairs: int) -> Corpus:
    options = TextPairOptions(source=source, target=target, limit=pairs)
    return open_corpus(
        options, DataConfig(source_language="de", target_language="en", train=[options], validation=options)
    )


def _encoded(corpus: Corpus, folder: str, workers: int) -> EncodedCorpus:
    tokenizers = TokenizerPair.load(Path(folder))
    return encode_corpora([corpus], tokenizers, FiltersConfig(), Path(folder) / "cache", workers, keep_text=False)


def _stream(encoded: EncodedCorpus, folder: str, rank: int = 0, world: int = 1) -> BatchStream:
    return BatchStream(encoded, BATCH_TOKENS, SEED, rank, world, 1, TokenizerPair.load(Path(folder)), 0.0)


def _forget(path: Path) -> None:
    """Drops the file's pages from the system's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    stage.__name__: stage for stage in (resting, agreeing, buckets, learning, building, opening, reading)
}


if __name__ == "__main__":
    found = STAGES[sys.argv[1]](**json.loads(sys.argv[2]))
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found))
