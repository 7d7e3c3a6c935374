"""Attention of translations: drawn in a folder of pictures or a page to step through, and written for other programs.

Shapes: N heads, T target positions, S source positions, the end symbols included in both.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.checkpoint.durable import new_file
from nmt.config import TranslationConfig
from nmt.config.schema import ModelConfig, SearchConfig
from nmt.data.batching.document_context import Documents
from nmt.errors import write_errors
from nmt.runtime import logger
from nmt.tasks.translation.forced_decoding import forced_attention_of_ids
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.recording import record_search
from nmt.tasks.translation.text_translation import Request, TranslatedLines, Translation, translate_lines
from nmt.visualization.attention_map import END, AttentionMap
from nmt.visualization.pages import DrawnLine, PageSystem, TranslationPage, is_page, new_page
from nmt.visualization.playground import BeamTrace, Mechanism

LINES_IN_MEMORY = 64
"""Lines whose weights are in memory together."""
RECORDED_LINES = 20
"""Lines of the input whose beam search a page has, step by step: about 30 kilobytes each."""
LONGEST_RECORDED = 100
"""Source pieces of such a line."""
DrawLine = Callable[[DrawnLine], None]
DECIMALS = 6
"""Of a weight in JSON."""
Weights = npt.NDArray[np.floating]
AddWeights = Callable[[int, Sequence[str], Sequence[str], Weights], None]
"""Adds a line of the input, numbered from 1: source pieces, target pieces, and weights [N, T, S]."""


@dataclass(frozen=True)
class PlottedSystem:
    """A system whose translations are drawn."""

    system: System
    search: SearchConfig
    shown: PageSystem


def page_system(config: TranslationConfig, name: str, models: int = 1) -> PageSystem:
    """Returns a system as a page names it, by the config of its (first) model; the equations are those of one model."""
    mechanism = mechanism_of(config.model) if models == 1 else None
    return PageSystem(name, config.data.source_language, config.data.target_language, mechanism)


def mechanism_of(model: ModelConfig) -> Mechanism:
    """Returns the names of a model's choices, for the equations on a page."""
    attention = model.attention
    wiring = attention.wiring.kind
    own_query = getattr(attention.wiring, "query", None)
    is_previous = wiring == "bahdanau" if own_query is None else own_query == "previous"
    return Mechanism(
        wiring=wiring,
        query="previous" if is_previous else "current",
        score=attention.score.kind,
        window=attention.window.kind,
        normalizer=attention.normalizer.kind,
        heads=attention.heads,
        coverage=attention.coverage.kind,
        alignment=attention.alignment,
    )


@dataclass(frozen=True)
class Drawing:
    """Draws the best translation of each line. The first system made them; the others translate the lines here."""

    draw: DrawLine
    systems: Sequence[PlottedSystem]
    request: Request
    """Has the length and the seed of translations."""
    advance: Callable[[int], object]
    """Called after each line with 1."""
    recorded_lines: int = 0
    """Lines whose beam search is drawn as well."""

    def add(self, translated: TranslatedLines) -> None:
        """Draws translated lines; raises `NmtError` if a line does not fit into memory, or a file cannot be written."""
        translations = [translated.translations]
        request = Request(max_length=self.request.max_length, seed=self.request.seed)
        for other in self.systems[1:]:
            translations.append(
                translate_lines(
                    other.system,
                    translated.lines,
                    other.search,
                    request,
                    documents=translated.documents,
                    prefixes=translated.prefixes,
                    first_line=translated.first_line,
                )
            )
        for part in _parts(translated):
            first = translated.first_line + part.start
            documents = None if translated.documents is None else translated.documents[part]
            columns = [
                _attention_of_best(plotted, best[part], first, documents)
                for plotted, best in zip(self.systems, translations, strict=True)
            ]
            for line, (source, *maps) in enumerate(zip(translated.lines[part], *columns, strict=True), start=first):
                if any(maps):
                    beams = self._beams(line, translated) if line <= self.recorded_lines else None
                    self.draw(DrawnLine(line, source, maps, beams))
                self.advance(1)

    def _beams(self, line: int, translated: TranslatedLines) -> list[BeamTrace | None] | None:
        """Records the searches for a line; None where it is long, or they read more than it or draw at random."""
        if translated.documents is not None or any(plotted.search.kind == "sampling" for plotted in self.systems):
            return None
        row = line - translated.first_line
        source, prefix = translated.lines[row], translated.prefixes[row] if translated.prefixes is not None else ""
        longest = min(LONGEST_RECORDED, self.request.max_length or LONGEST_RECORDED)
        beams: list[BeamTrace | None] = []
        for plotted in self.systems:
            tokenizers = plotted.system.tokenizers
            given = tokenizers.target.pieces(tokenizers.target.encode([prefix])[0])
            is_short = len(tokenizers.source.encode([source])[0]) <= longest
            beams.append(
                record_search(plotted.system, source, plotted.search, given, whole=False) if is_short else None
            )
        return beams


