"""The labels of collections, remembered while their files stay as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nmt.data.cache.digests import Digests
from nmt.data.readers.labelled import Collection, all_labels
from nmt.errors import DataError

FORMAT = 1
"""Part of every name: raise it when other labels would be found in the same files."""


def known_labels(collections: Sequence[Collection], cache: Path) -> tuple[str, ...]:
    """The labels that occur, in alphabetical order; a collection that is as it was is not read again.

    Raises DataError as `all_labels` does, and where the cache cannot be written.
    """
    digests = Digests(cache)

    def labels(collection: Collection) -> list[str]:
        found = digests.of(
            f"labels, format {FORMAT} {collection.reading}",
            collection.files,
            lambda: json.dumps(sorted(collection.labels())),
        )
        return list(json.loads(found))

    try:
        cache.mkdir(parents=True, exist_ok=True)
        return all_labels(collections, labels)
    except OSError as error:
        raise DataError(f"{cache}: the labels cannot be kept there ({error}); see data.cache") from error
