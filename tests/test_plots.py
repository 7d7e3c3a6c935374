"""Heat maps and pages of attention: they show the weights, and all labels are readable."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image

from nmt.cli import translate
from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation import drawing
from nmt.tasks.translation.loading import TrainedModel, build_system
from nmt.tasks.translation.text_translation import BEST, translate_stream
from nmt.visualization import fonts, heatmap
from nmt.visualization.attention_map import AttentionMap, in_visual_order, with_direction_marks
from nmt.visualization.fonts import DEFAULT_FONT, Fonts
from nmt.visualization.pages import WEIGHT_STEPS, DrawnLine, PageSystem, TranslationPage
from tests.support.commands import Call, Ended
from tests.support.models import CPU, REFERENCES, SOURCES, save_small

INPUT = "\n".join([SOURCES[3], "", SOURCES[0]]) + "\n"
GERMAN = ("▁Ein", "▁Hund", "▁rennt", "▁.")
ENGLISH = ("▁A", "▁dog", "▁run", "s", "▁.")


def attention_map(
    source: tuple[str, ...] = GERMAN,
    target: tuple[str, ...] = ENGLISH,
    heads: int = 1,
    half_width: int | None = None,
    seed: int = 0,
) -> AttentionMap:
    """Random weights over these pieces; with `half_width` also random centres, some of them outside of the source."""
    random = np.random.default_rng(seed)
    shape = (heads, len(target) + 1, len(source) + 1)
    weights = random.dirichlet(np.full(shape[2], 0.3), shape[:2]).astype(np.float32)
    centers = random.uniform(-2.0, shape[2] + 1.0, shape[:2]).astype(np.float32) if half_width is not None else None
    return AttentionMap(" ".join(source), " ".join(target), source, target, weights, centers, half_width, -3.5)


def drawn(shown: AttentionMap) -> tuple[Figure, npt.NDArray[np.uint8]]:
    """The figure, and its pixels from the top."""
    figure = heatmap.draw_heatmap(shown, [DEFAULT_FONT], heatmap.letter_order("png"))
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return figure, np.asarray(canvas.buffer_rgba())


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(content)).convert("L"))


# The matrix


@pytest.mark.parametrize("heads", [1, 3])
def test_every_cell_is_as_dark_as_its_weight(heads: int) -> None:
    shown = attention_map(heads=heads)
    figure, image = drawn(shown)
    for axes, weights_TS in zip(figure.axes[:heads], shown.weights_NTS, strict=True):
        for (row, column), weight in np.ndenumerate(weights_TS):
            # Off the middle, where p_t would be.
            x, y = axes.transData.transform((column + 0.25, row - 0.25))
            grey = image[image.shape[0] - 1 - int(y), int(x)]
            assert grey[:3] == pytest.approx(255 * (1 - np.sqrt(weight)), abs=2.5)


@pytest.mark.parametrize(
    ("pieces", "heads"),
    [((3, 5), 1), ((1, 1), 1), ((60, 40), 1), ((9, 12), 4), ((4, 70), 2)],
)
def test_labels_can_be_read_and_nothing_is_cut_off(pieces: tuple[int, int], heads: int) -> None:
    source, target = (tuple(f"▁Wörtchen{place}" for place in range(count)) for count in pieces)
    shown = attention_map(source, target, heads)
    figure = heatmap.draw_heatmap(shown, [DEFAULT_FONT])
    matrices = [axes.get_window_extent() for axes in figure.axes]
    texts = [text for axes in figure.axes[:heads] for text in axes.texts if text.get_text()]
    # One for each piece and end; with heads, their titles.
    assert len(texts) == heads * (sum(pieces) + 2) + (heads if heads > 1 else 0)
    boxes = [text.get_window_extent() for text in texts]
    for one, other in [*combinations(boxes, 2), *((box, area) for box in boxes for area in matrices)]:
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        down = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(across, down) <= 0
    image = pixels(heatmap.render_heatmap(shown, [DEFAULT_FONT], "png"))
    edge = 10
    frame = [image[:edge], image[-edge:], image[:, :edge], image[:, -edge:]]
    assert all((side == 255).all() for side in frame)
    assert (image[edge : 2 * edge] < 255).any()
    assert (image[:, edge : 2 * edge] < 255).any()


def test_a_picture_of_the_longest_sentence_stays_within_bounds() -> None:
    pieces = tuple(f"▁piece{place}" for place in range(999))
    figure = heatmap.draw_heatmap(attention_map(pieces, pieces[:40], heads=2), [DEFAULT_FONT])
    assert max(figure.get_size_inches()) <= heatmap.MAX_SIDE + 1.5
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_rotation() == 90]
    assert 100 < len(boxes) < 999
    assert all(one.x1 <= other.x0 for one, other in pairwise(boxes))


@pytest.mark.parametrize("half_width", [1, 2, 5])
def test_windows_are_outlined_and_centers_marked(half_width: int) -> None:
    shown = attention_map(heads=2, half_width=half_width)
    assert shown.centers_NT is not None
    figure, _ = drawn(shown)
    positions = np.arange(len(shown.source_pieces) + 1)
    for axes, centers_T in zip(figure.axes[:2], shown.centers_NT, strict=True):
        (windows,) = (part for part in axes.collections if isinstance(part, PolyCollection))
        boxes = {tuple(map(float, (*path.vertices.min(0), *path.vertices.max(0)))) for path in windows.get_paths()}
        expected = set()
        for row, center in enumerate(centers_T):
            inside = positions[abs(positions - center) <= half_width]
            if inside.size:
                expected.add((inside[0] - 0.5, row - 0.5, inside[-1] + 0.5, row + 0.5))
        assert boxes == expected
        (marks,) = (part for part in axes.collections if isinstance(part, PathCollection))
        assert np.allclose(marks.get_offsets(), [[center, row] for row, center in enumerate(centers_T)])


def test_global_attention_has_no_marks() -> None:
    figure, _ = drawn(attention_map())
    assert not any(isinstance(part, PolyCollection | PathCollection) for part in figure.axes[0].collections)


def texts_of(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def svg_texts(shown: AttentionMap) -> list[str]:
    return texts_of(heatmap.render_heatmap(shown, [DEFAULT_FONT], "svg"))


def test_the_text_of_an_svg_is_text() -> None:
    odd = ("▁$x_1$", "<b>&amp;", "▁\\alpha", "%", "\x07", "x" * 40)
    found = svg_texts(attention_map(odd, ENGLISH))
    assert set(ENGLISH) <= set(found)
    assert {"▁$x_1$", "<b>&amp;", "▁\\alpha", "%", "\ufffd", "x" * 23 + "…"} <= set(found)
    assert found.count("</s>") == 2


def test_the_same_map_is_the_same_file() -> None:
    for kind in heatmap.IMAGE_FORMATS:
        assert heatmap.render_heatmap(attention_map(), [DEFAULT_FONT], kind) == heatmap.render_heatmap(
            attention_map(), [DEFAULT_FONT], kind
        )


# Scripts


def test_right_to_left_text_is_ordered_for_what_draws_it() -> None:
    mark = "\u200f"
    assert f"{mark}▁שלום{mark}" in svg_texts(attention_map(target=("▁שלום", ".")))
    assert in_visual_order("▁שלום") == "םולש▁"
    assert in_visual_order("(אב)") == "(בא)"
    assert in_visual_order("אבg12") == "g12בא"
    assert in_visual_order("א3.5") == "3.5א"
    assert in_visual_order("שָׁלוֹם") == "םוֹלשָׁ"
    for text in ("▁dog", "3.5", "(a)", "▁", "公園"):
        assert in_visual_order(text) == with_direction_marks(text) == text


def test_a_right_to_left_label_is_drawn_from_right_to_left() -> None:
    # The wide ▁ begins the word, and so stands at its right, next to the matrix.
    figure, image = drawn(attention_map(target=("▁ייי",)))
    text = next(text for text in figure.axes[0].texts if "י" in text.get_text())
    box = text.get_window_extent()
    ink = 255 - image[image.shape[0] - int(box.y1) : image.shape[0] - int(box.y0), int(box.x0) : int(box.x1), 0]
    below = ink[-4:].sum(0)
    assert below[len(below) // 2 :].sum() > 2 * below[: len(below) // 2].sum()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_wide_characters_stand_on_each_other() -> None:
    figure = heatmap.draw_heatmap(attention_map(("▁今天", "天气", "2024年", "dog"), ENGLISH), [DEFAULT_FONT])
    shown = {text.get_text(): text.get_rotation() for text in figure.axes[0].texts}
    assert {"▁\n今\n天": 0, "天\n气": 0, "2024年": 90, "dog": 90}.items() <= shown.items()


def test_a_font_is_found_for_what_the_first_one_lacks() -> None:
    entries = [entry for entry in font_manager.fontManager.ttflist if entry.name == "STIXGeneral"]
    lacking = set(FT2Font(entries[0].fname).get_charmap()) - set(
        FT2Font(font_manager.findfont(DEFAULT_FONT)).get_charmap()
    )
    character = chr(max(code for code in lacking if code < 0x10000))
    found = Fonts()
    assert found.add(["▁dog", f"▁{character}"]) == []
    assert found.families[0] == DEFAULT_FONT
    assert len(found.families) == 2
    path = font_manager.findfont(font_manager.FontProperties(family=found.families[1]))
    assert ord(character) in FT2Font(path).get_charmap()


def test_missing_glyphs_are_one_line_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = fonts._installed_fonts()
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: [font for font in installed if font[0].startswith("DejaVu")])
    found = Fonts()
    (line,) = found.add(["▁公園", "▁dog"])
    assert line.startswith("no installed font has CJK characters such as 公 (U+516C)")
    assert "fonts-noto-cjk" in line
    assert found.add(["▁公園", "散歩"]) == []
    (line,) = found.add(["▁परीक्षा"])
    assert "Devanagari" in line
    assert "fonts-noto-core" in line
    # Drawn all the same, and without a word of matplotlib's own: here that would be an error.
    assert pixels(heatmap.render_heatmap(attention_map(("▁公園",)), found.families, "png")).size


# The page


class Reader(HTMLParser):
    """Parses a page: elements, their attributes, and the contents of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style", "title"):
            name = dict(self.elements[-1][1]).get("id") or self.open[-1]
            self.texts[name] = self.texts.get(name, "") + data

    @property
    def data(self) -> Any:
        return json.loads(self.texts["data"])