@contextmanager
def drawing(
    path: Path, systems: Sequence[PlottedSystem], request: Request, advance: Callable[[int], object]
) -> Iterator[Drawing]:
    """A drawing of systems: a page, which exists when the block has ended without an error, or a folder, in which every
    picture is complete as soon as it exists.

    Raises `DataError` where nothing can be written.
    """
    with drawing_of_pairs(path, [plotted.shown for plotted in systems]) as draw:
        yield Drawing(draw, systems, request, advance, RECORDED_LINES if is_page(path) else 0)


@contextmanager
def drawing_of_pairs(path: Path, systems: Sequence[PageSystem]) -> Iterator[DrawLine]:
    """A function that draws the attention of given pairs; files and errors are those of `drawing`."""
    if not is_page(path):
        yield _pictures(path)
        return
    with new_page(path, lambda write: TranslationPage(write, systems)) as page:
        yield page.add


def _pictures(folder: Path) -> DrawLine:
    """Makes a folder for a PNG and an SVG of each line, named by its number."""
    # Imported late: a page needs no matplotlib.
    from nmt.visualization.fonts import Fonts
    from nmt.visualization.heatmap import IMAGE_FORMATS, render_heatmap

    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    fonts = Fonts()

    def draw(drawn: DrawnLine) -> None:
        (attention,) = drawn.maps
        assert attention is not None, "a line without a translation is not drawn"
        for side in attention.labels:
            for problem in fonts.add(side):
                logger.warning("line %d: %s", drawn.line, problem)
        for kind in IMAGE_FORMATS:
            picture = render_heatmap(attention, fonts.families, kind)
            path = folder / f"{drawn.line:04d}.{kind}"
            with write_errors(path), new_file(path) as file:
                file.write(picture)

    return draw


def _parts(translated: TranslatedLines) -> Iterator[slice]:
    """Lines whose weights are in memory together: whole documents, where there are any."""
    start, lines, documents = 0, len(translated.lines), translated.documents
    while start < lines:
        stop = min(start + LINES_IN_MEMORY, lines)
        while documents is not None and stop < lines and documents[stop] == documents[stop - 1]:
            stop += 1
        yield slice(start, stop)
        start = stop


def _attention_of_best(
    plotted: PlottedSystem,
    translations: Sequence[Sequence[Translation]],
    first_line: int,
    documents: Documents | None,
) -> list[AttentionMap | None]:
    """Attention of the best translations; None for a line without one."""
    rows = [row for row, hypotheses in enumerate(translations) if hypotheses]
    maps = forced_attention_of_ids(
        plotted.system,
        [translations[row][0].source_ids for row in rows],
        [translations[row][0].ids for row in rows],
        plotted.search.batch_tokens,
        [first_line + row for row in rows],
        documents=None if documents is None else [documents[row] for row in rows],
    )
    by_row = dict(zip(rows, maps, strict=True))
    return [by_row.get(row) for row in range(len(translations))]


# Weights for other programs


def weights_in_json(weights_NTS: Weights) -> dict[str, Any]:
    """Returns `weights`, the mean of the heads, in rows of the target pieces and last of the end, and `heads` where
    there are several."""
    content = {"weights": _rounded(weights_NTS.mean(0))}
    if len(weights_NTS) > 1:
        content["heads"] = _rounded(weights_NTS)
    return content


def _rounded(weights: Weights) -> Any:
    return np.round(weights.astype(np.float64), DECIMALS).tolist()


@contextmanager
def weights_archive(path: Path) -> Iterator[AddWeights]:
    """A NumPy archive (.npz), which exists when the block has ended without an error.

    Line 3 has the arrays `3.weights` [T, S], the mean of the heads, `3.source` [S] and `3.target` [T], and where there
    are several heads `3.heads` [N, T, S]. Weights are float32, pieces text with the end symbol last.
    Raises `DataError` where the file cannot be written.
    """
    with ExitStack() as stack:
        with write_errors(path):
            archive = zipfile.ZipFile(stack.enter_context(new_file(path)), "w", zipfile.ZIP_DEFLATED)

        def add(line: int, source: Sequence[str], target: Sequence[str], weights_NTS: Weights) -> None:
            arrays = {"source": np.array([*source, END]), "target": np.array([*target, END])}
            arrays["weights"] = weights_NTS.mean(0).astype(np.float32)
            if len(weights_NTS) > 1:
                arrays["heads"] = weights_NTS.astype(np.float32)
            for name, array in arrays.items():
                # Without the time of writing: the same weights are the same bytes.
                entry = zipfile.ZipInfo(f"{line}.{name}.npy")
                entry.compress_type = zipfile.ZIP_DEFLATED
                with write_errors(path), archive.open(entry, "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)

        yield add
        with write_errors(path):
            archive.close()
            stack.close()
