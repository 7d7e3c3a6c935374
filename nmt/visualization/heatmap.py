"""Heat maps of attention weights (Bahdanau 2015, figure 3): source across, target down.

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

from nmt.visualization.attention_map import END, AttentionMap, in_visual_order, is_upright, with_direction_marks

ImageFormat = Literal["png", "svg"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("png", "svg")

DPI = 150
MAX_SIDE = 40.0
"""Inches: a PNG has at most 36 million pixels, however long the sentence and however many its heads."""
CELL_SIZE = 0.26
FONT_SIZE = 10.0
MIN_FONT_SIZE = 5.0
WINDOW_COLOUR = "#0072b2"
CENTER_COLOUR = "#d55e00"

# The text of an SVG stays text, which a browser draws in any script, and its ids do not change from run to run.
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "nmt", "svg.image_inline": True, "text.usetex": False}
# Since 3.11 matplotlib orders and joins the letters of every script; before, it draws all text from left to right.
_ORDERS_TEXT = hasattr(ft2font, "__libraqm_version__")
_FONT_OF_CELL = 0.54  # so that lines of labels, 1.2 times the font's size, keep apart
_PAD = 0.05
_GAP = 0.3
_MIN_CELL_SIZE = 0.01
_MIN_CELL_SIZE_FOR_GRID = 0.1
_BAR_WIDTH = 0.14
_BAR_HEIGHTS = (1.2, 2.5)


def render_heatmap(attention: AttentionMap, families: Sequence[str], kind: ImageFormat) -> bytes:
    """Returns the heat map as the content of a file, always the same bytes. `families` are those of `draw_heatmap`."""
    file = BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context(SETTINGS):
        # `Fonts` reports missing characters, in one line a script and not in one a character.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
        metadata = {"Date": None} if kind == "svg" else None
        figure = draw_heatmap(attention, families, letter_order(kind))
        figure.savefig(file, format=kind, dpi=DPI, bbox_inches="tight", facecolor="white", metadata=metadata)
    return file.getvalue()


def letter_order(kind: ImageFormat) -> Callable[[str], str]:
    """Returns the function that orders the letters of a label so that they are drawn correctly."""
    if kind == "svg":
        return with_direction_marks
    return in_visual_order if not _ORDERS_TEXT else str


def window_positions(center: float, half_width: int, source_positions: int) -> range:
    """Returns the source positions in [p_t - D, p_t + D] (Luong 2015, section 3.2), none for a window outside."""
    first = max(0, math.ceil(center - half_width))
    return range(first, max(first, min(source_positions - 1, math.floor(center + half_width)) + 1))


def draw_heatmap(attention: AttentionMap, families: Sequence[str], order: Callable[[str], str] = str) -> Figure:
    """Draws a labelled panel for each head. White is weight 0 and black is 1: the reverse of the paper's, to save ink.

    Darkness grows with the square root of the weight, so that small weights stay visible. A window of local attention
    is outlined, and p_t is a dot.

    Args:
        families: names of fonts for the labels; the first that has a character draws it.
        order: orders the letters of a label, as from `letter_order`.
    """
    source, target = ([order(text) for text in side] for side in attention.labels)
    figure = Figure(dpi=DPI)
    FigureCanvasAgg(figure)
    above, beside = _label_sizes(figure, source, target, families)
    heads, rows, columns = attention.weights_NTS.shape
    layout = _arrange(heads, rows, columns, above, beside)
    figure.set_size_inches(layout.width + 1.0, layout.height)
    for head in range(heads):
        axes = layout.panel_axes(figure, head)
        image = _draw_weights(axes, attention.weights_NTS[head], layout.cell)
        edge = -0.5 - _PAD / layout.cell
        for index in range(0, columns, layout.label_step):
            _label(axes.text(index, edge, ""), source[index], families, layout.font_size, above=True)
        for index in range(0, rows, layout.label_step):
            _label(axes.text(edge, index, ""), target[index], families, layout.font_size, above=False)
        if heads > 1:
            below = -_PAD / (rows * layout.cell)
            title: Any = {"transform": axes.transAxes, "ha": "center", "va": "top", "fontsize": FONT_SIZE}
            axes.text(0.5, below, f"head {head + 1}", **title)
        if attention.centers_NT is not None and attention.half_width is not None:
            _draw_windows(axes, attention.centers_NT[head], attention.half_width, columns)
    _draw_colour_bar(figure, image, layout)
    return figure


@dataclass(frozen=True)
class _Layout:
    """Positions of the panels. All lengths are inches; those from the top are measured downwards."""

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
        return min(FONT_SIZE, max(MIN_FONT_SIZE, self.cell * 72 * _FONT_OF_CELL))

    @property
    def label_step(self) -> int:
        """Pieces from one label to the next: more than 1 where labels of the smallest font would overlap."""
        return math.ceil(self.font_size / (self.cell * 72 * _FONT_OF_CELL) - 1e-9)

    def panel_axes(self, figure: Figure, head: int) -> Axes:
        """Adds the axes of a head's matrix, in which a cell is 1 by 1 and position 0 lies at the top left."""
        row, column = divmod(head, self.across)
        left = column * (self.panel[0] + _GAP) + self.beside
        top = row * (self.panel[1] + _GAP) + self.above
        return self.axes(figure, left, top, *self.matrix)

    def axes(self, figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
        figure_width, figure_height = figure.get_size_inches()
        bottom = figure_height - top - height
        bounds = (left / figure_width, bottom / figure_height, width / figure_width, height / figure_height)
        return figure.add_axes(bounds)


def _arrange(heads: int, rows: int, columns: int, above: float, beside: float) -> _Layout:
    """Returns the grid of panels with the largest cells, and of several such the one nearest to a square."""
    title = _GAP if heads > 1 else 0.0

    def arranged(across: int) -> _Layout:
        down = math.ceil(heads / across)
        room = MAX_SIDE - across * (beside + _GAP), MAX_SIDE - down * (above + title + _GAP)
        cell = max(_MIN_CELL_SIZE, min(CELL_SIZE, room[0] / (across * columns), room[1] / (down * rows)))
        matrix = (columns * cell, rows * cell)
        panel = (beside + matrix[0], above + matrix[1] + title)
        width, height = across * (panel[0] + _GAP), down * (panel[1] + _GAP)
        return _Layout(across, panel, matrix, above, beside, cell, width, height)

    return max(map(arranged, range(1, heads + 1)), key=lambda layout: (layout.cell, -max(layout.width, layout.height)))


def _label_sizes(
    figure: Figure, source: Sequence[str], target: Sequence[str], families: Sequence[str]
) -> tuple[float, float]:
    """Returns the inches that the labels take above and beside a matrix, in the largest font."""
    above = [_label(figure.text(0, 0, ""), text, families, above=True) for text in source]
    beside = [_label(figure.text(0, 0, ""), text, families, above=False) for text in target]
    height = max(text.get_window_extent().height for text in above) / figure.dpi
    width = max(text.get_window_extent().width for text in beside) / figure.dpi
    figure.clear()
    return height + 2 * _PAD, width + 2 * _PAD


def _label(artist: Text, text: str, families: Sequence[str], size: float = FONT_SIZE, *, above: bool) -> Text:
    """Labels a column, `above` the matrix, or a row.

    The label of a column is rotated by a quarter; characters that are as wide as high are stacked instead.
    """
    scale, colour = (0.75, "0.4") if text == END else (1.0, "black")
    artist.set(fontfamily=list(families), fontsize=size * scale, color=colour, parse_math=False, clip_on=False)
    if not above:
        artist.set(text=text, ha="right", va="center")
    elif is_upright(text):
        artist.set(text="\n".join(text), linespacing=1.0, ha="center", va="bottom")
    else:
        artist.set(text=text, rotation=90, linespacing=1.0, ha="center", va="bottom")
    return artist


def _draw_weights(axes: Axes, weights_TS: npt.NDArray[np.float32], cell: float) -> AxesImage:
    rows, columns = weights_TS.shape
    norm = PowerNorm(0.5, 0.0, 1.0, clip=True)
    image = axes.imshow(weights_TS, cmap="gray_r", norm=norm, interpolation="none", aspect="auto")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color="0.4")
    if cell >= _MIN_CELL_SIZE_FOR_GRID:
        axes.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, colors="0.8", linewidth=0.3)
        axes.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, colors="0.8", linewidth=0.3)
    return image


