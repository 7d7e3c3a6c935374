"""Attention weights as HTML for a notebook; no script, no style sheet, no further package.

Shapes: N heads, T target positions, S source positions, the end symbols included in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy.typing as npt

from nmt.visualization.attention_map import piece_labels

COLOUR = "0,114,178"
"""Red, green and blue of weight 1; a smaller weight lets the page's own background through."""
CELL = "min-width:1.4em;width:1.4em;height:1.4em;padding:0;border:1px solid rgba(128,128,128,.25)"
TOP = "writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;vertical-align:bottom;font-weight:normal"
SIDE = "text-align:right;font-weight:normal;white-space:nowrap"


def attention_tables(
    source_pieces: Sequence[str],
    target_pieces: Sequence[str],
    weights_TS: npt.NDArray[Any] | None,
    weights_NTS: npt.NDArray[Any] | None,
) -> str:
    """Returns the weights as a table, source across, target down; those of several heads are folded in below it.

    Pieces are without the end symbols. Without weights there is no table.
    """
    if weights_TS is None:
        return ""
    source, target = piece_labels(source_pieces), piece_labels(target_pieces)
    parts = [attention_table(source, target, weights_TS)]
    if weights_NTS is not None and len(weights_NTS) > 1:
        heads = (
            f"<figure><figcaption>head {number}</figcaption>{attention_table(source, target, each_TS)}</figure>"
            for number, each_TS in enumerate(weights_NTS, start=1)
        )
        parts.append(f"<details><summary>{len(weights_NTS)} heads</summary>{''.join(heads)}</details>")
    return "".join(parts)


def attention_table(source: Sequence[str], target: Sequence[str], weights_TS: npt.NDArray[Any]) -> str:
    """Returns a table with a cell for each weight, the darker the larger; its tooltip has the number."""
    top = "".join(f'<th scope="col" style="{TOP}"><span dir="auto">{escape(label)}</span></th>' for label in source)
    rows = [f"<tr><td></td>{top}</tr>"]
    for label, weights_S in zip(target, weights_TS.tolist(), strict=True):
        cells = "".join(
            f'<td style="{CELL};background:rgba({COLOUR},{min(max(weight, 0.0), 1.0):.3f})" '
            f'title="{escape(label)} ← {escape(piece)}: {weight:.3f}"></td>'
            for piece, weight in zip(source, weights_S, strict=True)
        )
        side = f'<th scope="row" style="{SIDE}"><span dir="auto">{escape(label)}</span></th>'
        rows.append(f"<tr>{side}{cells}</tr>")
    style = "border-collapse:collapse;font-size:90%"
    return f'<div style="overflow-x:auto"><table style="{style}">{"".join(rows)}</table></div>'


def weighted_sentences(sentences: Sequence[tuple[float, Sequence[str], Sequence[float]]]) -> str:
    """Returns sentences, a row each: weight in the document, words, weight of each word in the sentence.

    The background of a word shows sqrt(p_s) p_w, with p_s the weight of its sentence and p_w its own, and is full for
    the largest value of the document (Yang 2016, figure 5).
    """
    shown = [[math.sqrt(weight) * each for each in weights] for weight, _, weights in sentences]
    largest = max((value for row in shown for value in row), default=0.0) or 1.0
    rows = []
    for (weight, words, weights), values in zip(sentences, shown, strict=True):
        spans = (
            f'<span style="background:rgba({COLOUR},{value / largest:.3f})" title="{each:.3f}">{escape(word)}</span>'
            for word, each, value in zip(words, weights, values, strict=True)
        )
        rows.append(f'<tr><td>{weight:.3f}</td><td style="text-align:left" dir="auto">{" ".join(spans)}</td></tr>')
    return f"<table>{''.join(rows)}</table>"
