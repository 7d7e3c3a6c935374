"""Text <-> ids through SentencePiece, learned or loaded."""

from __future__ import annotations

from nmt.data.tokenizer.learning import draw, learn, learn_one
from nmt.data.tokenizer.model import SPACE, Span, Tokenizer, TokenizerPair, load_files, load_or_none

__all__ = [
    "SPACE",
    "Span",
    "Tokenizer",
    "TokenizerPair",
    "draw",
    "learn",
    "learn_one",
    "load_files",
    "load_or_none",
]
