"""Curves of scores: BLEU against the length of the source sentence (Bahdanau 2015, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nmt.visualization.heatmap import DPI, SETTINGS, ImageFormat

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by readers with any colour vision (Okabe and Ito 2008)."""
MARKERS = "os^Dv*"


def render_length_curves(
    labels: Sequence[str],
    curves: Mapping[str, Sequence[float]],
    kind: ImageFormat,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> bytes:
    """Returns a picture of BLEU by length as the content of a file, always the same bytes.

    Args:
        labels: the groups of sentences by their words, such as `7-9`.
        curves: BLEU of each group, by the name of the system.
        intervals: confidence intervals of each group, drawn as a band, for systems that have them.
    """
    file = BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 4.0), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        positions = range(len(labels))
        for number, (name, values) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(positions, values, color=colour, marker=MARKERS[number % len(MARKERS)], label=name)
            if intervals and name in intervals:
                lower, upper = zip(*intervals[name], strict=True)
                axes.fill_between(positions, lower, upper, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(positions, labels)
        axes.set_xlabel("words of the source sentence")
        axes.set_ylabel("BLEU")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        metadata: Any = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=DPI, facecolor="white", metadata=metadata)
    return file.getvalue()
