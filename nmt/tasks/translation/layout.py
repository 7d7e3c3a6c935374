"""How translations are written: plain text, or a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nmt.tasks.translation.alignment import UNITS, Linking, Unit, align_translation, pharaoh
from nmt.tasks.translation.translation import Translation

SEPARATOR = " ||| "


@dataclass(frozen=True)
class TextLayout:
    """One line a translation: `[NUMBER ||| ] TEXT [ ||| SCORE] [ ||| ALIGNMENT]`.

    With `n_best` above 1 as Moses writes it: up to so many lines for a line of the input, best first, each begun by
    the number of that line, from 0, and with its score.
    """

    n_best: int = 1
    scores: bool = False
    alignments: Unit | None = None
    linking: Linking = "grow-diag"

    def render(self, number: int, line: str, translations: Sequence[Translation]) -> str:
        """The text for line `number` of the input, counted from 1; a blank line for a blank one."""
        if not translations:
            return f"{number - 1}{SEPARATOR}\n" if self.n_best > 1 else "\n"
        return "".join(SEPARATOR.join(self._fields(number, translation)) + "\n" for translation in translations)

    def _fields(self, number: int, translation: Translation) -> list[str]:
        fields = [translation.text]
        if self.n_best > 1:
            fields.insert(0, str(number - 1))
        if self.scores or self.n_best > 1:
            fields.append(f"{translation.score:.4f}")
        if self.alignments is not None:
            fields.append(pharaoh(align_translation(translation, self.alignments, self.linking)))
        return fields


@dataclass(frozen=True)
class JsonLayout:
    """A JSON object for a line of the input, with everything that is known of its translations.

    `line` counts from 1. `log_probabilities` has one number more than `pieces`: the end's. `alignments` is null for a
    model without attention.
    """

    linking: Linking = "grow-diag"

    def render(self, number: int, line: str, translations: Sequence[Translation]) -> str:
        """The object, on one line."""
        content = {
            "line": number,
            "source": line,
            "source_pieces": list(translations[0].source_pieces) if translations else [],
            "translation": translations[0].text if translations else "",
            "hypotheses": [_content(translation, self.linking) for translation in translations],
        }
        return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


Layout = TextLayout | JsonLayout


def _content(translation: Translation, linking: Linking) -> dict[str, Any]:
    alignments = None
    if translation.attention is not None:
        alignments = {unit: pharaoh(align_translation(translation, unit, linking)) for unit in UNITS}
    return {
        "text": translation.text,
        "score": translation.score,
        "log_probability": translation.log_probability,
        "pieces": list(translation.pieces),
        "log_probabilities": list(translation.piece_log_probabilities),
        "alignments": alignments,
    }
