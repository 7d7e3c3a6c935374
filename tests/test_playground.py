"""The playground in a real browser: the beam, what-if, equations, comparison, alignment, given pairs and documents.

A loopback server answers with small models that are trained here. With NMT_SCREENSHOTS=FOLDER the test of screenshots
writes them there. With NMT_SCREENSHOT_MODELS="NAME=RUN NAME=RUN" most of them show these English-German models, and
with NMT_SCREENSHOT_MECHANISMS the others do: the second one has a predicted window, and the last one has several heads.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation.drawing import RECORDED_LINES, mechanism_of
from nmt.tasks.translation.forced_decoding import forced_attention
from nmt.tasks.translation.loading import TrainedModel, build_system, load_model
from nmt.tasks.translation.recording import record_search
from nmt.visualization.attention_map import AttentionMap
from nmt.visualization.pages import DrawnLine, PageSystem, TranslationPage, WeightedSentence
from nmt.visualization.playground import BeamTrace
from tests.support.models import CPU, REFERENCES, SOURCES, save_small
from tests.support.playground import serving
from tests.test_browser import DESKTOP, PHONE, Visit, assert_contrast, browser, visit  # noqa: F401 - fixtures
from tests.test_document_page import page_of as document_page_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

SEARCH = SearchConfig(beam_size=3)
SOURCE = SOURCES[3]
LOCAL = "luong2015_local_predictive"
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"], "resultTypes": ["violations"]}
LARGEST_SCREENSHOT = 150_000
"""Bytes."""


@pytest.fixture(scope="module")
def models(
    checkpoint: Path, tokenizers: TokenizerPair, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainedModel]:
    """A model of Bahdanau, one of Luong with a predicted window, and one with heads."""
    folder = tmp_path_factory.mktemp("playground")
    local = save_small(folder / "local", tokenizers, seed=2, attention=LOCAL, updates=15)
    heads = ["model.attention.heads=4"]
    several = save_small(folder / "heads", tokenizers, seed=3, updates=15, overrides=heads)
    return {name: load_model(path, None, CPU) for name, path in (("a", checkpoint), ("b", local), ("c", several))}


@pytest.fixture(scope="module")
def server(models: dict[str, TrainedModel]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    with serving(models) as started:
        yield started


@pytest.fixture
def requests(server: tuple[str, list[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    """The requests of this test."""
    server[1].clear()
    return server[1]


@pytest.fixture
def open_server(browser: Browser, server: tuple[str, list[tuple[str, Any]]]) -> Iterator[Callable[..., Page]]:  # noqa: F811
    """Opens the served page on a desktop or a phone. An error that the page reports fails the test."""
    errors: list[str] = []
    contexts = []

    def open_page(*, phone: bool = False, **settings: Any) -> Page:
        size = PHONE if phone else DESKTOP
        context = browser.new_context(viewport=size, is_mobile=phone, has_touch=phone, **settings)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server[0])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def attention_of(model: TrainedModel, source: str, target: str) -> AttentionMap:
    (attention,) = forced_attention(build_system([model], CPU), [source], [target], 1000)
    assert attention is not None
    return attention


def shown(name: str, model: TrainedModel) -> PageSystem:
    return PageSystem(name, "de", "en", mechanism_of(model.config.model))


def recorded_page(
    models: Mapping[str, TrainedModel], sources: list[str], times: int = 1
) -> tuple[str, list[BeamTrace]]:
    """A file with the searches of these models, its sentences repeated; and the searches of the first model."""
    written: list[str] = []
    page = TranslationPage(written.append, [shown(*each) for each in models.items()])
    first = []
    items = []
    for source in sources:
        traces = [record_search(build_system([model], CPU), source, SEARCH, whole=False) for model in models.values()]
        assert all(traces)
        maps = [
            attention_of(model, source, trace.text)
            for model, trace in zip(models.values(), traces, strict=True)
            if trace
        ]
        first.append(traces[0])
        items.append((source, maps, traces))
    for line in range(times * len(items)):
        source, maps, traces = items[line % len(items)]
        page.add(DrawnLine(line + 1, source, maps, traces if line < RECORDED_LINES else None))
    page.end()
    return "".join(written), first  # type: ignore[return-value]


def translate(page: Page, source: str, *, models: Collection[str] = "a") -> None:
    """Types a sentence and has it translated by the models with these names."""
    for box in page.locator("#models label").all():
        box.locator("input").set_checked(box.inner_text().strip() in models)
    page.locator("#source").fill(source)
    page.locator("#translate").click()
    page.locator("#list [aria-current=true] .text").get_by_text(source, exact=True).wait_for()


def nodes(page: Page, kind: str = "") -> Locator:
    return page.locator(f".tree .node{kind}")


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("−", "-")) for text in texts]


# Beam


def test_the_tree_grows_step_by_step(visit: Visit, models: dict[str, TrainedModel]) -> None:  # noqa: F811
    text, (trace,) = recorded_page({"a": models["a"]}, [SOURCE])
    page = visit(text)
    page.locator("#tab-beam").click()
    depths = [0]
    for node in trace.nodes[1:]:
        depths.append(depths[node.parent] + 1)
    assert nodes(page).count() == len(trace.nodes)
    slider = page.get_by_role("slider", name="Steps shown")
    for step in (1, 2):
        slider.fill(str(step))
        assert nodes(page).count() == sum(depth <= step for depth in depths)
        assert page.locator(".count").inner_text() == f"step {step} of {max(depths)}"
    for index in (1, 2, 3):
        spoken = nodes(page).and_(page.locator(f'[data-node="{index}"]')).get_attribute("aria-label")
        assert spoken is not None
        assert spoken.startswith(f"{trace.nodes[index].piece}, step 1, probability ")
    page.get_by_role("checkbox", name="pruned branches").uncheck()
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="▶ Play").wait_for()
    assert nodes(page).count() == sum(node.kept for node in trace.nodes)
    assert nodes(page, ".pruned").count() == 0
    best = nodes(page, ".best").locator(".label").all_text_contents()
    assert "".join(best).replace("▁", " ").strip() == f"{trace.text}</s>"


def test_no_two_branches_of_the_tree_cross(visit: Visit, models: dict[str, TrainedModel]) -> None:  # noqa: F811
    """From top to bottom, the parents of a step's nodes stand in the order of the nodes."""
    text, (trace,) = recorded_page({"a": models["a"]}, [SOURCES[4]])
    page = visit(text)
    page.locator("#tab-beam").click()
    places = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".tree .node")].map((node) => {
          const { x, y } = node.getBoundingClientRect();
          return [node.dataset.node, [Math.round(x), y]];
        }))"""
    )
    columns: dict[float, list[tuple[float, int]]] = {}
    for index, (x, y) in places.items():
        columns.setdefault(x, []).append((y, int(index)))
    assert len(columns) > 5
    for column in columns.values():
        parents = [trace.nodes[index].parent for _, index in sorted(column)]
        if parents != [-1]:
            heights = [places[str(parent)][1] for parent in parents]
            assert heights == sorted(heights)


def test_pointing_at_a_node_shows_the_ten_most_probable_pieces(visit: Visit, models: dict[str, TrainedModel]) -> None:  # noqa: F811
    text, (trace,) = recorded_page({"a": models["a"]}, [SOURCE])
    page = visit(text)
    page.locator("#tab-beam").click()
    index = next(index for index, node in enumerate(trace.nodes) if node.kept and node.parent > 0)
    expansion = trace.nodes[trace.nodes[index].parent].expansion
    assert expansion is not None
    page.locator(f'[data-node="{index}"]').hover()
    assert page.locator(".top .name").all_inner_texts() == [piece for piece, _ in expansion.top]
    for text, (_, probability) in zip(page.locator(".top .value").all_inner_texts(), expansion.top, strict=True):
        assert text == "<0.001" or float(text) == pytest.approx(probability, abs=0.006)
    assert page.locator('.top [aria-pressed="true"] .name').inner_text() == trace.nodes[index].piece
    assert expansion.weights is not None
    weights = numbers(page.locator(".sliders .value").all_inner_texts())
    assert weights == pytest.approx(expansion.weights[0], abs=0.006)


def test_keys_walk_through_the_tree(visit: Visit, models: dict[str, TrainedModel]) -> None:  # noqa: F811
    text, (trace,) = recorded_page({"a": models["a"]}, [SOURCE])
    page = visit(text)
    page.locator("#tab-beam").focus()
    page.keyboard.press("Enter")
    first = page.locator(".tree .node[tabindex='0']")
    assert first.count() == 1
    first.focus()
    path = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        path.append(int(page.evaluate("document.activeElement.dataset.node")))
    start = int(trace.nodes[path[0]].parent)
    assert [trace.nodes[path[0]].parent, trace.nodes[path[1]].parent, path[2]] == [start, path[0], path[0]]
    assert path[3] != path[2]
    assert path[4] == path[2]
    assert page.evaluate("location.hash") == "#1"


# What if


def test_another_piece_continues_the_search(open_server: Callable[..., Page], requests: list[tuple[str, Any]]) -> None:
    page = open_server()
    translate(page, SOURCE)
    own = page.locator(".translation").inner_text()
    pressed = page.locator(".top button")
    piece = next(each for each in page.locator(".top .name").all_inner_texts()[1:] if each != "</s>")
    pressed.filter(has=page.get_by_text(piece, exact=True)).first.click()
    page.wait_for_selector(".changes")
    assert requests[-1][1]["prefix"] == [piece]
    assert page.locator(".translation").inner_text().startswith(piece.replace("▁", ""))
    assert page.locator(".changes").inner_text().startswith("What if: begins with “")
    kept = page.locator(".tree .node:not(.pruned)[aria-label*='step 1,'] .label").all_text_contents()
    assert set(kept) == {piece}
    page.get_by_role("button", name="back to the model’s own").click()
    page.wait_for_selector(".changes", state="detached")
    assert page.locator(".translation").inner_text() == own


def test_other_weights_continue_the_search(open_server: Callable[..., Page], requests: list[tuple[str, Any]]) -> None:
    page = open_server()
    translate(page, SOURCE)
    page.locator('.tree .best[aria-label*="step 2,"]').click()
    apply = page.get_by_role("button", name="Continue with these weights")
    assert apply.is_disabled()
    page.locator(".sliders .name").nth(2).click()
    weights = numbers(page.locator(".sliders .value").all_inner_texts())
    assert weights == [float(at == 2) for at in range(len(weights))]
    # A weight that is dragged leaves the rest to the others, in their proportion.
    slider = page.locator(".sliders input").nth(1)
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    weights = numbers(page.locator(".sliders .value").all_inner_texts())
    assert weights[1] == pytest.approx(0.3, abs=0.03)
    assert weights[2] == pytest.approx(1 - weights[1], abs=0.011)
    apply.click()
    page.wait_for_selector(".changes")
    asked = requests[-1][1]
    assert len(asked["prefix"]) == 1
    assert asked["weights"]["1"] == pytest.approx(weights, abs=0.006)
    assert "attention changed at step 2" in page.locator(".changes").inner_text()
    assert numbers(page.locator(".sliders .value").all_inner_texts()) == pytest.approx(weights, abs=0.011)
    assert page.get_by_role("button", name="Reset").is_disabled()


def test_an_edited_source_shows_what_changes(open_server: Callable[..., Page]) -> None:
    page = open_server()
    translate(page, SOURCES[0])
    before = page.locator(".translation").inner_text()
    translate(page, SOURCES[5])
    after = page.locator(".translation").inner_text()
    assert before != after
    words = page.locator(".difference")
    kept = words.locator("span, ins").all_inner_texts()
    assert kept == after.split()
    assert words.locator("span, del").all_inner_texts() == before.split()
    assert page.locator("#list button").count() == 2


def test_a_file_says_what_needs_a_model(visit: Visit, models: dict[str, TrainedModel]) -> None:  # noqa: F811
    text, _ = recorded_page({"runs/a": models["a"]}, [SOURCE])
    page = visit(text)
    assert page.locator("#ask").is_hidden()
    page.locator("#tab-beam").click()
    page.locator(".top button").nth(1).click()
    notice = page.get_by_role("status").filter(has_text="nmt-serve")
    assert notice.inner_text().startswith("This file shows recorded data.")
    assert "nmt-serve --model runs/a" in notice.inner_text()


def test_a_refusal_of_the_server_is_shown(browser: Browser, server: tuple[str, Any]) -> None:  # noqa: F811
    page = browser.new_context().new_page()
    page.goto(server[0])
    translate(page, SOURCE)
    page.evaluate("document.getElementById('source').maxLength = 5000")
    page.locator("#source").fill("x" * 3000)
    page.locator("#translate").click()
    page.wait_for_selector("#notice:not([hidden])")
    assert "at most 2000 characters" in page.locator("#notice").inner_text()
    assert page.locator("#list button").count() == 1
    page.context.close()


# Equations


def test_the_equations_have_the_numbers_of_the_step(open_server: Callable[..., Page]) -> None:
    page = open_server()
    translate(page, SOURCE, models="ab")
    page.locator('.tree .best[aria-label*="step 2,"]').click()
    table = page.locator(".equation-table")
    scores = numbers(table.locator(".scores td").all_inner_texts())
    weights = numbers(table.locator(".alphas td").all_inner_texts())
    total = sum(map(math.exp, scores))
    assert weights == pytest.approx([math.exp(score) / total for score in scores], abs=0.01)
    assert sum(weights) == pytest.approx(1.0, abs=0.01)
    strongest = weights.index(max(weights))
    assert table.locator("thead .strongest sub").inner_text() == str(strongest + 1)
    formula = page.locator(".substitution math").text_content()
    assert formula is not None
    assert formula.startswith(f"α2,{strongest + 1}=exp({scores[strongest]:.2f}".replace("-", "−"))
    assert "tanh" in (table.locator(".scores th").text_content() or "")
    # One click to another mechanism, with the same source, at the same step.
    page.get_by_role("group", name="Mechanism").get_by_role("button", name=re.compile("local, predictive")).click()
    heading = page.locator(".equations h3").inner_text()
    assert heading == "The equations of step 2: Luong, general score, local, predictive"
    window = page.locator(".window-text").inner_text()
    center = float(re.search(r"= (-?[\d.]+), counted from 1", window)[1])  # type: ignore[index]
    gaussian = numbers(table.locator(".gaussian td").all_inner_texts())
    assert gaussian == pytest.approx(
        [math.exp(-((at + 1 - center) ** 2) / (2 * 5.0**2)) for at in range(len(gaussian))], abs=0.01
    )
    scores = numbers(table.locator(".scores td").all_inner_texts())
    total = sum(map(math.exp, scores))
    expected = [math.exp(score) / total * factor for score, factor in zip(scores, gaussian, strict=True)]
    assert numbers(table.locator(".alphas td").all_inner_texts()) == pytest.approx(expected, abs=0.01)


# Comparison


def test_models_are_compared(open_server: Callable[..., Page], models: dict[str, TrainedModel]) -> None:
    page = open_server()
    translate(page, SOURCE, models="abc")
    page.locator("#tab-attention").click()
    assert page.locator(".system[aria-label='a'], .system[aria-label='b'], .system[aria-label='c']").count() == 3
    # Linked by source word.
    piece = page.locator(".system[aria-label='a'] .pieces").first.locator(".piece").nth(1)
    piece.hover()
    for name in "abc":
        assert page.locator(f".system[aria-label='{name}'] .piece.chosen").inner_text() == piece.inner_text()
    difference = page.locator(".difference-view")
    second = difference.get_by_label("Second system")
    for choice, name in ((1, "b"), (2, "c")):
        second.select_option(index=choice)
        assert name in difference.locator(".legend").inner_text()
        found = difference.locator("td[data-column]")
        texts = found.all_inner_texts()
        one, other = (page.evaluate(WORD_WEIGHTS, each) for each in ("a", name))
        rows = [word for word in one["target"] if word in other["target"]]
        assert difference.locator("tbody th").all_inner_texts() == rows
        expected = [
            other["rows"][other["target"].index(word)][column] - one["rows"][one["target"].index(word)][column]
            for word in rows
            for column in range(len(one["source"]))
        ]
        assert [float(text.replace("−", "-") or 0) for text in texts] == pytest.approx(expected, abs=0.0051)


# Sums over the pieces of source words and means over those of target words, from the page's data.
WORD_WEIGHTS = """(name) => {
  const view = playground.views.find((each) => each.element.getAttribute("aria-label") === name);
  return wordAttention(view.attention);
}"""


def test_weights_of_words_are_sums_over_the_source_and_means_over_the_target(
    open_server: Callable[..., Page], models: dict[str, TrainedModel]
) -> None:
    page = open_server()
    translate(page, SOURCE)
    trace = record_search(build_system([models["a"]], CPU), SOURCE, SearchConfig(beam_size=5))
    assert trace is not None
    path = [trace.best]
    while (parent := trace.nodes[path[-1]].parent) > 0:
        path.append(parent)
    steps = [trace.nodes[trace.nodes[index].parent].expansion for index in reversed(path)]
    weights_TS = np.mean([step.weights for step in steps if step is not None], axis=1)
    sides = (trace.source_pieces, [trace.nodes[index].piece for index in reversed(path[1:])])
    source, target = (np.cumsum([piece.startswith("▁") for piece in pieces]) - 1 for pieces in sides)
    weights_TS = weights_TS[: len(target), : len(source)]
    expected = [
        [weights_TS[target == row][:, source == column].sum(1).mean() for column in range(source[-1] + 1)]
        for row in range(target[-1] + 1)
    ]
    assert max(np.bincount(source)) > 1
    assert max(np.bincount(target)) > 1
    page.locator("#tab-attention").click()
    shown = page.evaluate(WORD_WEIGHTS, "a")
    assert shown["source"] == SOURCE.split()
    assert np.asarray(shown["rows"]) == pytest.approx(np.asarray(expected), abs=0.01)


def test_heads_words_and_colours(open_server: Callable[..., Page]) -> None:
    page = open_server()
    translate(page, SOURCE, models="c")
    page.locator("#tab-attention").click()
    page.get_by_role("radio", name="all").check()
    assert page.locator(".head-grid canvas").count() == 4
    box = page.locator(".head-grid canvas").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    assert page.locator(".head-grid .line:visible").count() == 4
    page.get_by_title("Show head 3 alone").click()
    assert page.get_by_role("radio", name="3").is_checked()
    assert page.locator(".head-grid").count() == 0
    page.get_by_role("radio", name="words").check()
    words = page.locator(".pieces").first.locator(".piece").all_inner_texts()
    assert words == [*SOURCE.split(), "</s>"]
    ink = "canvas => Math.max(...canvas.getContext('2d').getImageData(0, 0, 1, 1).data)"
    darkness = []
    for scale in ("square root", "linear"):
        page.get_by_role("radio", name=scale).check()
        darkness.append(page.locator(".weights canvas").evaluate(ink) / 255)
    assert darkness[1] == pytest.approx(darkness[0] ** 2, abs=0.01)


# Alignment


def test_links_by_hand_have_an_error_rate_at_once(
    open_server: Callable[..., Page], requests: list[tuple[str, Any]]
) -> None:
    """A given pair: links A of the model against sure ones S and possible ones P by hand.

    AER = 1 - (|A and S| + |A and P|) / (|A| + |S|).
    """
    page = open_server()
    page.locator("#given summary").click()
    page.locator("#target").fill(REFERENCES[3])
    assert page.locator("#translate").inner_text() == "Show this translation"
    translate(page, SOURCE)
    assert requests[-1] == ("/api/pair", {"model": "a", "source": SOURCE, "target": REFERENCES[3]})
    page.get_by_role("button", name="Start from the model’s links").click()
    scores = page.locator(".scores")
    assert "Alignment error rate 0.0 %" in scores.inner_text()
    links = page.get_by_label("Links in the Pharaoh format")
    model_links = links.input_value().split()
    count = len(model_links)
    assert count > 1
    page.get_by_role("button", name="Clear").click()
    assert links.input_value() == ""
    source, target = map(int, model_links[0].split("-"))
    cell = page.locator(".links-view tbody tr").nth(target).locator("td").nth(source)
    cell.click()
    assert links.input_value() == model_links[0]
    assert f"Alignment error rate {100 * (1 - 2 / (count + 1)):.1f} %" in scores.inner_text()
    cell.press("Enter")
    assert links.input_value() == f"{source}p{target}"
    # A possible link alone: |A,P| = 1, and no sure one.
    assert (
        f"Alignment error rate {100 * (1 - 1 / count):.1f} %, precision {100 / count:.1f} %, recall –;"
        in scores.inner_text()
    )
    cell.press("Enter")
    assert links.input_value() == ""
    cell.press("ArrowRight" if source == 0 else "ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "gridcell"


def test_gold_links_of_a_page_are_shown(visit: Visit, models: dict[str, TrainedModel]) -> None:  # noqa: F811
    written: list[str] = []
    page = TranslationPage(written.append, [shown("a", models["a"])])
    maps, gold = [attention_of(models["a"], SOURCE, REFERENCES[3])], [(0, 0, True), (1, 1, False)]
    page.add(DrawnLine(1, SOURCE, maps, links=[[(0, 0), (2, 2)]], gold=gold))
    page.end()
    opened = visit("".join(written))
    opened.locator("#tab-alignment").click()
    assert opened.get_by_label("Links in the Pharaoh format").input_value() == "0-0 1p1"
    # A = {0-0, 2-2}, S = {0-0}, P = {0-0, 1-1}: 1 - (1 + 1) / (2 + 1).
    assert "Alignment error rate 33.3 %, precision 50.0 %, recall 100.0 %" in opened.locator(".scores").inner_text()


# Documents


def test_documents_are_sorted_by_mistakes_and_confidence(visit: Visit) -> None:  # noqa: F811
    sentences = (WeightedSentence(1.0, ("good", "film"), (0.75, 0.25)),)

    def document(probability: float, truth: str) -> dict[str, Any]:
        probabilities = {"good": probability, "bad": 1 - probability}
        return {
            "text": "good film",
            "label": "good",
            "probabilities": probabilities,
            "sentences": sentences,
            "true_label": truth,
        }

    page = visit(
        document_page_of(document(0.9, "good"), document(0.6, "bad"), document(0.95, "bad"), document(0.55, "good"))
    )
    lines = lambda: [int(text) for text in page.locator("#list .number").all_inner_texts()]  # noqa: E731
    order = page.get_by_label("Order of the documents")
    assert lines() == [1, 2, 3, 4]
    assert page.locator(".verdict").inner_text() == "✓ right"
    for choice, expected in (
        ("mistakes first", [3, 2, 1, 4]),
        ("least confident first", [4, 2, 1, 3]),
        ("most confident first", [3, 1, 2, 4]),
        ("in order", [1, 2, 3, 4]),
    ):
        order.select_option(label=choice)
        assert lines() == expected
        assert page.locator("#list [aria-current=true] .number").inner_text() == str(expected[0])
        page.keyboard.press("Escape")
    order.select_option(label="mistakes first")
    assert page.locator(".verdict").inner_text() == "✗ wrong: it is bad"
    page.get_by_label("Next document").click()
    assert page.locator("#list [aria-current=true] .number").inner_text() == "2"
    assert page.locator("#list .wrong").count() == 2


# Everyone


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_every_view_is_accessible(open_server: Callable[..., Page], phone: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_server(phone=phone, reduced_motion="reduce")
    translate(page, SOURCES[4], models="ac")
    for tab in ("beam", "attention", "alignment"):
        page.locator(f"#tab-{tab}").click()
        if tab == "attention":
            page.get_by_role("radio", name="all").check()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert_contrast(page)
            ended = axe.run(page, options=AXE)
            assert ended.violations_count == 0, (tab, scheme, ended.generate_report())
        size = PHONE if phone else DESKTOP
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"], tab


def test_a_printed_page_has_the_search_and_no_controls(open_server: Callable[..., Page]) -> None:
    page = open_server()
    translate(page, SOURCE)
    page.emulate_media(media="print")
    for hidden in (".controls", "nav", "#ask", ".actions", "#tabs"):
        assert page.locator(hidden).first.is_hidden(), hidden
    for visible in (".translation", ".tree", ".equation-table"):
        assert page.locator(visible).is_visible(), visible


def test_two_thousand_searches(visit: Visit, models: dict[str, TrainedModel]) -> None:  # noqa: F811
    """One search is drawn at a time, of the first lines; the others say that they are not recorded."""
    text, _ = recorded_page({"a": models["a"]}, SOURCES[:2], times=1000)
    page = visit(text)
    page.locator("#tab-beam").click()
    took = page.evaluate(
        """() => {
          const start = performance.now();
          for (let count = 0; count < 10; count++) document.getElementById("next").click();
          document.body.getBoundingClientRect();
          return (performance.now() - start) / 10;
        }"""
    )
    assert page.locator(".tree svg").count() == 1
    assert page.locator("#list button").count() == 2000
    # A core that runs a dozen other programs takes about 0.2 seconds for a search.
    assert took < 1000
    page.goto(f"{page.url.partition('#')[0]}#1500")
    assert "is not recorded" in page.locator("#systems").inner_text()


# Pictures for the documentation

SHOTS: tuple[tuple[str, str, bool, Callable[[Page], object]], ...] = (
    ("beam", "light", False, lambda page: None),
    ("what-if", "light", False, lambda page: _another_piece(page)),
    ("equations", "light", False, lambda page: None),
    ("compare", "light", False, lambda page: page.locator("#tab-attention").click()),
    ("alignment", "light", False, lambda page: _given(page)),
    ("phone", "dark", True, lambda page: None),
)
MECHANISM_SHOTS: tuple[tuple[str, str, bool, Callable[[Page], object]], ...] = (
    ("equations-dark", "dark", False, lambda page: page.locator(".mechanisms button").nth(1).click()),
    ("heads", "dark", False, lambda page: _all_heads(page)),
)
PAIR = "Today the boy is opening the window.\tHeute öffnet der Junge das Fenster."


def _models_of(variable: str) -> dict[str, TrainedModel]:
    named = (each.split("=") for each in os.environ.get(variable, "").split())
    return {name: load_model(path, None, CPU) for name, path in named}


def test_screenshots(browser: Browser, models: dict[str, TrainedModel], tmp_path: Path) -> None:  # noqa: F811
    """Each of the eight pictures of docs/visualization.md can be made, and is small."""
    folder = Path(os.environ.get("NMT_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    own = f"{SOURCES[4]}\t{REFERENCES[4]}"
    for variable, shots in (("NMT_SCREENSHOT_MODELS", SHOTS), ("NMT_SCREENSHOT_MECHANISMS", MECHANISM_SHOTS)):
        given = _models_of(variable)
        shown_models = given or models
        source, target = (PAIR if given else own).split("\t")
        with serving(shown_models) as (address, _):
            for name, scheme, phone, act in shots:
                size: Any = PHONE if phone else {"width": 1200, "height": 1330 if name in ("beam", "what-if") else 900}
                context = browser.new_context(
                    viewport=size,
                    is_mobile=phone,
                    color_scheme=scheme,  # type: ignore[arg-type]
                    reduced_motion="reduce",
                )
                page = context.new_page()
                page.goto(address)
                names = list(shown_models)
                chosen = {"compare": names, "equations-dark": names, "heads": names[-1:]}.get(name, names[:1])
                translate(page, source, models=chosen)
                page.locator("#target").evaluate("(field, text) => { field.value = text; }", target)
                act(page)
                page.mouse.move(0, 0)
                path = folder / f"{name}.png"
                part = page.locator(".equations") if name.startswith("equations") else None
                if part is None:
                    page.screenshot(path=path)
                else:
                    part.screenshot(path=path)
                context.close()
                # Few colours: a third of the size, and to the eye the same.
                Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
                assert 5_000 < path.stat().st_size < LARGEST_SCREENSHOT, (name, path.stat().st_size)


def _another_piece(page: Page) -> None:
    page.locator(".top button").nth(1).click()
    page.locator(".changes").wait_for()


def _all_heads(page: Page) -> None:
    page.locator("#tab-attention").click()
    page.get_by_role("radio", name="all").check()
    page.locator(".head-grid").scroll_into_view_if_needed()


def _given(page: Page) -> None:
    page.locator("#translate").click()
    page.locator(".links-view").wait_for()
    page.get_by_role("button", name="Start from the model’s links").click()