def page_of(sentences: list[list[AttentionMap | None]], names: tuple[str, ...] = ("runs/a",)) -> str:
    written: list[str] = []
    page = TranslationPage(written.append, [PageSystem(name, "de", "en") for name in names])
    for line, maps in enumerate(sentences, start=1):
        page.add(DrawnLine(line, next(shown.source for shown in maps if shown), maps))
    page.end()
    return "".join(written)


def test_a_page_holds_the_weights() -> None:
    shown = attention_map(heads=3, half_width=2)
    assert shown.centers_NT is not None
    data = Reader(page_of([[shown, attention_map(seed=1)], [attention_map(), None]], ("runs/a", "runs/b"))).data
    assert [system["name"] for system in data["systems"]] == ["runs/a", "runs/b"]
    assert [sentence["line"] for sentence in data["sentences"]] == [1, 2]
    assert data["sentences"][1]["attention"][1] is None
    found = data["sentences"][0]["attention"][0]
    assert (tuple(found["source_pieces"]), tuple(found["target_pieces"])) == (GERMAN, ENGLISH)
    steps = np.frombuffer(base64.b64decode(found["weights"]), np.uint8).reshape(shown.weights_NTS.shape)
    assert np.abs(steps / WEIGHT_STEPS - shown.weights_NTS).max() <= 0.5 / WEIGHT_STEPS + 1e-6
    assert np.array_equal(np.array(found["centers"], np.float32), shown.centers_NT)
    assert (found["heads"], found["half_width"], found["log_probability"]) == (3, 2, -3.5)


