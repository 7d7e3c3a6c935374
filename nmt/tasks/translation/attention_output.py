"""Attention weights for other programs: in JSON objects, and in a NumPy archive.

Shapes: N heads, T target positions, S source positions, the end symbols included in both.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.checkpoint.durable import new_file
from nmt.errors import write_errors
from nmt.visualization.attention_map import END

DECIMALS = 6
"""Of a weight in JSON."""

Weights = npt.NDArray[np.floating]
AddWeights = Callable[[int, Sequence[str], Sequence[str], Weights], None]
"""Adds a line of the input, numbered from 1: source pieces, target pieces, and weights [N, T, S]."""


def weights_in_json(weights_NTS: Weights) -> dict[str, Any]:
    """Returns `weights`, the mean of the heads, in rows of the target pieces and last of the end, and `heads` where
    there are several."""
    content = {"weights": _rounded(weights_NTS.mean(0))}
    if len(weights_NTS) > 1:
        content["heads"] = _rounded(weights_NTS)
    return content


def _rounded(weights: Weights) -> Any:
    return np.round(weights.astype(np.float64), DECIMALS).tolist()


@contextmanager
def weights_archive(path: Path) -> Iterator[AddWeights]:
    """A NumPy archive (.npz), which exists when the block has ended without an error.

    Line 3 has the arrays `3.weights` [T, S], the mean of the heads, `3.source` [S] and `3.target` [T], and where there
    are several heads `3.heads` [N, T, S]. Weights are float32, pieces text with the end symbol last.
    Raises `DataError` where the file cannot be written.
    """
    with ExitStack() as stack:
        with write_errors(path):
            archive = zipfile.ZipFile(stack.enter_context(new_file(path)), "w", zipfile.ZIP_DEFLATED)

        def add(line: int, source: Sequence[str], target: Sequence[str], weights_NTS: Weights) -> None:
            arrays = {"source": np.array([*source, END]), "target": np.array([*target, END])}
            arrays["weights"] = weights_NTS.mean(0).astype(np.float32)
            if len(weights_NTS) > 1:
                arrays["heads"] = weights_NTS.astype(np.float32)
            for name, array in arrays.items():
                # Without the time of writing: the same weights are the same bytes.
                entry = zipfile.ZipInfo(f"{line}.{name}.npy")
                entry.compress_type = zipfile.ZIP_DEFLATED
                with write_errors(path), archive.open(entry, "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)

        yield add
        with write_errors(path):
            archive.close()
            stack.close()
