"""Unknown pieces of translations replaced by words of the source (Luong 2015b, section 3; Jean 2015, section 4.1).

Shapes: T target pieces, S source pieces, both with the end symbol last; U words of the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmt.data.lexicons import Lexicon
from nmt.data.tokenizer import TokenizerPair, tokens_of_spans


@dataclass(frozen=True)
class SourceTokens:
    """The words of a source line, with the punctuation at their edges as words of its own, and their translations."""

    tokenizers: TokenizerPair
    texts_U: Sequence[str]
    """The words as they stand in the line."""
    token_S: Sequence[int]
    """The word that each piece belongs to, without the end symbol."""
    ids_S: Sequence[int]
    lexicon: Lexicon | None
    """Translates words of one piece; None copies all."""

    @classmethod
    def of(cls, line: str, ids: Sequence[int], tokenizers: TokenizerPair, lexicon: Lexicon | None) -> SourceTokens:
        """Returns the words of a line; `ids` are its pieces, which may be fewer than the line has."""
        texts, tokens = tokens_of_spans(line, tokenizers.source.spans(line))
        return cls(tokenizers, texts, tokens[: len(ids)], ids, lexicon)

    def replacements(self, ids: Sequence[int], attention_TS: npt.NDArray[np.floating]) -> dict[int, str]:
        """Returns the text for each unknown piece of a translation, by its index.

        It is that of the word with the most attention when the piece was predicted, the sum over its pieces, of equal
        ones the first. A piece without attention on any word has none.
        """
        found: dict[int, str] = {}
        for index in (index for index, id_ in enumerate(ids) if id_ == self.tokenizers.target.unk):
            weights_U = np.bincount(self.token_S, attention_TS[index, :-1], len(self.texts_U))
            if weights_U.any():
                token = int(weights_U.argmax())
                found[index] = self._translation(token) or self.texts_U[token]
        return found

    def _translation(self, token: int) -> str:
        """The best translation of a word in the lexicon; empty if it is unknown, of several pieces, or has none."""
        pieces = [id_ for id_, each in zip(self.ids_S, self.token_S, strict=True) if each == token]
        if self.lexicon is None or len(pieces) != 1 or pieces[0] == self.tokenizers.source.unk:
            return ""
        best, target = int(self.lexicon.candidates[pieces[0], 0]), self.tokenizers.target
        return "" if best < 0 or best == target.unk else target.decode([[best]])[0].strip()