def test_a_page_without_sentences() -> None:
    assert Reader(page_of([])).data["sentences"] == []


def test_no_text_can_break_a_page() -> None:
    evil = ("</script>", "<!--", "<script>alert(1)", "]]>", "\u2028", '"', "\\", "{{data}}", "&lt;")
    reader = Reader(page_of([[attention_map(evil, evil)]], ("<b>{{script}}</title>",)))
    assert reader.open == []
    assert [tag for tag, _ in reader.elements].count("script") == 2
    assert "b" not in [tag for tag, _ in reader.elements]
    assert tuple(reader.data["sentences"][0]["attention"][0]["target_pieces"]) == evil
    assert reader.data["sentences"][0]["source"] == " ".join(evil)
    assert reader.texts["title"] == "Attention of <b>{{script}}</title>"


def assert_own_code(reader: Reader) -> None:
    """The code names no address but namespaces, and asks only what its policy allows: nothing, in a file."""
    d3 = files("nmt.visualization").joinpath("page", "d3.min.js").read_text("utf-8")
    code = reader.texts["script"] + reader.texts["style"]
    assert d3 in code
    addresses = set(re.findall(r"\w+:/+[^\"'\s]*", code))
    assert addresses <= {f"http://www.w3.org/{name}" for name in NAMESPACES}
    own = code.replace(d3, "")
    assert not re.search(r"XMLHttpRequest|import\b|url\(|innerHTML|eval\(", own)
    assert re.findall(r"fetch\([^,]*", own) == ["fetch(path"]


