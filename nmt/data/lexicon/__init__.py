"""Which target pieces a source piece is likely to become: estimated from the training text, kept in a file."""

from __future__ import annotations

from nmt.data.lexicon.estimation import Pairs, Table, estimate
from nmt.data.lexicon.lexicon import LEXICON_FILE, Lexicon

__all__ = ["LEXICON_FILE", "Lexicon", "Pairs", "Table", "estimate"]
