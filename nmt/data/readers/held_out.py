"""Validation text that is taken from the training text."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Literal

from nmt.config.registry import PartOptions
from nmt.config.schema.bounds import Count, Positive

HELD_OUT = "held out for validation"


class SplitOptions(PartOptions):
    """Validation text that is taken from the training text, for `data.validation` alone."""

    kind: Literal["split"] = "split"
    """Taken from the training text."""
    split: Positive
    """Number of pairs, or of labelled documents, drawn from all of `data.train`, at most half of it. No other source
    sentence like theirs stays in the training text. Corpora with `documents` give whole documents, up to this number of
    pairs or a few more."""
    seed: Count = 1
    """Seed of the draw. The same text and seed give the same split."""


def text_key(text: str, seed: int) -> int:
    """Returns 64 random bits for a text and a seed. Unicode's spelling (NFKC) and spacing make no difference."""
    normal = unicodedata.normalize("NFKC", " ".join(text.split()))
    digest = hashlib.blake2b(f"{seed} {normal}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class HeldOut:
    """The text that one corpus, or collection, does not give to training."""

    fingerprint: str
    """Of the whole split."""
    seed: int
    texts: frozenset[int]
    """The keys of the source sentences, or of the labelled documents, of the whole split."""
    documents: frozenset[int] = frozenset()
    """The numbers of the documents of this corpus that are held out."""

    def has(self, text: str) -> bool:
        """Whether a text like this is held out."""
        return text_key(text, self.seed) in self.texts