NAMESPACES = ("2000/svg", "1998/Math/MathML", "1999/xhtml", "1999/xlink", "2000/xmlns/", "XML/1998/namespace")


def test_a_page_asks_for_nothing_and_runs_its_own_script_alone() -> None:
    reader = Reader(page_of([[attention_map()]]))
    attributes = {name for _, found in reader.elements for name in found}
    assert not attributes & {"src", "href", "srcset", "action", "style", "onclick", "onload"}
    assert_own_code(reader)
    policy = next(found["content"] for _, found in reader.elements if "http-equiv" in found)
    hashes = {
        kind: "'sha256-" + base64.b64encode(hashlib.sha256(reader.texts[kind].encode()).digest()).decode() + "'"
        for kind in ("style", "script")
    }
    assert policy == f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node to run the page's script")
def test_the_script_reads_what_was_written() -> None:
    shown = attention_map(heads=2, half_width=2)
    assert shown.centers_NT is not None
    reader = Reader(page_of([[shown], [attention_map(target=("▁Katze",))]]))
    program = f"""
        {reader.texts["script"]}
        const data = {reader.texts["data"]};
        const attention = data.sentences[0].attention[0];
        const mean = weightsOf(attention, -1);
        console.log(JSON.stringify({{
            heads: [0, 1].map((head) => Array.from(weightsOf(attention, head))),
            mean: Array.from(mean),
            row: weightsOfPiece(mean, 5, "target", 2),
            column: weightsOfPiece(mean, 5, "source", 3),
            windows: attention.centers.map((head) => head.map((center) => windowOf(center, attention.half_width, 5))),
            largest: largest([0.1, 0.005, 0.6], ["a", "b", "c"]),
            found: [" HUND", "katze", "x"].map((query) => matching(data, query)),
        }}));"""
    ended = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(ended.stdout)
    weights = shown.weights_NTS
    near: Callable[[Any], Any] = lambda values: pytest.approx(values, abs=0.5 / WEIGHT_STEPS + 1e-6)  # noqa: E731
    assert found["heads"] == [near(weights[0].ravel()), near(weights[1].ravel())]
    assert found["mean"] == near(weights.mean(0).ravel())
    assert found["row"] == near(weights.mean(0)[2])
    assert found["column"] == near(weights.mean(0)[:, 3])
    expected = [
        [
            [window[0], window[-1]] if (window := heatmap.window_positions(float(center), 2, 5)) else None
            for center in head
        ]
        for head in shown.centers_NT
    ]
    assert found["windows"] == expected
    assert [entry["piece"] for entry in found["largest"]] == ["c", "a"]
    assert found["found"] == [[0, 1], [1], []]


# The command


def assert_mistake(ended: Ended, message: str) -> None:
    assert (ended.code, ended.errors.count("\n"), ended.output) == (2, 1, ""), ended
    assert message in ended.errors


