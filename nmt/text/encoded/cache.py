"""Corpora are encoded once: a folder for each combination of contents and settings, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nmt.config.schema import Filters
from nmt.errors import DataError
from nmt.text.corpus import Corpus
from nmt.text.encoded.build import build
from nmt.text.encoded.corpus import EncodedCorpus
from nmt.text.encoded.digests import Digests, locked
from nmt.text.encoded.report import EncodingReport
from nmt.text.tokenizer import TokenizerPair

_log = logging.getLogger(__name__)

FORMAT = 1
"""Part of every key: raise it when the same text would be encoded differently, or laid out differently."""
_PAIRS = "pairs.arrow"
_REPORT = "report.json"
_CHECKSUMS = "checksums.json"


class _Damaged(Exception):
    pass


def encode_corpora(
    corpora: Sequence[Corpus],
    tokenizers: TokenizerPair,
    filters: Filters | None,
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
    digests = Digests(cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        key = _key(corpora, tokenizers, filters, keep_text, digests)
        folder = cache / key
        report = _report_if_whole(folder, digests)
        if report is not None:
            _log.info("encoded corpora found in %s", folder)
        else:
            with locked(cache / f"{key}.lock"):
                report = _report_if_whole(folder, digests) or _encode_into(
                    folder, corpora, tokenizers, filters, workers, keep_text
                )
    except OSError as error:
        raise DataError(f"{cache}: the encoded corpora cannot be kept there ({error}); see data.cache") from error
    return EncodedCorpus(folder / _PAIRS, corpora, report, key)


def _encode_into(
    folder: Path,
    corpora: Sequence[Corpus],
    tokenizers: TokenizerPair,
    filters: Filters | None,
    workers: int,
    keep_text: bool,
) -> EncodingReport:
    """Build beside the final place and rename, which is atomic; the caller holds the lock of the key."""
    building = folder.with_name(f"{folder.name}.partial")
    # Left by a build that was killed: nobody else can be building, for they would hold the lock.
    shutil.rmtree(building, ignore_errors=True)
    scratch = building / "scratch"
    scratch.mkdir(parents=True)
    try:
        report = build(corpora, tokenizers, filters, workers, keep_text, scratch, building / _PAIRS)
        shutil.rmtree(scratch)
        (building / _REPORT).write_text(report.to_json(), encoding="utf-8")
        checksums = {name: _checksum(building / name) for name in (_PAIRS, _REPORT)}
        (building / _CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _log.info("encoded corpora written to %s", folder)
    return report


def _report_if_whole(folder: Path, digests: Digests) -> EncodingReport | None:
    """The report of a cached folder; None where it is absent, or damaged, which is logged."""
    if not folder.exists():
        return None
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        for name in (_PAIRS, _REPORT):
            path = folder / name
            if digests.of("checksum", [path], partial(_checksum, path)) != checksums[name]:
                raise _Damaged(f"{name} is not what was written")
        return EncodingReport.from_json((folder / _REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, _Damaged) as error:
        _log.warning("%s is damaged (%s): encoding again", folder, error)
        return None


def _key(
    corpora: Sequence[Corpus], tokenizers: TokenizerPair, filters: Filters | None, keep_text: bool, digests: Digests
) -> str:
    described = {
        "format": FORMAT,
        "corpora": [
            digests.of(f"format {FORMAT} {corpus.reading}", corpus.files, corpus.fingerprint) for corpus in corpora
        ],
        "tokenizers": [tokenizers.source.fingerprint, tokenizers.target.fingerprint],
        "filters": None if filters is None else filters.model_dump(),
        "text": keep_text,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
