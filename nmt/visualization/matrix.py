"""The attention matrix of a sentence as a picture (Bahdanau 2015, figure 3): source across, target down.

Shapes: N heads, T target positions, S source positions, the end symbols included in both.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import ft2font
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text

from nmt.visualization.labels import END, in_visual_order, label, marked, stands_upright
from nmt.visualization.look import Look

Kind = Literal["png", "svg"]
KINDS: tuple[Kind, ...] = ("png", "svg")

DPI = 150
LONGEST_SIDE = 40.0
"""Inches: a PNG has at most 36 million pixels, however long the sentence and however many its heads."""
CELL = 0.26
FONT_SIZE = 10.0
SMALLEST_FONT = 5.0
WINDOW_COLOUR = "#0072b2"
CENTER_COLOUR = "#d55e00"

# The text of an SVG stays text, which a browser draws in any script, and its ids do not change from run to run.
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "nmt", "svg.image_inline": True, "text.usetex": False}
# Since 3.11 matplotlib orders and joins the letters of every script; before, it draws all text from left to right.
_ORDERS_TEXT = hasattr(ft2font, "__libraqm_version__")
_FONT_OF_CELL = 0.54  # so that lines of labels, 1.2 times the font's size, keep apart
_PAD = 0.05
_GAP = 0.3
_LEAST_CELL = 0.01
_GRID_FROM = 0.1
_BAR = 0.14
_BAR_HEIGHTS = (1.2, 2.5)


def render(look: Look, families: Sequence[str], kind: Kind) -> bytes:
    """The picture as the content of a file; the same bytes for the same look. `families` are as for `draw`."""
    file = BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context(_SETTINGS):
        # `nmt.visualization.fonts` says what is missing, in one line a script and not in one a character.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
        metadata = {"Date": None} if kind == "svg" else None
        figure = draw(look, families, order_for(kind))
        figure.savefig(file, format=kind, dpi=DPI, bbox_inches="tight", facecolor="white", metadata=metadata)
    return file.getvalue()


def order_for(kind: Kind) -> Callable[[str], str]:
    """Puts a label into the order in which its letters must be given to be drawn in the right one."""
    if kind == "svg":
        return marked
    return in_visual_order if not _ORDERS_TEXT else str


def labels_of(look: Look) -> tuple[list[str], list[str]]:
    """The labels of the source and of the target, the end symbols last."""
    source, target = look.source_pieces, look.target_pieces
    return [*map(label, source), END], [*map(label, target), END]


def window_of(center: float, half_width: int, source_positions: int) -> range:
    """Positions of the source in [p_t - D, p_t + D] (Luong 2015, section 3.2); empty where it lies outside."""
    first = max(0, math.ceil(center - half_width))
    return range(first, max(first, min(source_positions - 1, math.floor(center + half_width)) + 1))


def draw(look: Look, families: Sequence[str], order: Callable[[str], str] = str) -> Figure:
    """One panel a head, each labelled. White is weight 0 and black is 1: the reverse of the paper's, to save ink.

    Darkness grows with the square root of the weight, or the small ones could not be seen. A window of local attention
    is outlined, and p_t is a dot.

    Args:
        families: names of fonts for the labels, the first that has a character draws it.
        order: of the letters of a label, as from `order_for`.
    """
    source, target = ([order(text) for text in side] for side in labels_of(look))
    figure = Figure(dpi=DPI)
    FigureCanvasAgg(figure)
    above, beside = _room(figure, source, target, families)
    heads, rows, columns = look.weights_NTS.shape
    layout = _arrange(heads, rows, columns, above, beside)
    figure.set_size_inches(layout.width + 1.0, layout.height)
    for head in range(heads):
        axes = layout.place(figure, head)
        image = _draw_weights(axes, look.weights_NTS[head], layout.cell)
        _draw_labels(axes, source, target, families, layout)
        if heads > 1:
            axes.text(
                0.5,
                -_PAD / (rows * layout.cell),
                f"head {head + 1}",
                transform=axes.transAxes,
                ha="center",
                va="top",
                fontsize=FONT_SIZE,
            )
        if look.centers_NT is not None and look.half_width is not None:
            _mark_windows(axes, look.centers_NT[head], look.half_width, columns)
    _draw_bar(figure, image, layout)
    return figure


@dataclass(frozen=True)
class _Layout:
    """Where the panels go. All lengths are inches, and those from the top are measured downwards."""

    across: int
    panel: tuple[float, float]
    """Width and height of a panel, labels included."""
    matrix: tuple[float, float]
    above: float
    beside: float
    cell: float
    width: float
    height: float

    @property
    def font_size(self) -> float:
        return min(FONT_SIZE, max(SMALLEST_FONT, self.cell * 72 * _FONT_OF_CELL))

    @property
    def every(self) -> int:
        """Only every so-many-th piece is labelled, so that labels of the smallest font keep apart."""
        return math.ceil(self.font_size / (self.cell * 72 * _FONT_OF_CELL) - 1e-9)

    def place(self, figure: Figure, head: int) -> Axes:
        """The axes of a head's matrix, in which a cell is 1 by 1 and position 0 lies at the top left."""
        row, column = divmod(head, self.across)
        left = column * (self.panel[0] + _GAP) + self.beside
        top = row * (self.panel[1] + _GAP) + self.above
        return self.axes(figure, left, top, *self.matrix)

    def axes(self, figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
        whole_width, whole_height = figure.get_size_inches()
        bottom = whole_height - top - height
        return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def _arrange(heads: int, rows: int, columns: int, above: float, beside: float) -> _Layout:
    """The grid of panels with the largest cells, and of several such the one nearest to a square."""
    title = _GAP if heads > 1 else 0.0

    def arranged(across: int) -> _Layout:
        down = math.ceil(heads / across)
        room = LONGEST_SIDE - across * (beside + _GAP), LONGEST_SIDE - down * (above + title + _GAP)
        cell = max(_LEAST_CELL, min(CELL, room[0] / (across * columns), room[1] / (down * rows)))
        matrix = (columns * cell, rows * cell)
        panel = (beside + matrix[0], above + matrix[1] + title)
        width, height = across * (panel[0] + _GAP), down * (panel[1] + _GAP)
        return _Layout(across, panel, matrix, above, beside, cell, width, height)

    return max(map(arranged, range(1, heads + 1)), key=lambda layout: (layout.cell, -max(layout.width, layout.height)))


def _room(figure: Figure, source: Sequence[str], target: Sequence[str], families: Sequence[str]) -> tuple[float, float]:
    """Inches that the labels take above and beside a matrix, in the largest font."""
    above = [_source_label(figure.text(0, 0, ""), text, families) for text in source]
    beside = [_target_label(figure.text(0, 0, ""), text, families) for text in target]
    high = max(text.get_window_extent().height for text in above) / figure.dpi
    wide = max(text.get_window_extent().width for text in beside) / figure.dpi
    figure.clear()
    return high + 2 * _PAD, wide + 2 * _PAD


def _source_label(artist: Text, text: str, families: Sequence[str], size: float = FONT_SIZE) -> Text:
    """Turned by a quarter; characters that are as wide as high stand on each other instead."""
    upright = stands_upright(text)
    artist.set(
        text="\n".join(text) if upright else text,
        rotation=0 if upright else 90,
        linespacing=1.0,
        ha="center",
        va="bottom",
    )
    return _in_style(artist, text, families, size)


def _target_label(artist: Text, text: str, families: Sequence[str], size: float = FONT_SIZE) -> Text:
    artist.set(text=text, ha="right", va="center")
    return _in_style(artist, text, families, size)


def _in_style(artist: Text, text: str, families: Sequence[str], size: float) -> Text:
    is_end = text == END
    artist.set(
        fontfamily=list(families),
        fontsize=size * (0.75 if is_end else 1.0),
        color="0.4" if is_end else "black",
        parse_math=False,
        clip_on=False,
    )
    return artist


def _draw_weights(axes: Axes, weights_TS: npt.NDArray[np.float32], cell: float) -> AxesImage:
    rows, columns = weights_TS.shape
    image = axes.imshow(
        weights_TS, cmap="gray_r", norm=PowerNorm(0.5, 0.0, 1.0, clip=True), interpolation="none", aspect="auto"
    )
    axes.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color="0.4")
    if cell >= _GRID_FROM:
        axes.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, colors="0.8", linewidth=0.3)
        axes.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, colors="0.8", linewidth=0.3)
    return image


