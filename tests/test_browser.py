"""The pages in a real browser: accessibility by axe-core, contrast, keyboard, touch, narrow screens, many sentences.

Playwright drives a headless Chromium. Without it, or without a browser on the PATH, these tests are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nmt.visualization.pages import WeightedSentence
from tests.test_document_page import page_of as document_page_of
from tests.test_plots import GERMAN, attention_map, page_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 844}
LEAST_CONTRAST = 4.5  # WCAG 2.2, criterion 1.4.3

LONG_WORD = "▁" + "Donaudampfschifffahrt" * 12
HEBREW = ("▁שלום", "▁עול", "ם", "▁.")

Visit = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here, with a profile of its own. None of its processes outlives the tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    for path in filter(None, map(shutil.which, BROWSERS)):
        # On some systems the name is a script that only says how to install the browser.
        if subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0:
            break
    else:
        pytest.skip(f"no browser on the PATH: none of {', '.join(BROWSERS)} starts")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    """Opens the text of a page as a file, on a desktop or a phone. An error that the page reports fails the test."""
    errors: list[str] = []
    contexts = []

    def visit(text: str, *, phone: bool = False, line: int = 1) -> Page:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        size = PHONE if phone else DESKTOP
        context = browser.new_context(viewport=size, is_mobile=phone, has_touch=phone)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{path.as_uri()}#{line}")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == []


def attention_page(sentences: int = 1) -> str:
    """Two systems, one with heads and one with windows: running text, a script from right to left, long words."""
    shown = [
        [attention_map(heads=2), attention_map(half_width=2)],
        [attention_map(HEBREW, HEBREW), None],
        [attention_map((LONG_WORD,) * 3), attention_map(("▁",))],
    ]
    return page_of([shown[number % 3] for number in range(sentences)], ("runs/a", "runs/b"))


def document(sentences: int, word: str = "word") -> dict[str, Any]:
    """A document of 20 words a sentence, and an empty sentence; the last word of each has half of its weight."""
    words = tuple(f"{word}{number}" for number in range(20))
    weights = (*(0.5 / 19,) * 19, 0.5)
    share = 1.0 / sentences
    body = tuple(WeightedSentence(share, words, weights) for _ in range(sentences))
    label = "a label of many words " * 5 + "x" * 80
    probabilities = {label: 0.75, "b": 0.25}
    sentences = (*body, WeightedSentence(0.0, (), ()))
    return {"text": " ".join(words), "label": label, "probabilities": probabilities, "sentences": sentences}


def document_page(sentences: int = 3) -> str:
    return document_page_of(document(sentences), document(sentences, "שלום"), document(1, LONG_WORD))


PAGES = {"attention": attention_page, "documents": document_page}
PART = ".piece, .word, .margin"
"""Selector of the elements with weights, on either page."""
HAS_FOCUS = f"document.activeElement.matches('{PART}')"


def press_tab_to_the_sentence(page: Page, presses: int = 8) -> None:
    """Presses Tab until a piece or a word has focus; at most so often."""
    for _ in range(presses):
        page.keyboard.press("Tab")
        if page.evaluate(HAS_FOCUS):
            return
    pytest.fail(f"{presses} presses of Tab do not reach the sentence")


# Of each text, the colour and all that lies behind it; the contrast of WCAG 2.2 between them. Weights are full.
CONTRASTS = """() => {
  for (const part of document.querySelectorAll(".piece")) part.style.setProperty("--weight", 1);
  for (const part of document.querySelectorAll(".word, .margin")) part.style.setProperty("--ink-share", 1);
  const numbers = (text) => [...text.matchAll(/[\\d.]+/g)].map((match) => Number(match[0]));
  const over = ([red, green, blue, alpha = 1], below) =>
    [red, green, blue].map((value, at) => alpha * value + (1 - alpha) * below[at]);
  const background = (element) => {
    if (!element) return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    return over(numbers(getComputedStyle(element).backgroundColor), background(element.parentElement));
  };
  const luminance = (color) => {
    const [red, green, blue] = color.map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (color, element) => {
    const below = background(element);
    const [light, dark] = [luminance(over(numbers(color), below)), luminance(below)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest("script, noscript")) continue;
    const style = getComputedStyle(element);
    found.push([contrast(element.closest("svg") ? style.fill : style.color, element), text]);
  }
  const search = document.getElementById("search");
  found.push([contrast(getComputedStyle(search, "::placeholder").color, search), search.placeholder]);
  for (const readout of document.querySelectorAll(".readout:empty")) {
    found.push([contrast(getComputedStyle(readout, "::before").color, readout), readout.dataset.hint]);
  }
  return found;
}"""


def assert_contrast(page: Page) -> None:
    contrasts: list[tuple[float, str]] = page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    assert min(contrasts)[0] >= LEAST_CONTRAST, min(contrasts)


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", PAGES)
def test_accessibility_and_contrast(visit: Visit, kind: str, phone: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(PAGES[kind](3), phone=phone)
    tags = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert_contrast(page)
        page.locator(PART).nth(1).click()
        assert_contrast(page)
        ended = axe.run(page, options={"runOnly": tags, "resultTypes": ["violations"]})
        assert ended.violations_count == 0, ended.generate_report()
        page.keyboard.press("Escape")


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_is_wider_than_a_phone(visit: Visit, kind: str) -> None:
    for line in (1, 2, 3):
        page = visit(PAGES[kind](3), phone=True, line=line)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], line


@pytest.mark.parametrize("kind", PAGES)
def test_tab_reaches_the_sentence_and_keys_pin(visit: Visit, kind: str) -> None:
    page = visit(PAGES[kind](3))
    readout = page.locator(".readout").first
    assert readout.inner_text() == ""
    press_tab_to_the_sentence(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    here = page.evaluate("document.activeElement.textContent")
    assert here == {"attention": "rennt", "documents": "word1"}[kind]
    shown = readout.inner_text()
    assert here in shown
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaSelected") == "true"
    page.keyboard.press("ArrowLeft")
    page.locator(PART).nth(4).hover()
    assert readout.inner_text() == f"pinned: {shown}"
    page.mouse.move(0, 0)
    page.keyboard.press("Escape")
    assert page.locator("#systems [aria-selected=true]").count() == 0
    assert page.evaluate(HAS_FOCUS)
    assert readout.inner_text() not in ("", shown, f"pinned: {shown}")
    # The next Tab leaves the sentence, and Shift+Tab comes back to where it was left.
    left = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == left


def test_keys_in_text_from_right_to_left(visit: Visit) -> None:
    page = visit(attention_page(3), line=2)
    press_tab_to_the_sentence(page)
    words = []
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight", "End", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        words.append(page.evaluate("document.activeElement.textContent"))
    assert words == ["עול", "ם", "עול", "</s>", "</s>", "שלום"]
    assert page.evaluate("location.hash") == "#2"


def test_keys_in_a_document(visit: Visit) -> None:
    page = visit(document_page(3))
    press_tab_to_the_sentence(page)
    places = []
    for key in ("ArrowLeft", "End", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        places.append(page.evaluate("document.activeElement.dataset.cell"))
    # The sentence and the number of the cell in it, the weight in the margin being the first. The last one is empty.
    assert places == ["0 0", "0 20", "1 0", "0 20", "1 20", "2 20", "3 0", "2 0"]


def test_the_list_is_one_stop_and_its_keys_open_sentences(visit: Visit) -> None:
    page = visit(attention_page(30))
    page.locator("#list button").first.focus()
    lines = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "PageDown", "End", "ArrowDown", "Home"):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.ariaCurrent") == "true"
        lines.append(page.evaluate("Number(location.hash.slice(1))"))
    assert lines == [2, 3, 2, 12, 30, 30, 1]
    page.locator("#search").fill("עול")
    assert page.locator("#position").inner_text() == "1 / 10 found of 30"
    assert page.evaluate("location.hash") == "#2"


def test_a_cell_beside_the_pinned_one_is_pinned(visit: Visit) -> None:
    page = visit(attention_page())
    box = page.locator(".weights .border").first.bounding_box()
    assert box is not None
    for column in (1, 2):
        page.mouse.click(box["x"] + box["width"] * (column + 0.5) / 5, box["y"] + 5)
        assert page.locator(".readout bdi").nth(1).inner_text() == ("▁Ein", "▁Hund", "▁rennt", "▁.")[column]


def test_a_phone_shows_the_weights_of_a_word(visit: Visit) -> None:
    """A tap does what pointing does with a mouse, and what it shows is in view wherever the word is."""
    page = visit(document_page(40), phone=True)
    readout = page.locator(".readout")
    for number in (19, 799):  # the last words of the first and of the last sentence
        word = page.locator(".word").nth(number)
        word.tap()
        assert readout.inner_text().startswith(f"pinned: sentence {number // 20 + 1}, weight 0.0250: word19 0.5000;")
        seen, tapped = readout.bounding_box(), word.bounding_box()
        assert seen is not None
        assert tapped is not None
        for box in (seen, tapped):
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= PHONE["height"]
        assert tapped["y"] + tapped["height"] <= seen["y"] or seen["y"] + seen["height"] <= tapped["y"]
    word.tap()
    assert readout.inner_text() == ""


HOSTILE = {
    "markup": ("▁</script>", "▁<img", "▁src=x", "▁onerror=alert(1)>", "▁&lt;", "▁<!--", "▁{{data}}", "▁</s>", "▁'\""),
    "directions": ("▁\u202eesrever", "▁שלום", "▁\u2067", "▁abc", "▁مرحبا", "▁123", "▁\u200f"),
    "characters": (
        "▁👩\u200d👩\u200d👧",
        "▁🇩🇪",
        "▁e" + "\u0301" * 50,
        "▁\u2028",
        "▁\x00",
        "▁",
        "▁\U00020000",
        "▁\u00a0",
    ),
    "one piece": ("▁" + "x" * 2000,),
    "many pieces": ("▁abcd", *("efghi",) * 9) * 44,
    "no piece": (),
}


@pytest.mark.parametrize("pieces", HOSTILE.values(), ids=HOSTILE)
def test_any_text_is_shown_as_it_is(visit: Visit, pieces: tuple[str, ...]) -> None:
    """On a phone, which it does not widen. As a translation it may be empty, as a source it may not."""
    page = visit(page_of([[attention_map(pieces or GERMAN, pieces)]]), phone=True)
    sides = page.get_by_role("listbox")
    for side, own in enumerate((pieces or GERMAN, pieces)):
        shown = sides.nth(side).locator(".piece").all_text_contents()
        assert len(shown) == len(own) + 1
        for text, piece in zip(shown, own, strict=False):
            # A browser may trim other spaces than Python.
            assert text.strip("▁\x00\ufffd") == piece.strip("▁\x00\ufffd").strip()
    sides.nth(1).locator(".piece").first.tap()
    assert page.locator(".readout").inner_text().startswith("pinned: ")
    assert page.locator("#systems :is(img, script)").count() == 0
    for tab in ("attention", "alignment"):
        page.locator(f"#tab-{tab}").click()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], tab


@pytest.mark.parametrize("kind", PAGES)
def test_two_thousand_sentences(visit: Visit, kind: str) -> None:
    """One sentence is drawn at a time, Tab does not go through all of them, and every key is answered at once."""
    text = attention_page(2000) if kind == "attention" else document_page_of(*[document(5)] * 2000)
    page = visit(text)
    start = time.monotonic()
    press_tab_to_the_sentence(page)
    seconds = time.monotonic() - start
    assert page.locator("#list button").count() == 2000
    stops = (
        "[...document.querySelectorAll('*')].filter((element) => element.tabIndex >= 0 && element.checkVisibility())"
    )
    assert page.evaluate(f"{stops}.length") < 24
    assert page.locator(PART).count() < 120
    took: dict[str, Any] = page.evaluate(
        """() => {
          const timed = (work) => {
            const start = performance.now();
            work();
            document.body.getBoundingClientRect();
            return performance.now() - start;
          };
          const next = document.getElementById("next");
          const search = document.getElementById("search");
          return {
            step: timed(() => { for (let count = 0; count < 10; count++) next.click(); }) / 10,
            search: timed(() => { search.value = "o"; search.dispatchEvent(new Event("input")); }),
          };
        }"""
    )
    # Two busy cores take about 0.2 seconds for Tab, 20 ms for a step and 100 ms for a search.
    assert seconds < 4.0
    assert took["step"] < 300, took
    assert took["search"] < 1500, took
