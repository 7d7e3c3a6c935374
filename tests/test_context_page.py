"""Weights of the previous sentences on a page: the numbers of a model, and how a browser shows them."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from nmt.cli import translate
from nmt.data.batching.document_context import add_context, sentences_before
from nmt.data.batching.pair_batches import collate
from nmt.data.cache import flatten
from nmt.data.tokenizer import TokenizerPair
from nmt.model.context import ContextWeights
from nmt.model.translator import forced_readout
from nmt.tasks.translation.loading import load_model
from nmt.visualization.attention_map import AttentionMap, ContextMap, Side
from nmt.visualization.pages import WEIGHT_STEPS
from tests.support.commands import Call
from tests.support.models import CPU, REFERENCES, SOURCES
from tests.support.playground import serving
from tests.test_browser import HEBREW, PHONE, Visit, assert_contrast, browser, visit  # noqa: F401 - fixtures
from tests.test_document_translation import CONTEXTS, save
from tests.test_playground import LARGEST_SCREENSHOT
from tests.test_playground import translate as translate_in
from tests.test_plots import ENGLISH, GERMAN, Reader, attention_map, page_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SIDES: tuple[Side, ...] = ("source", "target")
DOCUMENT = ["My friend often buys the article.", "My mother must translate it."]


def in_bytes(text: str, columns: int) -> npt.NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, columns) / 255


# The numbers


def by_pair(weights: ContextWeights | None, rows: list[int]) -> dict[tuple[int, int], tuple[Any, Any]]:
    """The weight of a sentence for another, and those of its words, by the rows of both."""
    if weights is None:
        return {}
    previous, places = weights.previous, weights.previous.present_LP.shape[1]
    numbers = enumerate(zip(previous.index_N.tolist(), previous.row_N.tolist(), strict=True))
    return {
        (rows[int(previous.sentence_L[index // places])], rows[row]): (
            weights.sentences_LQP[index // places, :, index % places].numpy(),
            weights.words_NQS[number].numpy(),
        )
        for number, (index, row) in numbers
    }


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_page_has_the_weights_of_the_forced_pass(
    call: Call, tmp_path: Path, tokenizers: TokenizerPair, context: str
) -> None:
    """Two documents, with a blank line in the input after each. All pairs in one batch have the same weights."""
    folder, path = save(tmp_path / "model", context, tokenizers, updates=5), tmp_path / "page.html"
    text = "\n".join([*SOURCES[:4], "", *SOURCES[4:6], ""]) + "\n"
    ended = call(translate.main, "--model", folder, "--documents", "--plot", path, stdin=text.encode())
    assert ended.code == 0, ended.errors
    items = Reader(path.read_text(encoding="utf-8")).data["sentences"]
    assert [item["line"] for item in items] == [1, 2, 3, 4, 6, 7]

    model = load_model(folder, None, CPU).translator
    pairs = [item["attention"][0] for item in items]
    source, target = (
        [[tokenizer.piece_id(piece) for piece in pair[f"{side}_pieces"]] for pair in pairs]
        for side, tokenizer in zip(SIDES, (tokenizers.source, tokenizers.target), strict=True)
    )
    before = sentences_before([0, 0, 0, 0, 1, 1], np.asarray(list(map(len, source))))
    read = add_context(np.arange(6), before, model.context.document_context)
    batch = collate(flatten(source), flatten(target), np.arange(6), tokenizers, context=read.context)
    with torch.inference_mode():
        result = forced_readout(model, batch)
    rows = {item["line"]: row for row, item in enumerate(items)}
    expected = {
        side: by_pair(weights, read.rows.tolist())
        for side, weights in zip(SIDES, (result.source_context, result.target_context), strict=True)
    }
    compared = dict.fromkeys(SIDES, 0)
    for row, pair in enumerate(pairs):
        if row in (0, 4):
            assert pair["context"] == []
        for each in pair["context"]:
            side = each["side"]
            lines = [items[other]["line"] for other in range(max(row - 2, 0 if row < 4 else 4), row)]
            assert each["lines"] == lines
            sentences_QP = in_bytes(each["sentences"], len(lines))
            assert len(sentences_QP) == (1 if context == "summary" else len(pair[f"{side}_pieces"]) + 1)
            for column, line in enumerate(lines):
                sentence_Q, words_QS = expected[side][row, rows[line]]
                positions, pieces = len(sentences_QP), len(pairs[rows[line]][f"{side}_pieces"]) + 1
                found_QS = in_bytes(each["words"][column], pieces)
                assert found_QS == pytest.approx(words_QS[:positions, :pieces], abs=0.003)
                assert sentences_QP[:, column] == pytest.approx(sentence_Q[:positions], abs=0.003)
                compared[side] += 1
    assert compared == {side: len(expected[side]) for side in SIDES}
    assert sum(compared.values()) == {"hierarchical-both": 12}.get(context, 6)


def test_models_without_context_say_nothing_of_it(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    call(translate.main, "--model", checkpoint, "--documents", "--plot", path, stdin=f"{SOURCES[3]}\n".encode())
    assert Reader(path.read_text(encoding="utf-8")).data["sentences"][0]["attention"][0]["context"] is None


# In the browser


def context_map(side: Side, positions: int, before: list[AttentionMap], seed: int) -> ContextMap:
    """Random weights to the lines from 1 on, which a page has without rounding."""
    random = np.random.default_rng(seed)

    def weights(columns: int) -> npt.NDArray[np.float32]:
        steps = np.rint(random.dirichlet(np.full(columns, 0.3), positions) * WEIGHT_STEPS)
        return (steps / WEIGHT_STEPS).astype(np.float32)

    pieces = [getattr(each, f"{side}_pieces") for each in before]
    words = tuple(weights(len(each) + 1) for each in pieces)
    return ContextMap(side, tuple(range(1, len(before) + 1)), weights(len(before)), words)


def documents_page(source: tuple[str, ...] = GERMAN) -> tuple[str, AttentionMap]:
    """A document of three lines, with context on both sides of the last, that of source and target; and the last."""
    first = replace(attention_map(source), context=())
    second = replace(attention_map(target=HEBREW), context=())
    positions = {"source": len(GERMAN) + 1, "target": len(ENGLISH) + 1}
    maps = tuple(context_map(side, positions[side], [first, second], 3) for side in SIDES)
    third = replace(attention_map(heads=2), context=maps)
    return page_of([[first], [second], [third]]), third


@pytest.mark.parametrize("side", SIDES)
def test_pointing_and_pinning_show_the_weights(visit: Visit, side: Side) -> None:  # noqa: F811
    text, shown = documents_page()
    page = visit(text, line=3)
    assert shown.context is not None
    number = SIDES.index(side)
    context = shown.context[number]
    own, other = (page.locator(".context").nth(index) for index in (number, 1 - number))
    margins = own.locator(".margin")
    assert margins.all_inner_texts() == ["–", "–"]
    piece = page.get_by_role("listbox").nth(number).locator(".piece").nth(2)
    piece.hover()
    found = [float(each) for each in margins.all_inner_texts()]
    assert found == pytest.approx(context.sentences_QP[2], abs=0.0051)
    assert other.locator(".margin").all_inner_texts() == ["–", "–"]
    # The colour of a word is sqrt(p_s) p_w, full for the largest.
    values = [np.sqrt(context.sentences_QP[2, row]) * words_QS[2] for row, words_QS in enumerate(context.words_QS)]
    share = "all => all.map(each => Number(each.style.getPropertyValue('--ink-share')))"
    inks = own.locator(".word").evaluate_all(share)
    assert inks == pytest.approx(np.concatenate(values) / np.concatenate(values).max(), abs=0.001)
    best = int(context.sentences_QP[2].argmax())
    readout = page.locator(".readout").inner_text()
    assert f"; context: line {best + 1}, weight {found[best]:.2f}: " in readout
    piece.click()
    page.mouse.move(0, 0)
    assert [float(each) for each in margins.all_inner_texts()] == found
    page.keyboard.press("Escape")
    assert margins.all_inner_texts() == ["–", "–"]
    # A word has the sum of its pieces; the word that attends has the mean of its own.
    page.get_by_role("radio", name="words").check()
    page.get_by_role("listbox").nth(1).locator(".piece").nth(2).hover()
    if side == "target":
        expected = context.sentences_QP[2:4].mean(0)
        assert [float(each) for each in margins.all_inner_texts()] == pytest.approx(expected, abs=0.0051)
        assert own.locator(".sentence").first.locator(".word").all_inner_texts() == ["A", "dog", "runs", ".", "</s>"]


def test_the_first_sentence_has_no_context(visit: Visit) -> None:  # noqa: F811
    page = visit(documents_page()[0])
    told = page.get_by_text("The first sentence of its document has no context.")
    assert told.is_visible()
    assert page.locator(".context").count() == 0
    page.get_by_label("Next sentence").click()
    page.get_by_label("Next sentence").click()
    assert told.count() == 0
    assert page.locator(".context").count() == 2


def test_a_summary_has_the_same_weights_for_every_piece(visit: Visit) -> None:  # noqa: F811
    before = replace(attention_map(), context=())
    summary = context_map("source", 1, [before], 0)
    page = visit(page_of([[before], [replace(attention_map(), context=(summary,))]]), line=2)
    assert page.locator(".context .margin").inner_text() == "1.00"
    assert "with the same weights for every piece" in page.locator(".context .side").inner_text()
    page.get_by_role("listbox").nth(1).locator(".piece").nth(2).hover()
    assert "; context: line 1, weight 1.00: " in page.locator(".readout").inner_text()


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_context_is_accessible(visit: Visit, phone: bool) -> None:  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(documents_page((*GERMAN, "▁" + "Donaudampfschifffahrt" * 12))[0], phone=phone, line=3)
    tags = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.get_by_role("listbox").nth(1).locator(".piece").nth(1).click()
        assert_contrast(page)
        ended = axe.run(page, options={"runOnly": tags, "resultTypes": ["violations"]})
        assert ended.violations_count == 0, ended.generate_report()
        page.keyboard.press("Escape")
    if phone:
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_the_page_of_a_server_with_such_a_model(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
    tokenizers: TokenizerPair,
) -> None:
    """There a sentence stands alone: its search and a given translation are shown as ever."""
    model = load_model(save(tmp_path / "model", "hierarchical-both", tokenizers, updates=5), None, CPU)
    errors: list[str] = []
    with serving({"a": model}) as (address, _):
        page = browser.new_context().new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        translate_in(page, SOURCES[3], models="a")
        page.locator("#tab-attention").click()
        assert page.get_by_role("listbox").count() == 2
        page.locator("#target").evaluate("(field, text) => { field.value = text; }", REFERENCES[3])
        page.locator("#translate").click()
        page.get_by_text("The first sentence of its document has no context.").wait_for()
        page.context.close()
    assert errors == []


def test_screenshot(
    browser: Browser,  # noqa: F811
    call: Call,
    tmp_path: Path,
    tokenizers: TokenizerPair,
) -> None:
    """The picture of docs/context.md; with NMT_SCREENSHOTS=FOLDER and NMT_SCREENSHOT_CONTEXT=RUN of scripts/context."""
    run = os.environ.get("NMT_SCREENSHOT_CONTEXT")
    model = run or save(tmp_path / "model", "hierarchical-decoder", tokenizers, updates=5)
    lines, piece = (DOCUMENT, "ihn") if run else (SOURCES[:2], "</s>")
    path = tmp_path / "page.html"
    text = "\n".join(lines).encode()
    ended = call(translate.main, "--model", model, "--documents", "--plot", path, stdin=text)
    assert ended.code == 0, ended.errors
    page = browser.new_context(viewport={"width": 1200, "height": 880}).new_page()
    page.goto(f"{path.as_uri()}#{len(lines)}")
    page.get_by_role("radio", name="words").check()
    page.get_by_role("listbox").nth(1).get_by_text(piece, exact=True).click()
    page.mouse.move(0, 0)
    picture = Path(os.environ.get("NMT_SCREENSHOTS") or tmp_path) / "context.png"
    page.screenshot(path=picture)
    page.context.close()
    Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)
    assert 5_000 < picture.stat().st_size < LARGEST_SCREENSHOT