def test_a_folder_of_pictures(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plots"
    ended = call(translate.main, "--model", checkpoint, "--plot", folder, "--window", 1, stdin=INPUT.encode())
    assert ended == Ended(0, f"{REFERENCES[3]}\n\n{REFERENCES[0]}\n", "")
    assert sorted(path.name for path in folder.iterdir()) == ["0001.png", "0001.svg", "0003.png", "0003.svg"]
    found = set(texts_of((folder / "0001.svg").read_bytes()))
    assert {"▁two", "▁lesen"} & found or {"▁t", "▁l"} & found
    assert pixels((folder / "0003.png").read_bytes()).min() < 200


def test_a_page_of_two_models(
    call: Call, checkpoint: Path, tmp_path: Path, tokenizers: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(drawing, "LINES_IN_MEMORY", 2)
    other = save_small(tmp_path / "other", tokenizers, seed=2, attention="luong2015_local_predictive", updates=10)
    page = tmp_path / "page.html"
    arguments = ["--model", checkpoint, "--plot", page, "--plot-beside", other]
    ended = call(translate.main, *arguments, stdin=INPUT.encode())
    assert ended == Ended(0, f"{REFERENCES[3]}\n\n{REFERENCES[0]}\n", "")
    assert list(tmp_path.glob(".tmp-*")) == []
    data = Reader(page.read_text(encoding="utf-8")).data
    assert [system["name"] for system in data["systems"]] == [str(checkpoint), str(other)]
    assert [(sentence["line"], sentence["source"]) for sentence in data["sentences"]] == [
        (1, SOURCES[3]),
        (3, SOURCES[0]),
    ]
    mine, its = data["sentences"][1]["attention"]
    assert mine["target"] == REFERENCES[0]
    assert [trace["text"] for trace in data["sentences"][1]["beams"]] == [mine["target"], its["target"]]
    alone = call(translate.main, "--model", other, stdin=INPUT.encode())
    assert its["target"] == alone.output.splitlines()[2]
    assert (mine["centers"], mine["half_width"]) == (None, None)
    assert len(its["centers"][0]) == len(its["target_pieces"]) + 1
    assert its["half_width"] == 10


def test_every_system_translates_by_its_own_search(model: TrainedModel, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    short = SearchConfig(max_length_ratio=0.01, max_length_offset=2)
    systems = [
        drawing.PlottedSystem(build_system([model], CPU), search, drawing.page_system(model.config, name))
        for name, search in (("a", SearchConfig()), ("b", short))
    ]
    done: list[int] = []
    with drawing.drawing(page, systems, BEST, done.append) as drawn:
        written = []
        for translated in translate_stream(systems[0].system, SOURCES[:3], systems[0].search, window=2):
            written += [best[0].text for best in translated.translations]
            drawn.add(translated)
        assert written == REFERENCES[:3]
    sentences = Reader(page.read_text(encoding="utf-8")).data["sentences"]
    assert [sentence["attention"][0]["target"] for sentence in sentences] == REFERENCES[:3]
    assert {len(sentence["attention"][1]["target_pieces"]) for sentence in sentences} == {2}
    assert sum(done) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "a.png"], "--plot: a.png is one picture; name a folder"),
        (["--plot", "pyproject.toml"], "--plot: pyproject.toml is a file; name a folder"),
        (["--plot", "a", "--plot-beside", "y"], "--plot-beside: models are shown side by side on a page"),
        (["--plot-beside", "y"], "--plot-beside: models are shown side by side on a page"),
        (["--plot", "a.html", "--output", "./a.html"], "--plot: a.html is what --output writes"),
    ],
)
def test_mistakes_in_arguments(call: Call, arguments: list[str], message: str) -> None:
    assert_mistake(call(translate.main, "--model", "no/model", *arguments), message)


def test_pictures_need_matplotlib(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert_mistake(call(translate.main, "--model", "x", "--plot", "a"), "pip install matplotlib")


def test_no_plots_without_attention(call: Call, checkpoint: Path, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    plain = save_small(tmp_path / "plain", tokenizers, attention="sutskever2014", updates=0)
    page = tmp_path / "page.html"
    ended = call(translate.main, "--model", plain, "--plot", page)
    assert_mistake(ended, f"--plot: {plain} has no attention to look at; leave it out")
    ended = call(translate.main, "--model", checkpoint, "--plot", page, "--plot-beside", plain)
    assert_mistake(ended, f"--plot-beside: {plain} has no attention to look at; leave it out")
    assert not page.exists()


@pytest.mark.parametrize("name", ["page.html", "plots"])
def test_where_nothing_can_be_written(call: Call, checkpoint: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    ended = call(translate.main, "--model", checkpoint, "--plot", tmp_path / "file" / name, stdin=INPUT.encode())
    assert_mistake(ended, f"{name}: cannot be written: Not a directory")


def test_a_mistake_in_the_text_leaves_the_old_page_as_it_was(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    text = f"{SOURCES[3]}\n".encode() + b"ein \xff hund\n"
    ended = call(translate.main, "--model", checkpoint, "--plot", page, stdin=text)
    assert (ended.code, ended.output) == (2, f"{REFERENCES[3]}\n")
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]
