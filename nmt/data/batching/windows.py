"""An epoch as a row of windows, each a random part of the corpus that is planned at a time.

So the memory of a plan does not grow with the corpus, and training reads what lies together on the disk: a window is
made of whole blocks of consecutive rows. A corpus of up to `WINDOW_ROWS` rows is one window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmt.data.batching.plan import Rows
from nmt.data.cache import WeightedRows

BLOCK_ROWS = 1 << 12
"""At 14 pieces of 16 bits a sentence, 115 kB a side: what a disk is asked for at a time. A thousand blocks from
anywhere in the corpus make a window, so that a corpus that is ordered somehow is not learned in that order."""
WINDOW_ROWS = 1 << 22
"""About 15,000 batches of 4,096 tokens: enough of each length, planned in half a second and 170 MB."""


@dataclass(frozen=True)
class Windows:
    """The windows of all epochs. A row of weight w occurs floor(w) times in an epoch, and once more with probability
    w - floor(w); its occurrences are spread over the windows."""

    parts: Sequence[WeightedRows]
    seed: int
    window_rows: int = WINDOW_ROWS
    block_rows: int = BLOCK_ROWS
    sentences: npt.NDArray[np.int32] | None = None
    """The place of each row in its document, where documents are to stay whole; None where each row is for itself."""

    def __len__(self) -> int:
        """Windows of an epoch, all about equally large."""
        expected = sum((part.stop - part.start) * part.weight for part in self.parts)
        return max(math.ceil(expected / self.window_rows), 1)

    def rows(self, epoch: int, window: int) -> Rows:
        """The rows of a window, as they lie in the corpus; it depends on the seed and the arguments alone."""
        starts, stops, shares = (np.concatenate(each) for each in zip(*map(self._blocks, self.parts), strict=True))
        order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,))).permutation(len(starts))
        first, last = (len(order) * number // len(self) for number in (window, window + 1))
        mine = order[first:last]
        mine = mine[np.lexsort((mine, starts[mine]))]
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, window)))
        blocks = zip(starts[mine].tolist(), stops[mine].tolist(), shares[mine].tolist(), strict=True)
        return np.concatenate([np.empty(0, np.int64), *(self._drawn(*block, rng) for block in blocks)])

    def _blocks(self, part: WeightedRows) -> tuple[Rows, Rows, npt.NDArray[np.float64]]:
        """First row, end and share of each block that is to occur in an epoch, as often as it is to occur."""
        starts = np.arange(part.start, part.stop, self.block_rows)
        whole = int(part.weight)
        shares = [1.0] * whole + ([part.weight - whole] if part.weight > whole else [])
        occurring = np.tile(starts, len(shares))
        stops = np.minimum(occurring + self.block_rows, part.stop)
        return occurring, stops, np.repeat(shares, len(starts))

    def _drawn(self, start: int, stop: int, share: float, rng: np.random.Generator) -> Rows:
        """The rows of a block, or a share of them by chance; of documents, those that begin in the block."""
        if self.sentences is None:
            rows = np.arange(start, stop)
            return rows if share == 1.0 else rows[rng.random(len(rows)) < share]
        rows = np.arange(_beginning(self.sentences, start), _beginning(self.sentences, stop))
        if share == 1.0:
            return rows
        document = np.cumsum(self.sentences[rows] == 0)
        return rows[(rng.random(document[-1] + 1) < share)[document]] if len(rows) else rows


def _beginning(sentences: npt.NDArray[np.int32], row: int) -> int:
    """The first row from this one on with which a document begins."""
    while row < len(sentences):
        begins = np.flatnonzero(sentences[row : row + BLOCK_ROWS] == 0)
        if len(begins):
            return row + int(begins[0])
        row += BLOCK_ROWS
    return len(sentences)