def _draw_labels(
    axes: Axes, source: Sequence[str], target: Sequence[str], families: Sequence[str], layout: _Layout
) -> None:
    edge = -0.5 - _PAD / layout.cell
    for place in range(0, len(source), layout.every):
        _source_label(axes.text(place, edge, ""), source[place], families, layout.font_size)
    for place in range(0, len(target), layout.every):
        _target_label(axes.text(edge, place, ""), target[place], families, layout.font_size)


def _mark_windows(axes: Axes, centers_T: npt.NDArray[np.float32], half_width: int, source_positions: int) -> None:
    boxes = []
    for row, center in enumerate(centers_T.tolist()):
        window = window_of(center, half_width, source_positions)
        if window:
            left, right = window[0] - 0.5, window[-1] + 0.5
            boxes.append([(left, row - 0.5), (right, row - 0.5), (right, row + 0.5), (left, row + 0.5)])
    axes.add_collection(
        PolyCollection(boxes, facecolors="none", edgecolors=WINDOW_COLOUR, linewidths=1.1, gid="windows"),
        autolim=False,
    )
    axes.scatter(
        centers_T,
        np.arange(len(centers_T)),
        s=16,
        color=CENTER_COLOUR,
        edgecolors="white",
        linewidths=0.5,
        zorder=3,
        gid="centers",
    )


def _draw_bar(figure: Figure, image: AxesImage, layout: _Layout) -> None:
    height = min(max(layout.matrix[1], _BAR_HEIGHTS[0]), _BAR_HEIGHTS[1])
    bar = figure.colorbar(image, cax=layout.axes(figure, layout.width, layout.above, _BAR, height))
    bar.set_ticks([0.0, 0.05, 0.25, 0.5, 1.0], labels=["0", "0.05", "0.25", "0.5", "1"], fontsize=8)
    bar.set_label("weight", fontsize=8)
