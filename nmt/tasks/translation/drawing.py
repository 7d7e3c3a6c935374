"""Where translations looked, drawn: a folder of pictures, or a page to step through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nmt.checkpoint.durable import new_file
from nmt.config.schema import SearchConfig
from nmt.errors import DataError
from nmt.runtime import Runtime, logger
from nmt.tasks.translation.document_translation import translate_text
from nmt.tasks.translation.documents import Documents
from nmt.tasks.translation.loading import System, TrainedModel, join
from nmt.tasks.translation.looking import look_at_pieces
from nmt.tasks.translation.streaming import Window
from nmt.tasks.translation.translation import Translation, Wanted
from nmt.visualization.attention_map import AttentionMap
from nmt.visualization.pages import PageSystem, TranslationPage, is_page

AT_ONCE = 64
"""Lines whose weights are in memory together."""


class Canvas(Protocol):
    """Something to draw on."""

    def add(self, line: int, source: str, looks: Sequence[AttentionMap | None]) -> None:
        """Draw a line of the input, numbered from 1: for each system its look, None where it has nothing to say."""


@dataclass(frozen=True)
class Plotted:
    """A system whose translations are drawn."""

    system: System
    search: SearchConfig
    shown: PageSystem


def plotted_system(models: Sequence[TrainedModel], runtime: Runtime, search: SearchConfig, name: str) -> Plotted:
    """The models as one system to draw, under this name."""
    data = models[0].config.data
    return Plotted(join(models, runtime, search), search, PageSystem(name, data.source_language, data.target_language))


class Drawing:
    """Draws windows of translations, the best of each line; its first system made them, others make their own."""

    def __init__(
        self, canvas: Canvas, systems: Sequence[Plotted], wanted: Wanted, advance: Callable[[int], object]
    ) -> None:
        """`wanted` are the length and the seed of translations; `advance` is told how many lines have been drawn."""
        self._canvas = canvas
        self._systems = systems
        self._wanted = Wanted(max_length=wanted.max_length, seed=wanted.seed)
        self._advance = advance

    def add(self, window: Window) -> None:
        """Draw a window, except for lines without a translation.

        Raises `NmtError` where a line does not fit into memory, or a file cannot be written.
        """
        found = [window.translations]
        for other in self._systems[1:]:
            found.append(
                translate_text(
                    other.system,
                    window.lines,
                    other.search,
                    self._wanted,
                    documents=window.documents,
                    prefixes=window.prefixes,
                    first_line=window.first_line,
                )
            )
        for part in _parts(window):
            first = window.first_line + part.start
            documents = None if window.documents is None else window.documents[part]
            columns = [
                _looks(plotted, best[part], first, documents)
                for plotted, best in zip(self._systems, found, strict=True)
            ]
            for line, (source, *looks) in enumerate(zip(window.lines[part], *columns, strict=True), start=first):
                if any(looks):
                    self._canvas.add(line, source, looks)
                self._advance(1)


@contextmanager
def drawing(
    path: Path, systems: Sequence[Plotted], wanted: Wanted, advance: Callable[[int], object]
) -> Iterator[Drawing]:
    """A drawing of systems, to which windows are added: a page, which is there when the block has ended without an
    error, or a folder, in which every picture is whole as soon as it is there.

    Raises `DataError` where nothing can be written.
    """
    canvas = _page(path, [plotted.shown for plotted in systems]) if is_page(path) else _folder(path)
    with canvas as opened:
        yield Drawing(opened, systems, wanted, advance)


@contextmanager
def writing_page(path: Path) -> Iterator[Callable[[str], object]]:
    """What writes a page, which is there when the block has ended without an error; raises `DataError`."""

    def write(text: str) -> None:
        with _refusals(path):
            file.write(text.encode())

    with ExitStack() as stack:
        with _refusals(path):
            file = stack.enter_context(new_file(path))
        yield write
        with _refusals(path):
            stack.close()


@contextmanager
def _page(path: Path, systems: Sequence[PageSystem]) -> Iterator[Canvas]:
    with writing_page(path) as write:
        page = TranslationPage(write, systems)
        yield page
        page.end()


@contextmanager
def _folder(path: Path) -> Iterator[Canvas]:
    with _refusals(path):
        path.mkdir(parents=True, exist_ok=True)
    yield _Pictures(path)


class _Pictures:
    """A PNG and an SVG of each line, called by its number."""

    def __init__(self, folder: Path) -> None:
        # Imported late: a page needs no matplotlib.
        from nmt.visualization import heatmap
        from nmt.visualization.fonts import Fonts

        self._folder = folder
        self._heatmap = heatmap
        self._fonts = Fonts()

    def add(self, line: int, source: str, looks: Sequence[AttentionMap | None]) -> None:
        (look,) = looks
        assert look is not None, "a line without a look is not drawn"
        for side in look.labels:
            for problem in self._fonts.add(side):
                logger.warning("line %d: %s", line, problem)
        for kind in self._heatmap.IMAGE_FORMATS:
            picture = self._heatmap.render_heatmap(look, self._fonts.families, kind)
            path = self._folder / f"{line:04d}.{kind}"
            with _refusals(path), new_file(path) as file:
                file.write(picture)


def _parts(window: Window) -> Iterator[slice]:
    """Lines whose weights are in memory together: whole documents, where there are any."""
    start, lines, documents = 0, len(window.lines), window.documents
    while start < lines:
        stop = min(start + AT_ONCE, lines)
        while documents is not None and stop < lines and documents[stop] == documents[stop - 1]:
            stop += 1
        yield slice(start, stop)
        start = stop


def _looks(
    plotted: Plotted, found: Sequence[Sequence[Translation]], first_line: int, documents: Documents | None
) -> list[AttentionMap | None]:
    """Where the best translations looked; None for a line without one."""
    rows = [row for row, translations in enumerate(found) if translations]
    looks = look_at_pieces(
        plotted.system,
        [found[row][0].source_ids for row in rows],
        [found[row][0].ids for row in rows],
        plotted.search.batch_tokens,
        [first_line + row for row in rows],
        documents=None if documents is None else [documents[row] for row in rows],
    )
    by_row = dict(zip(rows, looks, strict=True))
    return [by_row.get(row) for row in range(len(found))]


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the disk refuses is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
