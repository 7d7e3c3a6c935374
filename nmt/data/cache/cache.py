"""Corpora are encoded once, into a folder of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nmt.config.schema import FiltersConfig
from nmt.data.cache.build import build
from nmt.data.cache.corpus import EncodedCorpus, EncodedPairs
from nmt.data.cache.digests import Digests
from nmt.data.cache.keeping import found, kept
from nmt.data.cache.report import EncodingReport
from nmt.data.readers.pairs import Corpus
from nmt.data.tokenizer import TokenizerPair

FORMAT = 1
"""Part of every key: raise it when the same text would be encoded differently, or laid out differently."""
_PAIRS = "pairs.arrow"


def encode_corpora(
    corpora: Sequence[Corpus],
    tokenizers: TokenizerPair,
    filters: FiltersConfig | None,
    cache: Path,
    workers: int,
    keep_text: bool,
) -> EncodedCorpus:
    """The corpora as ids, in this order, from the cache where it has them; else tokenized into it.

    `filters` None keeps every pair, empty sides included. `workers` is the number of processes that tokenize, 0 for
    one a core. `keep_text` keeps the sentences beside their ids, for subword regularisation.
    Several processes may ask for the same at once: one encodes, the others wait for it.
    Raises DataError where a corpus cannot be read, nothing of it is left, or the cache cannot be written.
    """
    assert corpora

    def describe(digests: Digests) -> dict[str, Any]:
        described = {
            "format": FORMAT,
            "corpora": [
                digests.of(f"format {FORMAT} {corpus.reading}", corpus.files, corpus.fingerprint) for corpus in corpora
            ],
            "tokenizers": [tokenizers.source.fingerprint, tokenizers.target.fingerprint],
            "filters": None if filters is None else filters.model_dump(),
            "text": keep_text,
        }
        # All corpora have the same split. Without one, the keys are those of before there were splits.
        return described | ({"held_out": corpora[0].held_out.fingerprint} if corpora[0].held_out else {})

    make = partial(build, corpora, tokenizers, filters, workers, keep_text)
    pairs, report, key = kept(cache, describe, _PAIRS, make, EncodingReport.from_json)
    return EncodedCorpus(pairs, corpora, report, key)


def encoded_pairs(cache: Path, key: str) -> EncodedPairs | None:
    """The pairs that the cache has under this key, the fingerprint of an `EncodedCorpus`; None where it has not."""
    arrow = found(cache, key, _PAIRS, EncodingReport.from_json)
    return None if arrow is None else EncodedPairs(arrow)
