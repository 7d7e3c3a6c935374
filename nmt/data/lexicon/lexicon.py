"""The likely translations of each source piece, and the pieces that a translation may be made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nmt.data.lexicon.estimation import Table
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import DataError

LEXICON_FILE = "lexicon.safetensors"
"""Name in a run or a checkpoint folder."""
FORMAT = 1
"""Version of the file's layout; another one is refused."""
NONE = -1

Pieces = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Lexicon:
    """A vocabulary of its own for every source sentence (Jean 2015, section 3.2): the pieces that are most frequent in
    the training text, and the most likely translations of each source piece."""

    frequent: Pieces
    """All target pieces, the most frequent in an epoch first."""
    candidates: Pieces
    """[source pieces, candidates] translations of each source piece, the most likely first, -1 after the last one."""
    tokenizers: tuple[str, str]
    """Fingerprints of those that the pieces belong to."""

    @classmethod
    def of(cls, table: Table, most: int, tokenizers: TokenizerPair) -> Lexicon:
        """From a table of probabilities, at most so many candidates of each source piece; ties go to the lower id."""
        real = (table.source < tokenizers.source.size) & (table.probability > 0.0)
        source, target = table.source[real], table.target[real]
        order = np.lexsort((target, -table.probability[real], source))
        source, target = source[order], target[order]
        rank = np.arange(len(source)) - np.searchsorted(source, source)
        kept = rank < most
        candidates = np.full((tokenizers.source.size, most), NONE, np.int32)
        candidates[source[kept], rank[kept]] = target[kept]
        frequent = np.argsort(-table.occurrences, kind="stable").astype(np.int32)
        return cls(frequent, candidates, tokenizers.fingerprints)

    @property
    def most(self) -> int:
        """Candidates that a source piece has at most."""
        return int(self.candidates.shape[1])

    def pieces(self, source: Sequence[int], frequent: int, candidates: int) -> Pieces:
        """The target pieces for a source sentence, in ascending order.

        Where both languages share a vocabulary the source pieces are among them: names and numbers stay what they are.
        """
        assert candidates <= self.most
        ids = np.asarray(source, np.int64)
        copied = ids.astype(np.int32) if self.tokenizers[0] == self.tokenizers[1] else ids[:0].astype(np.int32)
        likely = self.candidates[ids, :candidates].ravel()
        found = np.unique(np.concatenate((self.frequent[:frequent], likely, copied)))
        return found[np.searchsorted(found, 0) :]

    def to_bytes(self) -> bytes:
        """The content of its file."""
        about = {"format": FORMAT, "tokenizers": self.tokenizers}
        return save({"frequent": self.frequent, "candidates": self.candidates}, {"lexicon": json.dumps(about)})

    @classmethod
    def load(cls, path: Path, tokenizers: TokenizerPair) -> Lexicon:
        """From its file; raises `DataError` where that is damaged, or made for other tokenizers."""
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["lexicon"])
                if about["format"] != FORMAT:
                    raise DataError(f"{path}: format {about['format']}, not {FORMAT}; build it again with nmt-lexicon")
                frequent, candidates = file.get_tensor("frequent"), file.get_tensor("candidates")
                lexicon = cls(frequent, candidates, (about["tokenizers"][0], about["tokenizers"][1]))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a lexicon, or damaged; build it again with nmt-lexicon") from error
        if lexicon.tokenizers != tokenizers.fingerprints:
            raise DataError(f"{path}: made for other tokenizers than the model's; build it again with nmt-lexicon")
        sizes = (tokenizers.target.size,), tokenizers.source.size
        whole = frequent.shape == sizes[0] and candidates.ndim == 2 and len(candidates) == sizes[1]
        ids = np.concatenate((frequent, candidates.ravel() if whole else frequent))
        if not whole or ids.dtype != np.int32 or ids.min() < NONE or ids.max() >= tokenizers.target.size:
            raise DataError(f"{path}: not a lexicon, or damaged; build it again with nmt-lexicon")
        return lexicon