def _draw_windows(axes: Axes, centers_T: npt.NDArray[np.float32], half_width: int, source_positions: int) -> None:
    boxes = []
    for row, center in enumerate(centers_T.tolist()):
        window = window_positions(center, half_width, source_positions)
        if window:
            left, right = window[0] - 0.5, window[-1] + 0.5
            boxes.append([(left, row - 0.5), (right, row - 0.5), (right, row + 0.5), (left, row + 0.5)])
    outlines = PolyCollection(boxes, facecolors="none", edgecolors=WINDOW_COLOUR, linewidths=1.1, gid="windows")
    axes.add_collection(outlines, autolim=False)
    dots: Any = {"s": 16, "color": CENTER_COLOUR, "edgecolors": "white", "linewidths": 0.5, "zorder": 3}
    axes.scatter(centers_T, np.arange(len(centers_T)), gid="centers", **dots)


def _draw_colour_bar(figure: Figure, image: AxesImage, layout: _Layout) -> None:
    height = min(max(layout.matrix[1], _BAR_HEIGHTS[0]), _BAR_HEIGHTS[1])
    bar = figure.colorbar(image, cax=layout.axes(figure, layout.width, layout.above, _BAR_WIDTH, height))
    bar.set_ticks([0.0, 0.05, 0.25, 0.5, 1.0], labels=["0", "0.05", "0.25", "0.5", "1"], fontsize=8)
    bar.set_label("weight", fontsize=8)
